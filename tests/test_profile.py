"""Profiles: round trips, what is refused and under which key, identity."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from edgejpeg.errors import ProfileError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Profile, list_profiles, load_profile, profile_from_document


@pytest.fixture
def adaptive(rng) -> Profile:
    return Profile.adaptive(
        name="camera",
        sensitivity=rng.uniform(0, 1e-4, (3, 8, 8)),
        standard_error=rng.uniform(0, 1e-5, (3, 8, 8)),
        water_level=0.05,
        chroma_water_level=0.1,
        q_max=90,
        subsampling="422",
        effort=1,
        provenance={
            "model": 'a "quoted"\n\tname \x7f é',
            "images": 1000,
            "error": 0.25,
            "ok": True,
            "list": [1.5, "x"],
        },
    )


@pytest.fixture
def fixed() -> Profile:
    luma, chroma = ijg_tables(63)
    return Profile.fixed(name="ijg", luma=luma, chroma=chroma)


def test_adaptive_round_trip_is_exact(adaptive, tmp_path):
    adaptive.save(tmp_path / "p.toml")
    loaded = load_profile(tmp_path / "p.toml")
    assert loaded.to_document() == adaptive.to_document()
    assert loaded.sensitivity.dtype == np.float64
    assert (loaded.sensitivity == adaptive.sensitivity).all()
    assert (loaded.kind, loaded.subsampling, loaded.effort, loaded.q_max) == ("adaptive", "422", 1, 90)
    assert (loaded.water_level, loaded.chroma_water_level) == (0.05, 0.1)
    assert loaded.provenance == adaptive.provenance
    assert not list(tmp_path.glob(".*"))


def test_fixed_round_trip_is_exact(fixed, tmp_path):
    fixed.save(tmp_path / "p.toml")
    loaded = load_profile(str(tmp_path / "p.toml"))
    assert (loaded.luma, loaded.chroma) == ijg_tables(63)
    assert loaded.sensitivity is None
    assert loaded.water_level is None
    assert loaded.profile_id == fixed.profile_id


def test_pickles(adaptive, fixed):
    for profile in (adaptive, fixed):
        assert pickle.loads(pickle.dumps(profile)).to_document() == profile.to_document()


def test_identity_follows_what_the_profile_does(adaptive):
    document = adaptive.to_document()
    same = profile_from_document({**document, "name": "other", "provenance": {}})
    assert same.profile_id == adaptive.profile_id
    assert profile_from_document({**document, "effort": 0}).profile_id != adaptive.profile_id
    assert adaptive.with_water_level(0.06).profile_id != adaptive.profile_id
    assert re.fullmatch("[0-9a-f]{12}", adaptive.profile_id)


def test_water_level_can_be_moved(adaptive, fixed):
    moved = adaptive.with_water_level(0.2)
    assert (moved.water_level, moved.chroma_water_level) == (0.2, 0.2)
    assert adaptive.water_level == 0.05
    with pytest.raises(ProfileError, match="fixed"):
        fixed.with_water_level(0.2)
    for level in (0, -1, float("nan"), float("inf"), "1", True):
        with pytest.raises(ProfileError, match="water_level"):
            adaptive.with_water_level(level)


def _with(document, path, value):
    """A deep copy with one value replaced, or removed when value is None."""
    import copy

    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "png", "\"format\" is 'png'"),
        (("version",), 2, '"version" is 2'),
        (("version",), None, '"version" is None'),
        (("kind",), "both", "adaptive, fixed"),
        (("name",), "", '"name"'),
        (("subsampling",), "411", "444, 422, 420, gray"),
        (("effort",), 7, '"effort" is 7'),
        (("colour",), "x", 'unknown key "colour"'),
        (("fixed",), {}, '"fixed" does not belong'),
        (("adaptive",), None, r"\[adaptive\]"),
        (("adaptive", "water_level"), None, '"adaptive.water_level"'),
        (("adaptive", "water_level"), float("nan"), '"adaptive.water_level" is nan'),
        (("adaptive", "chroma_water_level"), -0.1, '"adaptive.chroma_water_level" is -0.1'),
        (("adaptive", "q_max"), 256, '"adaptive.q_max" is 256'),
        (("adaptive", "q_max"), 0, '"adaptive.q_max" is 0'),
        (("adaptive", "speed"), 1, 'unknown key "adaptive.speed"'),
        (("adaptive", "sensitivity", "cb"), None, "y, cb, cr"),
        (("adaptive", "sensitivity", "cb"), [[0.0] * 8] * 7, '"adaptive.sensitivity.cb" is no 8x8'),
        (("adaptive", "sensitivity", "cr", 3, 5), float("nan"), '"adaptive.sensitivity.cr" has nan at row 3, column 5'),
        (("adaptive", "sensitivity", "y", 0, 1), -1e-9, '"adaptive.sensitivity.y" has -1e-09 at row 0, column 1'),
        (("adaptive", "sensitivity", "y", 0, 1), "x", "has 'x'"),
        (("adaptive", "sensitivity", "y"), [[0.0] * 8] * 8, "no positive number"),
        (("adaptive", "standard_error", "y", 0, 0), float("inf"), '"adaptive.standard_error.y" has inf'),
        (("provenance", "date"), {"a": 1}, '"provenance.date"'),
    ],
)
def test_adaptive_refusals_name_the_key(adaptive, path, value, message, tmp_path):
    document = _with(adaptive.to_document(), path, value)
    with pytest.raises(ProfileError, match=message):
        profile_from_document(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("fixed", "luma", 2, 3), 0, '"fixed.luma": .*got 0 at row 2, column 3'),
        (("fixed", "luma", 2, 3), 256, "got 256"),
        (("fixed", "chroma", 7, 7), 1.5, "got 1.5 at row 7"),
        (("fixed", "chroma"), None, '"fixed.chroma" is missing'),
        (("fixed", "luma"), [1] * 64, '"fixed.luma" is no 8x8'),
        (("fixed", "luma", 0, 0), "x", '"fixed.luma"'),
        (("fixed", "alpha"), 1, 'unknown key "fixed.alpha"'),
    ],
)
def test_fixed_refusals_name_the_key(fixed, path, value, message):
    with pytest.raises(ProfileError, match=message):
        profile_from_document(_with(fixed.to_document(), path, value))


def test_files_that_are_no_profile(tmp_path):
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_text("x = [")
    with pytest.raises(ProfileError, match=r"a\.toml: not a TOML file"):
        load_profile(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"b\.toml"):
        load_profile(tmp_path / "b.toml")
    (tmp_path / "c.toml").write_text("x = 1")
    with pytest.raises(ProfileError, match=r'c\.toml: key "format"'):
        load_profile(tmp_path / "c.toml")


def test_saving_where_one_cannot(fixed, tmp_path):
    with pytest.raises(ProfileError, match="cannot write"):
        fixed.save(tmp_path / "no folder" / "p.toml")


def test_shipped_profiles():
    names = list_profiles()
    assert {"efficientnet_lite0", "efficientnet_lite0-444"} <= set(names)
    for name in names:
        profile = load_profile(name)
        assert profile.name == name
        assert {"model", "weights_sha256", "images", "date"} <= set(profile.provenance)
    assert load_profile("efficientnet_lite0").subsampling == "420"
    assert load_profile("efficientnet_lite0-444").subsampling == "444"


def test_a_typo_gets_the_nearest_name():
    with pytest.raises(ProfileError, match="efficientnet_lite0"):
        load_profile("eficientnet_lite")
