"""OptS and OptD against a second implementation of Algorithms 1 and 2, written from the paper's cases."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import fft

from edgejpeg.design import (
    Statistics,
    chroma_table,
    design_gray_table,
    design_tables,
    image_blocks,
    image_statistics,
    laplace_distortion,
    luma_table,
    normalised_water_level,
    optd_tables,
    raw_water_level,
    rounding_distortion,
    sensitivity_weighted_error,
)
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import sample_planes
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.jpeg.zigzag import from_zigzag


def d_lap(lam: float, q: int) -> float:
    """OptS eq. 13 and 14 as printed, in Python's floats."""
    if lam == 0:
        return 0.0
    one_minus_u = -math.expm1(-q / lam)
    z = q / one_minus_u - lam
    return 2 * lam**2 - math.exp(-z / lam) * q**2 * (2 - one_minus_u) / one_minus_u**2


def largest(constraint: Callable[[int], bool], q_max: int) -> int:
    feasible = [q for q in range(1, q_max + 1) if constraint(q)]
    return max(feasible, default=1)


def dc_step(d: float, s: float, q_max: int) -> int:
    return q_max if s == 0 else max(1, min(math.floor(math.sqrt(12 * d / s)), q_max))


def algorithm_1(s: np.ndarray, variance: np.ndarray, lam: np.ndarray, d: float, q_max: int) -> list[list[int]]:
    table = [[0] * 8 for _ in range(8)]
    for row in range(8):
        for column in range(8):
            s_i, lam_i = float(s[row, column]), float(lam[row, column])
            if s_i * variance[row, column] < d:
                q = q_max
            elif (row, column) == (0, 0):
                q = dc_step(d, s_i, q_max)
            else:
                q = largest(lambda q, s_i=s_i, lam_i=lam_i: s_i * d_lap(lam_i, q) <= d, q_max)
            table[row][column] = q
    return table


def algorithm_2(s: np.ndarray, variance: np.ndarray, lam: np.ndarray, d: float, q_max: int) -> list[list[int]]:
    table = [[0] * 8 for _ in range(8)]
    for row in range(8):
        for column in range(8):
            at = (slice(None), row, column)
            cb, cr = zip(s[at].tolist(), variance[at].tolist(), lam[at].tolist(), strict=True)
            table[row][column] = algorithm_2_step(cb, cr, d, q_max, dc=(row, column) == (0, 0))
    return table


def algorithm_2_step(
    cb: tuple[float, float, float], cr: tuple[float, float, float], d: float, q_max: int, *, dc: bool
) -> int:
    (s_b, variance_b, lam_b), (s_r, variance_r, lam_r) = cb, cr
    if s_b * variance_b < d and s_r * variance_r < d:
        return q_max
    if s_r * variance_r < d:
        return dc_step(d, s_b, q_max) if dc else largest(lambda q: s_b * d_lap(lam_b, q) <= d, q_max)
    if s_b * variance_b < d:
        return dc_step(d, s_r, q_max) if dc else largest(lambda q: s_r * d_lap(lam_r, q) <= d, q_max)
    if dc:
        return dc_step(d, max(s_b, s_r), q_max)
    return largest(lambda q: s_b * d_lap(lam_b, q) <= d and s_r * d_lap(lam_r, q) <= d, q_max)


def second_implementation(
    sensitivity: np.ndarray, statistics: Statistics, water_level: float, q_max: int
) -> tuple[QuantTable, QuantTable]:
    raw = water_level * 10 * float(sensitivity[0].max())
    variance, lam = statistics.variance, statistics.laplace_scale
    luma = algorithm_1(sensitivity[0], variance[0], lam[0], raw, q_max)
    chroma = algorithm_2(sensitivity[1:], variance[1:], lam[1:], raw, q_max)
    return QuantTable(luma), QuantTable(chroma)


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, Statistics]:
    lam = np.exp(rng.uniform(np.log(0.3), np.log(120), (3, 8, 8)))
    variance = 2 * lam**2 * np.exp(rng.normal(0, 0.4, (3, 8, 8)))
    sensitivity = np.exp(rng.normal(-11, 1.5, (3, 8, 8)))
    return sensitivity, Statistics(np.zeros((3, 8, 8)), variance, lam, np.array([600, 150, 150]))


