"""The linear halves of a JPEG codec in torch, fast on large batches: RGB to DCT coefficients, and back to RGB.

Coefficients lie in *planes*, where the samples lay: position (8 i + u, 8 j + v) holds the frequency (u, v) of the
block (i, j). So a block transform is two matrix products, one over the rows and one over the columns of all blocks, and
nothing is moved. The averaging of chroma and most of its interpolation are inside those matrices; only the seams
between blocks, which the decoder's "fancy" upsampling blends, need another step.

Both maps keep nothing for their backward passes, which apply the transposed maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import RGB_TO_YCBCR, SUBSAMPLINGS, YCBCR_TO_RGB
from edgejpeg.jpeg.dct import DCT_MATRIX
from edgejpeg.learn.integers import decode_integers, integer_samples, ordered_dct

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


def encode_planes(rgb: Tensor, subsampling: str, *, rounding: bool = False) -> tuple[Tensor, Tensor]:
    """DCT coefficients of an image, at the scale of a JPEG file (DC = 8 x mean).

    The image is padded to whole MCUs by replication, and chroma is averaged over its cell, as an encoder does.

    Args:
        rgb: ``(N, 3, H, W)`` float32 or float64, R, G, B in 0..255.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        rounding: round pixels and samples to the integers that an encoder codes, and compute as the reference encoder
            does, to the bit, in float64; the gradient passes straight through.

    Returns:
        Luma ``(N, H', W')`` and chroma, Cb and Cr, ``(N, 2, H' / v, W' / h)``; H', W' in whole MCUs of v x h blocks.
    """
    vertical, horizontal = chroma_factors(subsampling)
    if torch.onnx.is_in_onnx_export():
        return _encode(rgb, vertical, horizontal, rounding)
    luma, chroma = _encode_op(rgb, vertical, horizontal, rounding)
    return luma, chroma


def decode_planes(
    luma: Tensor, chroma: Tensor, size: tuple[int, int], subsampling: str, *, fancy: bool = True, rounding: bool = False
) -> Tensor:
    """The image of planes of coefficients; what was padded is cropped.

    Args:
        luma, chroma: as :func:`encode_planes` gives them.
        size: (height, width) of the image.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        fancy: interpolate chroma with the weights 3/4 and 1/4, as libjpeg's decoder does when not told otherwise;
            False replicates it. As in the decoder, planes of at most two columns are always replicated.
        rounding: the integers of libjpeg-turbo's decoder, bit for bit where the coefficients are integers, clamped to
            0..255; the gradient passes straight through. Otherwise nothing is rounded or clamped.

    Returns:
        ``(N, 3, H, W)`` R, G, B.
    """
    factors = chroma_factors(subsampling)
    smooth = fancy and not (factors[1] > 1 and -(-size[1] // factors[1]) <= 2)
    if torch.onnx.is_in_onnx_export():
        return _decode(luma, chroma, size, factors, smooth, rounding)
    return _decode_op(luma, chroma, *size, *factors, smooth, rounding)


# --- the operators ---
# They are registered, so that torch.compile and torch.export see one node each.


@torch.library.custom_op("edgejpeg::encode_planes", mutates_args=())
def _encode_op(rgb: Tensor, vertical: int, horizontal: int, rounding: bool) -> tuple[Tensor, Tensor]:
    with torch.autocast(rgb.device.type, enabled=False):
        return _encode(rgb, vertical, horizontal, rounding)


@_encode_op.register_fake
def _(rgb: Tensor, vertical: int, horizontal: int, rounding: bool) -> tuple[Tensor, Tensor]:
    count, _, height, width = rgb.shape
    rows, columns = -(-height // (8 * vertical)) * 8, -(-width // (8 * horizontal)) * 8
    dtype = torch.float64 if rounding else rgb.dtype
    luma = rgb.new_empty(count, rows * vertical, columns * horizontal, dtype=dtype)
    return luma, rgb.new_empty(count, 2, rows, columns, dtype=dtype)


@torch.library.custom_op("edgejpeg::encode_planes_backward", mutates_args=())
def _encode_backward_op(
    luma: Tensor, chroma: Tensor, height: int, width: int, vertical: int, horizontal: int
) -> Tensor:
    with torch.autocast(luma.device.type, enabled=False):
        return transposed_encode(luma, chroma, (height, width), vertical, horizontal)


@_encode_backward_op.register_fake
def _(luma: Tensor, chroma: Tensor, height: int, width: int, vertical: int, horizontal: int) -> Tensor:
    return luma.new_empty(luma.shape[0], 3, height, width)


@torch.library.custom_op("edgejpeg::decode_planes", mutates_args=())
def _decode_op(
    luma: Tensor,
    chroma: Tensor,
    height: int,
    width: int,
    vertical: int,
    horizontal: int,
    smooth: bool,
    rounding: bool,
) -> Tensor:
    with torch.autocast(luma.device.type, enabled=False):
        return _decode(luma, chroma, (height, width), (vertical, horizontal), smooth, rounding)


@_decode_op.register_fake
def _(
    luma: Tensor,
    chroma: Tensor,
    height: int,
    width: int,
    vertical: int,
    horizontal: int,
    smooth: bool,
    rounding: bool,
) -> Tensor:
    return luma.new_empty(luma.shape[0], 3, height, width)


@torch.library.custom_op("edgejpeg::decode_planes_backward", mutates_args=())
def _decode_backward_op(rgb: Tensor, vertical: int, horizontal: int, smooth: bool) -> tuple[Tensor, Tensor]:
    with torch.autocast(rgb.device.type, enabled=False):
        return _decode_transposed(rgb, (vertical, horizontal), smooth)


@_decode_backward_op.register_fake
def _(rgb: Tensor, vertical: int, horizontal: int, smooth: bool) -> tuple[Tensor, Tensor]:
    luma, chroma = _encode_op(rgb, vertical, horizontal, False)
    return luma, chroma


def _encode_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rgb, vertical, horizontal, _ = inputs
    ctx.dtype, ctx.options = rgb.dtype, (*rgb.shape[-2:], vertical, horizontal)


def _encode_backward(ctx: Any, luma: Tensor, chroma: Tensor) -> tuple[Tensor | None, ...]:
    return _encode_backward_op(luma, chroma, *ctx.options).to(ctx.dtype), None, None, None


def _decode_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.options = inputs[4:7]


def _decode_backward(ctx: Any, rgb: Tensor) -> tuple[Tensor | None, ...]:
    return *_decode_backward_op(rgb, *ctx.options), None, None, None, None, None, None


_encode_op.register_autograd(_encode_backward, setup_context=_encode_context)
_decode_op.register_autograd(_decode_backward, setup_context=_decode_context)


# --- RGB to coefficients ---


def pad_to_mcus(rgb: Tensor, factors: tuple[int, int]) -> Tensor:
    """``(N, 3, H, W)``, padded by replication to whole MCUs of ``factors`` blocks."""
    below, right = -rgb.shape[-2] % (8 * factors[0]), -rgb.shape[-1] % (8 * factors[1])
    return F.pad(rgb, (0, right, 0, below), mode="replicate") if below or right else rgb


def _encode(rgb: Tensor, vertical: int, horizontal: int, rounding: bool) -> tuple[Tensor, Tensor]:
    padded = pad_to_mcus(rgb, (vertical, horizontal))
    dct = _constant(DCT_MATRIX, rgb)
    if rounding:
        luma, chroma = integer_samples(padded, vertical, horizontal)
        return ordered_dct(luma), ordered_dct(chroma.flatten(0, 1)).view_as(chroma)
    red, green, blue = padded.unbind(1)
    weights = RGB_TO_YCBCR[0].tolist()
    luma = (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])
    columns = _constant(DCT_MATRIX @ _averaging(horizontal), rgb)
    # Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402
    differences = ((blue - luma, YCBCR_TO_RGB[2, 1]), (red - luma, YCBCR_TO_RGB[0, 2]))
    rows = DCT_MATRIX @ _averaging(vertical)
    chroma = torch.stack([transform_blocks(d, _constant(rows / span, rgb), columns) for d, span in differences], dim=1)
    return transform_blocks(luma.sub_(_LEVEL_SHIFT), dct, dct), chroma


def transposed_encode(luma: Tensor, chroma: Tensor, size: tuple[int, int], vertical: int, horizontal: int) -> Tensor:
    """The transposed map of :func:`encode_planes` without rounding: what its backward pass gives for an image."""
    inverse = _constant(DCT_MATRIX.T, luma)
    rows = _constant((DCT_MATRIX @ _averaging(vertical)).T, luma)
    columns = _constant((DCT_MATRIX @ _averaging(horizontal)).T, luma)
    y = transform_blocks(luma, inverse, inverse)
    cb, cr = _pairs(transform_blocks(chroma.flatten(0, 1), rows, columns)).unbind(1)
    rgb = _mix((y, cb, cr), RGB_TO_YCBCR.T)
    height, width = size
    if rgb.shape[-2] > height:
        rgb[:, :, height - 1] += rgb[:, :, height:].sum(2)
    if rgb.shape[-1] > width:
        rgb[..., width - 1] += rgb[..., width:].sum(3)
    return rgb[:, :, :height, :width].contiguous()


def _averaging(factor: int) -> NDArray[np.float64]:
    """(8, 8 factor): the means of neighbours."""
    return np.kron(np.eye(8), np.full((1, factor), 1 / factor))


# --- coefficients to RGB ---


def _decode(
    luma: Tensor, chroma: Tensor, size: tuple[int, int], factors: tuple[int, int], smooth: bool, rounding: bool
) -> Tensor:
    height, width = size
    if rounding:
        return decode_integers(luma, chroma, size, factors, smooth)
    inverse = _constant(DCT_MATRIX.T, luma)
    y = transform_blocks(luma, inverse, inverse)[:, :height, :width] + _LEVEL_SHIFT
    rows, columns = (_interpolation(factor, smooth, luma) for factor in factors)
    planes = chroma.flatten(0, 1)
    middle = _block_rows(planes, rows)
    if smooth and factors[0] == 2:
        _blend_seams(middle.transpose(1, 2))
        _set_last(middle.transpose(1, 2), planes.transpose(1, 2), height)
    upsampled = _block_columns(middle, columns)
    if smooth and factors[1] == 2:
        _blend_seams(upsampled)
        _set_last(upsampled, middle, width)
    cb, cr = _pairs(upsampled)[..., :height, :width].unbind(1)
    return _mix((y, cb, cr), YCBCR_TO_RGB)


def _decode_transposed(rgb: Tensor, factors: tuple[int, int], smooth: bool) -> tuple[Tensor, Tensor]:
    height, width = rgb.shape[-2:]
    below, right = -height % (8 * factors[0]), -width % (8 * factors[1])
    if below or right:
        rgb = F.pad(rgb, (0, right, 0, below))
    mixed = _mix(rgb.unbind(1), YCBCR_TO_RGB.T)
    dct = _constant(DCT_MATRIX, rgb)
    luma = transform_blocks(mixed[:, 0], dct, dct)
    rows, columns = (_interpolation(factor, smooth, rgb).T for factor in factors)
    chroma = mixed[:, 1:].flatten(0, 1)
    last = _take_last(chroma, width) if smooth and factors[1] == 2 else None
    if smooth and factors[1] == 2:
        _blend_seams(chroma)
    middle = _block_columns(chroma, columns)
    if last is not None:
        _add_last(middle, last, width)
    last = _take_last(middle.transpose(1, 2), height) if smooth and factors[0] == 2 else None
    if smooth and factors[0] == 2:
        _blend_seams(middle.transpose(1, 2))
    coefficients = _block_rows(middle, rows)
    if last is not None:
        _add_last(coefficients.transpose(1, 2), last, height)
    return luma, _pairs(coefficients)


def _interpolation(factor: int, smooth: bool, like: Tensor) -> Tensor:
    """(8 factor, 8): the inverse DCT and the upsampling of a block, its first and last samples continued."""
    samples = np.repeat(np.eye(8), factor, axis=0)
    if smooth and factor == 2:
        before, after = np.eye(8)[[0, *range(7)]], np.eye(8)[[*range(1, 8), 7]]
        samples[0::2] = 0.75 * np.eye(8) + 0.25 * before
        samples[1::2] = 0.75 * np.eye(8) + 0.25 * after
    return _constant(samples @ DCT_MATRIX.T, like)


def _blend_seams(planes: Tensor) -> None:
    """Blend the samples on both sides of each seam between blocks of 16 columns; the map is its own transpose."""
    left, right = planes[..., 15:-1:16], planes[..., 16::16]
    difference = (right - left) * 0.25
    left.add_(difference)
    right.sub_(difference)


def _last_sample(length: int) -> tuple[int, slice, NDArray[np.float64]] | None:
    """Where the upsampled axis ends inside a block: its last index, the block's coefficients, their weights.

    A decoder continues the last real chroma sample, not what lies in the padding.
    """
    if length % 2 or length % 16 == 0:
        return None
    block, sample = divmod(length // 2 - 1, 8)
    return length - 1, slice(8 * block, 8 * block + 8), DCT_MATRIX[:, sample]


def _set_last(upsampled: Tensor, coefficients: Tensor, length: int) -> None:
    found = _last_sample(length)
    if found is not None:
        index, block, weights = found
        upsampled[..., index] = coefficients[..., block] @ _constant(weights, upsampled)


def _take_last(gradient: Tensor, length: int) -> Tensor | None:
    found = _last_sample(length)
    if found is None:
        return None
    taken = gradient[..., found[0]].clone()
    gradient[..., found[0]] = 0
    return taken


def _add_last(gradient: Tensor, taken: Tensor, length: int) -> None:
    found = _last_sample(length)
    assert found is not None
    gradient[..., found[1]] += taken[..., None] * _constant(found[2], gradient)


# --- what both have in common ---


def transform_blocks(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ block @ columns.T`` for every block of ``(n, H, W)`` planes; the result has the blocks' new sizes."""
    return _block_columns(_block_rows(planes, rows), columns)


