"""The settings of a profile between two rates, against the lengths of real files."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgejpeg import encode_jpeg
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.learn.rates import MAX_LEVELS, ijg_profile, measure_rates, settings_of
from edgejpeg.profile import Level, Profile, load_profile
from edgejpeg.runtime.encoder import Encoder

_encoders = {}


def encode(image, profile):
    if profile not in _encoders:
        _encoders[profile] = Encoder(profile, color="rgb")
    return _encoders[profile].encode(image)


@pytest.fixture(scope="module")
def images(photo):
    whole = photo(192, 288)
    return [np.ascontiguousarray(whole[y : y + 96, x : x + 96]) for y in (0, 96) for x in (0, 96, 192)]


def mean_bpp(images, profile):
    return sum(len(encode(image, profile)) for image in images) * 8 / sum(i.shape[0] * i.shape[1] for i in images)


def test_rates_are_those_of_real_files_and_rise(images):
    found = measure_rates(ijg_profile(), images, encode, low=0.8, high=2.0)
    assert (np.diff(found.rates) > 0).all()
    for index in (0, found.nearest(0.8), found.nearest(2.0), len(found.rates) - 1):
        assert found.rates[index] == pytest.approx(mean_bpp(images, found.settings[index]))
    assert abs(found.rates[found.nearest(1.2)] / 1.2 - 1) <= abs(found.rates / 1.2 - 1).min() + 0.01


def test_the_ijg_tables_are_scaled_as_quality_does(images):
    luma, chroma = ijg_tables(50)
    settings = settings_of(ijg_profile())
    assert all(s.effort == 1 and s.subsampling == "420" for s in settings)
    for setting in settings[::37]:  # one factor for all the steps that are not at a bound
        free = (setting.luma.array > 3) & (setting.luma.array < 255)
        ratio = setting.luma.array[free] / luma.array[free]
        assert not free.any() or np.ptp(ratio * luma.array[free] - ratio.mean() * luma.array[free]) < 6
    near = measure_rates(ijg_profile(), images, encode, low=0.8, high=2.0)
    q50 = sum(len(encode_jpeg(i, quality=50, effort=1)) for i in images) * 8 / (len(images) * 96 * 96)
    assert near.rates[near.nearest(q50)] == pytest.approx(q50, rel=0.04)
    assert chroma.array.max() <= settings[0].chroma.array.max() * 64
    assert settings_of(ijg_profile("gray"))[0].chroma is None


def test_draws_are_log_uniform_over_the_range(images, rng):
    found = measure_rates(ijg_profile(), images, encode, low=0.7, high=2.8)
    logs = np.log([found.rates[found.draw(rng)] for _ in range(2000)])
    assert logs.min() > math.log(0.7) - 0.05 and logs.max() < math.log(2.8) + 0.05
    quarters = np.histogram(logs, bins=np.log([0.6, 0.7 * 2**0.5, 1.4, 1.4 * 2**0.5, 3.0]))[0]
    assert (np.abs(quarters - 500) < 120).all()


def test_one_rate_gives_a_fixed_profile_that_meets_it(images, tmp_path):
    found = measure_rates(ijg_profile(), images, encode, low=0.9)
    profile = found.profile("mine", {"model": "tiny"})
    assert (profile.kind, profile.name, profile.effort) == ("fixed", "mine", 1)
    assert mean_bpp(images, profile) == pytest.approx(0.9, rel=0.05)
    profile.save(tmp_path / "p.toml")
    assert load_profile(tmp_path / "p.toml").to_document() == profile.to_document()
    assert profile.provenance["tables"] == "ijg" and profile.provenance["model"] == "tiny"
    assert {found.draw(np.random.default_rng(i)) for i in range(20)} == {found.nearest(0.9)}


def test_a_range_gives_a_ladder_over_it(images, tmp_path):
    found = measure_rates(ijg_profile(), images, encode, low=0.8, high=2.4)
    found.profile("mine", {}).save(tmp_path / "p.toml")
    profile = load_profile(tmp_path / "p.toml")
    assert profile.kind == "ladder" and len(profile.levels) == MAX_LEVELS
    assert profile.levels[0].rate == pytest.approx(0.8, rel=0.05)
    assert profile.levels[-1].rate == pytest.approx(2.4, rel=0.05)
    steps = np.diff(np.log([level.rate for level in profile.levels]))
    assert steps.min() > 0.5 * steps.mean()
    for index in (0, 3, MAX_LEVELS - 1):
        assert mean_bpp(images, profile.at_level(index)) == pytest.approx(profile.levels[index].rate, abs=1e-4)


def test_a_ladder_keeps_its_levels_within_the_range(images):
    levels = [Level(rate, *ijg_tables(q)) for rate, q in ((1, 20), (2, 40), (3, 60), (4, 80))]
    ladder = Profile.ladder(name="mine", levels=levels, effort=1)
    rates = [mean_bpp(images, ladder.at_level(i)) for i in range(4)]
    found = measure_rates(ladder, images, encode, low=rates[1], high=rates[3])
    made = found.profile("made", {})
    assert [level.luma for level in made.levels] == [level.luma for level in levels[1:]]
    assert [level.rate for level in made.levels] == pytest.approx(rates[1:], abs=1e-4)
    with pytest.raises(DataError, match="the nearest is"):
        measure_rates(ladder, images, encode, low=math.sqrt(rates[0] * rates[1]))


def test_an_adaptive_profile_is_set_by_its_water_level(images):
    source = load_profile("efficientnet_lite0")
    found = measure_rates(source, images[:2], encode, low=1.0)
    profile = found.profile("mine", {})
    assert profile.kind == "adaptive" and mean_bpp(images[:2], profile) == pytest.approx(1.0, rel=0.05)
    wide = measure_rates(source, images[:2], encode, low=0.8, high=1.6).profile("mine", {})
    coarse, fine = wide.provenance["water_levels"]
    assert coarse > wide.water_level > fine


@pytest.mark.parametrize(
    ("low", "high", "error", "message"),
    [
        (0.001, None, DataError, "it reaches"),
        (40.0, None, DataError, "it reaches"),
        (1.0, 50.0, DataError, "no setting of 50"),
        (2.0, 1.0, InvalidInputError, "rises; got 2 to 1"),
        (1.0, 1.0, InvalidInputError, "rises"),
        (math.nan, None, InvalidInputError, "positive"),
        (-1.0, 2.0, InvalidInputError, "positive"),
        (1.0, math.inf, InvalidInputError, "positive"),
    ],
)
def test_rates_that_cannot_be(images, low, high, error, message):
    with pytest.raises(error, match=message):
        measure_rates(ijg_profile(), images[:2], encode, low=low, high=high)


def test_no_images():
    with pytest.raises(DataError, match="no images"):
        measure_rates(ijg_profile(), [], encode, low=1.0)


def test_files_of_the_ladder_hold_its_tables(images):
    found = measure_rates(ijg_profile("444"), images, encode, low=1.0, high=2.0)
    info = parse_jpeg(encode(images[0], found.settings[found.nearest(1.5)]))
    assert info.subsampling == "444"
    assert isinstance(info.quant_table(0), QuantTable)
    assert info.quant_table(0) == found.settings[found.nearest(1.5)].luma
