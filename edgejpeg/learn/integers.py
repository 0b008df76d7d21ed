"""The arithmetic of a real JPEG codec: our reference encoder's samples and DCT, libjpeg-turbo's decoder, bit for bit.

A decoder in 8 bits rounds after each half of the inverse DCT, after the upsampling of chroma and after the colour
conversion, always in fixed point. Within a half of the "islow" inverse DCT (Loeffler, Ligtenberg and Moschytz's, 13
bits of fraction) sums of integer products are exact, so each half is one integer matrix and one shift. Everything is
computed in types that hold its integers exactly. No gradients: the callers pass them straight through.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgejpeg.jpeg.dct import DCT_MATRIX

_FRACTION = 13
_EXTRA = 2
"""Bits of fraction that the first half of the inverse DCT hands to the second."""


def integer_samples(
    rgb: Tensor, vertical: int, horizontal: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """The level-shifted samples of an image, as :func:`edgejpeg.jpeg.colour.sample_planes` gives them.

    Args:
        rgb: ``(N, 3, H, W)``, whole cells; pixels are rounded to the integers 0..255 first.
        vertical, horizontal: luma samples per chroma sample.
        dtype: float64 or int32, to compute in.

    Returns:
        Luma ``(N, H, W)`` and chroma ``(N, 2, H / v, W / h)``, integers in ``dtype``.
    """
    pixels = rgb.detach().round().clamp(0, 255).to(dtype)
    red, green, blue = pixels.unbind(1)
    luma = shifted(19595 * red + 38470 * green + 7471 * blue, 16) - 128
    sums = pixels if vertical == 1 else pixels[:, :, 0::2] + pixels[:, :, 1::2]
    sums = sums if horizontal == 1 else sums[..., 0::2] + sums[..., 1::2]
    red, green, blue = sums.unbind(1)
    bits = 16 + (vertical * horizontal).bit_length() - 1
    cb = shifted(-11059 * red - 21709 * green + 32768 * blue, bits)
    cr = shifted(32768 * red - 27439 * green - 5329 * blue, bits)
    return luma, torch.stack([cb, cr], dim=1).clamp(max=127)


def ordered_dct(planes: Tensor) -> Tensor:
    """The reference encoder's DCT to the last bit, float64 in the order of :func:`edgejpeg.jpeg.dct.forward_dct`.

    A sixteenth of the DC coefficients at a step of 2 lie on a rounding threshold: there the last bit decides, so the
    same numbers have to be added in the same order, without fused multiply-adds.

    Args:
        planes: ``(n, H, W)`` float64, H and W multiples of 8.

    Returns:
        Planes of coefficients.
    """
    count, height, width = planes.shape
    matrix = torch.tensor(DCT_MATRIX.tolist(), dtype=torch.float64, device=planes.device)
    samples = planes.reshape(count * height, width // 8, 8)
    horizontal = torch.zeros_like(samples)
    for column in range(8):
        horizontal = horizontal + samples[:, :, column, None] * matrix[:, column]
    rows = horizontal.reshape(count * height // 8, 8, width)
    coefficients = torch.zeros_like(rows)
    for row in range(8):
        coefficients = coefficients + matrix[:, row, None] * rows[:, None, row]
    return coefficients.reshape(count, height, width)


def decode_integers(
    luma: Tensor, chroma: Tensor, size: tuple[int, int], factors: tuple[int, int], smooth: bool
) -> Tensor:
    """What libjpeg-turbo's decoder makes of dequantised coefficients (``JDCT_ISLOW``).

    Args:
        luma, chroma: planes of coefficients, as in :func:`edgejpeg.learn.planes.encode_planes`.
        size: (height, width) of the image.
        factors: luma (rows, columns) per chroma sample.
        smooth: "fancy" upsampling instead of replication.

    Returns:
        ``(N, 3, H, W)`` R, G, B, integers 0..255 in luma's dtype.
    """
    height, width = size
    vertical, horizontal = factors
    y = _samples(luma)[:, :height, :width]
    planes = _samples(chroma.flatten(0, 1))[:, : -(-height // vertical), : -(-width // horizontal)]
    planes = _smooth(planes, factors) if smooth and horizontal == 2 else _replicate(planes, factors)
    cb, cr = (planes[:, :height, :width] - 128).reshape(luma.shape[0], 2, height, width).unbind(1)
    red = y + shifted(_fixed(1.402) * cr, 16)
    green = y + shifted(-_fixed(0.34414) * cb - _fixed(0.71414) * cr, 16)
    blue = y + shifted(_fixed(1.772) * cb, 16)
    return torch.stack([red, green, blue], dim=1).clamp(0, 255).to(luma.dtype)


def _samples(coefficients: Tensor) -> Tensor:
    """(n, H, W) planes of coefficients to samples 0..255 in float32, which holds all that is made of them exactly."""
    count, height, width = coefficients.shape
    matrix = torch.tensor(_inverse_dct_matrix().tolist(), dtype=torch.float64, device=coefficients.device)
    rows = matrix @ coefficients.detach().to(torch.float64).reshape(count * height // 8, 8, width)
    rows = shifted(rows, _FRACTION - _EXTRA)
    columns = rows.reshape(count * height * width // 8, 8) @ matrix.T
    samples = shifted(columns, _FRACTION + _EXTRA + 3).to(torch.float32)
    return (samples + 128).clamp(0, 255).view(count, height, width)


def _smooth(planes: Tensor, factors: tuple[int, int]) -> Tensor:
    """libjpeg's triangle filter: 3/4 of the nearer sample and 1/4 of the further one, in each direction."""
    if factors[0] == 1:
        even, odd = _neighbours(planes, 2)
        doubled = torch.stack([(even + 1) / 4, (odd + 2) / 4], dim=-1).floor()
        doubled[:, :, 0, 0], doubled[:, :, -1, 1] = planes[:, :, 0], planes[:, :, -1]
        return doubled.flatten(2)
    rows = torch.stack(_neighbours(planes, 1), dim=2).flatten(1, 2)
    even, odd = _neighbours(rows, 2)
    doubled = torch.stack([(even + 8) / 16, (odd + 7) / 16], dim=-1).floor()
    doubled[:, :, 0, 0] = ((4 * rows[:, :, 0] + 8) / 16).floor()
    doubled[:, :, -1, 1] = ((4 * rows[:, :, -1] + 7) / 16).floor()
    return doubled.flatten(2)


