"""Fuzzes the marker parser: JpegFormatError is all that may leave it, and what it says of a file must be consistent."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness

DICTIONARY = (
    *(bytes((0xFF, marker)) for marker in (*range(0xC0, 0xE2), 0xEE, 0xFE, 0x01, 0x00, 0xFF)),
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00",
    b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01",
    b"\x00\x00",
    b"\x00\x02",
    b"\xff\xff",
)


def target() -> harness.OneInput:
    from edgejpeg.errors import JpegFormatError
    from edgejpeg.jpeg.markers import parse_jpeg

    def one_input(data: bytes) -> None:
        try:
            info = parse_jpeg(data)
        except JpegFormatError as error:
            message = str(error)
            assert message and "\n" not in message, message
            return
        assert 1 <= info.width <= 65535 and 1 <= info.height <= 65535
        assert info.components and info.size <= len(data)
        assert info.complete or info.size == len(data)
        assert info.size + info.trailing == len(data)
        assert 0 <= info.scan_bytes <= info.size
        assert info.subsampling and info.bits_per_pixel > 0
        end = 0
        for segment in info.segments:
            assert end <= segment.offset and data[segment.offset] == 0xFF
            assert data[segment.offset + 1 : segment.offset + segment.length].lstrip(b"\xff")[:1] or segment.length == 2
            end = segment.offset + segment.length
        assert end <= info.size
        assert info.scan_bytes + sum(segment.length for segment in info.segments) <= info.size
        for table in info.tables.values():
            assert table.shape == (8, 8) and table.min() >= 1
        for component in range(-1, len(info.components) + 1):
            try:
                table = info.quant_table(component).array
            except JpegFormatError:
                continue
            assert 0 <= component < len(info.components)
            assert (table == info.tables[info.components[component].table]).all()

    return one_input


if __name__ == "__main__":
    sys.exit(harness.main(target, "markers", DICTIONARY))
