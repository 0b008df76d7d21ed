"""The arithmetic of the encoder's core, to the bit: its int16 DCT and the divisions that make levels of coefficients.

This is a second implementation of what runtime/native does on every processor (dct.h, quantise.cpp, scalar.cpp); the
tests hold it against the levels in files. Coefficients come *frequency-major*, ``(8, 8, N, n)``: horizontal frequency,
vertical frequency, image, block, so that each operation runs over long rows.

Integers are int32, or float64 where they hold float64 (ONNX has no signed shifts): no value leaves int32, and float64
holds all of them exactly. No gradients: the callers pass them straight through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgejpeg.learn.integers import ordered_dct, shifted

# The DCT is that of Arai, Agui and Nakajima, "A fast DCT-SQ scheme for images" (1988), whose outputs carry the factors
# AAN. Samples enter times INPUT; between the passes the vertical factors are taken out and the values brought to GAIN.
AAN = (1.0, 1.387039845, 1.306562965, 1.175875602, 1.0, 0.785694958, 0.541196100, 0.275899379)
INPUT, GAIN = 24, 3
# In units of 2^-15: cos(4 pi/16), cos(6 pi/16), cos(2 pi/16) - cos(6 pi/16), cos(2 pi/16) + cos(6 pi/16) - 1.
_C4, _C6, _C2_MINUS_C6, _C2_PLUS_C6 = 23170, 12540, 17734, 10045
_NORMALISATION = [int(32768 * GAIN / INPUT / factor + 0.5) for factor in AAN]
SCALES = [8 * GAIN * factor for factor in AAN]
"""By horizontal frequency: how many times a coefficient of a JPEG file the int16 one is."""

_ERRORS = (0.026, 0.030, 0.028, 0.031, 0.026, 0.037, 0.036, 0.074)
"""By horizontal frequency: what the core takes as the mean error of its int16 coefficients, in a file's units."""
_MOST_DIFFERENCES = 0.005
"""The share of levels that this error may change; with tables so fine that it would be more, the core uses float64."""


def takes_int16(luma: Tensor, chroma: Tensor, factors: tuple[int, int]) -> Tensor:
    """Whether the core codes with its int16 DCT, or with the float64 one since the tables are too fine.

    Args:
        luma, chroma: steps, ``(N, 8, 8)`` or ``(1, 8, 8)``, row-major.
        factors: luma (rows, columns) per chroma sample.

    Returns:
        ``(N,)`` or ``(1,)`` bool. False as well where a step is below 1, which no file holds.
    """
    errors = torch.tensor(_ERRORS, dtype=torch.float64, device=luma.device)
    # A running sum adds in the core's order.
    shares = [
        (errors / steps.to(torch.float64)).flatten(1).cumsum(1)[:, -1] / 64
        for steps in (luma.detach(), chroma.detach())
    ]
    blocks = factors[0] * factors[1]
    differences = (blocks * shares[0] + 2 * shares[1]) / (blocks + 2)
    is_coarse = (luma.detach() >= 1).all(-1).all(-1) & (chroma.detach() >= 1).all(-1).all(-1)
    return (differences <= _MOST_DIFFERENCES) & is_coarse


