"""A slow, readable baseline encoder: the oracle that every faster one is held against, byte for byte.

It does what the standard says, one stage after another, on plain arrays. Use :class:`edgejpeg.Encoder` for real work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.colour import YuvImage, check_subsampling, sample_planes
from edgejpeg.jpeg.dct import block_dct
from edgejpeg.jpeg.huffman import HuffmanTable
from edgejpeg.jpeg.tables import QuantTable, dead_zone_thresholds
from edgejpeg.jpeg.zigzag import to_zigzag

END_OF_BLOCK, SIXTEEN_ZEROS = 0x00, 0xF0


def component_blocks(image: NDArray[np.uint8] | YuvImage, subsampling: str) -> list[NDArray[np.float64]]:
    """DCT coefficients of an image's real blocks, one ``(rows, columns, 8, 8)`` float64 array per component.

    An MCU at the right or lower edge can hold blocks outside the component; they are coded as zeros and are not here.
    """
    vertical, horizontal = check_subsampling(subsampling)
    height, width = image.shape[:2]
    blocks = []
    for index, plane in enumerate(sample_planes(image, subsampling)):
        v, h = (1, 1) if index == 0 else (vertical, horizontal)
        rows, columns = -(-height // (8 * v)), -(-width // (8 * h))
        blocks.append(block_dct(plane)[:rows, :columns])
    return blocks


def quantize(
    coefficients: NDArray[np.float64], table: QuantTable, dead_zone: ArrayLike | None = None
) -> NDArray[np.int32]:
    """K = sign(C) floor(|C| / q + 1/2), halves away from zero as in libjpeg; with a dead zone, K = 0 where |C| < t q.

    Args:
        coefficients: ``(..., 8, 8)``, row-major.
        table: the steps q.
        dead_zone: the thresholds t, 8x8 (see :func:`~edgejpeg.jpeg.tables.dead_zone_thresholds`); None, or .5
            everywhere, is plain rounding. They concern the AC coefficients: DC's is always .5, and it is rounded.

    Returns:
        The levels K, int32, of the shape of ``coefficients``.
    """
    steps = table.array.astype(np.float64)
    magnitudes = np.abs(coefficients)
    levels = np.sign(coefficients) * np.floor(magnitudes / steps + 0.5)
    if dead_zone is not None:
        thresholds = dead_zone_thresholds(dead_zone)
        levels[(thresholds > 0.5) & (magnitudes < thresholds * steps)] = 0
    return levels.astype(np.int32)


def encode_reference(
    image: NDArray[np.uint8] | YuvImage,
    tables: Sequence[QuantTable],
    subsampling: str = "420",
    *,
    effort: int = 0,
    huffman_tables: Mapping[tuple[int, int], HuffmanTable] | None = None,
    dead_zones: Sequence[ArrayLike] | None = None,
    comment: bytes | None = None,
) -> bytes:
    """Encode an image as a baseline JFIF file.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, ``(H, W)`` uint8 with ``subsampling="gray"``, or Y, Cb and Cr.
        tables: the luma and the chroma table; for ``"gray"`` the first one is used.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        effort: 0 for the standard Huffman tables, 1 for optimal ones.
        huffman_tables: other ones at effort 0, by (class, slot): class 0 for DC and 1 for AC, slot 0 for luma and 1 for
            chroma. With ``parse_jpeg(file).huffman`` the oracle codes as another encoder chose to.
        dead_zones: thresholds for luma and chroma as in :func:`quantize`, as many as ``tables`` needs; None rounds.
        comment: bytes of a COM marker, at most 65533.
    """
    if len(tables) < (1 if subsampling == "gray" else 2):
        raise InvalidInputError(f"{subsampling} needs a luma and a chroma table; got {len(tables)} table")
    if effort not in (0, 1):
        raise InvalidInputError(f"effort is 0 (standard Huffman tables) or 1 (optimal ones); got {effort!r}")
    if effort == 1 and huffman_tables is not None:
        raise InvalidInputError("effort 1 makes the Huffman tables; give huffman_tables with effort 0")
    if dead_zones is not None and len(dead_zones) < (1 if subsampling == "gray" else 2):
        raise InvalidInputError(f"{subsampling} needs thresholds for luma and chroma; got {len(dead_zones)} set")
    quantized = [
        quantize(blocks, tables[slot], None if dead_zones is None else dead_zones[slot])
        for slot, blocks in zip((0, 1, 1), component_blocks(image, subsampling), strict=False)
    ]
    tokens = list(_tokens(quantized, subsampling, image.shape[:2]))
    slots = 1 if len(quantized) == 1 else 2
    if effort == 0:
        given = {**huffman.STANDARD_TABLES, **(huffman_tables or {})}
        dc_tables, ac_tables = ([given[kind, slot] for slot in range(slots)] for kind in (0, 1))
    else:
        dc_tables = [_optimal(tokens, slot, is_ac=False) for slot in range(slots)]
        ac_tables = [_optimal(tokens, slot, is_ac=True) for slot in range(slots)]
    head = _headers(image.shape[:2], tables, subsampling, dc_tables, ac_tables, comment)
    return head + _entropy_code(tokens, dc_tables, ac_tables) + b"\xff\xd9"


Token = tuple[int, bool, int, int, int]
"""(table slot, is AC, symbol, value bits, number of value bits)."""


def _value_bits(value: int) -> tuple[int, int]:
    """The category of a value and its low-order bits, negatives in ones' complement [ITU-T T.81, F.1.2.1]."""
    size = abs(value).bit_length()
    return size, value if value >= 0 else value + (1 << size) - 1