def _block_rows(planes: Tensor, matrix: Tensor) -> Tensor:
    count, height, width = planes.shape
    after, before = matrix.shape
    blocks = height // before
    return (matrix @ planes.reshape(count * blocks, before, width)).view(count, blocks * after, width)


def _block_columns(planes: Tensor, matrix: Tensor) -> Tensor:
    count, height, width = planes.shape
    after, before = matrix.shape
    blocks = width // before
    pairs = 2 if blocks % 2 == 0 else 1
    if pairs == 2:
        # Two blocks at a time make half as many rows, of a shape that matrix libraries like better.
        matrix = torch.block_diag(matrix, matrix)  # type: ignore[no-untyped-call]
    rows = planes.reshape(count * height * blocks // pairs, before * pairs)
    return (rows @ matrix.T).view(count, height, blocks * after)


def _pairs(planes: Tensor) -> Tensor:
    """``(2 N, H, W)`` to ``(N, 2, H, W)``."""
    return planes.reshape(planes.shape[0] // 2, 2, *planes.shape[1:])


def _mix(planes: Sequence[Tensor], matrix: NDArray[np.float64]) -> Tensor:
    """``(N, 3, H, W)``: three sums of three ``(N, H, W)`` planes, with the weights of a row each."""
    sums = []
    for row in matrix.tolist():
        terms = [(plane, weight) for plane, weight in zip(planes, row, strict=True) if weight]
        total = terms[0][0] if terms[0][1] == 1 else terms[0][0] * terms[0][1]
        for index, (plane, weight) in enumerate(terms[1:]):
            fresh = index or terms[0][1] != 1
            total = total.add_(plane, alpha=weight) if fresh else torch.add(total, plane, alpha=weight)
        sums.append(total)
    return torch.stack(sums, dim=1)


_CONSTANTS: dict[tuple[bytes, torch.dtype, torch.device], Tensor] = {}


def _constant(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """An array as a tensor of another's dtype and device, made once."""
    if type(like) not in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        # A traced tensor stands for others and must not be kept.
        return torch.tensor(values.tolist(), dtype=like.dtype, device=like.device)
    key = (values.tobytes() + bytes(values.shape), like.dtype, like.device)
    if key not in _CONSTANTS:
        with torch.inference_mode(False):
            _CONSTANTS[key] = torch.tensor(values, dtype=like.dtype, device=like.device)
    return _CONSTANTS[key]
