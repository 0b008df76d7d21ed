"""Statistics of DCT coefficients: what a table design needs to know of an image or of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.design._checks import channel_array, coefficient_blocks
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import check_subsampling, sample_planes
from edgejpeg.jpeg.dct import block_dct


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of each frequency over the blocks of each component.

    The arrays are ``(C, 8, 8)`` float64, row-major, with C = 3 (Y, Cb, Cr) or C = 1 (gray), in the units of a JPEG
    file's coefficients (DC = 8 x mean). They are copied and read-only.

    Attributes:
        mean: mean coefficient.
        variance: population variance, sigma_i^2.
        laplace_scale: lam_i, the mean absolute deviation: the maximum-likelihood scale of a Laplacian source.
        blocks: ``(C,)`` int64, the number of blocks of each component.

    Raises:
        InvalidInputError: wrong shapes, NaN, infinite or negative values, fewer than one block.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    laplace_scale: NDArray[np.float64]
    blocks: NDArray[np.int64]

    def __post_init__(self) -> None:
        mean = channel_array(self.mean, "mean", minimum=None).copy()
        channels = (mean.shape[0],)
        arrays = {
            "mean": mean,
            "variance": channel_array(self.variance, "variance", channels).copy(),
            "laplace_scale": channel_array(self.laplace_scale, "laplace_scale", channels).copy(),
            "blocks": np.array(self.blocks),
        }
        blocks = arrays["blocks"]
        if blocks.shape != channels or blocks.dtype.kind not in "iu" or (blocks < 1).any():
            raise InvalidInputError(f"blocks holds {channels[0]} positive integers; got {self.blocks!r}")
        arrays["blocks"] = blocks.astype(np.int64)
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def channels(self) -> int:
        """3 for Y, Cb, Cr; 1 for gray."""
        return int(self.mean.shape[0])


def block_statistics(blocks: Sequence[NDArray[Any]], *, center: bool = True) -> Statistics:
    """The statistics of one image's coefficients.

    Every sum runs over the blocks one after another in float64, first for the mean and then for the deviations from
    it, so that an implementation in another language gets the same numbers to the last bit.

    Args:
        blocks: 1 or 3 arrays ``(..., 8, 8)`` of DCT coefficients, one per component, for example the
            ``(rows, columns, 8, 8)`` of :func:`edgejpeg.jpeg.dct.block_dct`.
        center: lam_i = mean |C_i - mean(C_i)|, as the authors of OptS compute it; ``False`` gives mean |C_i|, as
            OptS eq. 12 is printed.

    Raises:
        InvalidInputError: another number of components, another shape, no blocks, NaN.
    """
    means, variances, scales, counts = [], [], [], []
    for coefficients in coefficient_blocks(list(blocks)):
        count = coefficients.shape[0]
        mean = _sum(coefficients) / count
        deviation = coefficients - mean
        means.append(mean)
        variances.append(_sum(deviation * deviation) / count)
        scales.append(_sum(np.abs(deviation if center else coefficients)) / count)
        counts.append(count)
    shape = (len(counts), 8, 8)
    return Statistics(
        np.reshape(means, shape), np.reshape(variances, shape), np.reshape(scales, shape), np.array(counts, np.int64)
    )


def image_statistics(image: NDArray[np.uint8], subsampling: str, *, center: bool = True) -> Statistics:
    """The statistics of an image's coefficients as the encoder sees them before quantization.

    Only the blocks that hold image samples count, ceil(size / 8) in each direction of a component; those that merely
    complete an MCU do not.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, or ``(H, W)`` uint8 for ``"gray"``.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        center: see :func:`block_statistics`.
    """
    return block_statistics(image_blocks(image, subsampling), center=center)


def image_blocks(image: NDArray[np.uint8], subsampling: str) -> list[NDArray[np.float64]]:
    """The DCT coefficients of an image's components, ``(rows, columns, 8, 8)`` each, without blocks of padding alone.

    Args and errors: see :func:`image_statistics`.
    """
    vertical, horizontal = check_subsampling(subsampling)
    planes = sample_planes(image, subsampling)
    height, width = np.asarray(image).shape[:2]
    sizes = [(height, width)] + [(-(-height // vertical), -(-width // horizontal))] * (len(planes) - 1)
    return [
        block_dct(plane)[: -(-rows // 8), : -(-columns // 8)]
        for plane, (rows, columns) in zip(planes, sizes, strict=True)
    ]


class StatisticsAccumulator:
    """Statistics of a data set, image by image, in constant memory; partial results of several workers merge.

    Mean and variance are those of all blocks together, whatever the order and the batches (up to rounding). The mean
    absolute deviation cannot be merged around a mean that is still moving, so it is taken around a centre given in
    advance. The default 0 is OptS eq. 12 as printed, and needs one pass. For lam_i around the mean, make two::

        first = StatisticsAccumulator()
        for image in images:
            first.update(image_blocks(image, "420"))
        second = StatisticsAccumulator(center=first.result().mean)
        for image in images:
            second.update(image_blocks(image, "420"))
        statistics = second.result()

    Args:
        channels: 3 (Y, Cb, Cr) or 1 (gray).
        center: ``(channels, 8, 8)``, row-major; the centre of the absolute deviations; default 0.
    """

    def __init__(self, channels: int = 3, center: ArrayLike | None = None) -> None:
        if channels not in (1, 3):
            raise InvalidInputError(f"channels is 1 (gray) or 3 (Y, Cb, Cr); got {channels!r}")
        self._center = (
            np.zeros((channels, 64))
            if center is None
            else channel_array(center, "center", (channels,), minimum=None).reshape(channels, 64).copy()
        )
        self._count = np.zeros(channels, dtype=np.int64)
        self._mean = np.zeros((channels, 64))
        self._squares = np.zeros((channels, 64))
        self._absolute = np.zeros((channels, 64))

    def update(self, blocks: Sequence[NDArray[Any]]) -> None:
        """Add the coefficients of one image (or any batch): one array ``(..., 8, 8)`` per component."""
        components = coefficient_blocks(list(blocks))
        if len(components) != len(self._count):
            raise InvalidInputError(
                f"this accumulator takes {len(self._count)} components an image; got {len(components)}"
            )
        for index, coefficients in enumerate(components):
            mean = _sum(coefficients) / len(coefficients)
            squares = _sum((coefficients - mean) ** 2)
            self._absorb(index, len(coefficients), mean, squares)
            self._absolute[index] += _sum(np.abs(coefficients - self._center[index]))

    def merge(self, other: StatisticsAccumulator) -> None:
        """Add what another worker has accumulated around the same centre."""
        if not np.array_equal(self._center, other._center):
            raise InvalidInputError("accumulators merge when their centres are equal; these differ")
        for index in range(len(self._count)):
            if other._count[index]:
                self._absorb(index, int(other._count[index]), other._mean[index], other._squares[index])
        self._absolute += other._absolute

    def result(self) -> Statistics:
        """The statistics of all that was added so far."""
        if not self._count.all():
            raise InvalidInputError("no blocks were added to the accumulator; call update with at least one image")
        shape = (len(self._count), 8, 8)
        count = self._count[:, None]
        return Statistics(
            self._mean.reshape(shape),
            (self._squares / count).reshape(shape),
            (self._absolute / count).reshape(shape),
            self._count,
        )

    def _absorb(self, index: int, count: int, mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Combine two means and sums of squared deviations (Chan, Golub, LeVeque 1983): no cancellation."""
        before = int(self._count[index])
        total = before + count
        delta = mean - self._mean[index]
        self._mean[index] += delta * (count / total)
        self._squares[index] += squares + delta * delta * (before * count / total)
        self._count[index] = total


def _sum(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of C-contiguous ``(B, 64)`` over B, one row after another (NumPy sums pairwise along the last axis only)."""
    total: NDArray[np.float64] = np.add.reduce(rows, axis=0)
    return total