def flat_statistics(variance: float, lam: float, channels: int = 3) -> Statistics:
    shape = (channels, 8, 8)
    return Statistics(np.zeros(shape), np.full(shape, variance), np.full(shape, lam), np.full(channels, 10))


@pytest.mark.parametrize("q_max", [1, 30, 100, 255])
@pytest.mark.parametrize("water_level", [0.005, 0.05, 1.0])
def test_tables_equal_the_second_implementation(q_max: int, water_level: float, rng: np.random.Generator) -> None:
    cases = set()
    for _ in range(4):
        sensitivity, statistics = random_case(rng)
        assert design_tables(sensitivity, statistics, water_level, q_max) == second_implementation(
            sensitivity, statistics, water_level, q_max
        )
        raw = water_level * 10 * sensitivity[0].max()
        low = sensitivity[1:] * statistics.variance[1:] < raw
        cases |= {(bool(b), bool(r)) for b, r in zip(low[0].flat, low[1].flat, strict=True)}
    if water_level == 1.0:
        assert len(cases) == 4, "all four cases of Algorithm 2 were met"


@pytest.mark.parametrize(("low_cb", "low_cr"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_four_cases_of_algorithm_2(low_cb: bool, low_cr: bool) -> None:
    """One frequency of every case by hand, DC and AC."""
    lam = np.full((3, 8, 8), 10.0)
    lam[2] = 14.0
    variance = np.stack([np.full((8, 8), 200.0), np.full((8, 8), 1e-3 if low_cb else 200.0)] * 2)[:3]
    variance[2] = 1e-3 if low_cr else 400.0
    statistics = Statistics(np.zeros((3, 8, 8)), variance, lam, np.array([9, 9, 9]))
    s_cb, s_cr, d = 2.0, 3.0, 60.0
    table = chroma_table(np.stack([np.full((8, 8), s_cb), np.full((8, 8), s_cr)]), statistics, d).array
    cb_dc, cr_dc = math.floor(math.sqrt(12 * d / s_cb)), math.floor(math.sqrt(12 * d / s_cr))
    cb_ac = largest(lambda q: d_lap(10.0, q) <= d / s_cb, 100)
    cr_ac = largest(lambda q: d_lap(14.0, q) <= d / s_cr, 100)
    assert cb_ac != cr_ac
    assert cb_dc != cr_dc
    expected = {
        (True, True): (100, 100),
        (False, True): (cb_dc, cb_ac),
        (True, False): (cr_dc, cr_ac),
        (False, False): (min(cb_dc, cr_dc), min(cb_ac, cr_ac)),
    }[low_cb, low_cr]
    assert table[0, 0] == expected[0]
    assert (table.reshape(64)[1:] == expected[1]).all()


def test_the_water_line_is_strict() -> None:
    """s sigma^2 equal to d is not below it."""
    statistics = flat_statistics(variance=4.0, lam=1.0)
    at = luma_table(np.full((8, 8), 2.0), statistics, 8.0).array
    assert at[0, 0] == math.floor(math.sqrt(12 * 8 / 2))
    assert (luma_table(np.full((8, 8), 2.0), statistics, np.nextafter(8.0, 9)).array == 100).all()


def test_silent_cases() -> None:
    tiny_level = luma_table(np.ones((8, 8)), flat_statistics(50.0, 5.0), 1e-6)
    assert (tiny_level.array == 1).all(), "no feasible step, and floor(...) = 0"
    assert (luma_table(np.ones((8, 8)), flat_statistics(0.0, 0.0), 1e-6).array == 100).all(), "lam = 0"
    assert (luma_table(np.zeros((8, 8)), flat_statistics(50.0, 5.0), 1e-6).array == 100).all(), "s = 0"
    half = np.ones((2, 8, 8))
    half[0] = 0
    table = chroma_table(half, flat_statistics(50.0, 5.0), 6.0).array
    assert table[0, 0] == math.floor(math.sqrt(12 * 6.0))
    assert table[3, 3] == largest(lambda q: d_lap(5.0, q) <= 6.0, 100)


def test_scale_of_the_sensitivities_does_not_matter(rng: np.random.Generator) -> None:
    sensitivity, statistics = random_case(rng)
    expected = design_tables(sensitivity, statistics, 0.1)
    for factor in (2.0**-20, 1e-9, 100.0, 3.7e12):
        assert design_tables(sensitivity * factor, statistics, 0.1) == expected


def test_steps_grow_with_the_water_level(rng: np.random.Generator) -> None:
    sensitivity, statistics = random_case(rng)
    previous = (np.ones((8, 8)), np.ones((8, 8)))
    for water_level in np.geomspace(1e-4, 1e5, 40):
        tables = tuple(table.array for table in design_tables(sensitivity, statistics, float(water_level)))
        assert all((now >= before).all() for now, before in zip(tables, previous, strict=True))
        previous = tables
    assert all((table == 100).all() for table in previous)


def test_levels_of_luma_and_chroma_are_apart(rng: np.random.Generator) -> None:
    sensitivity, statistics = random_case(rng)
    luma, chroma = design_tables(sensitivity, statistics, 0.02, chroma_water_level=0.3)
    assert luma == design_tables(sensitivity, statistics, 0.02)[0]
    assert chroma == design_tables(sensitivity, statistics, 0.3)[1]


def test_ac_steps_spend_no_more_than_the_water_level(rng: np.random.Generator) -> None:
    sensitivity, statistics = random_case(rng)
    for model, distortion in (("laplace", laplace_distortion), ("rounding", rounding_distortion)):
        raw = raw_water_level(0.05, sensitivity)
        steps = design_tables(sensitivity, statistics, 0.05, model=model)[0].array.astype(float)
        active = (sensitivity[0] * statistics.variance[0] >= raw) & (steps > 1) & (steps < 100)
        active[0, 0] = False
        assert active.sum() > 20
        lam, s = statistics.laplace_scale[0][active], sensitivity[0][active]
        assert (s * distortion(lam, steps[active]) <= raw * (1 + 1e-12)).all()
        assert (s * distortion(lam, steps[active] + 1) > raw * (1 - 1e-12)).all()
    laplace = design_tables(sensitivity, statistics, 0.05)[0].array
    assert (steps >= laplace).all()
    assert (steps > laplace).any()


def test_gray_is_algorithm_1(rng: np.random.Generator) -> None:
    sensitivity, statistics = random_case(rng)
    gray = Statistics(statistics.mean[:1], statistics.variance[:1], statistics.laplace_scale[:1], statistics.blocks[:1])
    luma = design_tables(sensitivity, statistics, 0.05)[0]
    assert design_gray_table(sensitivity, gray, 0.05) == luma
    assert design_gray_table(sensitivity[:1], gray, 0.05) == luma


def test_optd_is_opts_with_unit_sensitivities(rng: np.random.Generator) -> None:
    _, statistics = random_case(rng)
    ones = np.ones((3, 8, 8))
    assert optd_tables(statistics, 4.0) == design_tables(ones, statistics, normalised_water_level(4.0, ones))
    assert optd_tables(statistics, 4.0, chroma_water_level=9.0)[1] == optd_tables(statistics, 9.0)[1]
    assert optd_tables(flat_statistics(50.0, 5.0), 4.0)[0].array[0, 0] == math.floor(math.sqrt(48))


def test_units_of_the_water_level() -> None:
    sensitivity = np.full((3, 8, 8), 1e-6)
    sensitivity[0, 2, 3] = 4e-5
    sensitivity[1] = 1.0
    assert raw_water_level(0.5, sensitivity) == pytest.approx(0.5 * 10 * 4e-5, rel=1e-15)
    assert normalised_water_level(raw_water_level(0.5, sensitivity), sensitivity) == pytest.approx(0.5, rel=1e-15)


def test_photograph_smaller_files_and_larger_error_with_the_level(photo: Callable[[int, int], np.ndarray]) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = photo(240, 320)
    sensitivity = np.exp(-np.hypot(*np.mgrid[0:8, 0:8]) / np.array([4.0, 2.0, 2.0])[:, None, None])
    statistics = image_statistics(image, "420")
    blocks = image_blocks(image, "420")
    sizes, luma_errors, chroma_errors = [], [], []
    for water_level in (0.3, 1.0, 3.0, 10.0, 30.0):
        tables = design_tables(sensitivity, statistics, water_level)
        buffer = io.BytesIO()
        image_module.fromarray(image).save(
            buffer, "JPEG", qtables=[table.raster_list() for table in tables], subsampling="4:2:0"
        )
        sizes.append(len(buffer.getvalue()))
        luma, chroma = sensitivity_weighted_error(blocks, tables, sensitivity)
        luma_errors.append(luma)
        chroma_errors.append(chroma)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]
    assert luma_errors == sorted(luma_errors)
    assert chroma_errors == sorted(chroma_errors)


@pytest.mark.parametrize("network", ["alexnet", "mobilenet_v2"])
@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_kodak_with_published_sensitivities(network: str, subsampling: str, shared_data: Path) -> None:
    """Real photographs: coefficients by SciPy, statistics by NumPy, tables by the second implementation."""
    image_module = pytest.importorskip("PIL.Image")
    maps = [np.load(shared_data / "sensitivities" / "opts" / f"{network}_{name}.npy") for name in ("Y", "Cb", "Cr")]
    sensitivity = 100 * from_zigzag(np.stack(maps))
    files = sorted((shared_data / "images" / "kodak").glob("*.png"))
    assert files
    for file in files[:2]:
        image = np.asarray(image_module.open(file).convert("RGB"))[:256, :384]
        statistics = image_statistics(image, subsampling)
        blocks = [
            np.array(
                [
                    fft.dctn(plane[y : y + 8, x : x + 8].astype(float), norm="ortho")
                    for y in range(0, plane.shape[0], 8)
                    for x in range(0, plane.shape[1], 8)
                ]
            )
            for plane in sample_planes(image, subsampling)
        ]
        own = Statistics(
            np.array([b.mean(axis=0) for b in blocks]),
            np.array([b.var(axis=0) for b in blocks]),
            np.array([np.abs(b - b.mean(axis=0)).mean(axis=0) for b in blocks]),
            np.array([len(b) for b in blocks]),
        )
        means = []
        for water_level in (0.01, 0.1, 1.0):
            tables = design_tables(sensitivity, statistics, water_level)
            assert tables == second_implementation(sensitivity, own, water_level, 100)
            means.append([float(table.array.mean()) for table in tables])
        assert means[0][0] < means[1][0] < means[2][0], "luma steps grow with the level"
        assert 1 <= means[0][0] < 60
        assert means[2][1] > means[2][0], "these networks need chroma less"


SENSITIVITY = np.ones((3, 8, 8))
STATISTICS = flat_statistics(50.0, 5.0)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: design_tables(np.ones((3, 64)), STATISTICS, 0.1), "(3, 64)"),
        (lambda: design_tables(np.ones((1, 8, 8)), STATISTICS, 0.1), "(1, 8, 8)"),
        (lambda: design_tables(-SENSITIVITY, STATISTICS, 0.1), "-1.0"),
        (lambda: design_tables(SENSITIVITY * np.nan, STATISTICS, 0.1), "nan"),
        (lambda: design_tables(SENSITIVITY * np.inf, STATISTICS, 0.1), "inf"),
        (lambda: design_tables(SENSITIVITY * 0, STATISTICS, 0.1), "is 0"),
        (lambda: design_tables([[1.0], [2.0, 3.0]], STATISTICS, 0.1), "list"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, 0.0), "0.0"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, -2), "-2"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, float("nan")), "nan"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, "much"), "much"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, None), "None"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, 0.1, chroma_water_level=0), "0"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, 0.1, q_max=0), "0"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, 0.1, q_max=256), "256"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, 0.1, q_max=12.5), "12.5"),
        (lambda: design_tables(SENSITIVITY, STATISTICS, 0.1, model="cauchy"), "cauchy"),
        (lambda: design_tables(SENSITIVITY, flat_statistics(5.0, 1.0, 1), 0.1), "design_gray_table"),
        (lambda: chroma_table(np.ones((2, 8, 8)), flat_statistics(5.0, 1.0, 1), 0.1), "gray"),
        (lambda: chroma_table(np.ones((3, 8, 8)), STATISTICS, 0.1), "(3, 8, 8)"),
        (lambda: luma_table(np.ones((3, 8, 8)), STATISTICS, 0.1), "(3, 8, 8)"),
        (lambda: luma_table(np.ones((8, 8)), STATISTICS, float("inf")), "inf"),
        (lambda: optd_tables(STATISTICS, -1.0), "-1.0"),
        (lambda: optd_tables(STATISTICS, 1.0, chroma_water_level=0.0), "chroma_water_level"),
        (lambda: optd_tables(flat_statistics(5.0, 1.0, 1), 1.0), "gray"),
        (lambda: raw_water_level(0.1, np.zeros((3, 8, 8))), "is 0"),
        (lambda: normalised_water_level(0.0, SENSITIVITY), "0.0"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
