"""Quantization tables: one type for all of edgejpeg, and the IJG's tables and quality scale."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsInt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.zigzag import from_zigzag, to_zigzag


class QuantTable:
    """An immutable 8x8 quantization table of a baseline JPEG: integers 1..255, row-major (row = vertical frequency).

    Args:
        values: 64 integers as an 8x8 array or nested lists, row-major. Floats are accepted when they are whole.

    Raises:
        InvalidInputError: another shape, a value that is no whole number, or one outside 1..255.
    """

    __slots__ = ("_values",)

    _values: NDArray[np.uint8]

    def __init__(self, values: QuantTable | ArrayLike) -> None:
        array = np.asarray(values)
        if array.shape != (8, 8):
            raise InvalidInputError(
                f"a quantization table has shape (8, 8), row-major; got {array.shape}"
                + ("; 64 values in zigzag order go through QuantTable.from_zigzag" if array.size == 64 else "")
            )
        if array.dtype.kind not in "iuf":
            raise InvalidInputError(f"a quantization table holds integers; got dtype {array.dtype}")
        whole = np.isfinite(array) & (array == np.floor(array)) if array.dtype.kind == "f" else np.full((8, 8), True)
        wrong = ~whole | (array < 1) | (array > 255)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InvalidInputError(
                f"a baseline quantization table holds integers 1..255; "
                f"got {array[row, column]} at row {row}, column {column}"
            )
        frozen = array.astype(np.uint8)
        frozen.setflags(write=False)
        object.__setattr__(self, "_values", frozen)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("QuantTable is immutable")

    @classmethod
    def from_zigzag(cls, values: Iterable[SupportsInt] | NDArray[Any]) -> QuantTable:
        """Build a table from 64 values in zigzag order, as a DQT marker stores them."""
        array = np.asarray(values if isinstance(values, np.ndarray) else list(values))
        if array.shape != (64,):
            raise InvalidInputError(f"a quantization table in zigzag order has 64 values; got shape {array.shape}")
        return cls(from_zigzag(array))

    @property
    def array(self) -> NDArray[np.uint8]:
        """The table as a read-only (8, 8) uint8 array, row-major."""
        return self._values

    def zigzag(self) -> NDArray[np.uint8]:
        """The table as (64,) uint8 in zigzag order, as a DQT marker stores it."""
        return to_zigzag(self._values)

    def raster_list(self) -> list[int]:
        """The table as 64 Python integers, row-major: the form of Pillow's ``qtables``."""
        return [int(v) for v in self._values.reshape(64)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self._values if dtype is None else self._values.astype(dtype)
        return array.copy() if copy else array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantTable) and bool(np.array_equal(self._values, other._values))

    def __hash__(self) -> int:
        return hash(self._values.tobytes())

    def __repr__(self) -> str:
        rows = ",\n            ".join(str([int(v) for v in row]) for row in self._values)
        return f"QuantTable([{rows}])"

    def __reduce__(self) -> tuple[type[QuantTable], tuple[list[list[int]]]]:
        return QuantTable, (self._values.tolist(),)


def dead_zone_thresholds(values: ArrayLike) -> NDArray[np.float64]:
    """Zeroing thresholds of one table in units of its steps: C becomes 0 where |C| < t q, and is rounded otherwise.

    .5 is plain rounding. Above 1 a threshold would zero what rounds to 1 with an error of more than a step, so 1 is the
    largest. The DC coefficient carries a block's brightness and is coded as a difference: zeroing small ones makes no
    sense, it is always rounded, and its entry is .5.

    Args:
        values: 8x8, row-major, .5 to 1, with .5 at [0, 0].

    Returns:
        A read-only (8, 8) float64 copy.

    Raises:
        InvalidInputError: another shape, NaN, a value outside .5..1, or a DC entry that is not .5.
    """
    array = np.array(values, dtype=np.float64)
    if array.shape != (8, 8):
        raise InvalidInputError(f"dead-zone thresholds have shape (8, 8), row-major; got {array.shape}")
    wrong = ~((array >= 0.5) & (array <= 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InvalidInputError(
            f"dead-zone thresholds are .5 (plain rounding) to 1 steps; "
            f"got {array[row, column]} at row {row}, column {column}"
        )
    if array[0, 0] != 0.5:
        raise InvalidInputError(f"the dead-zone threshold of DC, row 0, column 0, is .5; got {array[0, 0]}")
    array.setflags(write=False)
    return array


IJG_LUMA = QuantTable(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""The luma table of ITU-T T.81, table K.1, which the IJG's quality scale multiplies."""

IJG_CHROMA = QuantTable(
    [
        [17, 18, 24, 47, 99, 99, 99, 99],
        [18, 21, 26, 66, 99, 99, 99, 99],
        [24, 26, 56, 99, 99, 99, 99, 99],
        [47, 66, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
    ]
)
"""The chroma table of ITU-T T.81, table K.2."""


def ijg_tables(quality: int) -> tuple[QuantTable, QuantTable]:
    """The luma and chroma tables that libjpeg uses at a quality, bit for bit, baseline (values at most 255).

    The scale is ``5000 // quality`` per cent below 50 and ``200 - 2 * quality`` from 50 on.

    Args:
        quality: an integer 1..100.

    Raises:
        InvalidInputError: no integer, or outside 1..100.
    """
    if isinstance(quality, bool) or not isinstance(quality, (int, np.integer)) or not 1 <= quality <= 100:
        raise InvalidInputError(f"a JPEG quality is an integer from 1 to 100; got {quality!r}")
    scale = 5000 // int(quality) if quality < 50 else 200 - 2 * int(quality)
    luma, chroma = (
        QuantTable(np.clip((table.array.astype(np.int64) * scale + 50) // 100, 1, 255))
        for table in (IJG_LUMA, IJG_CHROMA)
    )
    return luma, chroma
