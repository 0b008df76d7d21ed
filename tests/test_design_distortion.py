"""The distortion models against the printed formulas in 60 digits, numerical integration and simulation."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import integrate

from edgejpeg.design import (
    dead_zone_threshold,
    inverse_normalised_distortion,
    laplace_distortion,
    largest_step,
    normalised_laplace_distortion,
    normalised_rounding_distortion,
    quantization_error,
    rounding_distortion,
    sensitivity_weighted_error,
)
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable, ijg_tables

PAIRS = [
    (1.0, 1.0),
    (100.0, 1.0),
    (1e4, 1.0),
    (3.7, 2.0),
    (2.0, 0.99),
    (0.5, 7.0),
    (12.0, 100.0),
    (0.3, 255.0),
    (41.0, 60.0),
]


def printed_formulas(lam: float, q: float) -> tuple[float, float]:
    """z and D_Lap as OptS eq. 13 and 14 print them, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        scale, step = Decimal(lam), Decimal(q)
        u = (-step / scale).exp()
        z = step / (1 - u) - scale
        distortion = 2 * scale**2 - (-z / scale).exp() * step**2 * (1 + u) / (1 - u) ** 2
        return float(z), float(distortion)


def integrated(lam: float, q: float, threshold: float) -> float:
    """E[(X - kq)^2] for a Laplacian X by quadrature; the bins outside (-threshold, threshold) have width q."""

    def squared_error(x: float, k: int) -> float:
        return (x - k * q) ** 2 * np.exp(-x / lam) / lam  # both signs of a symmetric density

    total = integrate.quad(squared_error, 0, threshold, args=(0,), epsabs=0, epsrel=1e-12)[0]
    k = 1
    while threshold + (k - 1) * q < 60 * lam:
        low = threshold + (k - 1) * q
        total += integrate.quad(squared_error, low, low + q, args=(k,), epsabs=1e-300, epsrel=1e-12)[0]
        k += 1
    return total


@pytest.mark.parametrize(("lam", "q"), PAIRS)
def test_laplace_is_the_printed_formula(lam: float, q: float) -> None:
    z, distortion = printed_formulas(lam, q)
    assert float(laplace_distortion(lam, q)) == pytest.approx(distortion, rel=1e-12)
    assert float(dead_zone_threshold(lam, q)) == pytest.approx(z, rel=1e-12)


def test_laplace_is_the_printed_formula_over_the_whole_range() -> None:
    ratios = np.geomspace(1e-6, 500, 400)
    expected = [printed_formulas(1.0, float(r)) for r in ratios]
    np.testing.assert_allclose(normalised_laplace_distortion(ratios), [d for _, d in expected], rtol=1e-13)
    np.testing.assert_allclose(dead_zone_threshold(1.0, ratios), [z for z, _ in expected], rtol=1e-12)


def test_rounding_is_its_closed_form_in_many_digits() -> None:
    ratios = np.geomspace(1e-6, 500, 400)
    with localcontext() as context:
        context.prec = 60
        halves = [Decimal(float(r)) / 2 for r in ratios]
        expected = [float(2 * (1 - 2 * h / (h.exp() - (-h).exp()))) for h in halves]
    np.testing.assert_allclose(normalised_rounding_distortion(ratios), expected, rtol=1e-13)


@pytest.mark.parametrize(("lam", "q"), [pair for pair in PAIRS if pair[0] / pair[1] <= 2.5])
def test_models_against_integration(lam: float, q: float) -> None:
    threshold = float(dead_zone_threshold(lam, q))
    assert float(laplace_distortion(lam, q)) == pytest.approx(integrated(lam, q, threshold), rel=1e-9)
    assert float(rounding_distortion(lam, q)) == pytest.approx(integrated(lam, q, q / 2), rel=1e-9)


@pytest.mark.parametrize(("lam", "q"), [(4.0, 3.0), (4.0, 11.0), (1.5, 6.0)])
def test_laplace_against_simulation(lam: float, q: float, rng: np.random.Generator) -> None:
    x = rng.laplace(0, lam, 1_000_000)
    threshold = float(dead_zone_threshold(lam, q))
    index = np.where(np.abs(x) < threshold, 0, np.floor((np.abs(x) - threshold) / q) + 1)
    rebuilt = np.zeros_like(x)
    for k in range(1, int(index.max()) + 1):
        members = index == k
        if not members.any():
            continue
        centroid = np.abs(x[members]).mean()
        rebuilt[members] = centroid * np.sign(x[members])
        if members.sum() > 10_000:
            assert centroid == pytest.approx(k * q, rel=0.01), "the reconstruction points k q are the bins' centroids"
    assert float(laplace_distortion(lam, q)) == pytest.approx(np.mean((x - rebuilt) ** 2), rel=0.01)
    rounded = q * np.rint(x / q)
    assert float(rounding_distortion(lam, q)) == pytest.approx(np.mean((x - rounded) ** 2), rel=0.01)


