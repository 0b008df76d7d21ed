"""A marker parser: what a JPEG file says about itself, without decoding it.

Reads any JPEG of ITU-T T.81 (baseline, extended, progressive, lossless, arithmetic; 8 and 12 bits), as cameras and
other encoders write them: tables, sizes, sampling factors, restart interval, comments. Hostile bytes meet a
:class:`~edgejpeg.errors.JpegFormatError`, never another exception; nothing is allocated from a size the file claims.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import JpegFormatError
from edgejpeg.jpeg.huffman import HuffmanTable
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.jpeg.zigzag import from_zigzag

SOI, EOI, SOS, DQT, DHT, DRI, COM, APP0, APP1, APP14, DNL = (
    0xD8,
    0xD9,
    0xDA,
    0xDB,
    0xC4,
    0xDD,
    0xFE,
    0xE0,
    0xE1,
    0xEE,
    0xDC,
)
TEM, RST0, RST7 = 0x01, 0xD0, 0xD7

PROCESSES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "differential extended",
    0xC6: "differential progressive",
    0xC7: "differential lossless",
    0xC9: "extended, arithmetic",
    0xCA: "progressive, arithmetic",
    0xCB: "lossless, arithmetic",
    0xCD: "differential extended, arithmetic",
    0xCE: "differential progressive, arithmetic",
    0xCF: "differential lossless, arithmetic",
}


@dataclass(frozen=True)
class Component:
    """One component of the frame: its id, sampling factors, and which quantization table it uses."""

    id: int
    horizontal: int
    vertical: int
    table: int


@dataclass(frozen=True)
class Segment:
    """One marker segment: the marker's second byte, where it starts, and its length in bytes with the marker."""

    marker: int
    offset: int
    length: int


