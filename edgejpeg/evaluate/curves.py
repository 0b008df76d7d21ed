"""Curves of rate against distortion, and how much rate one costs more than another.

The figure for a curve against another is Bjontegaard's delta rate (ITU-T VCEG-M33; with the piecewise cubic
interpolation of today's practice) with the logarithm of the KL divergence in the place of PSNR: the mean
difference of log rate over the range of KL that both curves cover, as a relative change of rate.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgejpeg.errors import InvalidInputError
from edgejpeg.evaluate.metrics import Float, Interval, percentile_interval, weighted_means

_NODES = 513  # of the trapezoidal rule over the common range


class RateCurve:
    """Rate as a function of distortion, through measured points.

    Between the points log(rate) is interpolated over log(distortion) by the monotone cubic of Fritsch and
    Butland (PCHIP). Where a point with more rate has no less distortion than one with less (noise of a small
    sample), the two are pooled into their mean in the logarithms, and again until the curve falls:
    ``pooled`` counts the points that disappeared so.

    Args:
        rates: (points,) positive, any order; bytes, bits per pixel.
        distortions: (points,) positive; KL in nats.

    Raises:
        InvalidInputError: fewer than two points, not positive or not finite, or a curve that does not fall at all.
    """

    def __init__(self, rates: ArrayLike, distortions: ArrayLike) -> None:
        rate, distortion = np.asarray(rates, dtype=np.float64), np.asarray(distortions, dtype=np.float64)
        if rate.ndim != 1 or rate.shape != distortion.shape or rate.size < 2:
            raise InvalidInputError(
                f"a curve of {rate.shape} rates and {distortion.shape} distortions; allowed are two equal lengths >= 2"
            )
        if not (np.isfinite(rate).all() and np.isfinite(distortion).all() and rate.min() > 0 and distortion.min() > 0):
            raise InvalidInputError("rates and distortions must be finite and above 0, since logarithms are compared")
        order = np.lexsort((-distortion, rate))
        x, y = _pool_violators(np.log(rate[order]), np.log(distortion[order]))
        if x.size < 2:
            raise InvalidInputError("distortion does not fall with rate on this curve; more images are needed")
        self.pooled = int(rate.size - x.size)
        self._y, self._x = y[::-1], x[::-1]
        self._slopes = _pchip_slopes(self._y, self._x)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest distortion that the curve covers."""
        return float(np.exp(self._y[0])), float(np.exp(self._y[-1]))

    def rate_at(self, distortion: ArrayLike) -> Float:
        """The rate at each distortion, of the input's shape; NaN outside :attr:`range` (never extrapolated)."""
        at = np.log(np.asarray(distortion, dtype=np.float64))
        inside = (at >= self._y[0] - 1e-9) & (at <= self._y[-1] + 1e-9)
        rates: Float = np.where(inside, np.exp(self._log_rate(at)), np.nan)
        return rates

    def _log_rate(self, at: Float) -> Float:
        y, x, slopes = self._y, self._x, self._slopes
        i = np.clip(np.searchsorted(y, at, side="right") - 1, 0, y.size - 2)
        width = y[i + 1] - y[i]
        t = np.clip((at - y[i]) / width, 0.0, 1.0)
        # The cubic Hermite basis on each piece.
        value: Float = (
            x[i] * (1 + 2 * t) * (1 - t) ** 2
            + x[i + 1] * t**2 * (3 - 2 * t)
            + width * (slopes[i] * t * (1 - t) ** 2 - slopes[i + 1] * t**2 * (1 - t))
        )
        return value


@dataclass(frozen=True)
class DeltaRate:
    """The mean rate of one curve relative to a reference at equal distortion.

    Attributes:
        change: relative change of rate with its interval; -0.10 is ten percent fewer bytes than the reference.
        low, high: the range of distortion that both curves cover, over which the mean is taken.
        resamples: resamples behind the interval.
        failed: resamples that had no common range or no falling curve, left out of the interval.
    """

    change: Interval
    low: float
    high: float
    resamples: int
    failed: int


def common_range(reference: RateCurve, candidate: RateCurve) -> tuple[float, float]:
    """The range of distortion that both curves cover.

    Raises:
        InvalidInputError: there is none.
    """
    low = max(reference.range[0], candidate.range[0])
    high = min(reference.range[1], candidate.range[1])
    if not low < high:
        raise InvalidInputError(
            f"the curves share no range of distortion (the reference covers {_span(reference)}, the candidate "
            f"{_span(candidate)}); measure more points on one of them"
        )
    return low, high


def delta_rate(reference: RateCurve, candidate: RateCurve) -> float:
    """The mean relative change of rate of ``candidate`` against ``reference`` at equal distortion.

    Returns:
        exp(mean(log R_candidate - log R_reference)) - 1 over the common range of log distortion:
        -0.10 is ten percent less rate.

    Raises:
        InvalidInputError: the curves share no range.
    """
    low, high = common_range(reference, candidate)
    nodes = np.linspace(np.log(low), np.log(high), _NODES)
    difference = candidate._log_rate(nodes) - reference._log_rate(nodes)
    mean = (difference.sum() - (difference[0] + difference[-1]) / 2) / (_NODES - 1)
    return float(np.expm1(mean))


