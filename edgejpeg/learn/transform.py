"""The JPEG transform as differentiable torch operations: colour, subsampling, 8x8 DCT, and back as a decoder does.

Nothing here clamps or rounds: what leaves :func:`rgb_from_coefficients` is linear in the coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import RGB_TO_YCBCR, SUBSAMPLINGS, YCBCR_TO_RGB
from edgejpeg.jpeg.dct import DCT_MATRIX

_LEVEL_SHIFT = 128.0


def chroma_factors(subsampling: str) -> tuple[int, int]:
    """How many luma (rows, columns) share a chroma sample; colour subsamplings only.

    Raises:
        InvalidInputError: not ``"444"``, ``"422"`` or ``"420"``.
    """
    colour = [name for name in SUBSAMPLINGS if name != "gray"]
    if subsampling not in colour:
        raise InvalidInputError(f"the subsampling of colour images is one of {', '.join(colour)}; got {subsampling!r}")
    return SUBSAMPLINGS[subsampling]


def coefficients_from_rgb(rgb: Tensor, subsampling: str) -> list[Tensor]:
    """DCT coefficients of Y, Cb and Cr, at the scale of a JPEG file (DC = 8 x mean).

    The image is padded to whole MCUs by replication, and chroma is averaged over its cell, as an encoder does.

    Args:
        rgb: ``(N, 3, H, W)`` float R, G, B in 0..255.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.

    Returns:
        Y, Cb, Cr, each ``(N, rows, columns, 8, 8)``; the two last axes are vertical and horizontal frequency.
    """
    vertical, horizontal = chroma_factors(subsampling)
    below, right = -rgb.shape[-2] % (8 * vertical), -rgb.shape[-1] % (8 * horizontal)
    padded = F.pad(rgb, (0, right, 0, below), mode="replicate")
    ycbcr = torch.einsum("ij,njhw->nihw", _constant(RGB_TO_YCBCR, rgb), padded)
    luma = ycbcr[:, 0] - _LEVEL_SHIFT
    chroma = F.avg_pool2d(ycbcr[:, 1:], (vertical, horizontal)) if subsampling != "444" else ycbcr[:, 1:]
    return [block_dct(luma), block_dct(chroma[:, 0]), block_dct(chroma[:, 1])]


def rgb_from_coefficients(coefficients: Sequence[Tensor], subsampling: str, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`coefficients_from_rgb`, with the chroma upsampling of libjpeg-turbo's decoder.

    Args:
        coefficients: Y, Cb, Cr, each ``(N, rows, columns, 8, 8)``.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        size: (height, width) of the image; what was padded is cropped.

    Returns:
        ``(N, 3, H, W)`` R, G, B, neither clamped nor rounded.
    """
    vertical, horizontal = chroma_factors(subsampling)
    height, width = size
    luma = inverse_block_dct(coefficients[0])[:, :height, :width] + _LEVEL_SHIFT
    chroma = [
        # A decoder replicates the last real chroma sample at the border, not what lies in the padding.
        upsample_fancy(
            inverse_block_dct(plane)[:, : -(-height // vertical), : -(-width // horizontal)], vertical, horizontal
        )[:, :height, :width]
        for plane in coefficients[1:]
    ]
    ycbcr = torch.stack([luma, *chroma], dim=1)
    return torch.einsum("ij,njhw->nihw", _constant(YCBCR_TO_RGB, ycbcr), ycbcr)


def block_dct(planes: Tensor) -> Tensor:
    """``(N, H, W)`` planes, H and W multiples of 8, to ``(N, H / 8, W / 8, 8, 8)`` orthonormal DCT-II coefficients."""
    count, height, width = planes.shape
    blocks = planes.reshape(count, height // 8, 8, width // 8, 8).transpose(2, 3)
    return _both_axes(blocks, _constant(DCT_MATRIX.T, planes))


def inverse_block_dct(coefficients: Tensor) -> Tensor:
    """The inverse of :func:`block_dct`."""
    count, rows, columns = coefficients.shape[:3]
    blocks = _both_axes(coefficients, _constant(DCT_MATRIX, coefficients))
    return blocks.transpose(2, 3).reshape(count, 8 * rows, 8 * columns)


def upsample_fancy(planes: Tensor, vertical: int, horizontal: int) -> Tensor:
    """libjpeg's "fancy" upsampling of ``(N, H, W)`` chroma: a new sample is 3/4 of the nearer, 1/4 of the further one.

    As in the decoder, planes of at most two columns are replicated instead.

    Args:
        vertical, horizontal: factors, 1 or 2.
    """
    if horizontal > 1 and planes.shape[2] <= 2:
        return planes.repeat_interleave(vertical, dim=1).repeat_interleave(horizontal, dim=2)
    if vertical == 2:
        planes = _double_last(planes.transpose(1, 2)).transpose(1, 2)
    if horizontal == 2:
        planes = _double_last(planes)
    return planes


def _double_last(planes: Tensor) -> Tensor:
    before = torch.cat([planes[..., :1], planes[..., :-1]], dim=-1)
    after = torch.cat([planes[..., 1:], planes[..., -1:]], dim=-1)
    return torch.stack([0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after], dim=-1).flatten(-2)


def _both_axes(blocks: Tensor, matrix: Tensor) -> Tensor:
    """``matrix.T @ block @ matrix`` for every block, as two large matrix products instead of many small ones."""
    return ((blocks @ matrix).transpose(-1, -2) @ matrix).transpose(-1, -2)


def _constant(matrix: NDArray[Any], like: Tensor) -> Tensor:
    return torch.tensor(matrix, dtype=like.dtype, device=like.device)
