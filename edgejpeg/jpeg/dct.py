"""The 8x8 orthonormal DCT-II, at the scale of a JPEG file's coefficients (DC = 8 x mean, range +-1024).

Sums run in a fixed order in float64, without matrix-product routines, so that the C++ library, which does the same,
gets the same last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

COSINES: tuple[float, ...] = (
    0.35355339059327376,  # 1/sqrt(8)
    0.4903926402016152,  # cos(k pi/16)/2 for k = 1..7
    0.46193976625564337,
    0.41573480615127262,
    0.35355339059327379,
    0.27778511650980114,
    0.19134171618254492,
    0.097545161008064166,
)
"""The eight magnitudes of the DCT matrix. The C++ library has the same literals."""


def _dct_matrix() -> NDArray[np.float64]:
    matrix = np.empty((8, 8))
    for u in range(8):
        for x in range(8):
            angle = (2 * x + 1) * u % 32  # in units of pi/16
            folded = min(angle, 32 - angle)  # cos is even about 0 and 16
            sign, k = (1.0, folded) if folded <= 8 else (-1.0, 16 - folded)
            matrix[u, x] = COSINES[0] if u == 0 else sign * COSINES[k]
    matrix.setflags(write=False)
    return matrix


DCT_MATRIX: NDArray[np.float64] = _dct_matrix()
"""Shape (8, 8), row = frequency, column = sample; rows are orthonormal."""


def pad_to_multiple(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Replicate the last row and column of ``(H, W, ...)`` until the sizes are multiples of (height, width)."""
    below, right = -plane.shape[0] % height, -plane.shape[1] % width
    return np.pad(plane, ((0, below), (0, right)) + ((0, 0),) * (plane.ndim - 2), mode="edge")


def split_blocks(plane: NDArray[Any]) -> NDArray[Any]:
    """Cut an ``(H, W)`` plane, padded by replication to multiples of 8, into ``(rows, columns, 8, 8)`` blocks."""
    plane = pad_to_multiple(plane, 8, 8)
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    return plane.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)


def join_blocks(blocks: NDArray[Any]) -> NDArray[Any]:
    """The inverse of :func:`split_blocks` for sizes that are multiples of 8."""
    rows, columns = blocks.shape[:2]
    return blocks.transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns)


def forward_dct(blocks: NDArray[Any]) -> NDArray[np.float64]:
    """DCT-II of ``(..., 8, 8)`` sample blocks; returns float64 coefficients of the same shape, row = vertical."""
    samples = np.asarray(blocks, dtype=np.float64)
    horizontal = np.zeros(samples.shape)
    for x in range(8):
        horizontal += samples[..., :, x, None] * DCT_MATRIX[:, x]
    coefficients = np.zeros(samples.shape)
    for row in range(8):
        coefficients += DCT_MATRIX[:, row, None] * horizontal[..., None, row, :]
    return coefficients


def inverse_dct(coefficients: NDArray[Any]) -> NDArray[np.float64]:
    """The inverse of :func:`forward_dct`: ``(..., 8, 8)`` coefficients to float64 samples."""
    return DCT_MATRIX.T @ np.asarray(coefficients, dtype=np.float64) @ DCT_MATRIX


def block_dct(plane: NDArray[Any]) -> NDArray[np.float64]:
    """DCT of all blocks of an ``(H, W)`` plane, padded by replication: ``(rows, columns, 8, 8)`` float64."""
    return forward_dct(split_blocks(plane))


def inverse_block_dct(blocks: NDArray[Any]) -> NDArray[np.float64]:
    """The plane of ``(rows, columns, 8, 8)`` coefficients: ``(8 * rows, 8 * columns)`` float64."""
    return join_blocks(inverse_dct(blocks))