def test_limits() -> None:
    lam = np.array([1e-3, 1.0, 250.0])
    for model in (laplace_distortion, rounding_distortion):
        np.testing.assert_allclose(model(lam, lam * 1e-5), (lam * 1e-5) ** 2 / 12, rtol=1e-9)
        np.testing.assert_allclose(model(lam, lam * 1e4), 2 * lam**2, rtol=1e-15)
        assert float(model(0.0, 5.0)) == 0
    assert float(dead_zone_threshold(0.0, 5.0)) == 5
    np.testing.assert_allclose(dead_zone_threshold(lam, lam * 1e-5), lam * 0.5e-5, rtol=1e-4)
    np.testing.assert_allclose(dead_zone_threshold(lam, lam * 1e4), lam * 1e4 - lam, rtol=1e-15)


def test_where_single_precision_fails() -> None:
    """The printed formula in float32 gives a negative number here."""
    lam, q = np.float32(100), np.float32(1)
    u = np.exp(-q / lam)
    z = q / (1 - u) - lam
    assert 2 * lam**2 - np.exp(-z / lam) * q**2 * (1 + u) / (1 - u) ** 2 < 0
    assert float(laplace_distortion(100, 1)) == pytest.approx(1 / 12, rel=1e-4)


def test_models_grow_with_q_and_rounding_is_never_worse() -> None:
    ratios = np.geomspace(1e-4, 60, 50_000)
    laplace, rounding = normalised_laplace_distortion(ratios), normalised_rounding_distortion(ratios)
    growing = ratios < 30
    assert (np.diff(laplace[growing]) > 0).all()
    assert (np.diff(rounding[growing]) > 0).all()
    ratio = laplace / rounding
    assert ratio.min() > 1 - 1e-12
    assert 1.360 < ratio.max() < 1.361


@pytest.mark.parametrize(
    ("model", "forward"), [("laplace", normalised_laplace_distortion), ("rounding", normalised_rounding_distortion)]
)
def test_inverse_undoes_the_model(model: str, forward: Callable[..., np.ndarray], rng: np.random.Generator) -> None:
    ratios = np.exp(rng.uniform(np.log(1e-6), np.log(60), 20_000))
    values = forward(ratios)
    usable = values <= 1.999999
    inverse = inverse_normalised_distortion(values[usable], model)
    np.testing.assert_allclose(inverse, ratios[usable], rtol=1e-6)
    assert inverse_normalised_distortion(0.0, model) == 0
    assert np.isinf(inverse_normalised_distortion(np.array([2.0, 3.0, np.inf]), model)).all()


@pytest.mark.parametrize("model", ["laplace", "rounding"])
@pytest.mark.parametrize("q_max", [1, 2, 100, 255])
def test_largest_step_is_brute_force(model: str, q_max: int, rng: np.random.Generator) -> None:
    distortion = laplace_distortion if model == "laplace" else rounding_distortion
    lam = np.exp(rng.uniform(np.log(1e-3), np.log(500), 2_000))
    limit = np.exp(rng.uniform(np.log(1e-4), np.log(1e5), 2_000))
    all_steps = distortion(lam[:, None], np.arange(1, q_max + 1)) <= limit[:, None]
    expected = np.maximum(1, np.where(all_steps, np.arange(1, q_max + 1), 0).max(axis=1))
    np.testing.assert_array_equal(largest_step(lam, limit, q_max, model), expected)
    if q_max > 2:
        assert len(np.unique(expected)) > 50, "the cases cover the range"


@pytest.mark.parametrize("model", ["laplace", "rounding"])
def test_largest_step_on_the_boundary(model: str, rng: np.random.Generator) -> None:
    """A limit equal to the distortion of q allows q; the next smaller float64 does not."""
    distortion = laplace_distortion if model == "laplace" else rounding_distortion
    q = rng.integers(2, 256, 2_000)
    lam = q / np.exp(rng.uniform(np.log(1e-2), np.log(12), 2_000))
    limit = distortion(lam, q)
    np.testing.assert_array_equal(largest_step(lam, limit, 255, model), q)
    np.testing.assert_array_equal(largest_step(lam, np.nextafter(limit, 0), 255, model), q - 1)


