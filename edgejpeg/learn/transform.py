"""The JPEG transform as differentiable torch operations, block by block: colour, subsampling, 8x8 DCT, and back.

:mod:`edgejpeg.learn.planes` does the work; here coefficients come as blocks, one frequency after another. Nothing
clamps or rounds: what leaves :func:`rgb_from_coefficients` is linear in the coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgejpeg.jpeg.dct import DCT_MATRIX
from edgejpeg.learn.planes import chroma_factors as chroma_factors
from edgejpeg.learn.planes import decode_planes, encode_planes, transform_blocks


def coefficients_from_rgb(rgb: Tensor, subsampling: str) -> list[Tensor]:
    """DCT coefficients of Y, Cb and Cr, at the scale of a JPEG file (DC = 8 x mean).

    The image is padded to whole MCUs by replication, and chroma is averaged over its cell, as an encoder does.

    Args:
        rgb: ``(N, 3, H, W)`` float R, G, B in 0..255.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.

    Returns:
        Y, Cb, Cr, each ``(N, rows, columns, 8, 8)``; the two last axes are vertical and horizontal frequency.
    """
    luma, chroma = encode_planes(rgb, subsampling)
    return [blocks_from_planes(planes) for planes in (luma, *chroma.unbind(1))]


def rgb_from_coefficients(coefficients: Sequence[Tensor], subsampling: str, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`coefficients_from_rgb`, with the chroma upsampling of libjpeg-turbo's decoder.

    Args:
        coefficients: Y, Cb, Cr, each ``(N, rows, columns, 8, 8)``.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        size: (height, width) of the image; what was padded is cropped.

    Returns:
        ``(N, 3, H, W)`` R, G, B, neither clamped nor rounded.
    """
    luma, cb, cr = (planes_from_blocks(blocks) for blocks in coefficients)
    return decode_planes(luma, torch.stack([cb, cr], dim=1), size, subsampling)


def block_dct(planes: Tensor) -> Tensor:
    """``(N, H, W)`` planes, H and W multiples of 8, to ``(N, H / 8, W / 8, 8, 8)`` orthonormal DCT-II coefficients."""
    matrix = torch.tensor(DCT_MATRIX, dtype=planes.dtype, device=planes.device)
    return blocks_from_planes(transform_blocks(planes, matrix, matrix))


def inverse_block_dct(coefficients: Tensor) -> Tensor:
    """The inverse of :func:`block_dct`."""
    matrix = torch.tensor(DCT_MATRIX.T.copy(), dtype=coefficients.dtype, device=coefficients.device)
    return transform_blocks(planes_from_blocks(coefficients), matrix, matrix)


def blocks_from_planes(planes: Tensor) -> Tensor:
    """``(N, H, W)`` planes, H and W multiples of 8, to blocks ``(N, H / 8, W / 8, 8, 8)``."""
    count, height, width = planes.shape
    return planes.reshape(count, height // 8, 8, width // 8, 8).transpose(2, 3)


def planes_from_blocks(blocks: Tensor) -> Tensor:
    """The inverse of :func:`blocks_from_planes`."""
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2)
