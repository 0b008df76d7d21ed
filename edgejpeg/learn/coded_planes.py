"""An image as the encoder's integers code it, dequantised: one operator with gradients.

The values are K q with the levels K of a file: of the core's int16 arithmetic (:mod:`edgejpeg.learn.fixed_point`) or of
the float64 reference. The gradients pass straight through all rounding, as those of
:func:`~edgejpeg.learn.planes.encode_planes` and :func:`~edgejpeg.learn.quantizer.hard_quantize` do. Only the arguments
are kept for the backward pass, which computes the levels again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.fixed_point import (
    SCALES,
    float64_dct,
    float64_levels,
    frequency_major,
    int16_dct,
    int16_levels,
    planes_of,
    takes_int16,
)
from edgejpeg.learn.integers import integer_samples
from edgejpeg.learn.planes import chroma_factors, pad_to_mcus, transposed_encode
from edgejpeg.learn.quantizer import alphabet, check_positive

_CPU_PIECE = 1 << 18
"""Pixels of a piece: what is temporary stays in a processor's caches."""
_DEVICE_PIECE = 1 << 26


def code_planes(
    rgb: Tensor,
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    *,
    int16: bool = True,
    thresholds: Tensor | None = None,
    bits: int = 11,
    clip: bool = True,
) -> tuple[Tensor, Tensor]:
    """Dequantised coefficients K q of an image, with the levels K that an encoder writes into a file.

    Args:
        rgb: ``(N, 3, H, W)`` float32 or float64, R, G, B in 0..255, no NaN; rounded and clamped to integers.
        luma, chroma: steps, ``(8, 8)`` or ``(N, 8, 8)``, row-major, positive. An encoder's are integers of 1..255.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        int16: the core's arithmetic, the same on all processors: its int16 DCT, or for tables that are too fine for it
            (by the core's own rule, for each pair of tables) the float64 one. False for float64 always, which is
            :mod:`edgejpeg.jpeg.reference`.
        thresholds: of a dead zone, ``(2, 8, 8)`` float64, luma and chroma, as
            :func:`edgejpeg.jpeg.tables.dead_zone_thresholds` has them.
        bits, clip: of the levels' alphabet, as in :func:`~edgejpeg.learn.quantizer.hard_quantize`.

    Returns:
        Planes of luma and chroma as :func:`~edgejpeg.learn.planes.encode_planes` gives them, in the dtype of ``rgb``.
        Gradients: 1 for the coefficients, K - C / q for a step; 0 and K beyond the alphabet.
    """
    factors = chroma_factors(subsampling)
    last = alphabet(bits) if clip else 0
    zone = rgb.new_empty(0) if thresholds is None else thresholds
    if torch.onnx.is_in_onnx_export():
        coded = [planes.value(rgb.dtype) for planes in _coded(rgb, luma, chroma, zone, factors, last, int16)]
        return coded[0], coded[1]
    first, second = _code_op(rgb, luma, chroma, zone, *factors, last, int16)
    return first, second


