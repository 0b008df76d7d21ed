"""The zigzag order of the 64 DCT frequencies [ITU-T T.81, figure A.6].

Inside edgejpeg a table or a block is 8x8 and row-major (row = vertical frequency). Zigzag order appears only where the
standard or a paper writes 64 numbers in a row: the DQT marker, the entropy coder, the papers' sensitivity vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def _zigzag_order() -> NDArray[np.intp]:
    """Walk the anti-diagonals: upwards on even ones, downwards on odd ones."""
    order = sorted(
        ((row, column) for row in range(8) for column in range(8)),
        key=lambda rc: (rc[0] + rc[1], rc[0] if (rc[0] + rc[1]) % 2 else rc[1]),
    )
    return np.array([8 * row + column for row, column in order], dtype=np.intp)


ZIGZAG: NDArray[np.intp] = _zigzag_order()
"""Shape (64,): ``ZIGZAG[k]`` is the row-major index of the frequency at zigzag position ``k``."""

RASTER_TO_ZIGZAG: NDArray[np.intp] = np.argsort(ZIGZAG)
"""Shape (64,): ``RASTER_TO_ZIGZAG[8 * row + column]`` is the zigzag position of that frequency."""

ZIGZAG.setflags(write=False)
RASTER_TO_ZIGZAG.setflags(write=False)


def to_zigzag(raster: NDArray[Any]) -> NDArray[Any]:
    """Reorder ``(..., 8, 8)`` row-major blocks into ``(..., 64)`` zigzag vectors."""
    raster = np.asarray(raster)
    return raster.reshape(*raster.shape[:-2], 64)[..., ZIGZAG]


def from_zigzag(zigzag: NDArray[Any]) -> NDArray[Any]:
    """Reorder ``(..., 64)`` zigzag vectors into ``(..., 8, 8)`` row-major blocks."""
    zigzag = np.asarray(zigzag)
    return zigzag[..., RASTER_TO_ZIGZAG].reshape(*zigzag.shape[:-1], 8, 8)