def paired_delta_rate(
    reference: tuple[ArrayLike, ArrayLike],
    candidate: tuple[ArrayLike, ArrayLike],
    weights: ArrayLike,
    *,
    level: float = 0.95,
) -> DeltaRate:
    """:func:`delta_rate` of the curves of means, with an interval paired by image.

    Args:
        reference, candidate: (rates, distortions), each (points, images): what every image cost and how far its
            output moved at every point. The same images in the same order in both; the number of points may differ.
        weights: (resamples, images) from :func:`edgejpeg.evaluate.metrics.bootstrap_weights`. In each resample both
            curves, and the range they share, are formed anew from the images drawn.
        level: nominal coverage.

    Raises:
        InvalidInputError: shapes that do not fit, no common range, or more than a tenth of the resamples failed.
    """
    means = [_point_means(*curve) for curve in (reference, candidate)]
    curves = [RateCurve(*mean) for mean in means]
    low, high = common_range(*curves)
    value = delta_rate(*curves)
    resampled = [weighted_means(values, weights) for curve in (reference, candidate) for values in curve]
    estimates: list[float] = []
    count = resampled[0].shape[-1]
    for r in range(count):
        try:
            pair = [RateCurve(resampled[i][:, r], resampled[i + 1][:, r]) for i in (0, 2)]
            estimates.append(delta_rate(*pair))
        except InvalidInputError:
            continue
    failed = count - len(estimates)
    if failed * 10 > count:
        raise InvalidInputError(
            f"{failed} of {count} resamples gave no pair of curves with a common range; more images are needed"
        )
    return DeltaRate(percentile_interval(value, estimates, level=level), low, high, count, failed)


def delta_rate_at_points(
    reference: tuple[ArrayLike, ArrayLike],
    candidate: tuple[ArrayLike, ArrayLike],
    weights: ArrayLike,
    *,
    level: float = 0.95,
) -> list[Interval | None]:
    """The relative change of rate at each measured point of the reference, in the order of its points.

    One mean over the curve can hide a gain here and a loss there. At each point the candidate's curve is read at
    the distortion that the reference has in that point, in the sample and in every resample.

    Args:
        reference, candidate, weights, level: as in :func:`paired_delta_rate`.

    Returns:
        An interval for each point of the reference; None where the candidate's curve does not reach the point's
        distortion in the sample, or in more than a tenth of the resamples.

    Raises:
        InvalidInputError: shapes that do not fit.
    """
    full = _changes(_point_means(*reference), _point_means(*candidate))
    resampled = [weighted_means(values, weights) for curve in (reference, candidate) for values in curve]
    estimates = np.full((resampled[0].shape[-1], full.size), np.nan)
    for r in range(estimates.shape[0]):
        # A resample whose curve does not fall stays NaN and counts as one that did not reach the point.
        with contextlib.suppress(InvalidInputError):
            estimates[r] = _changes((resampled[0][:, r], resampled[1][:, r]), (resampled[2][:, r], resampled[3][:, r]))
    intervals: list[Interval | None] = []
    for change, column in zip(full, estimates.T, strict=True):
        found = column[np.isfinite(column)]
        reached = np.isfinite(change) and found.size * 10 >= column.size * 9
        intervals.append(percentile_interval(float(change), found, level=level) if reached else None)
    return intervals


def _changes(reference: tuple[Float, Float], candidate: tuple[Float, Float]) -> Float:
    rate, distortion = reference
    changes: Float = RateCurve(*candidate).rate_at(distortion) / rate - 1.0
    return changes


def _point_means(rates: ArrayLike, distortions: ArrayLike) -> tuple[Float, Float]:
    rate, distortion = np.asarray(rates, dtype=np.float64), np.asarray(distortions, dtype=np.float64)
    if rate.ndim != 2 or rate.shape != distortion.shape or rate.size == 0:
        raise InvalidInputError(
            f"rates have shape {rate.shape} and distortions {distortion.shape}; allowed are equal (points, images)"
        )
    return rate.mean(axis=1), distortion.mean(axis=1)


def _pool_violators(x: Float, y: Float) -> tuple[Float, Float]:
    """Pool neighbours until y strictly falls while x strictly rises; x is sorted."""
    blocks: list[tuple[float, float, int]] = []
    for xi, yi in zip(x.tolist(), y.tolist(), strict=True):
        block = (xi, yi, 1)
        while blocks and (block[1] >= blocks[-1][1] or block[0] <= blocks[-1][0]):
            last = blocks.pop()
            total = last[2] + block[2]
            block = (
                (last[0] * last[2] + block[0] * block[2]) / total,
                (last[1] * last[2] + block[1] * block[2]) / total,
                total,
            )
        blocks.append(block)
    pooled = np.array(blocks)
    return pooled[:, 0], pooled[:, 1]


def _pchip_slopes(x: Float, y: Float) -> Float:
    """Derivatives at the nodes: weighted harmonic means inside, the three-point formula at the ends."""
    width = np.diff(x)
    secant = np.diff(y) / width
    if secant.size == 1:
        return np.array([secant[0], secant[0]])
    slopes = np.zeros_like(x)
    same = secant[:-1] * secant[1:] > 0
    w1, w2 = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes[1:-1] = np.where(same, (w1 + w2) / (w1 / secant[:-1] + w2 / secant[1:]), 0.0)
    slopes[0] = _end_slope(width[0], width[1], secant[0], secant[1])
    slopes[-1] = _end_slope(width[-1], width[-2], secant[-1], secant[-2])
    return slopes


def _end_slope(near: float, far: float, secant: float, next_secant: float) -> float:
    slope = ((2 * near + far) * secant - near * next_secant) / (near + far)
    if slope * secant <= 0:
        return 0.0
    if secant * next_secant <= 0 and abs(slope) > 3 * abs(secant):
        return 3 * secant
    return float(slope)


def _span(curve: RateCurve) -> str:
    low, high = curve.range
    return f"{low:.3g}..{high:.3g}"
