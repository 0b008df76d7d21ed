"""The JPEG layer in float64, step by step: the oracle of the graph's check. Slow, readable, NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.jpeg.colour import check_subsampling, rgb_to_ycbcr, ycbcr_to_rgb
from edgejpeg.jpeg.dct import block_dct, inverse_block_dct

Levels = list[NDArray[np.float64]]


def quantizer_ratios(image: NDArray[Any], tables: NDArray[Any], subsampling: str) -> Levels:
    """The coefficients divided by their steps, before rounding.

    Args:
        image: (3, H, W) RGB in 0..1; H and W are multiples of the MCU.
        tables: (2, 64) steps of luma and chroma, row-major.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.

    Returns:
        For each component (rows, columns, 8, 8) float64.
    """
    vertical, horizontal = check_subsampling(subsampling)
    ycbcr = rgb_to_ycbcr(255 * np.asarray(image, dtype=np.float64).transpose(1, 2, 0))
    planes = [ycbcr[..., 0]]
    if subsampling != "gray":
        height, width = ycbcr.shape[0] // vertical, ycbcr.shape[1] // horizontal
        cells = ycbcr[..., 1:].reshape(height, vertical, width, horizontal, 2).mean(axis=(1, 3))
        planes += [cells[..., 0], cells[..., 1]]
    steps = np.asarray(tables, dtype=np.float64).reshape(2, 8, 8)
    return [block_dct(plane) / steps[min(index, 1)] for index, plane in enumerate(planes)]


def reconstruct(levels: Levels, tables: NDArray[Any], subsampling: str) -> NDArray[np.float64]:
    """What a decoder makes of quantized levels: (3, H, W) RGB in 0..1, clamped, not rounded.

    Chroma is interpolated with the triangle filter of libjpeg's "fancy upsampling".

    Args:
        levels: for each component (rows, columns, 8, 8) whole numbers, as :func:`quantizer_ratios` rounded.
        tables: (2, 64) steps of luma and chroma, row-major.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
    """
    vertical, horizontal = check_subsampling(subsampling)
    steps = np.asarray(tables, dtype=np.float64).reshape(2, 8, 8)
    planes = [inverse_block_dct(level * steps[min(index, 1)]) for index, level in enumerate(levels)]
    if subsampling == "gray":
        planes += [np.zeros_like(planes[0])] * 2
    for index in (1, 2):
        if vertical == 2:
            planes[index] = _triangle(planes[index])
        if horizontal == 2:
            planes[index] = _triangle(planes[index].T).T
    return np.clip(ycbcr_to_rgb(np.stack(planes, axis=-1)).transpose(2, 0, 1) / 255, 0, 1)


def _triangle(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the rows: each is 3/4 of the nearer and 1/4 of the farther sample; the border is repeated."""
    before = np.concatenate([plane[:1], plane[:-1]])
    after = np.concatenate([plane[1:], plane[-1:]])
    doubled = np.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis=1)
    return doubled.reshape(2 * plane.shape[0], plane.shape[1])