@dataclass(frozen=True)
class _Planes:
    """One table's part of an image, frequency-major, and the shape of its planes."""

    coefficients: Tensor
    levels: Tensor
    steps: Tensor
    shape: Sequence[int]

    def value(self, dtype: torch.dtype) -> Tensor:
        """K q, as planes."""
        return planes_of((self.levels * frequency_major(self.steps.to(torch.float64))).to(dtype), self.shape)

    def gradients(self, grad: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """What arrives at the coefficients, as planes, and at the steps, of every image."""
        ratios = self.coefficients / frequency_major(self.steps.to(torch.float64))
        by_step = self.levels - ratios
        by_coefficient = frequency_major(grad.flatten(1, -2))
        weighted = by_coefficient * by_step
        if last:
            beyond = ratios.abs() > last + 0.5
            weighted = torch.where(beyond, by_coefficient * self.levels, weighted)
            by_coefficient = torch.where(beyond, 0.0, by_coefficient)
        return planes_of(by_coefficient, self.shape), weighted.sum(3).permute(2, 1, 0)


def _coded(
    rgb: Tensor, luma: Tensor, chroma: Tensor, zone: Tensor, factors: tuple[int, int], last: int, int16: bool
) -> Iterator[_Planes]:
    """Luma, then chroma."""
    exporting = torch.onnx.is_in_onnx_export()
    tables = [steps.detach().reshape(-1, 8, 8) for steps in (luma, chroma)]
    # Which arithmetic depends on the tables, and may be another for each image. A traced graph holds both.
    chosen = takes_int16(tables[0], tables[1], factors) if int16 else None
    needs_int16 = chosen is not None and (exporting or bool(chosen.any()))
    needs_float64 = not needs_int16 or exporting or (chosen is not None and not bool(chosen.all()))
    samples = integer_samples(pad_to_mcus(rgb, factors), *factors, torch.float64 if exporting else torch.int32)
    for index, (planes, steps) in enumerate(zip(samples, tables, strict=True)):
        thresholds = zone[index].to(torch.float64) if zone.numel() else None
        tall = planes.flatten(1, -2)
        results = []
        if needs_int16:
            core = int16_dct(tall)
            scales = torch.tensor(SCALES, dtype=torch.float64, device=rgb.device)[:, None, None, None]
            results.append((core / scales, int16_levels(core, steps, thresholds)))
        if needs_float64:
            exact = float64_dct(tall)
            results.append((exact, float64_levels(exact, steps, thresholds)))
        coefficients, levels = results[0]
        if len(results) == 2 and chosen is not None:
            coefficients, levels = (torch.where(chosen[:, None], a, b) for a, b in zip(*results, strict=True))
        yield _Planes(coefficients, levels.clamp(-last, last) if last else levels, steps, planes.shape)


@torch.library.custom_op("edgejpeg::code_planes", mutates_args=())
def _code_op(
    rgb: Tensor, luma: Tensor, chroma: Tensor, zone: Tensor, vertical: int, horizontal: int, last: int, int16: bool
) -> tuple[Tensor, Tensor]:
    for steps, name in ((luma, "luma"), (chroma, "chroma")):
        check_positive(steps, f"the {name} table's step")
    if rgb.numel() and bool(rgb.amax().isnan()):
        where = tuple(rgb.isnan().nonzero()[0].tolist())
        raise InvalidInputError(f"the encoder's integers cannot hold NaN; got one in the image at index {where}")
    parts: list[list[Tensor]] = [[], []]
    for piece in _pieces(rgb):
        tables = (_of_piece(luma, piece), _of_piece(chroma, piece))
        for part, planes in zip(
            parts, _coded(rgb[piece], *tables, zone, (vertical, horizontal), last, int16), strict=True
        ):
            part.append(planes.value(rgb.dtype))
    return torch.cat(parts[0]), torch.cat(parts[1])


@_code_op.register_fake
def _(
    rgb: Tensor, luma: Tensor, chroma: Tensor, zone: Tensor, vertical: int, horizontal: int, last: int, int16: bool
) -> tuple[Tensor, Tensor]:
    count, _, height, width = rgb.shape
    rows, columns = -(-height // (8 * vertical)) * 8, -(-width // (8 * horizontal)) * 8
    return rgb.new_empty(count, rows * vertical, columns * horizontal), rgb.new_empty(count, 2, rows, columns)


@torch.library.custom_op("edgejpeg::code_planes_backward", mutates_args=())
def _code_backward_op(
    grad_luma: Tensor,
    grad_chroma: Tensor,
    rgb: Tensor,
    luma: Tensor,
    chroma: Tensor,
    zone: Tensor,
    vertical: int,
    horizontal: int,
    last: int,
    int16: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size = (rgb.shape[-2], rgb.shape[-1])
    by_rgb, by_tables = (
        torch.empty_like(rgb, memory_format=torch.contiguous_format),
        [torch.zeros(steps.shape, dtype=torch.float64, device=rgb.device) for steps in (luma, chroma)],
    )
    for piece in _pieces(rgb):
        tables = (_of_piece(luma, piece), _of_piece(chroma, piece))
        arrived = []
        coded = _coded(rgb[piece], *tables, zone, (vertical, horizontal), last, int16)
        for index, (planes, grad) in enumerate(zip(coded, (grad_luma[piece], grad_chroma[piece]), strict=True)):
            by_planes, by_steps = planes.gradients(grad, last)
            arrived.append(by_planes)
            total = _of_piece(by_tables[index], piece)
            total += by_steps if total.ndim == 3 else by_steps.sum(0)
        by_rgb[piece] = transposed_encode(arrived[0], arrived[1], size, vertical, horizontal)
    return by_rgb, by_tables[0].to(luma.dtype), by_tables[1].to(chroma.dtype)


@_code_backward_op.register_fake
def _(
    grad_luma: Tensor,
    grad_chroma: Tensor,
    rgb: Tensor,
    luma: Tensor,
    chroma: Tensor,
    zone: Tensor,
    vertical: int,
    horizontal: int,
    last: int,
    int16: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return rgb.new_empty(rgb.shape), torch.empty_like(luma), torch.empty_like(chroma)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, luma: Tensor, chroma: Tensor) -> tuple[Tensor | None, ...]:
    return *_code_backward_op(luma, chroma, *ctx.saved_tensors, *ctx.options), None, None, None, None, None


_code_op.register_autograd(_backward, setup_context=_context)


def _pieces(rgb: Tensor) -> list[slice]:
    """Cuts between images; at least one, for an empty batch too."""
    limit = _CPU_PIECE if rgb.device.type == "cpu" else _DEVICE_PIECE
    step = max(1, limit // (rgb.shape[2] * rgb.shape[3]))
    return [slice(start, start + step) for start in range(0, max(rgb.shape[0], 1), step)]


def _of_piece(table: Tensor, piece: slice) -> Tensor:
    """One table for all images, or those of a piece."""
    return table[piece] if table.ndim == 3 else table