def _tokens(quantized: list[NDArray[np.int32]], subsampling: str, size: tuple[int, ...]) -> Iterator[Token]:
    """Walk the MCUs in scan order and give the Huffman symbols with their value bits."""
    vertical, horizontal = check_subsampling(subsampling)
    mcu_rows, mcu_columns = -(-size[0] // (8 * vertical)), -(-size[1] // (8 * horizontal))
    zigzag = [to_zigzag(blocks) for blocks in quantized]
    previous_dc = [0] * len(quantized)
    for mcu_row in range(mcu_rows):
        for mcu_column in range(mcu_columns):
            for index, blocks in enumerate(zigzag):
                v, h = (vertical, horizontal) if index == 0 else (1, 1)
                slot = min(index, 1)
                for row in range(mcu_row * v, mcu_row * v + v):
                    for column in range(mcu_column * h, mcu_column * h + h):
                        if row < blocks.shape[0] and column < blocks.shape[1]:
                            yield from _block_tokens(blocks[row, column], previous_dc[index], slot)
                            previous_dc[index] = int(blocks[row, column, 0])
                        else:
                            yield slot, False, 0, 0, 0
                            yield slot, True, END_OF_BLOCK, 0, 0


def _block_tokens(block: NDArray[np.int32], previous_dc: int, slot: int) -> Iterator[Token]:
    size, bits = _value_bits(int(block[0]) - previous_dc)
    yield slot, False, size, bits, size
    last = 0
    for position in (int(p) for p in np.flatnonzero(block[1:]) + 1):
        zeros = position - last - 1
        for _ in range(zeros // 16):
            yield slot, True, SIXTEEN_ZEROS, 0, 0
        size, bits = _value_bits(int(block[position]))
        yield slot, True, (zeros % 16) << 4 | size, bits, size
        last = position
    if last < 63:
        yield slot, True, END_OF_BLOCK, 0, 0


def _optimal(tokens: list[Token], slot: int, *, is_ac: bool) -> HuffmanTable:
    symbols = [symbol for where, ac, symbol, _, _ in tokens if where == slot and ac == is_ac]
    return huffman.optimal_table(np.bincount(symbols, minlength=256))


def _entropy_code(tokens: list[Token], dc_tables: list[HuffmanTable], ac_tables: list[HuffmanTable]) -> bytes:
    codes = {False: [t.codes() for t in dc_tables], True: [t.codes() for t in ac_tables]}
    pieces = []
    for slot, is_ac, symbol, bits, size in tokens:
        code, length = codes[is_ac][slot][symbol]
        pieces.append(f"{code:0{length}b}")
        if size:
            pieces.append(f"{bits:0{size}b}")
    stream = "".join(pieces)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big")
    return data.replace(b"\xff", b"\xff\x00")


def _segment(marker: int, payload: bytes) -> bytes:
    if len(payload) > 65533:
        raise InvalidInputError(f"a JPEG segment holds at most 65533 bytes; got {len(payload)}")
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def _headers(
    size: tuple[int, ...],
    tables: Sequence[QuantTable],
    subsampling: str,
    dc_tables: list[HuffmanTable],
    ac_tables: list[HuffmanTable],
    comment: bytes | None,
) -> bytes:
    vertical, horizontal = check_subsampling(subsampling)
    height, width = size
    if max(height, width) > 65535:
        raise InvalidInputError(f"a JPEG is at most 65535 pixels wide and high; got {width} x {height}")
    components = 1 if subsampling == "gray" else 3
    parts = [b"\xff\xd8", _segment(0xE0, b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")]
    if comment is not None:
        parts.append(_segment(0xFE, comment))
    parts += [
        _segment(0xDB, bytes([slot]) + tables[slot].zigzag().tobytes()) for slot in range(1 if components == 1 else 2)
    ]
    frame = bytes([8]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([components])
    for index in range(components):
        sampling = (horizontal << 4 | vertical) if index == 0 else 0x11
        frame += bytes([index + 1, sampling, min(index, 1)])
    parts.append(_segment(0xC0, frame))
    for slot, (dc, ac) in enumerate(zip(dc_tables, ac_tables, strict=True)):
        for kind, table in ((0, dc), (1, ac)):
            parts.append(_segment(0xC4, bytes([kind << 4 | slot, *table.counts, *table.symbols])))
    scan = bytes([components])
    for index in range(components):
        scan += bytes([index + 1, 0x11 * min(index, 1)])
    parts.append(_segment(0xDA, scan + bytes([0, 63, 0])))
    return b"".join(parts)
