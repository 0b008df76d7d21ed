"""The soft quantizer Q_d of JPEG-DL, exact in constant memory, and the uniform quantizer Q_u, straight-through.

[JPEG-DL] is Salamah, Zheng, Liu, Yang, "JPEG inspired deep learning". With c = z / q and the hardness h = alpha q^2,

    Q_d(z) = q E,   E = sum_i i P(i),   P(i) = softmax_i(-h (c - i)^2),   i = -L .. L,   L = 2^(bits - 1)   [eq. 5-7]

depends on c and h alone. The 2 L + 1 levels never exist in memory: each coefficient takes the few that have weight, or
for small h the Poisson dual of the sum (see :mod:`edgejpeg.learn.softmax`), and the backward pass computes them again
from z, q and alpha, the only tensors that are kept. Work goes piece by piece, so that what is temporary stays small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.softmax import Kernel, exported_expectation

MIN_BITS, MAX_BITS = 3, 16

_CPU_PIECE = 1 << 16
"""Coefficients of a piece: its temporaries stay in a processor's second cache."""
_DEVICE_PIECE = 1 << 25


def soft_quantize(
    z: Tensor,
    q: Tensor | float,
    alpha: Tensor | float,
    *,
    bits: int = 8,
    window: Literal["exact", 5] = "exact",
    clip: bool = True,
) -> Tensor:
    """Q_d(z) [JPEG-DL eq. 5-7], with gradients to z, q and alpha [A.1]; second derivatives are not defined.

    Memory: z, q and alpha are kept for the backward pass, and nothing else, whatever ``bits`` is. Where the alphabet's
    ends matter, time grows as 1 / sqrt(h); elsewhere it does not depend on h.

    Args:
        z: DCT coefficients, any shape, float32 or float64. float16 and bfloat16, which cannot hold a coefficient of
            1000 to less than .5 and 4, are computed and returned as float32.
        q: steps, positive and finite, broadcast against z.
        alpha: inverse temperature, positive and finite, in 1 / (units of z)^2, broadcast against z.
        bits: the alphabet is -L .. L with L = 2^(bits - 1); 3 to 16.
        window: ``"exact"``, or 5 for the authors' released code: always the five levels around round(z / q), kept
            inside -(L - 1) .. L - 1, whatever h is. For h < 2.5 that truncation makes a ripple that Q_d does not have.
        clip: False for an alphabet without ends.

    Returns:
        Of z's shape.

    Raises:
        InvalidInputError: an integer tensor, shapes that do not broadcast, a q or alpha that is not positive and finite
            (with its index), ``bits`` or ``window`` outside what is allowed.
    """
    if window not in ("exact", 5) or isinstance(window, bool):
        raise InvalidInputError(f"window is 'exact' or 5 (the authors' five levels); got {window!r}")
    levels = alphabet(bits)
    z, q, alpha = _operands(z, q, alpha)
    if torch.onnx.is_in_onnx_export():
        return _exported(z, q, alpha, levels, window == 5, clip)
    return _quantize_op(z, q, alpha, levels, str(window), clip)


def hard_quantize(z: Tensor, q: Tensor | float, *, bits: int = 8, clip: bool = True) -> Tensor:
    """Q_u(z) = q round(z / q), halves away from zero as in a JPEG encoder, with straight-through gradients.

    dQ_u/dz is taken as 1 and dQ_u/dq as round(c) - c, c = z / q (the limit of Q_d's own r = E - c); beyond the alphabet
    they are 0 and the last level.

    Args, Returns, Raises:
        As in :func:`soft_quantize`.
    """
    levels = alphabet(bits)
    z, q, _ = _operands(z, q, 1.0)
    if torch.onnx.is_in_onnx_export():
        scaled = z / q
        nearest = torch.sign(scaled) * torch.floor(torch.abs(scaled) + 0.5)
        return q * (nearest.clamp(-levels, levels) if clip else nearest)
    return _quantize_op(z, q, q.detach(), levels, "hard", clip)


def annealed_hardness(progress: float, start: float = 1.0, end: float = 100.0) -> float:
    """The hardness h at a point of training, from soft to hard on a geometric path: start (end / start)^progress.

    At a distance of d steps from a rounding threshold |Q_d - Q_u| is about q / (1 + exp(2 h d)) from h = 5 on.

    Args:
        progress: 0 (begin) to 1 (end), for example step / steps.
        start, end: positive and finite.

    Raises:
        InvalidInputError: outside what is allowed.
    """
    if not 0 <= progress <= 1:
        raise InvalidInputError(f"the progress of training is 0 (begin) to 1 (end); got {progress!r}")
    for name, value in (("start", start), ("end", end)):
        check_hardness(value, f"the hardness at the {name}")
    return float(start * (end / start) ** progress)


def check_hardness(value: float, name: str = "the hardness h = alpha q^2") -> float:
    """``value`` as a float, or :class:`~edgejpeg.errors.InvalidInputError` unless it is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidInputError(f"{name} is a positive, finite number; got {value!r}")
    return float(value)


def check_positive(values: Tensor, name: str) -> None:
    """Raise InvalidInputError with the index of the first entry that is not positive and finite."""
    wrong = ~((values > 0) & torch.isfinite(values))
    if wrong.any():
        first = wrong.nonzero()[0].tolist()
        index = [i for i, size in zip(first, wrong.shape, strict=True) if size > 1]
        where = f" at index {index[0] if len(index) == 1 else tuple(index)}" if index else ""
        raise InvalidInputError(f"{name} is positive and finite; got {float(values[tuple(first)])}{where}")


def alphabet(bits: int) -> int:
    """L, the last level of an alphabet of so many bits, or :class:`~edgejpeg.errors.InvalidInputError`."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise InvalidInputError(f"the alphabet has {MIN_BITS} to {MAX_BITS} bits; got {bits!r}")
    return int(2 ** (bits - 1))


