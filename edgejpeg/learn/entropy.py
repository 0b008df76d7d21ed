"""A differentiable estimate of a JPEG file's size from its quantization levels: the rate term of learned tables.

The value is counted, not modelled: the levels are rounded as the encoder rounds them, put in scan order, and turned
into the symbols of baseline JPEG [ITU-T T.81, F.1.2] (categories of DC differences, run and size of AC levels, ends of
blocks); the symbols are weighed by code lengths, those of stored tables or of tables made for the image, and
value bits and headers are added. What is estimated is the byte stuffing alone, by its mean over natural images.

The gradient is that of the expected number of bits when the places at which a level jumps are smeared out. A
coefficient near the zeroing threshold t pays, per unit of |C| / q, what a level of 1 costs at its place in the block's
run of zeros, weighted with a box of width 2 w around t; a larger level pays what the next size category costs, spread
over an octave of |C| / q + 1/2; a DC difference likewise. Costs that would be negative (a level that splits an
expensive run) count as 0, so that no derivative by an AC step q is positive.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.colour import check_subsampling
from edgejpeg.jpeg.huffman import HuffmanTable
from edgejpeg.jpeg.huffman_sets import STORED_TABLES
from edgejpeg.jpeg.zigzag import ZIGZAG

KERNEL_HALF_WIDTH = 0.125
"""w, in units of the step: how far from its threshold a coefficient still feels it."""

_END_OF_BLOCK, _SIXTEEN_ZEROS = 0x00, 0xF0
_LARGEST_SIZE = 10  # of an AC level in baseline JPEG: magnitudes up to 1023
_HEADER = {1: 120, 3: 193}  # bytes of all segments but DHT, by components
_DHT = 21  # bytes of a Huffman table's segment without its symbols
_ALL_SIZES = (11, 10)  # value bits of DC differences and AC levels
_STUFFING = 1.0039  # bytes of a scan over those before 0x00 is put behind 0xFF

Choices = tuple[Sequence[HuffmanTable], Sequence[HuffmanTable]]
"""DC and AC tables among which an encoder chooses for an image."""

STORED_CHOICES: tuple[Choices, Choices] = (
    (STORED_TABLES[0, 0], STORED_TABLES[1, 0]),
    (STORED_TABLES[0, 1], STORED_TABLES[1, 1]),
)
"""For luma and chroma those of the encoder at effort 0."""


def file_bytes(
    levels: Sequence[Tensor],
    size: tuple[int, int],
    subsampling: str = "420",
    *,
    thresholds: Sequence[Tensor] | None = None,
    effort: int = 1,
    stored: Sequence[Choices] = STORED_CHOICES,
    steps: Sequence[Tensor] | None = None,
) -> Tensor:
    """The size of each image's file in bytes, differentiable in the levels and in the thresholds.

    Args:
        levels: Y, Cb and Cr (Y alone for ``"gray"``), each ``(N, rows, columns, 8, 8)`` float, row-major: coefficients
            over steps, C / q, not rounded yet (then the gradient reaches q), or the output of a soft quantiser over q.
            Blocks that merely complete an MCU may be there; they do not count.
        size: (height, width) of the images.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        thresholds: for luma and chroma, ``(8, 8)`` float, .5 to 1: |level| below it becomes 0 (see
            :class:`~edgejpeg.profile.DeadZone`; DC is always rounded). None is plain rounding.
        effort: 0 for stored Huffman tables, 1 for tables made for each file.
        stored: for luma and chroma the tables that are stored; of several, each image takes the cheapest.
        steps: for luma and chroma, ``(8, 8)``: of the stored tables the encoder writes the symbols that levels can have
            with these steps. None counts all symbols, up to 250 bytes more.

    Returns:
        ``(N,)``, of the dtype of the levels. No derivative by an AC magnitude is negative, by a threshold positive.

    Raises:
        InvalidInputError: another number of components, shapes that do not fit the size, values that are not finite.
    """
    vertical, horizontal = check_subsampling(subsampling)
    components = 1 if subsampling == "gray" else 3
    if len(levels) != components:
        raise InvalidInputError(f"{subsampling} has {components} components; got levels of {len(levels)}")
    if effort not in (0, 1):
        raise InvalidInputError(f"effort is 0 (stored Huffman tables) or 1 (optimal ones); got {effort!r}")
    slots = min(components, 2)
    if thresholds is not None and (len(thresholds) < slots or any(t.shape != (8, 8) for t in thresholds)):
        raise InvalidInputError(
            f"{subsampling} has thresholds (8, 8) for {slots} tables; got shapes {[tuple(t.shape) for t in thresholds]}"
        )
    mcus = (-(-size[0] // (8 * vertical)), -(-size[1] // (8 * horizontal)))
    total: Tensor | None = None
    for slot in range(slots):
        mine = levels[:1] if slot == 0 else levels[1:]
        v, h = (vertical, horizontal) if slot == 0 else (1, 1)
        v_samples, h_samples = (1, 1) if slot == 0 else (vertical, horizontal)
        real = (-(-size[0] // (8 * v_samples)), -(-size[1] // (8 * h_samples)))
        scanned = [_in_scan_order(plane, real, mcus, (v, h)) for plane in mine]
        threshold = levels[0].new_full((64,), 0.5) if thresholds is None else thresholds[slot].reshape(64)[_zigzag()]
        padding = len(mine) * (mcus[0] * v * mcus[1] * h - real[0] * real[1])
        sizes = _ALL_SIZES if steps is None else huffman.largest_sizes(steps[slot].detach().cpu().numpy())
        bits: Tensor = _SlotBits.apply(  # type: ignore[no-untyped-call]
            torch.cat(scanned, dim=1), threshold, len(mine), padding, stored[slot] if effort == 0 else None, sizes
        )
        total = bits if total is None else total + bits
    assert total is not None
    return _HEADER[components] + _STUFFING * (total + 3.5) / 8


class _Symbols(NamedTuple):
    """The nonzero AC levels of a slot, in scan order: arrays of one entry each."""

    place: Tensor  # into (N * blocks * 64), zigzag
    frequency: Tensor
    image: Tensor
    size: Tensor
    previous: Tensor  # the frequency of the nonzero level before it in its block; 0 when there is none
    following: Tensor  # of the one behind it; 64 when there is none
    following_size: Tensor


class _SlotBits(torch.autograd.Function):
    """Bits of the components that share a pair of Huffman tables, with the tables' own."""

    @staticmethod
    def forward(
        ctx: Any,
        levels: Tensor,
        threshold: Tensor,
        components: int,
        padding: int,
        stored: Choices | None,
        largest: tuple[int, int],
    ) -> Tensor:
        images, blocks = levels.shape[:2]
        magnitudes = levels.abs()
        rounded = (magnitudes + 0.5).floor_()
        rounded[magnitudes < threshold] = 0
        differences = _differences(torch.copysign(rounded[..., 0], levels[..., 0]), components)
        ac = rounded.clamp_(max=2**_LARGEST_SIZE - 1)
        ac[..., 0] = 0
        symbols = _symbols(ac, blocks)
        ac_counts = _ac_counts(symbols, images, blocks, padding)
        dc_sizes = _sizes(differences.abs())
        dc_counts = _histogram(dc_sizes + 256 * torch.arange(images, device=levels.device)[:, None], images)
        dc_counts[:, 0] += padding
        dc_tables, ac_tables = stored or (None, None)
        bits = dc_sizes.sum(1, dtype=torch.float64)
        bits += torch.bincount(symbols.image, symbols.size.double(), minlength=images)
        for counts, tables, size in ((dc_counts, dc_tables, largest[0]), (ac_counts, ac_tables, largest[1])):
            bits += _code_bits(counts, tables, size)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            lengths = [_expected_lengths(dc_counts, dc_tables), _expected_lengths(ac_counts, ac_tables)]
            by_magnitude, by_threshold = _ac_gradient(magnitudes, threshold, ac, symbols, lengths[1])
            by_level = by_magnitude.mul_(levels.sign())
            by_level[..., 0] = _dc_gradient(levels[..., 0], components, lengths[0])
            ctx.save_for_backward(by_level, by_threshold)
        return bits.to(levels.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        by_level, by_threshold = ctx.saved_tensors
        return by_level * gradient[:, None, None], gradient @ by_threshold, None, None, None, None


def _in_scan_order(plane: Tensor, real: tuple[int, int], mcus: tuple[int, int], unit: tuple[int, int]) -> Tensor:
    """``(N, rows, columns, 8, 8)`` to ``(N, blocks, 64)``: the real blocks as the scan visits them, zigzag inside."""
    if plane.ndim != 5 or plane.shape[3:] != (8, 8) or plane.shape[1] < real[0] or plane.shape[2] < real[1]:
        raise InvalidInputError(
            f"levels have shape (N, rows, columns, 8, 8) with at least {real[0]} x {real[1]} blocks for this size; "
            f"got {tuple(plane.shape)}"
        )
    if not torch.isfinite(plane.detach()).all():
        raise InvalidInputError("levels hold NaN or infinity; quantization steps are at least 1")
    order = _scan_order(*real, *mcus, *unit)
    blocks = plane[:, : real[0], : real[1]].flatten(3).flatten(1, 2)
    if order is not None:
        blocks = blocks[:, torch.from_numpy(order).to(plane.device)]
    return blocks[..., _zigzag()]


@functools.lru_cache(maxsize=64)
def _scan_order(
    rows: int, columns: int, mcu_rows: int, mcu_columns: int, vertical: int, horizontal: int
) -> NDArray[np.intp] | None:
    """Raster indices of the real blocks in the order of the scan; None for the raster's own order."""
    if (vertical, horizontal) == (1, 1):
        return None
    grid = np.full((mcu_rows * vertical, mcu_columns * horizontal), -1, np.intp)
    grid[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    order = grid.reshape(mcu_rows, vertical, mcu_columns, horizontal).transpose(0, 2, 1, 3).ravel()
    return order[order >= 0]


@functools.lru_cache(maxsize=1)
def _zigzag() -> Tensor:
    return torch.tensor(ZIGZAG)


def _sizes(magnitudes: Tensor) -> Tensor:
    """The category of each magnitude, its bit length: 0 for 0, 1 for 1, 2 for 2 and 3, ... (int64)."""
    return torch.frexp(magnitudes).exponent.long()


def _differences(dc: Tensor, components: int) -> Tensor:
    """``(N, blocks)`` to the differences to the block before, each component beginning at 0."""
    chains = dc.view(len(dc), components, -1)
    return torch.diff(chains, dim=2, prepend=torch.zeros_like(chains[..., :1])).flatten(1)


def _symbols(ac: Tensor, blocks: int) -> _Symbols:
    index = ac.view(-1).nonzero().squeeze(1)
    block, frequency = index >> 6, index & 63
    size = _sizes(ac.view(-1)[index])
    previous, following, following_size = torch.zeros_like(index), torch.full_like(index, 64), torch.zeros_like(index)
    same = block[1:] == block[:-1]
    previous[1:] = torch.where(same, frequency[:-1], 0)
    following[:-1] = torch.where(same, frequency[1:], 64)
    following_size[:-1] = torch.where(same, size[1:], 0)
    image = torch.div(block, blocks, rounding_mode="floor")
    return _Symbols(index, frequency, image, size, previous, following, following_size)


def _ac_counts(symbols: _Symbols, images: int, blocks: int, padding: int) -> Tensor:
    """(N, 256) float64: how often each AC symbol occurs, the blocks of padding included."""
    run = symbols.frequency - symbols.previous - 1
    counts = _histogram(256 * symbols.image + ((run & 15) << 4 | symbols.size), images)
    counts[:, _SIXTEEN_ZEROS] += torch.bincount(symbols.image, (run >> 4).double(), minlength=images)
    full = torch.bincount(symbols.image[symbols.frequency == 63], minlength=images)
    counts[:, _END_OF_BLOCK] += blocks + padding - full
    return counts


def _histogram(keys: Tensor, images: int) -> Tensor:
    return torch.bincount(keys.reshape(-1), minlength=256 * images).view(images, 256).double()


def _code_bits(counts: Tensor, tables: Sequence[HuffmanTable] | None, largest: int) -> Tensor:
    """(N,) bits of the codes of all symbols, and of the DHT segment; ``largest``: value bits that a level can have."""
    if tables is not None:
        bits, chosen = (counts @ _stored_lengths(counts, tables)).min(1)
        written = counts.new_tensor([len(huffman.without_larger(table, largest).symbols) for table in tables])
        return bits + 8 * (_DHT + written[chosen])
    own = [float(n @ optimal_lengths(n)) + 8 * (_DHT + np.count_nonzero(n)) for n in counts.cpu().numpy()]
    return counts.new_tensor(own)


def _stored_lengths(counts: Tensor, tables: Sequence[HuffmanTable]) -> Tensor:
    """(256, tables) float64: the code lengths of each stored table, 16 for symbols that it does not have."""
    lengths = counts.new_tensor(np.stack([_table_lengths(table) for table in tables], axis=1))
    return torch.where(lengths > 0, lengths, 16.0)


@functools.lru_cache(maxsize=32)
def _table_lengths(table: HuffmanTable) -> NDArray[np.float64]:
    lengths = np.zeros(256)
    for symbol, (_, length) in table.codes().items():
        lengths[symbol] = length
    return lengths


def optimal_lengths(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The code lengths of a file's own Huffman table: at most 16 bits, the code of all ones left out [T.81, K.2].

    Args:
        counts: (256,), how often each symbol occurs, whole numbers.

    Returns:
        (256,) bits, 0 where the symbol does not occur.
    """
    lengths = np.zeros(257)
    members = {int(symbol): [int(symbol)] for symbol in np.flatnonzero(counts)}
    heap = [(float(counts[symbol]), symbol) for symbol in members]
    members[256] = [256]
    heap.append((1.0, 256))
    heapq.heapify(heap)
    while len(heap) > 1:
        weight, symbol = heapq.heappop(heap)
        other_weight, other = heapq.heappop(heap)
        members[symbol] += members.pop(other)
        lengths[members[symbol]] += 1
        heapq.heappush(heap, (weight + other_weight, symbol))
    if lengths.max() > 16:
        return _table_lengths(huffman.optimal_table(counts.astype(np.int64)))
    return lengths[:256]


def _expected_lengths(counts: Tensor, tables: Sequence[HuffmanTable] | None) -> Tensor:
    """(256,) float64: what one more of a symbol costs, over all images; 16 bits where it has no code.

    With optimal tables d(n H) / d n_s = -log2 p_s: the codes follow the symbols.
    """
    pooled = counts.sum(0)
    if tables is not None:
        lengths = _stored_lengths(counts, tables)
        return lengths[:, (pooled @ lengths).argmin()]
    return (pooled.sum() / (pooled + 0.25)).log2().clamp(1, 16)


def _ac_gradient(
    magnitudes: Tensor, threshold: Tensor, ac: Tensor, symbols: _Symbols, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """d bits / d magnitude, ``(N, blocks, 64)``, and d bits / d threshold, ``(N, 64)``."""
    images, blocks = magnitudes.shape[:2]
    cost = _run_costs(lengths)
    flat = magnitudes.view(-1)
    gradient = torch.zeros_like(flat)
    # Size categories: an octave each.
    large = (flat[symbols.place] >= 2**0.5 - 0.5).nonzero().squeeze(1)
    magnitude = flat[symbols.place[large]]
    run = (symbols.frequency - symbols.previous - 1)[large]
    size = (magnitude + 0.5).log2().round().long().clamp(1, _LARGEST_SIZE)
    step = (cost[run, size + 1] - cost[run, size] + 1).clamp(min=0)
    gradient[symbols.place[large]] = (step / ((magnitude + 0.5) * math.log(2))).to(gradient.dtype)
    # Zero or one: levels of 1 and zeros within the kernel.
    ones = (symbols.size == 1).nonzero().squeeze(1)
    near = (flat[symbols.place[ones]] < threshold[symbols.frequency[ones]] + KERNEL_HALF_WIDTH).nonzero().squeeze(1)
    ones = ones[near]
    low = threshold - KERNEL_HALF_WIDTH
    low = torch.cat([low.new_full((1,), math.inf), low[1:]])  # DC is not among them
    zeros = ((ac == 0) & (magnitudes > low)).view(-1).nonzero().squeeze(1)
    place = torch.searchsorted(symbols.place, zeros)
    padded = torch.cat([symbols.place, symbols.place.new_full((1,), -64)])
    before, behind = padded[place - 1], padded[place]  # place - 1 = -1 is the last entry, of no block
    previous = torch.where((before >> 6 == zeros >> 6) & (place > 0), before & 63, 0)
    has_following = behind >> 6 == zeros >> 6
    following = torch.where(has_following, behind & 63, 64)
    sizes = torch.cat([symbols.size, symbols.size.new_zeros(1)])
    following_size = torch.where(has_following, sizes[place], 0)
    where = torch.cat([symbols.place[ones], zeros])
    frequency = where & 63
    previous = torch.cat([symbols.previous[ones], previous])
    following = torch.cat([symbols.following[ones], following])
    following_size = torch.cat([symbols.following_size[ones], following_size])
    first, second = frequency - previous - 1, following - frequency - 1
    saved = cost[(first + second + 1).clamp(max=62), following_size] - cost[second.clamp(max=62), following_size]
    without_next = torch.where(frequency == 63, lengths[_END_OF_BLOCK], 0)
    price = (cost[first, 1] + 1 - torch.where(following < 64, saved, without_next)).clamp(min=0)
    density = (price / (2 * KERNEL_HALF_WIDTH)).to(gradient.dtype)
    gradient[where] += density
    keys = torch.div(where, 64 * blocks, rounding_mode="floor") * 64 + frequency
    by_threshold = -torch.bincount(keys, density, minlength=64 * images).view(images, 64).to(gradient.dtype)
    return gradient.view_as(magnitudes), by_threshold


def _run_costs(lengths: Tensor) -> Tensor:
    """(63, 12): bits of the codes for a run of zeros and a level of a size; 16 for sizes that have none."""
    run = torch.arange(63, device=lengths.device)[:, None]
    size = torch.arange(12, device=lengths.device)[None]
    code = torch.where(size <= _LARGEST_SIZE, lengths[((run & 15) << 4) | size], 16.0)
    return (run >> 4) * lengths[_SIXTEEN_ZEROS] + code


def _dc_gradient(dc: Tensor, components: int, lengths: Tensor) -> Tensor:
    """d bits / d DC level, ``(N, blocks)``: of the expected category of a difference of two rounded numbers."""
    difference = _differences(dc, components)
    magnitude = difference.abs()
    steps = (torch.diff(lengths[:13]) + 1).clamp(min=0).to(dc.dtype)
    size = (magnitude + 0.5).log2().round().long().clamp(1, 11)
    slope = torch.where(magnitude < 1, steps[0], steps[size] / ((magnitude + 0.5) * math.log(2)))
    slope = (slope * difference.sign()).view(len(dc), components, -1)
    behind = torch.cat([slope[..., 1:], torch.zeros_like(slope[..., :1])], dim=2)
    return (slope - behind).flatten(1)
