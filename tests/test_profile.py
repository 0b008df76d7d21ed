"""Profiles: round trips, what is refused and under which key, identity."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from edgejpeg.errors import ProfileError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import DeadZone, Level, Profile, list_profiles, load_profile, profile_from_document


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


@pytest.fixture
def thresholds(rng) -> DeadZone:
    luma, chroma = rng.uniform(0.5, 1, (2, 8, 8))
    luma[0, 0] = chroma[0, 0] = 0.5
    luma[7, 7] = 1
    return DeadZone(luma, chroma)


@pytest.fixture
def ladder(thresholds) -> Profile:
    pairs = [ijg_tables(quality) for quality in (10, 30, 50, 80)]
    levels = [Level(0.2 + 0.3 * i, *pair, thresholds if i % 2 else None) for i, pair in enumerate(pairs)]
    return Profile.ladder(name="steps", levels=levels, level=2)


def test_ladder_round_trip_is_exact(ladder, tmp_path):
    ladder.save(tmp_path / "p.toml")
    loaded = load_profile(tmp_path / "p.toml")
    assert loaded.to_document() == ladder.to_document()
    assert (loaded.kind, loaded.level, len(loaded.levels)) == ("ladder", 2, 4)
    assert [(level.luma, level.chroma) for level in loaded.levels] == [ijg_tables(q) for q in (10, 30, 50, 80)]
    assert [level.dead_zone is not None for level in loaded.levels] == [False, True, False, True]
    assert np.array_equal(loaded.levels[3].dead_zone.chroma, ladder.levels[3].dead_zone.chroma)
    assert loaded.profile_id == ladder.profile_id
    assert (loaded.luma, loaded.water_level, loaded.dead_zone) == (None, None, None)


def test_dead_zones_round_trip_in_the_other_kinds(adaptive, fixed, thresholds, tmp_path):
    for profile in (adaptive, fixed):
        document = profile.to_document()
        document[profile.kind]["dead_zone"] = thresholds.to_document()
        with_zone = profile_from_document(document)
        with_zone.save(tmp_path / "p.toml")
        loaded = load_profile(tmp_path / "p.toml")
        assert np.array_equal(loaded.dead_zone.luma, thresholds.luma)
        assert np.array_equal(loaded.dead_zone.chroma, thresholds.chroma)
        assert not loaded.dead_zone.luma.flags.writeable
        assert loaded.profile_id == with_zone.profile_id != profile.profile_id
    luma, chroma = ijg_tables(63)
    built = Profile.fixed(name="ijg", luma=luma, chroma=chroma, dead_zone=thresholds)
    assert built.to_document()["fixed"]["dead_zone"] == thresholds.to_document()
    built = Profile.adaptive(name="a", sensitivity=np.ones((3, 8, 8)), water_level=1, dead_zone=thresholds)
    assert built.to_document()["adaptive"]["dead_zone"] == thresholds.to_document()


def test_a_gray_profile_needs_no_chroma_thresholds(thresholds):
    luma, _ = ijg_tables(50)
    gray = Profile.fixed(name="g", luma=luma, subsampling="gray", dead_zone=DeadZone(thresholds.luma))
    assert gray.dead_zone.chroma is None
    assert profile_from_document(gray.to_document()).dead_zone.chroma is None


def test_the_default_level_of_a_ladder_is_the_last(ladder):
    assert Profile.ladder(name="x", levels=ladder.levels).level == 3
    assert Profile.ladder(name="x", levels=ladder.levels[:1]).level == 0


def test_a_level_as_a_fixed_profile(ladder, fixed):
    level = ladder.at_level(1)
    assert (level.kind, level.name, level.luma) == ("fixed", "steps[1]", ijg_tables(30)[0])
    assert level.dead_zone is ladder.levels[1].dead_zone
    assert profile_from_document(level.to_document()).profile_id == level.profile_id
    for wrong in (-1, 4, 1.0, True, "1"):
        with pytest.raises(ProfileError, match=r"levels 0 .* to 3"):
            ladder.at_level(wrong)
    with pytest.raises(ProfileError, match="no levels"):
        fixed.at_level(0)


def test_rates_do_not_change_a_ladders_identity(ladder):
    document = ladder.to_document()
    document["ladder"]["levels"][3]["rate"] = 9.0
    assert profile_from_document(document).profile_id == ladder.profile_id
    document["ladder"]["level"] = 0
    assert profile_from_document(document).profile_id != ladder.profile_id


def test_pickles(adaptive, fixed, ladder):
    for profile in (adaptive, fixed, ladder):
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
        (("kind",), "both", "adaptive, fixed, ladder"),
        (("name",), "", '"name"'),
        (("subsampling",), "411", "444, 422, 420, gray"),
        (("effort",), 7, '"effort" is 7'),
        (("colour",), "x", 'unknown key "colour"'),
        (("fixed",), {}, '"fixed" does not belong'),
        (("ladder",), {}, '"ladder" does not belong'),
        (("adaptive",), None, r"\[adaptive\]"),
        (("adaptive", "dead_zone"), 0.7, '"adaptive.dead_zone" is 0.7'),
        (("adaptive", "dead_zone"), {"luma": [[0.5] * 8] * 8}, '"adaptive.dead_zone.chroma" is missing'),
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("level",), 4, '"ladder.level" is 4; it is an integer from 0 to 3'),
        (("level",), True, '"ladder.level" is True'),
        (("steps",), [], 'unknown key "ladder.steps"'),
        (("levels",), None, '"ladder.levels" is None'),
        (("levels",), [], '"ladder.levels" has 0 entries; it is a list of 1 to 16'),
        (("levels",), [1] * 17, '"ladder.levels" has 17 entries'),
        (("levels", 1), 5, r'"ladder.levels\[1\]" is 5'),
        (("levels", 3, "luma", 2, 3), 0, r'"ladder.levels\[3\].luma": .*got 0 at row 2, column 3'),
        (("levels", 3, "chroma"), None, r'"ladder.levels\[3\].chroma" is missing'),
        (("levels", 0, "luma"), None, r'"ladder.levels\[0\].luma" is no 8x8'),
        (("levels", 0, "rate"), None, r'"ladder.levels\[0\].rate" is None'),
        (("levels", 0, "rate"), 0, r'"ladder.levels\[0\].rate" is 0'),
        (("levels", 2, "rate"), 0.5, r'"ladder.levels\[2\].rate" is 0.5 after 0.5; .* rising'),
        (("levels", 0, "rate"), float("nan"), r'"ladder.levels\[0\].rate" is nan'),
        (("levels", 2, "quality"), 50, r'unknown key "ladder.levels\[2\].quality"'),
        (("levels", 1, "dead_zone", "luma", 4, 5), 0.49, r'levels\[1\].dead_zone.luma": .*0.49 at row 4, column 5'),
        (("levels", 1, "dead_zone", "luma", 4, 5), 1.01, "plain rounding. to 1 steps; got 1.01"),
        (("levels", 1, "dead_zone", "luma", 4, 5), float("nan"), "has nan at row 4, column 5"),
        (("levels", 1, "dead_zone", "luma", 4, 5), "x", "has 'x'"),
        (("levels", 1, "dead_zone", "chroma", 0, 0), 0.6, r'dead_zone.chroma": .* of DC, .* is .5; got 0.6'),
        (("levels", 1, "dead_zone", "chroma"), None, r'"ladder.levels\[1\].dead_zone.chroma" is missing'),
        (("levels", 1, "dead_zone", "cb"), [], r'unknown key "ladder.levels\[1\].dead_zone.cb"'),
    ],
)
def test_ladder_refusals_name_the_key(ladder, path, value, message):
    with pytest.raises(ProfileError, match=message):
        profile_from_document(_with(ladder.to_document(), ("ladder", *path), value))


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