def _neighbours(planes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """3 x + its predecessor and 3 x + its successor along an axis, the ends continued."""
    length = planes.shape[axis]
    before = torch.cat([planes.narrow(axis, 0, 1), planes.narrow(axis, 0, length - 1)], axis)
    after = torch.cat([planes.narrow(axis, 1, length - 1), planes.narrow(axis, length - 1, 1)], axis)
    return 3 * planes + before, 3 * planes + after


def _replicate(planes: Tensor, factors: tuple[int, int]) -> Tensor:
    return planes.repeat_interleave(factors[0], dim=1).repeat_interleave(factors[1], dim=2)


def shifted(values: Tensor, bits: int) -> Tensor:
    """Division of integers, of an integer type or in a float type that holds them, by a power of two, halves up."""
    if values.is_floating_point():
        return (values / 2**bits + 0.5).floor()
    return (values + (1 << bits - 1)) >> bits


def _fixed(value: float, bits: int = 16) -> int:
    return int(value * 2**bits + 0.5)


def _inverse_dct_matrix() -> NDArray[np.int64]:
    """(8, 8): row = sample, column = frequency, in units of 2^-13 / sqrt(8).

    The rotations of [Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications",
    ICASSP 1989] with each constant rounded to 13 bits, multiplied out.
    """

    def fixed(value: float) -> int:
        return int(np.floor(value * 2**_FRACTION + 0.5))

    frequency = np.eye(8, dtype=np.int64)
    # Even part: a rotation by pi/8 of frequencies 2 and 6, and a butterfly of 0 and 4.
    both = fixed(0.541196100) * (frequency[2] + frequency[6])
    low = both + fixed(0.765366865) * frequency[2]
    high = both - fixed(1.847759065) * frequency[6]
    plus, minus = (frequency[0] + frequency[4]) << _FRACTION, (frequency[0] - frequency[4]) << _FRACTION
    even = [plus + low, minus + high, minus - high, plus - low]
    # Odd part: frequencies 7, 5, 3, 1 with their shared products.
    seven, five, three, one = frequency[7], frequency[5], frequency[3], frequency[1]
    shared = fixed(1.175875602) * (seven + five + three + one)
    outer, inner = -fixed(0.899976223) * (seven + one), -fixed(2.562915447) * (five + three)
    seven_three = shared - fixed(1.961570560) * (seven + three)
    five_one = shared - fixed(0.390180644) * (five + one)
    odd = [
        fixed(1.501321110) * one + outer + five_one,
        fixed(3.072711026) * three + inner + seven_three,
        fixed(2.053119869) * five + inner + five_one,
        fixed(0.298631336) * seven + outer + seven_three,
    ]
    first = [e + o for e, o in zip(even, odd, strict=True)]
    last = [e - o for e, o in zip(even, odd, strict=True)]
    return np.stack(first + last[::-1])
