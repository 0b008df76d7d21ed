"""Huffman tables of baseline JPEG: the standard ones, optimal ones, and the codes they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError


@dataclass(frozen=True)
class HuffmanTable:
    """A Huffman table as a DHT marker stores it [ITU-T T.81, B.2.4.2].

    Attributes:
        counts: 16 numbers, how many codes have each length 1..16.
        symbols: the symbols in order of increasing code length.
    """

    counts: tuple[int, ...]
    symbols: tuple[int, ...]

    def codes(self) -> dict[int, tuple[int, int]]:
        """The (code, length in bits) of every symbol [ITU-T T.81, annex C]."""
        codes: dict[int, tuple[int, int]] = {}
        code = position = 0
        for length, count in enumerate(self.counts, start=1):
            for symbol in self.symbols[position : position + count]:
                codes[symbol] = (code, length)
                code += 1
            position += count
            code <<= 1
        return codes


def without_larger(table: HuffmanTable, size: int) -> HuffmanTable:
    """A table without the symbols at its end of more than ``size`` value bits; the codes of the others are the same."""
    symbols = list(table.symbols)
    while len(symbols) > 1 and symbols[-1] % 16 > size:
        symbols.pop()
    counts, left = [], len(symbols)
    for count in table.counts:
        counts.append(min(count, left))
        left -= counts[-1]
    return HuffmanTable(tuple(counts), tuple(symbols))


def largest_sizes(steps: ArrayLike) -> tuple[int, int]:
    """The most value bits that DC differences and AC levels can have with a table of steps, (8, 8), row-major.

    Coefficients of 8-bit samples are within 1024; the encoder reckons with 1025. Of stored Huffman tables it writes
    those symbols alone, see :func:`without_larger`.
    """
    flat = np.asarray(steps, dtype=np.float64).reshape(64)
    return int(2 * 1025 / flat[0] + 1).bit_length(), int(1025 / flat[1:].min() + 0.5).bit_length()


STANDARD_DC_LUMA = HuffmanTable((0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0), tuple(range(12)))
"""ITU-T T.81, table K.3."""

STANDARD_DC_CHROMA = HuffmanTable((0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0), tuple(range(12)))
"""ITU-T T.81, table K.4."""

STANDARD_AC_LUMA = HuffmanTable(
    (0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125),
    tuple(
        bytes.fromhex(
            "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a343536"
            "3738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999a"
            "a2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7"
            "f8f9fa"
        )
    ),
)
"""ITU-T T.81, table K.5."""

STANDARD_AC_CHROMA = HuffmanTable(
    (0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119),
    tuple(
        bytes.fromhex(
            "0001020311040521310612415107617113223281081442"
            "91a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a9293949596979899"
            "9aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8"
            "f9fa"
        )
    ),
)
"""ITU-T T.81, table K.6."""

STANDARD_TABLES = {
    (0, 0): STANDARD_DC_LUMA,
    (1, 0): STANDARD_AC_LUMA,
    (0, 1): STANDARD_DC_CHROMA,
    (1, 1): STANDARD_AC_CHROMA,
}
"""By (class, slot): class 0 for DC and 1 for AC, slot 0 for luma and 1 for chroma."""


def optimal_table(frequencies: NDArray[np.int64]) -> HuffmanTable:
    """The optimal table for symbol frequencies, codes at most 16 bits, all ones reserved [ITU-T T.81, K.2].

    Ties are resolved as in libjpeg (of equal frequencies the larger symbol is merged first), so that two encoders with
    the same frequencies write the same table.

    Args:
        frequencies: shape (256,), how often each symbol occurs; at least one is positive.
    """
    if frequencies.shape != (256,) or (frequencies < 0).any() or not frequencies.any():
        raise InvalidInputError(f"symbol frequencies are 256 counts with a positive one; got shape {frequencies.shape}")
    weight = [int(f) for f in frequencies] + [1]  # the reserved code point gets the longest code
    length = [0] * 257
    group = [[symbol] for symbol in range(257)]
    while True:
        alive = [symbol for symbol in range(257) if weight[symbol]]
        if len(alive) == 1:
            break
        first = min(alive, key=lambda s: (weight[s], -s))
        second = min((s for s in alive if s != first), key=lambda s: (weight[s], -s))
        weight[first] += weight[second]
        weight[second] = 0
        group[first] += group[second]
        for symbol in group[first]:
            length[symbol] += 1
    counts = [0] * (max(length) + 1)
    for bits in length:
        counts[bits] += 1
    counts += [0] * (17 - len(counts))
    for bits in range(len(counts) - 1, 16, -1):
        while counts[bits]:
            shorter = max(b for b in range(1, bits - 1) if counts[b])
            counts[bits] -= 2
            counts[bits - 1] += 1
            counts[shorter + 1] += 2
            counts[shorter] -= 1
    longest = max(bits for bits in range(1, 17) if counts[bits])
    counts[longest] -= 1  # the reserved code point
    symbols = sorted((s for s in range(256) if length[s]), key=lambda s: (length[s], s))
    return HuffmanTable(tuple(counts[1:17]), tuple(symbols))
