"""Rate control: the model against its definition and real files, the search against honest and hostile encoders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejpeg.design import (
    ScaleModel,
    WaterLevelModel,
    find_water_level,
    image_statistics,
    ladder_slope,
    laplace_entropy,
    level_for_budget,
    level_of_equal_slope,
    scale_one_by_one,
    scale_tables,
)
from edgejpeg.design.control import TOLERANCE, invert
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import load_profile
from edgejpeg.runtime import Encoder, encode_jpeg


def numeric_entropy(lam: float, q: float, t: float) -> float:
    """By summing -p log2 p over the levels, each p an integral of the Laplacian density."""

    def tail(x: float) -> float:
        return 0.5 * math.exp(-x / lam)

    probabilities = [1 - 2 * tail(t * q)]
    edges = [t * q, *((k + 0.5) * q for k in range(1, 40000))]
    for low, high in itertools.pairwise(edges):
        p = tail(low) - tail(high)
        if p < 1e-300:
            break
        probabilities += [p, p]
    return -sum(p * math.log2(p) for p in probabilities if p > 0)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.83, 1.0])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.7, 1, 3, 10, 30])
def test_laplace_entropy_is_the_sum_over_the_levels(ratio, threshold):
    expected = numeric_entropy(7.0, 7.0 * ratio, threshold)
    assert laplace_entropy(7.0, 7.0 * ratio, threshold) == pytest.approx(expected, rel=1e-9)


def test_laplace_entropy_at_its_ends():
    assert laplace_entropy(0.0, 5.0) == 0
    assert laplace_entropy(1e-300, 255.0) == 0
    # q << lam: the differential entropy log2(2 e lam) - log2(q).
    assert laplace_entropy(1e5, 1.0) == pytest.approx(math.log2(2 * math.e * 1e5), rel=1e-9)
    steps = np.arange(1.0, 256)
    assert (np.diff(laplace_entropy(20.0, steps)) < 0).all()
    assert (laplace_entropy(20.0, steps, 0.75) <= laplace_entropy(20.0, steps)).all()


@pytest.fixture(scope="module")
def profile():
    return load_profile("efficientnet_lite0")


@pytest.fixture
def frame(photo):
    return photo(240, 320)


def water_model(profile, frame, effort=0) -> WaterLevelModel:
    return WaterLevelModel(profile.sensitivity, image_statistics(frame, "420"), profile.q_max, 1.0, effort)


@pytest.mark.parametrize("effort", [0, 1])
def test_the_model_is_near_real_files_and_falls(profile, frame, effort):
    model = water_model(profile, frame, effort)
    levels = np.geomspace(0.02, 20, 7)
    modelled = [model.bytes(d) for d in levels]
    assert (np.diff(modelled) < 0).all()
    for d, size in zip(levels, modelled, strict=True):
        data = Encoder(profile, color="rgb", effort=effort, water_level=float(d)).encode(frame)
        assert size == pytest.approx(len(data), rel=0.3)


def test_gray_and_dead_zones_are_modelled(profile, frame):
    gray = image_statistics(frame[..., 1], "gray")
    model = WaterLevelModel(profile.sensitivity, gray)
    size = len(Encoder(profile, water_level=0.5).encode(frame[..., 1]))
    assert model.bytes(0.5) == pytest.approx(size, rel=0.3)
    zone = np.full((8, 8), 0.8)
    zone[0, 0] = 0.5
    assert WaterLevelModel(profile.sensitivity, gray, dead_zone=[zone]).bytes(0.5) < 0.98 * model.bytes(0.5)
    with pytest.raises(InvalidInputError, match="luma and chroma"):
        WaterLevelModel(profile.sensitivity, image_statistics(frame, "420"), dead_zone=[zone])


def test_the_range_ends_where_the_tables_do(profile, frame):
    model = water_model(profile, frame)
    assert all((table.array == profile.q_max).all() for table in model.tables(model.highest))
    assert all((table.array == 1).all() for table in model.tables(model.lowest))


def test_invert_is_the_inverse(profile, frame):
    for model in (water_model(profile, frame), ScaleModel(ijg_tables(50), image_statistics(frame, "420"))):
        largest, smallest = model.bytes(model.lowest), model.bytes(model.highest)
        for size in np.geomspace(smallest * 1.05, largest * 0.95, 12):
            for start in (None, 1e-3, 1e3):
                control = invert(model, size, start)
                # A step of the tables may jump over the size.
                around = model.bytes(control * 1.001), model.bytes(control * 0.999)
                assert around[0] * 0.998 <= size <= around[1] * 1.002
        assert invert(model, largest * 2) == model.lowest
        assert invert(model, smallest / 2) == model.highest


def frames(photo):
    yield photo(224, 224)
    yield photo(360, 480)[::-1].copy()
    yield photo(400, 600)[:, 100:400].copy()


@pytest.mark.parametrize("effort", [0, 1])
def test_budgets_are_met_on_photographs(profile, photo, effort):
    for frame in frames(photo):
        model = water_model(profile, frame, effort)
        for bpp in (0.6, 1.0, 2.0):
            budget = int(bpp * frame.shape[0] * frame.shape[1] / 8)
            made = {}

            def encode(d, frame=frame, made=made):
                made[d] = Encoder(profile, color="rgb", effort=effort, water_level=d).encode(frame)
                return len(made[d])

            match = find_water_level(model, budget, encode, profile.water_level)
            assert match.size == len(made[match.control]) <= budget
            assert match.encodes == len(made) <= 3
            assert match.size >= 0.9 * budget


def test_fixed_tables_are_scaled_to_a_budget(frame):
    tables = ijg_tables(75)
    model = ScaleModel(tables, image_statistics(frame, "420"))

    def encode(factor):
        return len(
            encode_jpeg(frame, tables=[scale_one_by_one(table, factor, slot) for slot, table in enumerate(tables)])
        )

    for budget in (6000, 12000, 30000):
        match = find_water_level(model, budget, encode)
        assert 0.97 * budget <= match.size <= budget
        assert encode(match.control) == match.size


def test_a_budget_that_no_table_meets_says_the_smallest_file(profile, frame):
    model = water_model(profile, frame)

    def encode(d):
        return len(Encoder(profile, color="rgb", water_level=d).encode(frame))

    smallest = encode(model.highest)
    with pytest.raises(InvalidInputError, match=f"{smallest - 1} bytes: .* has {smallest} bytes"):
        find_water_level(model, smallest - 1, encode)
    assert find_water_level(model, smallest, encode, max_encodes=9).size == smallest
    for wrong in (0, -5, 2.5, True, "10"):
        with pytest.raises(InvalidInputError, match="positive number of bytes"):
            find_water_level(model, wrong, encode)


def test_more_than_the_largest_file_gives_the_largest(profile, frame):
    model = water_model(profile, frame)
    calls = []

    def encode(d):
        calls.append(d)
        return len(Encoder(profile, color="rgb", water_level=d).encode(frame))

    match = find_water_level(model, 10**7, encode)
    assert match.control == model.lowest
    assert calls == [model.lowest]


class PowerLaw:
    """bytes = header + scale * control^-slope."""

    header_bytes, lowest, highest = 600.0, 1e-6, 1e6

    def __init__(self, scale: float, slope: float) -> None:
        self.scale, self.slope = scale, slope

    def bytes(self, control: float) -> float:
        return self.header_bytes + self.scale * control**-self.slope


@settings(max_examples=200, deadline=None)
@given(
    scale=st.floats(10, 1e6),
    slope=st.floats(0.05, 2),
    wrong=st.floats(0.2, 5),
    real_slope=st.floats(0.02, 3),
    step=st.floats(1.0, 1.5),
    budget=st.integers(1, 10**7),
)
def test_a_search_never_exceeds_the_budget_however_wrong_the_model(scale, slope, wrong, real_slope, step, budget):
    """The real curve has another height and slope, and steps."""
    model = PowerLaw(scale, slope)
    calls = []

    def encode(control):
        assert model.lowest <= control <= model.highest
        calls.append(control)
        size = 600 + wrong * scale * control**-real_slope
        return int(step ** math.floor(math.log(size, step))) if step > 1.001 else int(size)

    try:
        match = find_water_level(model, budget, encode)
    except InvalidInputError as error:
        assert encode(model.highest) > budget
        assert str(encode(model.highest)) in str(error)
    else:
        assert match.size <= budget
        assert encode(match.control) == match.size
        assert match.encodes == len(calls) - 1
        assert match.encodes <= 16


@settings(max_examples=100, deadline=None)
@given(wrong=st.floats(0.7, 1.4), slope=st.floats(0.3, 1), budget=st.integers(3000, 10**6))
def test_two_encodes_suffice_for_a_model_of_the_right_slope(wrong, slope, budget):
    model = PowerLaw(5e4, slope)
    match = find_water_level(model, budget, lambda x: int(600 + wrong * 5e4 * x**-slope))
    assert match.encodes <= 2
    assert (1 - TOLERANCE) * budget <= match.size <= budget or match.control == model.lowest


def test_scaled_tables():
    table = QuantTable([[1, 2, 3, 100, 200, 255, 7, 9]] * 8)
    assert scale_tables(table, 1.0) == table
    assert scale_tables(table, 0.5).array[0].tolist() == [1, 1, 2, 50, 100, 128, 4, 5]
    assert scale_tables(table, 1e-3) == QuantTable(np.ones((8, 8), int))
    assert scale_tables(table, 1e3) == QuantTable(np.full((8, 8), 255))
    for wrong in (0, -1, float("nan"), "2"):
        with pytest.raises(InvalidInputError, match="factor"):
            scale_tables(table, wrong)


def test_steps_that_change_one_by_one():
    tables = [QuantTable(np.full((8, 8), step)) for step in (8, 12)]
    factors = np.geomspace(0.05, 30, 20000)
    scaled = np.array([[scale_one_by_one(t, f, s).array for s, t in enumerate(tables)] for f in factors], dtype=int)
    # Never apart from the nearest by more than the rounding, never falling; mostly one step at a time.
    exact = factors[:, None] * np.array([8.0, 12.0])
    assert (np.abs(scaled - exact[:, :, None, None].clip(1, 255)) < 1.01).all()
    changes = np.diff(scaled, axis=0)
    assert changes.min() == 0
    assert changes[: np.searchsorted(factors, 1.5)].sum(axis=(1, 2, 3)).max() <= 3
    assert scaled[:, 0].mean() == pytest.approx(scaled[:, 0, 0, 0].mean(), rel=0.02)
    for quality in (1, 30, 75, 98):
        for slot, table in enumerate(ijg_tables(quality)):
            assert scale_one_by_one(table, 1.0, slot) == table
            assert scale_one_by_one(table, 1 / 512, slot) == QuantTable(np.ones((8, 8), int))
            assert scale_one_by_one(table, 512.0, slot) == QuantTable(np.full((8, 8), 255))
    # By hand: zigzag positions 0, 1 and 2 add 1/256, 129/256 and 65/256 in a luma table, 2/256 more in a chroma table.
    assert scale_one_by_one(tables[0], 0.8125, 0).zigzag()[:3].tolist() == [6, 7, 6]  # 6.5
    assert scale_one_by_one(tables[0], 0.9687, 1).zigzag()[:3].tolist() == [7, 8, 8]  # 7.7496
    with pytest.raises(InvalidInputError, match="factor"):
        scale_one_by_one(tables[0], 0, 0)


def test_level_for_a_budget():
    sizes = [100, 150, 220, 400]
    assert [level_for_budget(sizes, n) for n in (100, 149, 150, 399, 400, 9999)] == [0, 0, 1, 2, 3, 3]
    with pytest.raises(InvalidInputError, match=r"99 bytes: .* 100 bytes"):
        level_for_budget(sizes, 99)


def test_equal_slopes_take_the_fewest_bytes_for_a_sum_of_levels(rng):
    """Over all assignments of levels to three frames with the same sum, by brute force."""
    for _ in range(30):
        curves = np.cumsum(rng.exponential(100, (3, 5)), axis=1)
        slope = float(rng.exponential(100))
        chosen = [level_of_equal_slope(list(curve), slope) for curve in curves]
        total = sum(curve[level] for curve, level in zip(curves, chosen, strict=True))
        for levels in itertools.product(range(5), repeat=3):
            if sum(levels) == sum(chosen):
                assert sum(curve[k] for curve, k in zip(curves, levels, strict=True)) >= total - 1e-9


def test_a_frame_like_those_of_the_design_gets_the_levels_own_slope():
    rates = [0.2 * 1.3**k for k in range(10)]
    sizes = [rate * 50000 / 8 for rate in rates]
    for level in range(1, 9):
        assert level_of_equal_slope(sizes, ladder_slope(rates, level, 50000)) == level
    assert level_of_equal_slope(sizes, 0) == 0
    assert level_of_equal_slope(sizes, 1e9) == 9
    assert ladder_slope([1.0], 0, 100) == 0
    busy = [3 * size for size in sizes]
    assert level_of_equal_slope(busy, ladder_slope(rates, 6, 50000)) < 6
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match="slope"):
            level_of_equal_slope(sizes, wrong)
    with pytest.raises(InvalidInputError, match="0 to 9"):
        ladder_slope(rates, 10, 50000)
