"""Trellis quantization: levels that weigh a network's sensitivity against real code lengths. Slow and readable.

Plain rounding minimises the distortion alone. Here every AC coefficient may keep its rounded level K, move one step
towards zero, or become zero, and of all combinations of a block the one with the smallest

    sum_i w_i (C_i - q_i K_i)^2 + lambda * bits

is taken, where bits are those of the block's AC symbols with given Huffman code lengths, value bits, ZRL and EOB
included. With w = s, the sensitivities, the sum is the block's SWE [OptS eq. 10]. Optimal by dynamic programming over
the positions of nonzero levels, since the bits of a level depend on its magnitude and on the run of zeros before it.
DC is rounded, as its bits depend on the neighbouring block.

Networks notice zeroing more than SWE says, so this is an option and off by default. It is the oracle of the compiled
trellis, which takes the same decisions: costs are float64, added in the order written here.

Blocks are 64 numbers in zigzag order, where the runs are; :func:`trellis_quantize` takes 8x8 blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.huffman import HuffmanTable
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.jpeg.zigzag import from_zigzag, to_zigzag

END_OF_BLOCK, SIXTEEN_ZEROS = 0x00, 0xF0
MAX_LEVEL = 1023
"""The largest AC level that baseline JPEG codes: ten value bits."""

AC_SYMBOLS = (END_OF_BLOCK, SIXTEEN_ZEROS, *(run << 4 | size for run in range(16) for size in range(1, 11)))


def code_lengths(table: HuffmanTable, missing: int = 16) -> NDArray[np.uint8]:
    """The code length in bits of every AC symbol, (256,) uint8; zero for what is no AC symbol of baseline JPEG.

    Args:
        table: an AC table.
        missing: the length of a symbol that the table has no code for. An optimal table has only the symbols that
            occurred; the trellis may want others, and the table is made anew from its result.
    """
    lengths = np.zeros(256, np.uint8)
    codes = table.codes()
    for symbol in AC_SYMBOLS:
        lengths[symbol] = codes[symbol][1] if symbol in codes else missing
    return lengths


def symbol_bits(run: int, level: int, lengths: NDArray[np.uint8]) -> int:
    """The bits of one nonzero level after a run of zeros: ZRLs, its code, and its value bits."""
    size = abs(level).bit_length()
    return run // 16 * int(lengths[SIXTEEN_ZEROS]) + int(lengths[(run % 16) << 4 | size]) + size


def block_bits(levels: NDArray[np.integer], lengths: NDArray[np.uint8]) -> int:
    """The bits of a block's AC levels, 64 in zigzag order (DC is not counted)."""
    bits = last = 0
    for position in (int(p) for p in np.flatnonzero(levels[1:]) + 1):
        bits += symbol_bits(position - last - 1, int(levels[position]), lengths)
        last = position
    return bits if last == 63 else bits + int(lengths[END_OF_BLOCK])


def trellis_block(
    coefficients: NDArray[np.float64],
    levels: NDArray[np.integer],
    steps: NDArray[np.float64],
    weights: NDArray[np.float64],
    lengths: NDArray[np.uint8],
    lagrangian: float,
) -> NDArray[np.int32]:
    """The levels of one block with the smallest weighted distortion + lagrangian * bits.

    Of equal costs the one wins that zeroes less: the nearest predecessor, the larger level, the later end.

    Args:
        coefficients: C, (64,) in zigzag order, as are the following.
        levels: K, the rounded levels (or those of a dead zone), AC within +-1023; zeros stay zeros.
        steps: q > 0.
        weights: w >= 0, such as the sensitivities s_i.
        lengths: (256,) code lengths, see :func:`code_lengths`.
        lagrangian: lambda >= 0, in units of the weighted distortion per bit.
    """
    _check(levels, weights, lengths, lagrangian)
    best = {0: 0.0}  # cost up to a nonzero level at this position, relative to a block of zeros; 0 is the start
    choice: dict[int, tuple[int, int]] = {}  # position -> (predecessor, magnitude)
    for position in (int(p) for p in np.flatnonzero(levels[1:]) + 1):
        rounded = abs(int(levels[position]))
        found: tuple[float, int, int] | None = None
        # One step towards zero pays only with a value bit less: else it costs as much and is farther from C.
        lower = [rounded - 1] if rounded > 1 and (rounded - 1).bit_length() < rounded.bit_length() else []
        for magnitude in (rounded, *lower):
            bits = [(symbol_bits(position - before - 1, magnitude, lengths), before) for before in reversed(best)]
            cost, before = min(((best[b] + lagrangian * n, b) for n, b in bits), key=lambda entry: entry[0])
            cost += _gain(coefficients[position], steps[position] * magnitude, weights[position])
            if found is None or cost < found[0]:
                found = cost, before, magnitude
        assert found is not None
        best[position], choice[position] = found[0], found[1:]
    ends = [(best[p] + (0.0 if p == 63 else lagrangian * int(lengths[END_OF_BLOCK])), p) for p in reversed(best)]
    position = min(ends, key=lambda entry: entry[0])[1]
    result = np.zeros(64, np.int32)
    result[0] = levels[0]
    while position > 0:
        before, magnitude = choice[position]
        result[position] = magnitude if levels[position] > 0 else -magnitude
        position = before
    return result