def _operands(z: Tensor, q: Tensor | float, alpha: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """z, q, alpha in one floating dtype, at least float32, q and alpha with as many dimensions as z."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        kind = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise InvalidInputError(f"the quantizer takes a floating-point tensor; got {kind}: convert it with .float()")
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    others = []
    for name, value in (("q", q), ("alpha", alpha)):
        tensor = torch.as_tensor(value, device=z.device)
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise InvalidInputError(f"{name} is real; got {tensor.dtype}")
        tensor = tensor.to(dtype)
        fits = tensor.ndim <= z.ndim and all(
            a in (1, b) for a, b in zip(reversed(tensor.shape), reversed(z.shape), strict=False)
        )
        if not fits:
            raise InvalidInputError(
                f"{name} broadcasts against the coefficients' shape {tuple(z.shape)}; got {tuple(tensor.shape)}"
            )
        others.append(tensor.reshape((1,) * (z.ndim - tensor.ndim) + tensor.shape))
    return z.to(dtype), others[0], others[1]


def _exported(z: Tensor, q: Tensor, alpha: Tensor, levels: int, authors: bool, clip: bool) -> Tensor:
    """Standard operators alone, for ONNX. The alphabet's ends are those of the clip, not of the sum."""
    last = levels - 1 if authors else levels
    scaled = (z / q).clamp(-last, last) if clip else z / q
    return q * exported_expectation(scaled, alpha * q * q, authors)


# --- the operators ---
# They are registered, so that torch.compile and torch.export see one node each and the choice of a branch by the
# values of h, which they could not trace, stays inside.


@torch.library.custom_op("edgejpeg::quantize", mutates_args=())
def _quantize_op(z: Tensor, q: Tensor, alpha: Tensor, levels: int, kind: str, clip: bool) -> Tensor:
    check_positive(q, "the quantizer's step q")
    check_positive(alpha, "the quantizer's alpha")
    result = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    for index in _pieces(z):
        kernel = Kernel(z[index], _at(q, index), _at(alpha, index), levels, kind, clip)
        torch.mul(kernel.expectation(), kernel.q, out=result[index])
    return result


@_quantize_op.register_fake
def _(z: Tensor, q: Tensor, alpha: Tensor, levels: int, kind: str, clip: bool) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


@torch.library.custom_op("edgejpeg::quantize_backward", mutates_args=())
def _quantize_backward_op(
    grad: Tensor, z: Tensor, q: Tensor, alpha: Tensor, levels: int, kind: str, clip: bool, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    grad_z, grad_q, grad_alpha = _gradients(z, q, alpha, needs)
    for index in _pieces(z):
        kernel = Kernel(z[index], _at(q, index), _at(alpha, index), levels, kind, clip)
        incoming = grad[index]
        slopes = kernel.slopes()
        if needs[0]:
            torch.mul(incoming, slopes.z, out=grad_z[index])
        if needs[1]:
            _at(grad_q, index).add_((incoming * slopes.q).sum_to_size(kernel.q.shape))
        if needs[2]:
            # dQ/dalpha = q^3 dE/dh
            _at(grad_alpha, index).add_((incoming * slopes.hardness * kernel.q**3).sum_to_size(kernel.alpha.shape))
    return grad_z, grad_q, grad_alpha


@_quantize_backward_op.register_fake
def _(
    grad: Tensor, z: Tensor, q: Tensor, alpha: Tensor, levels: int, kind: str, clip: bool, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(z, q, alpha, needs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, q, alpha, ctx.levels, ctx.kind, ctx.clip = inputs
    ctx.save_for_backward(z, q, alpha)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    gradients = _quantize_backward_op(grad, *ctx.saved_tensors, ctx.levels, ctx.kind, ctx.clip, needs)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), None, None, None


_quantize_op.register_autograd(_backward, setup_context=_setup_context)


def _gradients(z: Tensor, q: Tensor, alpha: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    grad_z = torch.empty(z.shape if needs[0] else 0, dtype=z.dtype, device=z.device)
    grad_q, grad_alpha = (
        torch.zeros(like.shape if need else 0, dtype=z.dtype, device=z.device)
        for like, need in ((q, needs[1]), (alpha, needs[2]))
    )
    return grad_z, grad_q, grad_alpha


def _pieces(z: Tensor) -> Iterator[tuple[slice, ...]]:
    return _slices(tuple(z.shape), _CPU_PIECE if z.device.type == "cpu" else _DEVICE_PIECE)


def _slices(shape: tuple[int, ...], limit: int) -> Iterator[tuple[slice, ...]]:
    """Indices that cut a tensor into pieces of at most ``limit`` elements."""
    if math.prod(shape) <= limit:
        yield ()
        return
    row = math.prod(shape[1:])
    count = max(1, limit // row)
    for start in range(0, shape[0], count):
        head = slice(start, start + count)
        for tail in _slices(shape[1:], limit) if row > limit else [()]:
            yield head, *tail


def _at(values: Tensor, index: tuple[slice, ...]) -> Tensor:
    """The part of a broadcast operand that belongs to a piece."""
    return values[tuple(slice(None) if size == 1 else part for size, part in zip(values.shape, index, strict=False))]
