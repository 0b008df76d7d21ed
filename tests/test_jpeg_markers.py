"""The marker parser on files of many encoders, and on hostile bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from edgejpeg.errors import JpegFormatError
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.reference import encode_reference
from edgejpeg.jpeg.tables import QuantTable, ijg_tables

Image = pytest.importorskip("PIL.Image", reason="Pillow, which writes the files to parse, is not installed")


def _pillow(image: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("code", "name"), [(0, "444"), (1, "422"), (2, "420")])
@pytest.mark.parametrize("progressive", [False, True])
def test_pillows_files(code, name, progressive, photo):
    image = photo(50, 70)
    data = _pillow(
        image, quality=40, subsampling=code, progressive=progressive, comment=b"camera 7", restart_marker_blocks=3
    )
    info = parse_jpeg(data)
    assert (info.width, info.height, info.subsampling, info.precision) == (70, 50, name, 8)
    assert info.process == ("progressive" if progressive else "baseline")
    assert info.comments == [b"camera 7"]
    assert info.restart_interval == 3
    assert info.complete
    assert (info.size, info.trailing) == (len(data), 0)
    assert (info.scans > 1) == progressive
    assert (info.quant_table(0), info.quant_table(2)) == ijg_tables(40)
    in_segments = sum(s.length for s in info.segments)
    assert in_segments + info.scan_bytes == len(data)


def test_gray_cmyk_and_custom_tables(photo):
    image = photo(20, 20)
    gray = parse_jpeg(_pillow(image, "L"))
    assert (gray.subsampling, len(gray.components)) == ("gray", 1)
    cmyk = parse_jpeg(_pillow(image, "CMYK"))
    assert (len(cmyk.components), cmyk.adobe_transform) == (4, 0)
    assert cmyk.subsampling == "1x1,1x1,1x1,1x1"
    steps = np.arange(1, 65).reshape(8, 8)
    custom = parse_jpeg(_pillow(image, qtables=[steps.reshape(-1).tolist()] * 2))
    assert custom.quant_table(1) == QuantTable(steps)


def test_opencvs_and_djpegs_sampling_factors(photo):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for flag, name in ((0x411111, "411"), (0x121111, "440"), (0x211111, "422"), (0x221111, "420"), (0x111111, "444")):
        done, data = cv2.imencode(".jpg", photo(40, 40), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, flag])
        assert done
        assert parse_jpeg(data.tobytes()).subsampling == name


def test_sixteen_bit_tables_extra_bytes_and_fill(photo):
    data = encode_reference(photo(16, 16), ijg_tables(75), "420")
    at = data.index(b"\xff\xdb")
    wide = b"\xff\xdb" + (131).to_bytes(2, "big") + b"\x10" + np.full(64, 300, ">u2").tobytes()
    info = parse_jpeg(data[:at] + b"\xff\xff\xff" + wide[1:] + data[at + 69 :] + b"trailing")
    assert info.tables[0].dtype == np.uint16
    assert (info.tables[0] == 300).all()
    assert info.trailing == 8
    with pytest.raises(JpegFormatError, match="300, above 255"):
        info.quant_table(0)
    with pytest.raises(JpegFormatError, match="3 components"):
        info.quant_table(3)


def test_cut_entropy_data_is_reported_not_refused(photo):
    data = encode_reference(photo(64, 64), ijg_tables(90), "420")
    info = parse_jpeg(data[:-100])
    assert not info.complete
    assert info.size == len(data) - 100


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing"),
        (b"\x89PNG\r\n", "89 50 4e 47"),
        (b"\xff\xd8", "no frame header"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8\xff", "inside a marker"),
        (b"\xff\xd8\xff\xff\xff", "inside a marker"),
        (b"\xff\xd8\xff\xdb", "in the length"),
        (b"\xff\xd8\xff\xdb\x00\x01", "length 1"),
        (b"\xff\xd8\xff\xdb\xff\xff\x00", "claims 65535"),
        (b"\xff\xd8\x00\x00", "expected a marker"),
        (b"\xff\xd8\xff\x00", "stuffed zero"),
        (b"\xff\xd8\xff\xd8", "second SOI"),
        (b"\xff\xd8\xff\xdb\x00\x03\x00", "DQT"),
        (b"\xff\xd8\xff\xdb\x00\x43\x04" + b"\x01" * 64, "number 4"),
        (b"\xff\xd8\xff\xdb\x00\x43\x00" + b"\x00" * 64, "has a zero"),
        (b"\xff\xd8\xff\xc4\x00\x13\x00" + b"\xff" * 16, "DHT"),
        (b"\xff\xd8\xff\xdd\x00\x03\x00", "DRI"),
        (b"\xff\xd8\xff\xda\x00\x02", "before the frame header"),
        (b"\xff\xd8\xff\xc0\x00\x08\x08\x00\x08\x00\x08\x00", "no components"),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x08\x00\x00\x01\x01\x11\x00", "width 0"),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x08\x01\x01\x11\x00", "height 0"),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x51\x00", "sampling 5x1"),
        (b"\xff\xd8\xff\xc0\x00\x0c\x08\x00\x08\x00\x08\x01\x01\x11\x00\x00", "does not fit"),
    ],
)
def test_hostile_bytes_meet_one_error(data, message):
    with pytest.raises(JpegFormatError, match=message):
        parse_jpeg(data)


def test_any_mutation_parses_or_raises_the_one_error(photo, rng):
    data = _pillow(photo(24, 24), progressive=True, comment=b"x")
    for _ in range(3000):
        broken = bytearray(data[: rng.integers(1, len(data) + 1)])
        for _ in range(rng.integers(1, 6)):
            broken[rng.integers(len(broken))] = rng.integers(256)
        try:
            info = parse_jpeg(bytes(broken))
        except JpegFormatError:
            continue
        assert 0 < info.width <= 65535
        assert info.subsampling
