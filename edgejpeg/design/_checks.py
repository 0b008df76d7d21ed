"""Checks of arguments that the modules of this package share."""

from __future__ import annotations

from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError


def finite_array(values: ArrayLike, name: str, *, minimum: float | None = None) -> NDArray[np.float64]:
    """Values as float64, or :class:`InvalidInputError` when one is not finite or below ``minimum``."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        received = repr(values) if isinstance(values, str) else f"a {type(values).__name__} that is no array of them"
        raise InvalidInputError(f"{name} holds real numbers; got {received:.60}") from None
    allowed = "finite numbers" if minimum is None else f"finite numbers of at least {minimum:g}"
    wrong = ~np.isfinite(array) if minimum is None else ~(np.isfinite(array) & (array >= minimum))
    if wrong.any():
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f" at {position}" if position else ""
        raise InvalidInputError(f"{name} holds {allowed}; got {array[position]}{where}")
    return array


def channel_array(
    values: ArrayLike, name: str, channels: tuple[int, ...] = (1, 3), minimum: float | None = 0.0
) -> NDArray[np.float64]:
    """A finite ``(channels, 8, 8)`` float64 array, row-major."""
    array = finite_array(values, name, minimum=minimum)
    if array.ndim != 3 or array.shape[1:] != (8, 8) or array.shape[0] not in channels:
        shapes = " or ".join(f"({count}, 8, 8)" for count in channels)
        raise InvalidInputError(f"{name} has shape {shapes}, row-major; got {array.shape}")
    return array


def positive(value: SupportsFloat, name: str) -> float:
    """A finite float above zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{name} is a number above 0; got {value!r:.60}") from None
    if isinstance(value, (str, bool)) or not (np.isfinite(number) and number > 0):
        raise InvalidInputError(f"{name} is a finite number above 0; got {value!r}")
    return number


def step_limit(value: Any, name: str = "q_max") -> int:
    """An integer that a baseline quantization table can hold, 1..255."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= 255:
        raise InvalidInputError(f"{name} is an integer from 1 to 255; got {value!r}")
    return int(value)


def coefficient_blocks(blocks: list[NDArray[Any]] | tuple[NDArray[Any], ...]) -> list[NDArray[np.float64]]:
    """Coefficients of 1 (gray) or 3 (Y, Cb, Cr) components as C-contiguous ``(B, 64)`` float64, row-major."""
    if len(blocks) not in (1, 3):
        raise InvalidInputError(f"coefficients come as a list of 1 (gray) or 3 (Y, Cb, Cr) arrays; got {len(blocks)}")
    flat = []
    for component, values in enumerate(blocks):
        array = finite_array(values, f"component {component} of the coefficients")
        if array.ndim < 3 or array.shape[-2:] != (8, 8) or not array.size:
            raise InvalidInputError(
                f"component {component} of the coefficients has shape (..., 8, 8) and is not empty; got {array.shape}"
            )
        flat.append(np.ascontiguousarray(array.reshape(-1, 64)))
    return flat
