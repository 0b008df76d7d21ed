"""DeepN-JPEG: tables from the standard deviations of the DCT coefficients, without a network's sensitivities.

Source: Liu, Liu, Wen, Jiang, Xu, Wang, Quan, "DeepN-JPEG: A Deep Neural Network Favorable JPEG-based Image
Compression Framework", DAC 2018. A baseline to compare OptS with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.design._checks import finite_array, step_limit
from edgejpeg.design.statistics import Statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable


@dataclass(frozen=True)
class DeepNMapping:
    """The piece-wise linear mapping from a frequency's standard deviation delta to its step.

    ::

        q = a - k1 delta    delta <= t1          small deviations (the paper's high-frequency band)
        q = b - k2 delta    t1 < delta <= t2     middle
        q = c - k3 delta    delta > t2           large (its low-frequency band)
        q >= q_min

    The defaults are the values published for ImageNet. With them the mapping is continuous at t1 (60 on both sides)
    and jumps from 20 up to 60 at t2, from where it falls to ``q_min`` at delta = 78.3; c = 200 would make it
    continuous. They are kept as published.
    """

    a: float = 255.0
    b: float = 80.0
    c: float = 240.0
    t1: float = 20.0
    t2: float = 60.0
    k1: float = 9.75
    k2: float = 1.0
    k3: float = 3.0
    q_min: int = 5

    def __post_init__(self) -> None:
        for name in ("a", "b", "c", "t1", "t2", "k1", "k2", "k3"):
            finite_array(getattr(self, name), f"DeepNMapping.{name}")
        step_limit(self.q_min, "DeepNMapping.q_min")
        if not 0 <= self.t1 <= self.t2:
            raise InvalidInputError(f"DeepNMapping needs 0 <= t1 <= t2; got t1 = {self.t1:g}, t2 = {self.t2:g}")

    def steps(self, deviation: ArrayLike) -> NDArray[np.int64]:
        """Integer steps in ``q_min``..255 for standard deviations of any shape, rounded to the nearest integer."""
        delta = finite_array(deviation, "a standard deviation", minimum=0.0)
        q = np.where(
            delta <= self.t1,
            self.a - self.k1 * delta,
            np.where(delta <= self.t2, self.b - self.k2 * delta, self.c - self.k3 * delta),
        )
        return np.asarray(np.rint(np.clip(q, self.q_min, 255)), dtype=np.int64)


def deepn_tables(statistics: Statistics, mapping: DeepNMapping | None = None) -> tuple[QuantTable, QuantTable]:
    """The DeepN-JPEG luma and chroma tables of a data set (or an image).

    The source designs its table for a data set. A JPEG file with two tables has one for Cb and Cr together; its
    deviation is that of both components' coefficients, sqrt((sigma_Cb^2 + sigma_Cr^2) / 2).

    Args:
        statistics: three components (see :class:`~edgejpeg.design.StatisticsAccumulator`).
        mapping: the mapping's constants; default as published.
    """
    if statistics.channels != 3:
        raise InvalidInputError("DeepN-JPEG's two tables need statistics of Y, Cb, Cr; got 1 component (gray)")
    mapping = mapping or DeepNMapping()
    luma, cb, cr = statistics.variance
    return QuantTable(mapping.steps(np.sqrt(luma))), QuantTable(mapping.steps(np.sqrt((cb + cr) / 2)))