def trim_block(
    coefficients: NDArray[np.float64],
    levels: NDArray[np.integer],
    steps: NDArray[np.float64],
    weights: NDArray[np.float64],
    lengths: NDArray[np.uint8],
    lagrangian: float,
) -> NDArray[np.int32]:
    """End-of-block trimming: the trellis with one choice left, behind which nonzero level the block ends.

    Args: as for :func:`trellis_block`. Of equal costs the later end wins.
    """
    _check(levels, weights, lengths, lagrangian)
    cost, before = 0.0, 0
    ends = [(lagrangian * int(lengths[END_OF_BLOCK]), 0)]
    for position in (int(p) for p in np.flatnonzero(levels[1:]) + 1):
        magnitude = abs(int(levels[position]))
        cost += lagrangian * symbol_bits(position - before - 1, magnitude, lengths)
        cost += _gain(coefficients[position], steps[position] * magnitude, weights[position])
        before = position
        ends.append((cost + (0.0 if position == 63 else lagrangian * int(lengths[END_OF_BLOCK])), position))
    end = min(reversed(ends), key=lambda entry: entry[0])[1]
    result = np.asarray(levels, dtype=np.int32).copy()
    result[end + 1 :] = 0
    return result


def trellis_quantize(
    blocks: NDArray[np.float64],
    levels: NDArray[np.integer],
    table: QuantTable,
    weights: ArrayLike,
    huffman_table: HuffmanTable,
    lagrangian: float,
    *,
    trim_only: bool = False,
) -> NDArray[np.int32]:
    """:func:`trellis_block` (or :func:`trim_block`) on all blocks of a component.

    Args:
        blocks: ``(..., 8, 8)`` coefficients, row-major.
        levels: the same shape, from :func:`edgejpeg.jpeg.reference.quantize`.
        table: the steps.
        weights: (8, 8), row-major.
        huffman_table: the AC table whose code lengths count.
        lagrangian: lambda.
    """
    steps = table.zigzag().astype(np.float64)
    flat_weights = to_zigzag(np.asarray(weights, dtype=np.float64))
    lengths = code_lengths(huffman_table)
    decide = trim_block if trim_only else trellis_block
    flat = to_zigzag(blocks).reshape(-1, 64)
    rounded = to_zigzag(levels).reshape(-1, 64)
    result = [decide(c, k, steps, flat_weights, lengths, lagrangian) for c, k in zip(flat, rounded, strict=True)]
    return from_zigzag(np.array(result, np.int32).reshape(*blocks.shape[:-2], 64))


def _gain(coefficient: float, reconstruction: float, weight: float) -> float:
    """w ((|C| - q|K|)^2 - C^2), the distortion relative to that of zero."""
    return float(weight * (reconstruction * (reconstruction - 2.0 * abs(coefficient))))


def _check(
    levels: NDArray[np.integer], weights: NDArray[np.float64], lengths: NDArray[np.uint8], lagrangian: float
) -> None:
    if not 0 <= lagrangian < np.inf:
        raise InvalidInputError(f"lambda is a finite number, 0 or more; got {lagrangian!r}")
    if not (weights >= 0).all() or not np.isfinite(weights).all():
        raise InvalidInputError("weights are finite and not negative; got others")
    if (lengths[list(AC_SYMBOLS)] == 0).any():
        raise InvalidInputError("a symbol without a code length; give it one, as code_lengths(table, missing=16) does")
    if (np.abs(levels[1:]) > MAX_LEVEL).any():
        raise InvalidInputError(f"an AC level is within +-{MAX_LEVEL}; got {levels[1:][np.abs(levels[1:]).argmax()]}")
