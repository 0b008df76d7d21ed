"""Budgets, ladders and dead zones: what the encoder chooses, against the oracles and against the files themselves."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from edgejpeg.design.control import level_for_budget, level_of_equal_slope, scale_one_by_one
from edgejpeg.design.opts import design_gray_table, design_tables
from edgejpeg.errors import BudgetError, InvalidInputError
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.reference import encode_reference
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import DeadZone, Level, Profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.library import NativeEncoder

SUBSAMPLINGS = ("444", "422", "420", "gray")
QUALITIES = (3, 10, 20, 30, 40, 50, 60, 68, 75, 80, 84, 88, 91, 94)
RATES = (0.12, 0.25, 0.44, 0.6, 0.73, 0.85, 0.98, 1.13, 1.3, 1.5, 1.7, 2.0, 2.4, 2.9)


def zone(value: float, seed: int = 0) -> np.ndarray:
    thresholds = np.random.default_rng(seed).uniform(0.5, value, (8, 8))
    thresholds[0, 0] = 0.5
    return thresholds


ZONES = DeadZone(zone(0.8), zone(0.95, 1))


def profile_of(kind: str, subsampling: str = "420", *, dead_zone: DeadZone | None = None) -> Profile:
    luma, chroma = ijg_tables(70)
    chroma = None if subsampling == "gray" else chroma
    dead_zone = dead_zone if dead_zone is None or chroma is not None else DeadZone(dead_zone.luma)
    common = {"name": kind, "subsampling": subsampling}
    if kind == "fixed":
        return Profile.fixed(luma=luma, chroma=chroma, dead_zone=dead_zone, **common)
    if kind == "ladder":
        levels = [
            Level(rate, *(t if chroma is not None else (t[0],)), dead_zone=dead_zone)
            for rate, t in zip(RATES, map(ijg_tables, QUALITIES), strict=True)
        ]
        return Profile.ladder(levels=levels, level=5, **common)
    radius = np.add.outer(np.arange(8.0), np.arange(8.0))
    maps = [2.7e-4 * np.exp(-(((radius - 4) / 3.5) ** 2)), 3e-4 * np.exp(-radius / 1.7), 2e-4 * np.exp(-radius / 1.7)]
    return Profile.adaptive(
        sensitivity=np.stack(maps), water_level=0.05, chroma_water_level=0.08, q_max=200, dead_zone=dead_zone, **common
    )


def opened(data: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="Pillow, the decoder to test against, is not installed")
    return np.asarray(image.open(io.BytesIO(data)))


def random_frame(rng, photo) -> np.ndarray:
    height, width = (int(n) for n in rng.integers(1, 90, 2))
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    frame = photo(height + 60, width + 60)[-height:, -width:]
    return np.ascontiguousarray(frame if kind == 2 else frame[..., 1])


@pytest.mark.parametrize("kind", ["adaptive", "fixed", "ladder"])
def test_no_file_is_larger_than_its_budget(kind, rng, photo):
    met = refused = 0
    for _ in range(150):
        frame = random_frame(rng, photo)
        profile = profile_of(kind, str(rng.choice(SUBSAMPLINGS)), dead_zone=ZONES if rng.random() < 0.2 else None)
        options = {
            "color": "rgb",
            "effort": int(rng.integers(2)),
            "threads": int(rng.choice([1, 3])),
            "trellis": bool(rng.random() < 0.2),
            "comment": bool(rng.random() < 0.3),
        }
        budget = int(np.exp(rng.uniform(np.log(200), np.log(40000))))
        with Encoder(profile, max_bytes=budget, **options) as encoder:
            try:
                data = encoder.encode(frame)
            except BudgetError as error:
                refused += 1
                assert error.smallest > budget
                assert f"has {error.smallest} bytes" in str(error)
                assert encoder.last is None
                with Encoder(profile, max_bytes=error.smallest, **options) as roomier:
                    assert len(roomier.encode(frame)) <= error.smallest
                continue
            met += 1
            assert len(data) <= budget
            assert opened(data).shape[:2] == frame.shape[:2]
            last = encoder.last
            assert last.size == len(data)
            for slot, table in parse_jpeg(data).tables.items():
                np.testing.assert_array_equal(table, last.tables[slot])
    assert met > 50
    assert refused > 10


@pytest.mark.parametrize("kind", ["adaptive", "fixed"])
@pytest.mark.parametrize("effort", [0, 1])
def test_natural_frames_come_near_the_budget_in_two_encodes(kind, effort, photo):
    scene = photo(400, 600)
    frames = [scene[y : y + 200, x : x + 256] for y in (0, 100, 200) for x in (0, 170, 344)]
    for bits in (0.6, 1.0, 2.0):
        with Encoder(profile_of(kind), color="rgb", effort=effort, target_bpp=bits) as encoder:
            for frame in map(np.ascontiguousarray, frames):
                size = len(encoder.encode(frame))
                assert 0.97 * 200 * 256 * bits / 8 <= size <= 200 * 256 * bits / 8
                assert encoder.last.encodes <= 2


@pytest.mark.parametrize("subsampling", ["420", "444", "gray"])
def test_tables_are_those_of_the_design_at_the_level_that_is_reported(subsampling, photo):
    profile, frame = profile_of("adaptive", subsampling), photo(150, 170)
    for budget in (1500, 4000, 9000):
        with Encoder(profile, color="rgb", max_bytes=budget) as encoder:
            data, last = encoder.encode(frame), encoder.last
        assert last.scale is None
        assert last.level is None
        if subsampling == "gray":
            expected = design_gray_table(profile.sensitivity, last.statistics, last.water_level, 200), None
            assert last.chroma_water_level is None
        else:
            expected = design_tables(
                profile.sensitivity, last.statistics, last.water_level, 200, last.chroma_water_level
            )
            assert last.chroma_water_level / last.water_level == pytest.approx(0.08 / 0.05, rel=1e-12)
        assert last.tables == tuple(expected)
        # The level alone gives the same file.
        assert Encoder(profile, color="rgb", water_level=last.water_level).encode(frame) == data


def test_given_tables_are_scaled(photo):
    profile, frame = profile_of("fixed"), photo(150, 170)
    for budget in (1500, 4000, 12000):
        with Encoder(profile, color="rgb", max_bytes=budget) as encoder:
            data, last = encoder.encode(frame), encoder.last
        assert last.water_level is None
        assert last.tables == tuple(
            scale_one_by_one(table, last.scale, slot) for slot, table in enumerate((profile.luma, profile.chroma))
        )
        scaled = Profile.fixed(name="scaled", luma=last.tables[0], chroma=last.tables[1])
        assert Encoder(scaled, color="rgb").encode(frame) == data
    assert Encoder(profile, color="rgb").encode(frame) is not None


@pytest.mark.parametrize("effort", [0, 1])
def test_a_ladder_needs_two_encodes_at_most(effort, photo, rng):
    """At any budget, those just below a level's size as well, the file is the highest level's that fits.

    What counting leaves out is a per mille: within it a level may be taken for too large.
    """
    profile = profile_of("ladder")
    scene = photo(400, 600)
    for frame in (scene[:180, :240], scene[100:324, 300:524], scene[200:, 100:500]):
        frame = np.ascontiguousarray(frame)
        sizes = [len(Encoder(profile, level=level, effort=effort).encode(frame)) for level in range(len(QUALITIES))]
        near = [int(size * factor) for size in sizes[2::3] for factor in (0.985, 0.998, 1.002, 1.015)]
        for budget in [*near, *rng.integers(sizes[0], sizes[-1], 20).tolist()]:
            with Encoder(profile, max_bytes=budget, effort=effort) as encoder:
                size = len(encoder.encode(frame))
                last = encoder.last
            best = level_for_budget(sizes, budget)
            assert last.encodes <= 2
            assert size == sizes[last.level] <= budget
            assert last.level == best or (last.level == best - 1 and sizes[best] > 0.998 * budget)


@pytest.mark.parametrize("effort", [0, 1])
def test_the_highest_level_that_fits(effort, photo):
    profile = profile_of("ladder", dead_zone=ZONES)
    for frame in (photo(90, 120), photo(300, 420)[100:], photo(400, 600)[200:, 300:]):
        frame = np.ascontiguousarray(frame)
        sizes = [len(Encoder(profile, level=level, effort=effort).encode(frame)) for level in range(len(QUALITIES))]
        assert sizes == sorted(sizes)
        budgets = [sizes[0], sizes[3] - 1, sizes[3], sizes[7] + 5, sizes[-1] - 1, sizes[-1], 10**9]
        for budget in budgets:
            with Encoder(profile, max_bytes=budget, effort=effort) as encoder:
                data = encoder.encode(frame)
                assert encoder.last.level == level_for_budget(sizes, budget)
                assert len(data) == sizes[encoder.last.level]
            # A level given as well is the highest.
            with Encoder(profile, max_bytes=budget, level=6, effort=effort) as encoder:
                encoder.encode(frame)
                assert encoder.last.level == min(6, level_for_budget(sizes, budget))
        with pytest.raises(BudgetError) as refusal:
            Encoder(profile, max_bytes=sizes[0] - 1, effort=effort).encode(frame)
        assert refusal.value.smallest == sizes[0]


@pytest.mark.parametrize(("effort", "scale"), [(0, 1), (1, 1), (0, 5)])
def test_the_level_of_equal_slope(effort, scale, photo):
    """On the curve of real files: counts leave out stuffed bytes, and on large frames most rows."""
    profile = profile_of("ladder")
    frame = photo(400, 600)[:, 40:600]
    if scale > 1:
        frame = np.kron(frame, np.ones((2, 2, 1), np.uint8))
    frame = np.ascontiguousarray(frame)
    sizes = [len(Encoder(profile, level=level, effort=effort).encode(frame)) for level in range(len(QUALITIES))]
    differences = np.diff(sizes)
    levels = set()
    for slope in (0, *np.quantile(differences, [0.02, 0.2, 0.4, 0.6, 0.8, 0.98]), 10 * max(differences)):
        with Encoder(profile, slope=float(slope), effort=effort) as encoder:
            data = encoder.encode(frame)
            level = encoder.last.level
            assert encoder.last.encodes == 1
        assert len(data) == sizes[level]
        best = level_of_equal_slope(sizes, float(slope))
        excess = (sizes[level] - slope * level) - (sizes[best] - slope * best)
        assert 0 <= excess <= (0.01 if scale == 1 else 0.03) * sizes[best]
        levels.add(level)
    assert len(levels) >= 4
    # With a budget the slope's level is the highest.
    middle = float(np.median(differences))
    with Encoder(profile, slope=middle, effort=effort) as alone:
        alone.encode(frame)
        wanted = alone.last.level
    for budget in (sizes[2], sizes[-1]):
        with Encoder(profile, slope=middle, max_bytes=budget, effort=effort) as encoder:
            encoder.encode(frame)
            assert encoder.last.level == min(wanted, level_for_budget(sizes, budget))


def test_a_level_for_one_frame(photo):
    profile, frame = profile_of("ladder"), photo(60, 70)
    with Encoder(profile) as encoder:
        default = encoder.encode(frame)
        assert encoder.last.level == 5
        for level in (0, 13, 2):
            assert encoder.encode(frame, level=level) == Encoder(profile.at_level(level)).encode(frame)
            assert encoder.last.level == level
        assert encoder.encode(frame) == default
        for level in (-1, 14, 1.0, True, "2"):
            with pytest.raises(InvalidInputError, match="level is an integer from 0 to 13"):
                encoder.encode(frame, level=level)
    with Encoder(profile, slope=10.0) as encoder, pytest.raises(InvalidInputError, match="both choose a level"):
        encoder.encode(frame, level=1)
    with Encoder(profile_of("fixed")) as encoder, pytest.raises(InvalidInputError, match="has no levels"):
        encoder.encode(frame, level=1)


@pytest.mark.parametrize("kind", ["adaptive", "fixed", "ladder"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_dead_zones_equal_the_reference(kind, subsampling, photo, monkeypatch):
    profile, frame = profile_of(kind, subsampling, dead_zone=ZONES), photo(61, 83)
    image = frame[..., 0].copy() if subsampling == "gray" else frame
    zones = [ZONES.luma, ZONES.chroma]
    plain = profile_of(kind, subsampling)
    for effort in (0, 1):
        monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
        with Encoder(profile, color="rgb", effort=effort) as encoder:
            data = encoder.encode(image)
            tables = [table for table in encoder.last.tables if table is not None]
        chosen = {"huffman_tables": parse_jpeg(data).huffman} if effort == 0 else {}
        assert data == encode_reference(image, tables, subsampling, effort=effort, dead_zones=zones, **chosen)
        assert data != encode_reference(image, tables, subsampling, effort=effort, **chosen)
        monkeypatch.delenv("EDGEJPEG_BACKEND")
        fast, rounded = (len(Encoder(p, color="rgb", effort=effort).encode(image)) for p in (profile, plain))
        assert abs(fast - len(data)) <= 0.015 * len(data)
        assert fast < rounded


@pytest.mark.parametrize("kind", ["adaptive", "fixed", "ladder"])
def test_choices_depend_on_nothing_but_the_frame(kind, photo, monkeypatch):
    """The same file from every back end and number of threads, whatever was encoded before."""
    scene = photo(400, 600)
    frames = [np.ascontiguousarray(f) for f in (scene, scene[:201, :303], scene[40:57, 9:500], scene[..., 2])]
    choices = [{"max_bytes": 9000}, {"target_bpp": 0.9, "trellis": True}, {"trellis": 2.0}, {"trellis": "trim"}]
    choices += [{"slope": 900.0}, {"slope": 50.0, "max_bytes": 9000}] if kind == "ladder" else []
    for choice in choices:
        for effort in (0, 1):
            files = {}
            for backend, threads in ((None, 1), (None, 4), ("scalar", 2)):
                if backend is not None:
                    monkeypatch.setenv("EDGEJPEG_BACKEND", backend)
                with Encoder(profile_of(kind), effort=effort, threads=threads, **choice) as encoder:
                    order = frames if threads == 1 else frames[::-1]
                    made = [encoder.encode(frame) for frame in order]
                    files[backend, threads] = made if threads == 1 else made[::-1]
                monkeypatch.delenv("EDGEJPEG_BACKEND", raising=False)
            assert len({tuple(entry) for entry in files.values()}) == 1


def test_bits_per_pixel_are_a_budget_by_another_name(photo):
    frame = photo(100, 130)
    for kind in ("adaptive", "ladder"):
        profile = profile_of(kind)
        by_bits = Encoder(profile, target_bpp=1.5).encode(frame)
        assert by_bits == Encoder(profile, max_bytes=int(100 * 130 * 1.5 / 8)).encode(frame)
        assert Encoder(profile, target_bpp=1.5, max_bytes=1900).encode(frame) == Encoder(
            profile, max_bytes=1900
        ).encode(frame)
        assert Encoder(profile, target_bpp=1.5, max_bytes=10**9).encode(frame) == by_bits
        assert len(Encoder(profile, target_bpp=1e300).encode(frame)) > len(by_bits)


def test_an_encoder_lives_on_after_a_budget_that_cannot_be_met(photo, rng):
    small, large = photo(40, 40), rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for kind in ("adaptive", "fixed", "ladder"):
        with Encoder(profile_of(kind), max_bytes=2500) as encoder:
            first = encoder.encode(small)
            with pytest.raises(
                BudgetError, match=r"smallest file of this frame has \d+ bytes; give a larger"
            ) as caught:
                encoder.encode(large)
            assert encoder.last is None
            assert encoder.tables is None
            assert encoder.encode(small) == first
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.smallest) == (str(caught.value), caught.value.smallest)


def test_without_any_sensitivity_that_matters(photo):
    """A profile of one frequency, and frames without content."""
    sensitivity = np.zeros((3, 8, 8))
    sensitivity[0, 0, 1] = 1e-300
    profile = Profile.adaptive(name="one", sensitivity=sensitivity, water_level=1.0)
    for frame in (photo(64, 64), np.zeros((64, 64, 3), np.uint8)):
        for budget in (900, 5000):
            assert len(Encoder(profile, max_bytes=budget).encode(frame)) <= budget


def test_comments_say_what_was_chosen(photo):
    frame = photo(120, 120)

    def comment(profile, **choice):
        with Encoder(profile, comment=True, **choice) as encoder:
            (text,) = parse_jpeg(encoder.encode(frame)).comments
            return text.decode(), encoder.last

    for kind, key, value in (
        ("adaptive", "d", "water_level"),
        ("fixed", "scale", "scale"),
        ("ladder", "level", "level"),
    ):
        profile = profile_of(kind)
        text, last = comment(profile, max_bytes=3000)
        head, found = text.rsplit(f" {key}=", 1)
        assert head == f"edgejpeg profile={profile.name}@{profile.profile_id}"
        assert float(found) == pytest.approx(getattr(last, value), rel=1e-5)
    assert comment(profile_of("fixed"))[0].endswith(profile_of("fixed").profile_id)
    assert comment(profile_of("ladder"))[0].endswith(" level=5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"max_bytes": n}, "max_bytes is an integer from 1 to")
            for n in (0, -5, 2.5, "9", True, 2**63, float("nan"))
        ),
        *(
            ({"target_bpp": n}, "target_bpp is bits per pixel, positive and finite; got")
            for n in (0, -1.0, float("nan"), float("inf"), "1", True)
        ),
        ({"water_level": 0.1, "max_bytes": 9999}, "water_level=0.1 and a budget both choose"),
        ({"level": 1}, "level=1 with 'adaptive', a profile of kind 'adaptive', which has no levels"),
        ({"slope": 1.0}, "slope=1.0 with 'adaptive'"),
        *(({"trellis": n}, "trellis is False, True,") for n in (0, -1.0, float("nan"), float("inf"), "Trim", None)),
        ({"measure": 1}, "measure is True or False; got 1"),
        ({"timing": "yes"}, "timing is True or False; got 'yes'"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Encoder(profile_of("adaptive"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"level": n}, "level is an integer from 0 to 13") for n in (-1, 14, 1.0, "1", True)),
        *(
            ({"slope": n}, "slope is a finite number of bytes")
            for n in (-1, float("nan"), float("inf"), "1", True, False)
        ),
        ({"slope": 3.0, "level": 1}, "level=1 and slope=3.0 both choose a level"),
    ],
)
def test_bad_ladder_options(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Encoder(profile_of("ladder"), **arguments)


@pytest.mark.parametrize("levels", [(1e-160, 1e160), (1e160, 1e-160), (5e-324, 1e300), (1e300, 5e-324)])
@pytest.mark.parametrize("sensitivity", [0.0, 1e-4, 1.7e308])
def test_water_levels_of_any_ratio_end_in_tables(levels, sensitivity, rng):
    """In C they are any positive numbers, and their ratio may leave what a double holds."""
    frame = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for budget in (0, 900, 5000):
        native = NativeEncoder("420", 0, 1)
        native.set_design(np.full((3, 8, 8), sensitivity), *levels, 100)
        native.set_budget(budget, 0)
        try:
            data = native.encode(frame, "rgb")
        except BudgetError as error:
            assert error.smallest > budget
            continue
        result, tables = native.result(), native.tables()
        assert budget == 0 or len(data) <= budget
        assert all(table.min() >= 1 and table.max() <= 100 for table in tables)
        assert 0 < result.luma_water_level < np.inf
        assert 0 < result.chroma_water_level < np.inf
        assert budget > 0 or (result.luma_water_level, result.chroma_water_level) == levels