def test_largest_step_in_the_silent_cases() -> None:
    assert largest_step(0.0, 1e-9, 77) == 77
    assert largest_step(0.0, 0.0, 77) == 77
    assert largest_step(1e-200, 1e-9, 77) == 77
    assert largest_step(10.0, 0.0, 77) == 1
    assert largest_step(10.0, 0.01, 77) == 1
    assert largest_step(10.0, np.inf, 77) == 77
    assert largest_step(10.0, 200.0, 77) == 77, "2 lam^2 is never exceeded"
    assert largest_step(1.0, np.nextafter(2.0, 0), 255) >= 36


def test_sensitivity_weighted_error_is_its_definition(rng: np.random.Generator) -> None:
    blocks = [rng.laplace(0, 30, (count, 8, 8)) for count in (5, 3, 2)]
    tables = ijg_tables(40)
    sensitivity = rng.random((3, 8, 8))
    expected = []
    for component in range(3):
        table = tables[min(component, 1)].array
        total = 0.0
        for block in blocks[component]:
            for row in range(8):
                for column in range(8):
                    step = int(table[row, column])
                    magnitude = int(abs(block[row, column]) / step + 0.5) * step
                    error = abs(block[row, column]) - magnitude
                    total += sensitivity[component, row, column] * error * error
        expected.append(total / len(blocks[component]))
    luma, chroma = sensitivity_weighted_error(blocks, tables, sensitivity)
    assert luma == pytest.approx(expected[0], rel=1e-12)
    assert chroma == pytest.approx(expected[1] + expected[2], rel=1e-12)
    gray = sensitivity_weighted_error(blocks[:1], tables[:1], sensitivity[:1])
    assert gray == (luma, 0.0)


def test_quantization_error_meets_the_rounding_model(rng: np.random.Generator) -> None:
    lam = np.geomspace(0.5, 80, 64).reshape(8, 8)
    table = QuantTable(rng.integers(1, 60, (8, 8)))
    measured = quantization_error(rng.laplace(0, lam, (60_000, 8, 8)), table)
    np.testing.assert_allclose(measured, rounding_distortion(lam, table.array), rtol=0.06)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: laplace_distortion(-1.0, 2.0), "-1"),
        (lambda: laplace_distortion(1.0, 0.0), "0"),
        (lambda: laplace_distortion(np.nan, 1.0), "nan"),
        (lambda: rounding_distortion(1.0, np.inf), "inf"),
        (lambda: dead_zone_threshold(1.0, -3.0), "-3"),
        (lambda: laplace_distortion("wide", 1.0), "wide"),
        (lambda: normalised_laplace_distortion(-0.5), "-0.5"),
        (lambda: inverse_normalised_distortion(np.nan), "nan"),
        (lambda: inverse_normalised_distortion(1.0, "gauss"), "gauss"),
        (lambda: largest_step(1.0, 1.0, 256), "256"),
        (lambda: largest_step(1.0, 1.0, 0), "0"),
        (lambda: largest_step(1.0, 1.0, 10.5), "10.5"),
        (lambda: largest_step(1.0, 1.0, True), "True"),
        (lambda: largest_step(1.0, -1.0), "-1"),
        (lambda: largest_step(1.0, np.nan), "nan"),
        (lambda: largest_step(1.0, 1.0, 100, "gauss"), "gauss"),
        (lambda: sensitivity_weighted_error([np.zeros((2, 8, 8))] * 2, ijg_tables(50), np.ones((3, 8, 8))), "2"),
        (lambda: sensitivity_weighted_error([np.zeros((2, 8, 8))] * 3, ijg_tables(50)[:1], np.ones((3, 8, 8))), "1"),
        (lambda: sensitivity_weighted_error([np.zeros((2, 8, 8))] * 3, ijg_tables(50), np.ones((3, 64))), "(3, 64)"),
        (lambda: quantization_error(np.zeros((0, 8, 8)), ijg_tables(50)[0]), "(0, 8, 8)"),
        (lambda: quantization_error(np.full((1, 8, 8), np.nan), ijg_tables(50)[0]), "nan"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