def int16_dct(samples: Tensor) -> Tensor:
    """The core's DCT: vertical pass, rounding multiplications, horizontal pass.

    Args:
        samples: ``(N, H, W)`` integers -128..127, H and W multiples of 8.

    Returns:
        Frequency-major integers, :data:`SCALES` times a file's coefficients; all of them fit in int16.
    """
    count, height, width = samples.shape
    rows = (samples * INPUT).view(count, height // 8, 8, width).unbind(2)
    passed = [_product(row, factor) for row, factor in zip(_aan_dct(rows), _NORMALISATION, strict=True)]
    columns = torch.stack(passed).view(8, count, height // 8, width // 8, 8).permute(4, 0, 1, 2, 3).contiguous()
    return torch.stack(_aan_dct(columns.unbind())).flatten(3)


def int16_levels(coefficients: Tensor, steps: Tensor, thresholds: Tensor | None) -> Tensor:
    """The core's division by reciprocals of 16 bits: level = (|x| + correction) * reciprocal >> 16 >> shift.

    Args:
        coefficients: as :func:`int16_dct` gives them.
        steps: ``(N, 8, 8)`` or ``(1, 8, 8)``, row-major, from 1 on. The core's are integers; the formula is not bound
            to that.
        thresholds: of a dead zone, ``(8, 8)``, in units of the steps; up to .5, plain rounding. None for none.

    Returns:
        Levels, of the coefficients' shape, float64.
    """
    step = frequency_major(steps.detach().to(torch.float64))
    scales = torch.tensor(SCALES, dtype=torch.float64, device=steps.device)[:, None, None, None]
    scaled = step * scales
    # Where both frequencies are 0 or 4 the coefficient is an exact multiple of 1/8 and often half way between two
    # levels: there the correction is larger, so that a reciprocal that was rounded down does not pull it below.
    exact = torch.zeros(8, 8, dtype=torch.float64, device=steps.device)
    exact[::4, ::4] = 0.5
    correction = torch.floor(scaled / 2 + 0.5 + exact[:, :, None, None])
    reciprocal = 65536 / scaled
    normalised = reciprocal
    for power in (16, 8, 4, 2, 1):
        larger = normalised * 2**power
        normalised = torch.where(larger < 65536, larger, normalised)
    weight = torch.floor(normalised + 0.5).clamp(max=65535) * (reciprocal / normalised) / 65536
    magnitudes = coefficients.abs().to(torch.float64)
    levels = torch.floor((magnitudes + correction) * weight)
    if thresholds is not None:
        zone = frequency_major(thresholds[None])
        first = torch.where(zone > 0.5, torch.ceil(zone * step * scales), 0.0)
        levels = torch.where(magnitudes < first, 0.0, levels)
    return torch.where(coefficients < 0, -levels, levels)


def float64_dct(samples: Tensor) -> Tensor:
    """The reference encoder's DCT (:func:`~edgejpeg.learn.integers.ordered_dct`), frequency-major."""
    return frequency_major(ordered_dct(samples.to(torch.float64)))


def float64_levels(coefficients: Tensor, steps: Tensor, thresholds: Tensor | None) -> Tensor:
    """What the reference encoder makes of coefficients: K = sign(C) floor(|C| / q + 1/2), 0 where |C| < t q.

    Args and Returns:
        As in :func:`int16_levels`; coefficients as :func:`float64_dct` gives them.
    """
    step = frequency_major(steps.detach().to(torch.float64))
    magnitudes = coefficients.abs()
    levels = torch.floor(magnitudes / step + 0.5)
    if thresholds is not None:
        zone = frequency_major(thresholds[None])
        levels = torch.where((zone > 0.5) & (magnitudes < zone * step), 0.0, levels)
    return torch.where(coefficients < 0, -levels, levels)


def frequency_major(planes: Tensor) -> Tensor:
    """``(N, H, W)`` planes, where the frequencies of a block lie as its samples did, to ``(8, 8, N, H W / 64)``."""
    count, height, width = planes.shape
    return planes.reshape(count, height // 8, 8, width // 8, 8).permute(4, 2, 0, 1, 3).flatten(3)


def planes_of(frequencies: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`frequency_major`, for planes of a shape ``(..., H, W)``."""
    rows, columns = math.prod(shape[1:-1]) // 8, shape[-1] // 8
    return frequencies.reshape(8, 8, -1, rows, columns).permute(2, 3, 1, 4, 0).reshape(tuple(shape))


def _aan_dct(d: Sequence[Tensor]) -> list[Tensor]:
    """One dimension of the DCT, of eight samples, with the core's roundings."""
    sums = [d[i] + d[7 - i] for i in range(4)]
    differences = [d[i] - d[7 - i] for i in range(4)]
    outer_sum, outer_difference = sums[0] + sums[3], sums[0] - sums[3]
    inner_sum = sums[1] + sums[2]
    rotated = _product(sums[1] - sums[2] + outer_difference, _C4)
    low = differences[3] + differences[2]
    middle = _product(differences[2] + differences[1], _C4)
    high = differences[1] + differences[0]
    shared = _product(low - high, _C6)
    low_rotated = _product(low, _C2_MINUS_C6) + shared
    high_rotated = high + _product(high, _C2_PLUS_C6) + shared
    plus, minus = differences[0] + middle, differences[0] - middle
    return [
        outer_sum + inner_sum,
        plus + high_rotated,
        outer_difference + rotated,
        minus - low_rotated,
        outer_sum - inner_sum,
        minus + low_rotated,
        outer_difference - rotated,
        plus - high_rotated,
    ]


def _product(values: Tensor, constant: int) -> Tensor:
    """values * constant / 2^15, halves up."""
    return shifted(values * constant, 15)
