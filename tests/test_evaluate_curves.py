"""Delta rate on curves whose answer is known, and the interpolation against SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError
from edgejpeg.evaluate import curves, metrics


def _kl(rate: np.ndarray) -> np.ndarray:
    """A curve like the real ones: not a straight line in the logarithms."""
    return 0.4 * rate**-1.7 * np.exp(-0.15 * rate)


def test_interpolation_equals_scipys_pchip() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    rng = np.random.default_rng(1)
    for points in (2, 3, 4, 9):
        rate = np.sort(rng.uniform(0.2, 5, points))
        kl = np.sort(rng.uniform(1e-3, 2, points))[::-1]
        curve = curves.RateCurve(rate, kl)
        at = np.exp(np.linspace(np.log(kl[-1]), np.log(kl[0]), 97))
        expected = np.exp(interpolate.PchipInterpolator(np.log(kl[::-1]), np.log(rate[::-1]))(np.log(at)))
        np.testing.assert_allclose(curve.rate_at(at), expected, rtol=1e-9)
        assert curve.pooled == 0
        np.testing.assert_allclose(curve.range, (kl.min(), kl.max()))


def test_ten_percent_fewer_bytes_is_minus_ten_percent() -> None:
    rate = np.array([0.3, 0.5, 0.8, 1.3, 2.0])
    reference = curves.RateCurve(rate, _kl(rate))
    candidate = curves.RateCurve(0.9 * rate[::-1], _kl(rate)[::-1])
    assert curves.delta_rate(reference, candidate) == pytest.approx(-0.10, abs=1e-12)
    assert curves.delta_rate(candidate, reference) == pytest.approx(1 / 0.9 - 1, abs=1e-12)
    assert curves.delta_rate(reference, reference) == pytest.approx(0, abs=1e-12)


def test_ten_percent_with_points_at_other_places() -> None:
    # Straight lines in the logarithms: the cubic is exact between any points.
    a, b = np.array([0.3, 0.5, 0.8, 1.3, 2.0]), np.array([0.25, 0.4, 1.0, 1.1, 1.7, 2.6])
    reference, candidate = curves.RateCurve(a, 0.4 * a**-1.7), curves.RateCurve(0.9 * b, 0.4 * b**-1.7)
    assert curves.delta_rate(reference, candidate) == pytest.approx(-0.10, abs=1e-9)
    # Bent curves: the interpolation's own error stays far below what is measured.
    reference, candidate = curves.RateCurve(a, _kl(a)), curves.RateCurve(0.9 * b, _kl(b))
    assert curves.delta_rate(reference, candidate) == pytest.approx(-0.10, abs=2e-3)


def test_delta_is_the_mean_over_log_kl_of_a_difference_that_changes() -> None:
    # log R = -log(KL) / s: two slopes, the mean difference over [k0, k1] is the one at the middle of log KL.
    kl = np.array([0.01, 0.03, 0.1, 0.3])
    reference, candidate = curves.RateCurve(kl**-0.5, kl), curves.RateCurve(kl**-0.6, kl)
    middle = np.log(kl[[0, -1]]).mean()
    assert curves.delta_rate(reference, candidate) == pytest.approx(np.exp(-0.1 * middle) - 1, rel=1e-9)


def test_only_the_common_range_counts_and_nothing_is_extrapolated() -> None:
    rate = np.array([0.3, 0.6, 1.2, 2.4])
    curve = curves.RateCurve(rate, _kl(rate))
    assert np.isnan(curve.rate_at([_kl(rate)[0] * 1.01, _kl(rate)[-1] * 0.99])).all()
    assert curve.rate_at(_kl(rate)[0]) == pytest.approx(0.3)
    far = curves.RateCurve(rate, _kl(rate) * 1000)
    with pytest.raises(InvalidInputError, match="share no range"):
        curves.delta_rate(curve, far)


def test_a_point_against_the_trend_is_pooled_and_counted() -> None:
    rate, kl = np.array([0.5, 1.0, 1.1, 2.0]), np.array([0.4, 0.1, 0.12, 0.02])
    curve = curves.RateCurve(rate, kl)
    assert curve.pooled == 1
    assert curve.rate_at(np.sqrt(0.1 * 0.12)) == pytest.approx(np.sqrt(1.0 * 1.1))
    at = np.geomspace(0.02, 0.4, 200)
    assert (np.diff(curve.rate_at(at)) < 0).all()


@pytest.mark.parametrize(
    ("rate", "kl"),
    [
        ([1.0], [1.0]),
        ([1.0, 2.0], [1.0]),
        ([1.0, 2.0], [0.0, 1.0]),
        ([1.0, -2.0], [0.5, 1.0]),
        ([1.0, np.nan], [0.5, 1.0]),
        ([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]),
        ([[1.0, 2.0]], [[2.0, 1.0]]),
    ],
)
def test_what_is_no_curve_is_refused(rate: list[float], kl: list[float]) -> None:
    with pytest.raises(InvalidInputError):
        curves.RateCurve(rate, kl)


def _sample(images: int, points: list[float], factor: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose difficulty differs by decades but is common to both methods (same seed, same images)."""
    difficulty = np.random.default_rng(seed).lognormal(sigma=1.0, size=images)
    size = np.random.default_rng(seed + 1).uniform(0.5, 2.0, images)
    base = np.array(points)[:, None]
    return factor * base * size, _kl(base) * difficulty


def test_paired_interval_sees_through_the_images_difficulty() -> None:
    reference = _sample(60, [0.3, 0.6, 1.2, 2.4], 1.0, 3)
    noise = np.random.default_rng(9).lognormal(sigma=0.03, size=(4, 60))
    rates, kls = _sample(60, [0.3, 0.6, 1.2, 2.4], 0.9, 3)
    weights = metrics.bootstrap_weights(60, resamples=300, seed=4)
    result = curves.paired_delta_rate(reference, (rates * noise, kls), weights)
    assert result.change.low < -0.10 + 0.005 and result.change.high > -0.10 - 0.005
    assert result.change.high - result.change.low < 0.02
    assert (result.resamples, result.failed) == (300, 0)
    exact = curves.paired_delta_rate(reference, (rates, kls), weights)
    np.testing.assert_allclose([exact.change.value, exact.change.low, exact.change.high], -0.10, atol=1e-9)


def test_places_show_a_gain_here_and_a_loss_there() -> None:
    points = [0.3, 0.6, 1.2, 2.4, 3.0]
    rates, kls = _sample(40, points, 1.0, 5)
    tilted = rates * np.linspace(1.2, 0.8, 5)[:, None]
    weights = metrics.bootstrap_weights(40, resamples=100, seed=1)
    places = curves.delta_rate_at_points((rates, kls), (tilted, kls), weights)
    assert None not in places
    assert [round(place.value, 6) for place in places if place] == [0.2, 0.1, 0.0, -0.1, -0.2]
    # The factors are common to all images, so that the intervals have no width.
    np.testing.assert_allclose([place.low for place in places if place], [0.2, 0.1, 0.0, -0.1, -0.2], atol=1e-9)
    short = curves.delta_rate_at_points((rates, kls), (tilted[1:3], kls[1:3]), weights)
    assert [place is None for place in short] == [True, False, False, True, True]


def test_paired_refuses_shapes_that_do_not_fit() -> None:
    good = _sample(10, [0.3, 0.6], 1.0, 1)
    weights = metrics.bootstrap_weights(9, resamples=10)
    with pytest.raises(InvalidInputError):
        curves.paired_delta_rate(good, good, weights)
    with pytest.raises(InvalidInputError):
        curves.paired_delta_rate((good[0][0], good[1][0]), good, weights)
