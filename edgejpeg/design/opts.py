"""OptS and OptD: quantization tables from sensitivities and the statistics of an image or a data set.

Source: [OptS] Zheng, Salamah, Ye, Yang, "JPEG compliant compression for DNN vision", ICIP 2023, Algorithms 1 and 2.

Both algorithms take the largest integer steps whose modelled distortion stays below the water level d. Where the
paper is silent: without any feasible step, or with floor(...) = 0, the step is 1; lam = 0 or s = 0 gives ``q_max``.

Units of d. The paper's range 0.005 to 1 holds after the sensitivities of all components are divided by
10 max(s_Y), which makes the largest luma sensitivity 0.1. edgejpeg keeps the raw s_i of eq. 9 and gives d in those
normalised units: d = d_raw / (10 max s_Y), where d_raw has the units of s times coefficients squared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.design._checks import channel_array, finite_array, positive, step_limit
from edgejpeg.design.distortion import largest_step
from edgejpeg.design.statistics import Statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable


def raw_water_level(water_level: float, sensitivity: ArrayLike) -> float:
    """d_raw = d * 10 * max(s_Y): a normalised water level in the units of the raw sensitivities.

    Args:
        water_level: normalised d, above 0.
        sensitivity: ``(3, 8, 8)`` (or ``(1, 8, 8)`` for gray) raw s_i; the first component is luma.

    Raises:
        InvalidInputError: ``water_level`` not above 0, a wrong shape, negative values, all luma sensitivities 0.
    """
    return positive(water_level, "water_level") * 10.0 * _luma_peak(sensitivity)


def normalised_water_level(raw: float, sensitivity: ArrayLike) -> float:
    """d = d_raw / (10 max s_Y), the inverse of :func:`raw_water_level`."""
    return positive(raw, "raw water level") / (10.0 * _luma_peak(sensitivity))


def design_tables(
    sensitivity: ArrayLike,
    statistics: Statistics,
    water_level: float,
    q_max: int = 100,
    chroma_water_level: float | None = None,
    model: str = "laplace",
) -> tuple[QuantTable, QuantTable]:
    """The OptS luma and chroma tables [OptS Algorithms 1 and 2].

    Args:
        sensitivity: ``(3, 8, 8)`` raw s_i of eq. 9 for Y, Cb, Cr, row-major, not negative.
        statistics: of the image or data set, three components; for gray see :func:`design_gray_table`.
        water_level: normalised d of luma, above 0; the paper uses 0.005 to 1. Larger means smaller files.
        q_max: the largest step, 1..255; the paper uses 100.
        chroma_water_level: normalised d of chroma, also relative to the luma maximum; default ``water_level``.
        model: the distortion that the AC steps keep below d: ``"laplace"``, the paper's D_Lap, or ``"rounding"``,
            that of JPEG's plain rounding, which is smaller and so allows steps as large or larger.

    Raises:
        InvalidInputError: wrong shapes, NaN, negative sensitivities, a level not above 0, ``q_max`` outside 1..255.
    """
    weights = channel_array(sensitivity, "sensitivity", (3,))
    chroma_level = water_level if chroma_water_level is None else chroma_water_level
    return _tables(
        weights,
        statistics,
        raw_water_level(water_level, weights),
        raw_water_level(chroma_level, weights),
        q_max,
        model,
    )


def design_gray_table(
    sensitivity: ArrayLike, statistics: Statistics, water_level: float, q_max: int = 100, model: str = "laplace"
) -> QuantTable:
    """The OptS table of a one-component file [OptS Algorithm 1].

    Args:
        sensitivity: ``(3, 8, 8)`` or ``(1, 8, 8)`` raw s_i, of which the first component, luma, is used.
        statistics: their first component, luma, is used.
        water_level, q_max, model: as for :func:`design_tables`.
    """
    weights = channel_array(sensitivity, "sensitivity")
    return luma_table(weights[0], statistics, raw_water_level(water_level, weights), q_max, model)


def optd_tables(
    statistics: Statistics,
    water_level: float,
    q_max: int = 100,
    chroma_water_level: float | None = None,
    model: str = "laplace",
) -> tuple[QuantTable, QuantTable]:
    """The OptD luma and chroma tables: the design of OptS with all sensitivities 1.

    Args:
        statistics: of the image or data set, three components.
        water_level: d_raw of luma as the mean squared error of one coefficient (coefficients as in a file, DC = 8 x
            mean), above 0. With s = 1 there is nothing to normalise by: d = 4 allows q of about sqrt(12 * 4), 6.9.
        q_max: the largest step, 1..255.
        chroma_water_level: the same for chroma; default ``water_level``.
        model: see :func:`design_tables`.
    """
    luma_level = positive(water_level, "water_level")
    chroma_level = luma_level if chroma_water_level is None else positive(chroma_water_level, "chroma_water_level")
    return _tables(np.ones((3, 8, 8)), statistics, luma_level, chroma_level, q_max, model)


def luma_table(
    sensitivity: ArrayLike, statistics: Statistics, raw_level: float, q_max: int = 100, model: str = "laplace"
) -> QuantTable:
    """OptS Algorithm 1 on the first component of the statistics.

    s sigma^2 < d: ``q_max``. Otherwise DC: min(floor(sqrt(12 d / s)), q_max); AC: the largest q <= q_max with
    D(lam, q) <= d / s.

    Args:
        sensitivity: ``(8, 8)`` raw s_i.
        raw_level: d in the same units, above 0 (see :func:`raw_water_level`).
    """
    level, q_max = positive(raw_level, "raw water level"), step_limit(q_max)
    weights = finite_array(sensitivity, "sensitivity", minimum=0.0)
    if weights.shape != (8, 8):
        raise InvalidInputError(f"the sensitivity of one component has shape (8, 8), row-major; got {weights.shape}")
    return QuantTable(_component_steps(weights, statistics, 0, level, q_max, model))


def chroma_table(
    sensitivity: ArrayLike, statistics: Statistics, raw_level: float, q_max: int = 100, model: str = "laplace"
) -> QuantTable:
    """OptS Algorithm 2: one table for Cb and Cr.

    For each frequency, in the paper's four cases: both s_Cb sigma_Cb^2 and s_Cr sigma_Cr^2 below d: ``q_max``; one of
    them below d: the other component alone decides, as in Algorithm 1; neither below d: the AC step is the largest
    that keeps the distortion of Cb within d / s_Cb and that of Cr within d / s_Cr, the DC step is
    min(floor(sqrt(12 d / max(s_Cb, s_Cr))), q_max). In all four cases that is the smaller of the two components'
    own steps, since a component below d asks for ``q_max``.

    Args:
        sensitivity: ``(2, 8, 8)`` raw s_i of Cb and Cr.
        statistics: three components.
        raw_level: d in the units of the raw sensitivities, above 0.
    """
    level, q_max = positive(raw_level, "raw water level"), step_limit(q_max)
    weights = channel_array(sensitivity, "sensitivity", (2,))
    if statistics.channels != 3:
        raise InvalidInputError("a chroma table needs statistics of Y, Cb, Cr; got 1 component (gray)")
    cb, cr = (_component_steps(weights[i], statistics, i + 1, level, q_max, model) for i in range(2))
    return QuantTable(np.minimum(cb, cr))


def _tables(
    weights: NDArray[np.float64],
    statistics: Statistics,
    luma_level: float,
    chroma_level: float,
    q_max: int,
    model: str,
) -> tuple[QuantTable, QuantTable]:
    if statistics.channels != 3:
        raise InvalidInputError(
            "a luma and a chroma table need statistics of Y, Cb, Cr; got 1 component: use design_gray_table"
        )
    return (
        luma_table(weights[0], statistics, luma_level, q_max, model),
        chroma_table(weights[1:], statistics, chroma_level, q_max, model),
    )


def _component_steps(
    weights: NDArray[np.float64], statistics: Statistics, component: int, level: float, q_max: int, model: str
) -> NDArray[np.int64]:
    """The (8, 8) steps that one component asks for, by the rules of Algorithm 1."""
    with np.errstate(divide="ignore", over="ignore"):
        allowed = level / weights
        dc = np.sqrt(12.0 * level / weights[0, 0])
    steps = largest_step(statistics.laplace_scale[component], allowed, q_max, model)
    steps[0, 0] = int(max(1, min(np.floor(dc), q_max)))
    steps[weights * statistics.variance[component] < level] = q_max
    return steps


def _luma_peak(sensitivity: ArrayLike) -> float:
    peak = float(channel_array(sensitivity, "sensitivity")[0].max())
    if peak == 0:
        raise InvalidInputError("the largest luma sensitivity is 0; a water level needs at least one above 0")
    return peak
