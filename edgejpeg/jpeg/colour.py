"""Colour and subsampling: BT.601 full range as in JFIF, exact in float64, and the integer samples that a file codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.dct import pad_to_multiple

RGB_TO_YCBCR: NDArray[np.float64] = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772],
        [0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402],
    ]
)
"""Shape (3, 3): Y = .299 R + .587 G + .114 B, Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402."""

YCBCR_TO_RGB: NDArray[np.float64] = np.array(
    [
        [1.0, 0.0, 1.402],
        [1.0, -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587],
        [1.0, 1.772, 0.0],
    ]
)
"""Shape (3, 3): the exact inverse of :data:`RGB_TO_YCBCR`."""

SUBSAMPLINGS: dict[str, tuple[int, int]] = {"444": (1, 1), "422": (1, 2), "420": (2, 2), "gray": (1, 1)}
"""For each subsampling, how many luma rows and columns share one chroma sample."""


@dataclass(frozen=True)
class YuvImage:
    """An image that is Y, Cb and Cr already, as cameras deliver it.

    Attributes:
        y: ``(H, W)`` uint8.
        cb: uint8, H or H/2 rows and W or W/2 columns, each sample for as many pixels.
        cr: the same.
        full_range: samples are 0..255, as JPEG has it, and not Y 16..235, Cb and Cr 16..240 (ITU-R BT.601).
    """

    y: NDArray[np.uint8]
    cb: NDArray[np.uint8]
    cr: NDArray[np.uint8]
    full_range: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.y.shape
        return height, width


def check_subsampling(subsampling: str) -> tuple[int, int]:
    """The (vertical, horizontal) chroma factors of a subsampling, or :class:`InvalidInputError`."""
    if subsampling not in SUBSAMPLINGS:
        raise InvalidInputError(f"subsampling is one of {', '.join(SUBSAMPLINGS)}; got {subsampling!r}")
    return SUBSAMPLINGS[subsampling]


def rgb_to_ycbcr(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """``(..., 3)`` R, G, B in 0..255 to float64 Y (level-shifted by -128), Cb, Cr (centred at 0)."""
    ycbcr = np.asarray(rgb, dtype=np.float64) @ RGB_TO_YCBCR.T
    ycbcr[..., 0] -= 128
    return ycbcr


def ycbcr_to_rgb(ycbcr: NDArray[Any]) -> NDArray[np.float64]:
    """The exact inverse of :func:`rgb_to_ycbcr`; not clamped, not rounded."""
    shifted = np.array(ycbcr, dtype=np.float64)
    shifted[..., 0] += 128
    return shifted @ YCBCR_TO_RGB.T


def sample_planes(image: NDArray[np.uint8] | YuvImage, subsampling: str) -> list[NDArray[np.int32]]:
    """The level-shifted integer samples that a file codes, padded by replication to whole MCUs.

    Luma is rounded once per pixel; a chroma sample is rounded once from the sums over its cell, in 16-bit fixed point.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, or ``(H, W)`` uint8 for ``"gray"``. With ``"gray"``, colour gives its luma.
            A :class:`YuvImage` keeps its samples, but for their range; its chroma is replicated where the file's is
            finer, and averaged where it is coarser.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.

    Returns:
        Y, Cb, Cr (Y alone for ``"gray"``) as int32 in -128..127.
    """
    vertical, horizontal = check_subsampling(subsampling)
    if isinstance(image, YuvImage):
        return _yuv_planes(image, subsampling)
    image = np.asarray(image)
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] != 3)
        or not image.size
    ):
        raise InvalidInputError(f"an image is (H, W, 3) or (H, W), uint8, not empty; got {image.shape} {image.dtype}")
    if image.ndim == 2 and subsampling != "gray":
        raise InvalidInputError(f"an (H, W) image has no chroma; its subsampling is 'gray', got {subsampling!r}")
    padded = pad_to_multiple(image, 8 * vertical, 8 * horizontal).astype(np.int32)
    if image.ndim == 2:
        return [padded - 128]
    red, green, blue = padded[..., 0], padded[..., 1], padded[..., 2]
    luma = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16) - 128
    if subsampling == "gray":
        return [luma]
    pixels = vertical * horizontal
    red, green, blue = (_cell_sums(plane, vertical, horizontal) for plane in (red, green, blue))
    shift, half = 16 + (pixels.bit_length() - 1), 32768 * pixels
    cb = (-11059 * red - 21709 * green + 32768 * blue + half) >> shift
    cr = (32768 * red - 27439 * green - 5329 * blue + half) >> shift
    # Pure blue and pure red round up to 128, one above what eight bits hold.
    return [luma, np.minimum(cb, 127), np.minimum(cr, 127)]


def _cell_sums(plane: NDArray[np.int32], vertical: int, horizontal: int) -> NDArray[np.int32]:
    height, width = plane.shape
    cells = plane.reshape(height // vertical, vertical, width // horizontal, horizontal)
    return cells.sum(axis=(1, 3), dtype=np.int32)


def _yuv_planes(image: YuvImage, subsampling: str) -> list[NDArray[np.int32]]:
    vertical, horizontal = check_subsampling(subsampling)
    height, width = image.shape
    luma = pad_to_multiple(image.y, 8 * vertical, 8 * horizontal).astype(np.float64)
    planes = [luma - 128 if image.full_range else (luma - 16) * (255 / 219) - 128]
    for chroma in () if subsampling == "gray" else (image.cb, image.cr):
        fine = chroma.repeat(height // chroma.shape[0], axis=0).repeat(width // chroma.shape[1], axis=1)
        padded = pad_to_multiple(fine, 8 * vertical, 8 * horizontal).astype(np.int32)
        mean = _cell_sums(padded, vertical, horizontal) / (vertical * horizontal)
        planes.append((mean - 128) * (1 if image.full_range else 255 / 224))
    return [np.clip(np.floor(plane + 0.5), -128, 127).astype(np.int32) for plane in planes]
