"""The JPEG layer on a GPU by Triton: one kernel forward and one backward.

4:4:4 is fused from RGB to RGB (:func:`fused_444`); otherwise the quantizer is (:func:`fused_quantize`), whose many
operations on every coefficient are what takes the time. Results are those of the unfused layer up to the rounding of
float32 sums. Without a GPU the same kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), which the tests use.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgejpeg._optional import require
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.dct import DCT_MATRIX

Quantizer = Literal["soft", "authors", "hard"]
"""Q_d over the whole alphabet, Q_d over the authors' five levels, Q_u with straight-through gradients."""

_KINDS: dict[str, int] = {"soft": 0, "hard": 1, "authors": 5}
_BLOCKS = 16
"""Blocks of a tile: the smallest that a matrix product takes."""
_WARPS = 8


def is_available(tensor: Tensor) -> bool:
    """Whether the kernels can run on a tensor: Triton is installed, and the tensor is on a GPU or Triton interprets."""
    if importlib.util.find_spec("triton") is None or tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def fused_444(
    rgb: Tensor,
    q: Tensor,
    alpha: Tensor,
    *,
    bits: int = 8,
    quantizer: Quantizer = "soft",
    clip: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """RGB -> YCbCr -> DCT -> quantizer -> inverse DCT -> RGB in 4:4:4, with gradients to all three arguments.

    Args:
        rgb: ``(N, 3, H, W)`` contiguous float32, float16 or bfloat16, H and W multiples of 8. Arithmetic is float32.
        q: steps of luma and chroma, ``(1, 2, 8, 8)``, or ``(N, 2, 8, 8)`` for tables per image; positive.
        alpha: of q's shape, as in :func:`~edgejpeg.learn.quantizer.soft_quantize`; not looked at by ``"hard"``.
        bits: the alphabet is -L .. L, L = 2^(bits - 1).
        quantizer: ``"soft"``, ``"authors"`` or ``"hard"``.
        clip: False for an alphabet without ends.
        scale: what brings ``rgb`` to 0..255: 1 or 255.

    Returns:
        Of ``rgb``'s shape and dtype, neither clamped nor rounded.

    Raises:
        InvalidInputError: a shape or dtype that the kernels do not take.
        MissingDependencyError: Triton is not installed.
    """
    if rgb.ndim != 4 or rgb.shape[1] != 3 or rgb.shape[2] % 8 or rgb.shape[3] % 8 or 0 in rgb.shape:
        raise InvalidInputError(
            f"the fused kernel takes (N, 3, H, W) with H and W multiples of 8; got {tuple(rgb.shape)}"
        )
    if rgb.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InvalidInputError(f"the fused kernel takes float32, float16 or bfloat16; got {rgb.dtype}")
    q, alpha = _tables(rgb, q, alpha, (2, 8, 8))
    result: Tensor = _RoundTrip444.apply(rgb.contiguous(), q, alpha, 2 ** (bits - 1), _KINDS[quantizer], clip, scale)  # type: ignore[no-untyped-call]
    return result


def fused_quantize(
    planes: Tensor,
    q: Tensor,
    alpha: Tensor,
    *,
    bits: int = 8,
    quantizer: Quantizer = "soft",
    clip: bool = True,
) -> Tensor:
    """Q_d or Q_u on planes of coefficients (see :mod:`edgejpeg.learn.planes`), with gradients to all three arguments.

    Args:
        planes: ``(N, C, H, W)`` float32, H and W multiples of 8.
        q: steps, ``(1, 8, 8)``, or ``(N, 8, 8)`` for a table per image; positive.
        alpha: of q's shape.
        bits, quantizer, clip: as in :func:`fused_444`.

    Returns, Raises:
        As in :func:`fused_444`.
    """
    if planes.ndim != 4 or planes.shape[2] % 8 or planes.shape[3] % 8 or 0 in planes.shape:
        raise InvalidInputError(
            f"the fused quantizer takes (N, C, H, W) with H and W multiples of 8; got {tuple(planes.shape)}"
        )
    if planes.dtype != torch.float32:
        raise InvalidInputError(f"the fused quantizer takes float32; got {planes.dtype}")
    q, alpha = _tables(planes, q, alpha, (8, 8))
    result: Tensor = _Quantize.apply(planes.contiguous(), q, alpha, 2 ** (bits - 1), _KINDS[quantizer], clip)  # type: ignore[no-untyped-call]
    return result


class _RoundTrip444(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rgb: Tensor, q: Tensor, alpha: Tensor, L: int, kind: int, clip: bool, scale: float) -> Tensor:
        ctx.save_for_backward(rgb, q, alpha)
        ctx.constants = {"L": L, "KIND": kind, "CLIP": clip}
        ctx.scale = scale
        out = torch.empty_like(rgb)
        images, _, height, width = rgb.shape
        _kernels().round_trip_444[(images, _tiles(height, width))](
            rgb, out, q, alpha, _matrix(rgb.device), height, width, int(len(q) > 1), scale, **ctx.constants, **_launch()
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rgb, q, alpha = ctx.saved_tensors
        images, _, height, width = rgb.shape
        tiles = _tiles(height, width)
        grad_rgb = torch.empty_like(rgb) if ctx.needs_input_grad[0] else None
        sums = rgb.new_empty((images, tiles, 2, 2, 64), dtype=torch.float32)
        _kernels().round_trip_444_backward[(images, tiles)](
            rgb,
            grad.contiguous(),
            rgb if grad_rgb is None else grad_rgb,
            q,
            alpha,
            sums,
            _matrix(rgb.device),
            height,
            width,
            int(len(q) > 1),
            ctx.scale,
            NEEDS_RGB=grad_rgb is not None,
            **ctx.constants,
            **_launch(),
        )
        by_q, by_alpha = (_reduced(sums[:, :, i], q.shape) for i in range(2))
        return grad_rgb, by_q, by_alpha, None, None, None, None


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, q: Tensor, alpha: Tensor, L: int, kind: int, clip: bool) -> Tensor:
        ctx.save_for_backward(planes, q, alpha)
        ctx.constants = {"L": L, "KIND": kind, "CLIP": clip, "BLOCKS": _BLOCKS, "num_warps": _WARPS}
        out = torch.empty_like(planes)
        images, channels, height, width = planes.shape
        _kernels().quantize_planes[(images * channels, _tiles(height, width))](
            planes, out, q, alpha, height, width, channels, int(len(q) > 1), **ctx.constants
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        planes, q, alpha = ctx.saved_tensors
        images, channels, height, width = planes.shape
        tiles = _tiles(height, width)
        grad_planes = torch.empty_like(planes)
        sums = planes.new_empty((images, channels * tiles, 2, 64))
        _kernels().quantize_planes_backward[(images * channels, tiles)](
            planes,
            grad.contiguous(),
            grad_planes,
            q,
            alpha,
            sums,
            height,
            width,
            channels,
            int(len(q) > 1),
            **ctx.constants,
        )
        by_q, by_alpha = (_reduced(sums[:, :, i], q.shape) for i in range(2))
        return grad_planes, by_q, by_alpha, None, None, None


def _reduced(sums: Tensor, shape: torch.Size) -> Tensor:
    """(images, tiles, ...) partial sums as the gradient of tables."""
    per_image = sums.sum(1)
    return (per_image if shape[0] > 1 else per_image.sum(0)).reshape(shape)


def _tables(pixels: Tensor, q: Tensor, alpha: Tensor, one: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    for name, value in (("q", q), ("alpha", alpha)):
        if value.shape not in ((1, *one), (len(pixels), *one)) or value.shape != q.shape:
            raise InvalidInputError(
                f"{name} has shape {(1, *one)}, or {(len(pixels), *one)} for tables per image, as q has; "
                f"got {tuple(value.shape)}"
            )
    return q.float().contiguous(), alpha.float().contiguous()


def _tiles(height: int, width: int) -> int:
    return -(-height * width // (64 * _BLOCKS))


def _launch() -> dict[str, Any]:
    # Ten bits of mantissa (plain TF32) would flip levels; three products of them keep float32's accuracy.
    precision = "tf32x3" if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0) else "ieee"
    return {"BLOCKS": _BLOCKS, "PRECISION": precision, "num_warps": _WARPS}


def _kernels() -> ModuleType:
    require("triton", extra="triton", purpose="the fused JPEG layer")
    from edgejpeg.learn import _triton_kernels

    return _triton_kernels


@lru_cache(maxsize=8)
def _matrix(device: torch.device) -> Tensor:
    """(64 pixels, 64 frequencies), both row-major: the DCT of both axes in one matrix."""
    both = np.einsum("uy,vx->yxuv", DCT_MATRIX, DCT_MATRIX).reshape(64, 64)
    return torch.tensor(both, dtype=torch.float32, device=device)
