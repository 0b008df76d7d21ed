"""Distortion of quantized DCT coefficients: measured (SWE) and modelled for a Laplacian source (D_Lap).

Both models are scale families, D(lam, q) = lam^2 g(q / lam), where lam is the mean absolute value of the source. g
rises from q^2 / (12 lam^2) to 2. All of it is float64: in float32 D_Lap(100, 1) comes out as -0.049 instead of 0.0833.

Source: [OptS] Zheng, Salamah, Ye, Yang, "JPEG compliant compression for DNN vision", ICIP 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.design._checks import channel_array, coefficient_blocks, finite_array, step_limit
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable

_SERIES_BELOW = 0.5
"""Below this q / lam the closed forms lose digits to cancellation and the power series in (q / lam)^2 takes over."""

_LAPLACE_SERIES = (
    1 / 12,
    13 / 2880,
    -1223 / 1451520,
    49681 / 696729600,
    -851479 / 183936614400,
    3132944863 / 12051526975488000,
    -3841651381 / 289236647411712000,
    2993409657643 / 4720342085759139840000,
    -3899392481519879 / 135605987439688569323520000,
)

_ROUNDING_SERIES = (
    1 / 12,
    -7 / 2880,
    31 / 483840,
    -127 / 77414400,
    73 / 1751777280,
    -1414477 / 1339058552832000,
    8191 / 306070526361600,
    -16931177 / 24975354951106560000,
    5749691557 / 334829598616514985984000,
)

_LARGEST_RATIO = 1000.0
"""At this q / lam both models have reached 2 lam^2 to the last bit."""


def normalised_laplace_distortion(ratio: ArrayLike) -> NDArray[np.float64]:
    """g(q / lam) = D_Lap / lam^2 [OptS eq. 12-14], relative error below 1e-13.

    Args:
        ratio: q / lam, any shape, not negative; infinity is allowed.
    """

    def closed_form(r: NDArray[np.float64]) -> NDArray[np.float64]:
        u = np.exp(-r)
        one_minus_u = -np.expm1(-r)
        z = r / one_minus_u - 1
        return 2 - np.exp(-z) * (r / one_minus_u) ** 2 * (1 + u)

    return _piecewise(ratio, _LAPLACE_SERIES, closed_form)


def normalised_rounding_distortion(ratio: ArrayLike) -> NDArray[np.float64]:
    """The distortion of plain rounding over lam^2: 2 (1 - h / sinh h) with h = q / (2 lam).

    Thresholds lie at odd multiples of q/2, reconstruction points at k q; relative error below 1e-13. Summing the
    integral of (x - k q)^2 exp(-x / lam) / lam over the bins gives the closed form.

    Args:
        ratio: q / lam, any shape, not negative; infinity is allowed.
    """

    def closed_form(r: NDArray[np.float64]) -> NDArray[np.float64]:
        # h / sinh h = r exp(-r / 2) / (1 - exp(-r)), which does not overflow.
        return 2 + 2 * r * np.exp(-r / 2) / np.expm1(-r)

    return _piecewise(ratio, _ROUNDING_SERIES, closed_form)


def laplace_distortion(lam: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """D_Lap(lam, q) [OptS eq. 12-14], the mean squared error of a dead-zone quantizer for a Laplacian source.

    The quantizer has the dead zone (-z, z) of :func:`dead_zone_threshold` and bins of width q outside, and then the
    reconstruction points k q are the bins' centroids. With u = exp(-q / lam), D_Lap = 2 lam^2 - exp(-z / lam) q^2
    (1 + u) / (1 - u)^2: about q^2 / 12 for q << lam, 2 lam^2 for q >> lam, increasing in q.

    Args:
        lam: mean absolute value of the source (with its mean removed), not negative; lam = 0 gives 0.
        q: quantization step, above 0; broadcast against ``lam``.

    Raises:
        InvalidInputError: a negative ``lam``, a ``q`` not above 0, NaN or infinity.
    """
    return _scaled(lam, q, normalised_laplace_distortion)


def rounding_distortion(lam: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """The mean squared error of JPEG's plain rounding for a Laplacian source.

    Rounding goes to the nearest of the same reconstruction points k q, so it is never above
    :func:`laplace_distortion`: D_Lap / D_round lies between 1 and 1.36.

    Args and errors: as :func:`laplace_distortion`.
    """
    return _scaled(lam, q, normalised_rounding_distortion)


def dead_zone_threshold(lam: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """z = q / (1 - exp(-q / lam)) - lam [OptS eq. 13], between q/2 (q << lam) and q - lam (q >> lam).

    Args and errors: as :func:`laplace_distortion`; lam = 0 gives q.
    """
    lam, q = _lam_and_q(lam, q)
    ratio = _ratio(lam, q)
    # z / lam = r / (1 - exp(-r)) - 1 = r/2 + r^2/12 - r^4/720 + ...; below .01 the difference would lose digits.
    small = ratio < 0.01
    near_zero = np.where(small, ratio, 0.0)
    square = near_zero * near_zero
    series = near_zero / 2 + square * (1 / 12 - square * (1 / 720 - square / 30240))
    r = np.where(small, 1.0, np.minimum(ratio, _LARGEST_RATIO))
    return np.asarray(np.where(small, lam * series, q + lam * (r * np.exp(-r) / -np.expm1(-r) - 1)))


def inverse_normalised_distortion(distortion: ArrayLike, model: str = "laplace") -> NDArray[np.float64]:
    """The ratio q / lam at which a model's normalised distortion has a value, from a table made once.

    Relative error below 1e-6 for values up to 1.999999. Above that the function is all but flat, and the ratio is
    cut off at 36 (``"laplace"``) or 70 (``"rounding"``). It is the first guess of :func:`largest_step`, which is exact.

    Args:
        distortion: D / lam^2, any shape, not negative; 2 and more give infinity.
        model: ``"laplace"`` or ``"rounding"``.
    """
    values = np.asarray(distortion, dtype=np.float64)
    if np.isnan(values).any() or (values < 0).any():
        raise InvalidInputError(f"a distortion is 0 or more; got {values[np.isnan(values) | (values < 0)].flat[0]}")
    nodes, ratios = _inverse_table(model)
    flat = values >= 2
    return np.asarray(np.where(flat, np.inf, np.interp(_straighten(np.where(flat, 0, values)), nodes, ratios)))


def largest_step(lam: ArrayLike, limit: ArrayLike, q_max: int = 255, model: str = "laplace") -> NDArray[np.int64]:
    """The largest integer q in 1..q_max whose modelled distortion does not exceed a limit; 1 when there is none.

    Exact: the tabulated inverse gives a first guess, which is moved by evaluating the distortion itself.

    Args:
        lam: mean absolute value of the source, not negative; lam = 0 gives ``q_max``.
        limit: the largest allowed mean squared error, not negative; infinity gives ``q_max``. Broadcast.
        q_max: the largest step, 1..255.
        model: ``"laplace"`` (:func:`laplace_distortion`) or ``"rounding"`` (:func:`rounding_distortion`).
    """
    q_max = step_limit(q_max)
    normalised = _model(model)
    scale, bound = np.broadcast_arrays(finite_array(lam, "lam", minimum=0.0), np.asarray(limit, dtype=np.float64))
    if np.isnan(bound).any() or (bound < 0).any():
        raise InvalidInputError(f"a distortion limit is 0 or more; got {bound[np.isnan(bound) | (bound < 0)].flat[0]}")
    squared = scale * scale
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        relative = np.where(squared > 0, bound / squared, np.inf)
        guess = scale * inverse_normalised_distortion(relative, model)
    step = np.where(relative >= 2, q_max, np.clip(np.nan_to_num(guess, posinf=q_max), 1, q_max)).astype(np.int64)

    def feasible(q: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(squared * normalised(_ratio(scale, q.astype(np.float64))) <= bound)

    while (lower := (step > 1) & ~feasible(step)).any():
        step = step - lower
    while (higher := (step < q_max) & feasible(step + 1)).any():
        step = step + higher
    return np.asarray(step)


def quantization_error(blocks: ArrayLike, table: QuantTable) -> NDArray[np.float64]:
    """Mean squared error of every frequency, (8, 8) float64, after rounding to multiples of the table's steps.

    Args:
        blocks: ``(..., 8, 8)`` DCT coefficients of one component.
        table: its quantization table.
    """
    (coefficients,) = coefficient_blocks([np.asarray(blocks)])
    steps = np.asarray(table, dtype=np.float64).reshape(64)
    error = coefficients - steps * np.rint(coefficients / steps)
    return np.asarray(np.add.reduce(error * error, axis=0) / len(error)).reshape(8, 8)


def sensitivity_weighted_error(
    blocks: Sequence[NDArray[Any]], tables: Sequence[QuantTable], sensitivity: ArrayLike
) -> tuple[float, float]:
    """SWE, the sensitivity-weighted error of quantization [OptS eq. 10, 11].

    D(Q) = (1 / B) sum_i s_i sum_j (C_ij - q_i K_ij)^2 for each component with its own number of blocks B; the chroma
    value is the sum of those of Cb and Cr.

    Args:
        blocks: 1 (gray) or 3 (Y, Cb, Cr) arrays ``(..., 8, 8)`` of DCT coefficients.
        tables: the luma and the chroma table; the luma table alone for gray.
        sensitivity: ``(3, 8, 8)`` s_i, row-major, not negative; ``(1, 8, 8)`` is enough for gray. The result has its
            units times those of the coefficients squared.

    Returns:
        The luma and the chroma SWE; the chroma value is 0 for gray.

    Raises:
        InvalidInputError: numbers of components, tables and sensitivities that do not fit, wrong shapes, NaN.
    """
    components = [component.reshape(-1, 8, 8) for component in coefficient_blocks(list(blocks))]
    weights = channel_array(sensitivity, "sensitivity", (3,) if len(components) == 3 else (1, 3))
    if len(tables) != (2 if len(components) == 3 else 1):
        raise InvalidInputError(
            f"{len(components)} components need {2 if len(components) == 3 else 1} tables; got {len(tables)}"
        )
    errors = [
        float(np.sum(weights[index] * quantization_error(component, tables[min(index, 1)])))
        for index, component in enumerate(components)
    ]
    return errors[0], sum(errors[1:], 0.0)


def _model(name: str) -> Callable[[ArrayLike], NDArray[np.float64]]:
    models = {"laplace": normalised_laplace_distortion, "rounding": normalised_rounding_distortion}
    if name not in models:
        raise InvalidInputError(f"a distortion model is one of {', '.join(models)}; got {name!r}")
    return models[name]


def _piecewise(
    ratio: ArrayLike, coefficients: tuple[float, ...], closed_form: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    r = np.asarray(ratio, dtype=np.float64)
    if np.isnan(r).any() or (r < 0).any():
        raise InvalidInputError(f"the ratio q / lam is 0 or more; got {r[np.isnan(r) | (r < 0)].flat[0]}")
    small = r < _SERIES_BELOW
    square = np.where(small, r, 0.0) ** 2
    series = np.zeros_like(square)
    for coefficient in reversed(coefficients):
        series = square * (coefficient + series)
    return np.asarray(np.where(small, series, closed_form(np.where(small, 1.0, np.minimum(r, _LARGEST_RATIO)))))


def _lam_and_q(lam: ArrayLike, q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    steps = finite_array(q, "q")
    if (steps <= 0).any():
        raise InvalidInputError(f"a quantization step is above 0; got {steps[steps <= 0].flat[0]}")
    return finite_array(lam, "lam", minimum=0.0), steps


def _ratio(lam: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(q / lam)


def _scaled(
    lam: ArrayLike, q: ArrayLike, normalised: Callable[[ArrayLike], NDArray[np.float64]]
) -> NDArray[np.float64]:
    scale, steps = _lam_and_q(lam, q)
    return np.asarray(scale * scale * normalised(_ratio(scale, steps)))


def _straighten(distortion: NDArray[np.float64]) -> NDArray[np.float64]:
    """A monotone transform after which the inverse is close to a line at both ends."""
    return np.asarray(np.sqrt(-np.log1p(-distortion / 2)))


@lru_cache(maxsize=2)
def _inverse_table(model: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    normalised = _model(model)
    end = 36.0 if model == "laplace" else 70.0  # where 2 - g comes near the resolution of float64
    ratios = np.concatenate([[0.0], np.geomspace(1e-3, end, 4096)])
    return _straighten(normalised(ratios)), ratios
