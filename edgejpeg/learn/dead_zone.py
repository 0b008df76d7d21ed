"""The encoder's dead-zone quantiser with a gradient: what tables and thresholds are learned through.

The encoder's K is 0 where |C| < t q, else sign(C) floor(|C| / q + 1/2), and the decoder's coefficient is K q. Over
|C| / q that is a staircase with its first jump at t and others at 1.5, 2.5, ... Here the first jump is a ramp from
t - w to t + w, in the value and in the derivative; the others stay jumps in the value and have the straight-through
slope 1. With f the slope of the staircase so smoothed, dK q / dC = f, dK q / dq = K - f C / q, and
dK q / dt = -q sign(C) / 2 w on the ramp.

Why the ramp: a coefficient that is zeroed or not changes by a whole step, over which a network is far from linear. The
gradient at either end says little of what lies between; that at a point on the way there is right in the mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.entropy import KERNEL_HALF_WIDTH


def dead_zone_quantize(
    coefficients: Tensor, steps: Tensor, thresholds: Tensor, *, half_width: float = KERNEL_HALF_WIDTH
) -> Tensor:
    """Quantise as the encoder does, with a ramp in the place of the first jump, and dequantise.

    Args:
        coefficients: ``(..., 8, 8)`` float, C at the scale of a JPEG file.
        steps: ``(8, 8)`` float, q > 0; or ``(..., 8, 8)`` that broadcasts, for tables of each image's own.
        thresholds: like ``steps``, t in units of q, .5 (plain rounding) to 1; that of DC, at [0, 0], is not looked
            at: DC is rounded.
        half_width: w, above 0 and at most .5. As it goes to 0 the value becomes the encoder's.

    Returns:
        K q, of the shape of ``coefficients``. Differentiable in all three; DC has the slope 1 everywhere.

    Raises:
        InvalidInputError: a half width out of range, or shapes that do not fit.
    """
    if not 0 < half_width <= 0.5:
        raise InvalidInputError(f"the half width of the ramp is above 0 and at most .5; got {half_width}")
    if steps.shape[-2:] != (8, 8) or thresholds.shape != steps.shape or not _reaches(steps.shape, coefficients.shape):
        raise InvalidInputError(
            "coefficients have shape (..., 8, 8), steps and thresholds (8, 8) or one that broadcasts to it; "
            f"got {tuple(coefficients.shape)}, {tuple(steps.shape)} and {tuple(thresholds.shape)}"
        )
    result: Tensor = _DeadZoneQuantize.apply(  # type: ignore[no-untyped-call]
        coefficients, steps, thresholds, half_width
    )
    return result


class _DeadZoneQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, steps: Tensor, thresholds: Tensor, half_width: float) -> Tensor:
        ctx.save_for_backward(coefficients, steps, thresholds)
        ctx.half_width = half_width
        return _levels(coefficients / steps, thresholds, half_width) * steps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        coefficients, steps, thresholds = ctx.saved_tensors
        ratio = coefficients / steps
        magnitude = ratio.abs()
        ramp = ((magnitude - thresholds).abs() < ctx.half_width).to(ratio.dtype) / (2 * ctx.half_width)
        ramp[..., 0, 0] = 0
        slope = ramp + (magnitude >= 1)
        slope[..., 0, 0] = 1
        by_step = (gradient * (_levels(ratio, thresholds, ctx.half_width) - slope * ratio)).sum_to_size(steps.shape)
        by_threshold = -(gradient * ramp * ratio.sign()).sum_to_size(steps.shape) * steps
        return gradient * slope if ctx.needs_input_grad[0] else None, by_step, by_threshold, None


def _reaches(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a shape broadcasts to another without changing it."""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in pairs)


def _levels(ratio: Tensor, thresholds: Tensor, half_width: float) -> Tensor:
    magnitude = ratio.abs()
    levels = (magnitude + 0.5).floor()
    ramp = ((magnitude - thresholds + half_width) / (2 * half_width)).clamp_(0, 1)
    first = magnitude < 1.5
    first[..., 0, 0] = False
    return torch.copysign(torch.where(first, ramp, levels), ratio)