@dataclass
class JpegInfo:
    """What :func:`parse_jpeg` found.

    Attributes:
        width, height: pixels.
        precision: bits per sample.
        process: ``"baseline"``, ``"extended"``, ``"progressive"``, ...
        components: in the order of the frame header.
        tables: quantization tables by their number, ``(8, 8)`` row-major: uint8, or uint16 where the file has 16 bits.
            A number defined twice has its first definition here if a scan came between, else the last.
        huffman: Huffman tables by (class, number), class 0 for DC and 1 for AC, as at the first scan.
        restart_interval: MCUs between restart markers, 0 for none.
        comments: contents of the COM segments.
        adobe_transform: the transform byte of Adobe's APP14 segment, or None.
        scans: number of scans.
        segments: all segments in order; entropy-coded data is not among them.
        scan_bytes: bytes of entropy-coded data, stuffing included.
        size: bytes from SOI to EOI, or to the end where EOI is missing.
        complete: whether an EOI marker ends the file.
        trailing: bytes behind EOI.
    """

    width: int = 0
    height: int = 0
    precision: int = 0
    process: str = ""
    components: list[Component] = field(default_factory=list)
    tables: dict[int, NDArray[np.uint8] | NDArray[np.uint16]] = field(default_factory=dict)
    huffman: dict[tuple[int, int], HuffmanTable] = field(default_factory=dict)
    restart_interval: int = 0
    comments: list[bytes] = field(default_factory=list)
    adobe_transform: int | None = None
    scans: int = 0
    segments: list[Segment] = field(default_factory=list)
    scan_bytes: int = 0
    size: int = 0
    complete: bool = False
    trailing: int = 0

    @property
    def subsampling(self) -> str:
        """``"gray"``, ``"444"``, ``"422"``, ``"440"``, ``"420"``, ``"411"``, ``"410"``, or the factors as written."""
        factors = [(c.horizontal, c.vertical) for c in self.components]
        if len(factors) == 1:
            return "gray"
        if len(factors) == 3 and factors[1] == factors[2]:
            (h0, v0), (h1, v1) = factors[0], factors[1]
            if h0 % h1 == 0 and v0 % v1 == 0:
                names = {(1, 1): "444", (2, 1): "422", (1, 2): "440", (2, 2): "420", (4, 1): "411", (4, 2): "410"}
                name = names.get((h0 // h1, v0 // v1))
                if name:
                    return name
        return ",".join(f"{h}x{v}" for h, v in factors)

    @property
    def bits_per_pixel(self) -> float:
        """Size of the whole file in bits per pixel."""
        return 8 * self.size / (self.width * self.height)

    def quant_table(self, component: int) -> QuantTable:
        """The quantization table of a component (by position), as a baseline table.

        Raises:
            JpegFormatError: the table is missing, or has values above 255, which no baseline file holds.
        """
        if not 0 <= component < len(self.components):
            raise JpegFormatError(f"the JPEG has {len(self.components)} components; got component {component}")
        number = self.components[component].table
        if number not in self.tables:
            raise JpegFormatError(f"the JPEG has no quantization table {number}, which component {component} uses")
        table = self.tables[number]
        if int(table.max()) > 255:
            raise JpegFormatError(f"quantization table {number} has the value {int(table.max())}, above 255")
        return QuantTable(table)


class _Parser:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.info = JpegInfo()

    def run(self) -> JpegInfo:
        data, info = self.data, self.info
        if data[:2] != b"\xff\xd8":
            start = data[:4].hex(" ") or "nothing"
            raise JpegFormatError(f"not a JPEG: it begins with {start}, a JPEG with ff d8")
        info.segments.append(Segment(SOI, 0, 2))
        position = 2
        while position < len(data):
            marker, position = self._marker(position)
            if marker == EOI:
                info.segments.append(Segment(EOI, position - 2, 2))
                info.complete, info.size, info.trailing = True, position, len(data) - position
                break
            if marker == TEM or RST0 <= marker <= RST7:
                continue
            if marker == SOI:
                raise JpegFormatError(f"damaged JPEG: a second SOI marker at byte {position - 2}")
            payload = self._payload(marker, position)
            info.segments.append(Segment(marker, position - 2, len(payload) + 4))
            position += len(payload) + 2
            self._segment(marker, payload)
            if marker == SOS:
                position = self._skip_scan(position)
        else:
            info.size = len(data)
        if not info.components:
            raise JpegFormatError("damaged JPEG: no frame header (SOF) before its end")
        if info.height == 0:
            raise JpegFormatError("damaged JPEG: height 0 in the frame header and no DNL marker")
        return info

    def _marker(self, position: int) -> tuple[int, int]:
        data = self.data
        if data[position] != 0xFF:
            raise JpegFormatError(f"damaged JPEG: expected a marker at byte {position}, found {data[position]:#04x}")
        while position < len(data) and data[position] == 0xFF:  # fill bytes may precede a marker
            position += 1
        if position == len(data):
            raise JpegFormatError("truncated JPEG: it ends inside a marker")
        if data[position] == 0:
            raise JpegFormatError(f"damaged JPEG: expected a marker at byte {position - 1}, found a stuffed zero")
        return data[position], position + 1

    def _payload(self, marker: int, position: int) -> bytes:
        data = self.data
        if position + 2 > len(data):
            raise JpegFormatError(f"truncated JPEG: it ends in the length of marker ff{marker:02x}")
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise JpegFormatError(f"damaged JPEG: marker ff{marker:02x} at byte {position - 2} has length {length}")
        if position + length > len(data):
            raise JpegFormatError(
                f"truncated JPEG: marker ff{marker:02x} at byte {position - 2} claims {length} bytes, "
                f"{len(data) - position} are there"
            )
        return data[position + 2 : position + length]

    def _segment(self, marker: int, payload: bytes) -> None:
        info = self.info
        if marker in PROCESSES:
            self._frame(marker, payload)
        elif marker == DQT:
            self._quantization(payload)
        elif marker == DHT:
            self._huffman(payload)
        elif marker == DRI:
            if len(payload) != 2:
                raise JpegFormatError(f"damaged JPEG: a DRI segment of {len(payload)} bytes, it has 2")
            info.restart_interval = int.from_bytes(payload, "big")
        elif marker == COM:
            info.comments.append(payload)
        elif marker == APP14 and payload[:5] == b"Adobe" and len(payload) >= 12:
            info.adobe_transform = payload[11]
        elif marker == DNL:
            if len(payload) != 2:
                raise JpegFormatError(f"damaged JPEG: a DNL segment of {len(payload)} bytes, it has 2")
            info.height = info.height or int.from_bytes(payload, "big")
        elif marker == SOS:
            if not info.components:
                raise JpegFormatError("damaged JPEG: a scan before the frame header")
            info.scans += 1

    def _frame(self, marker: int, payload: bytes) -> None:
        info = self.info
        if info.components:
            raise JpegFormatError("damaged JPEG: a second frame header (SOF)")
        if len(payload) < 6 or len(payload) != 6 + 3 * payload[5]:
            raise JpegFormatError(f"damaged JPEG: a frame header of {len(payload)} bytes does not fit its components")
        info.process = PROCESSES[marker]
        info.precision = payload[0]
        info.height = int.from_bytes(payload[1:3], "big")
        info.width = int.from_bytes(payload[3:5], "big")
        if info.width == 0:
            raise JpegFormatError("damaged JPEG: width 0 in the frame header")
        if payload[5] == 0:
            raise JpegFormatError("damaged JPEG: no components in the frame header")
        for at in range(6, len(payload), 3):
            component = Component(payload[at], payload[at + 1] >> 4, payload[at + 1] & 15, payload[at + 2])
            if not (1 <= component.horizontal <= 4 and 1 <= component.vertical <= 4 and component.table <= 3):
                raise JpegFormatError(
                    f"damaged JPEG: component {component.id} has sampling {component.horizontal}x{component.vertical} "
                    f"(1..4 allowed) and table {component.table} (0..3 allowed)"
                )
            info.components.append(component)

    def _quantization(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            wide, number = payload[at] >> 4, payload[at] & 15
            need = 128 if wide else 64
            values = payload[at + 1 : at + 1 + need]
            if wide > 1 or number > 3 or len(values) < need:
                raise JpegFormatError(
                    f"damaged JPEG: a DQT segment with precision {wide}, number {number}, {len(values)} bytes"
                )
            table = np.frombuffer(values, dtype=">u2" if wide else np.uint8)
            if not table.all():
                raise JpegFormatError(f"damaged JPEG: quantization table {number} has a zero")
            if self.info.scans == 0 or number not in self.info.tables:
                self.info.tables[number] = from_zigzag(table.astype(np.uint16 if wide else np.uint8))
            at += 1 + need

    def _huffman(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            kind, number = payload[at] >> 4, payload[at] & 15
            counts = tuple(payload[at + 1 : at + 17])
            symbols = tuple(payload[at + 17 : at + 17 + sum(counts)])
            if kind > 1 or number > 3 or len(counts) < 16 or len(symbols) != sum(counts) or len(symbols) > 256:
                raise JpegFormatError(
                    f"damaged JPEG: a DHT segment with class {kind}, number {number}, {len(symbols)} symbols"
                )
            if self.info.scans == 0 or (kind, number) not in self.info.huffman:
                self.info.huffman[kind, number] = HuffmanTable(counts, symbols)
            at += 17 + len(symbols)

    def _skip_scan(self, position: int) -> int:
        """The position of the marker that ends the entropy-coded data beginning here."""
        data, start = self.data, position
        while True:
            position = data.find(b"\xff", position)
            if position < 0 or position + 1 >= len(data):
                position = len(data)
                break
            following = data[position + 1]
            if following == 0 or RST0 <= following <= RST7:
                position += 2
            elif following == 0xFF:
                position += 1
            else:
                break
        self.info.scan_bytes += position - start
        return position


def parse_jpeg(data: bytes | bytearray | memoryview) -> JpegInfo:
    """Read the markers of a JPEG.

    A file whose entropy-coded data is cut off is accepted, with ``complete`` False: whether the pixels can be used is
    the decoder's business.

    Raises:
        JpegFormatError: no JPEG, or damaged or truncated markers; the message says where.
    """
    return _Parser(bytes(data)).run()
