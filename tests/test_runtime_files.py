"""Files of every kind and size, read by others: progressive, lean, with restart markers, with an EXIF orientation."""

from __future__ import annotations

import io
import itertools
import pickle
import shutil
import subprocess

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.markers import APP0, APP1, DHT, DQT, DRI, parse_jpeg
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import load_profile
from edgejpeg.runtime import Encoder, encode_jpeg
from edgejpeg.runtime.library import NativeEncoder

Image = pytest.importorskip("PIL.Image", reason="Pillow, a decoder to test against, is not installed")
cv2 = pytest.importorskip("cv2", reason="OpenCV, a decoder to test against, is not installed")

SUBSAMPLINGS = ("444", "422", "420", "gray")
MODES = (
    {"progressive": True},
    {"container": "lean"},
    {"restart_rows": 1},
    {"effort": 1, "restart_rows": 2, "container": "lean"},
    {"progressive": True, "container": "lean"},
)
needs_djpeg = pytest.mark.skipif(shutil.which("djpeg") is None, reason="djpeg (libjpeg-turbo-progs) is not installed")
needs_jpegtran = pytest.mark.skipif(
    shutil.which("jpegtran") is None, reason="jpegtran (libjpeg-turbo-progs) is not installed"
)


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)


def djpeg(data: bytes) -> bytes:
    done = subprocess.run(["djpeg", "-strict", "-pnm"], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def jpegtran(data: bytes) -> bytes:
    """The same coefficients as a baseline JFIF file with libjpeg's Huffman tables, without restart markers."""
    command = ["jpegtran", "-optimize", "-copy", "none", "-restart", "0"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def native(subsampling: str, threads: int, mode: dict) -> NativeEncoder:
    fields = {"effort": 0, **mode}
    effort = fields.pop("effort")
    fields = {name: int(value == "lean") if name == "container" else int(value) for name, value in fields.items()}
    encoder = NativeEncoder(subsampling, effort, threads, **fields)
    encoder.set_tables(*(table.array for table in ijg_tables(85)))
    return encoder


@pytest.mark.parametrize("content", ["photo", "noise"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_small_size_is_read_alike_in_every_mode(subsampling, content, photo, rng):
    plain = native(subsampling, 1, {})
    others = [native(subsampling, threads, mode) for mode, threads in zip(MODES, (1, 3, 1, 3, 3), strict=True)]
    picture = photo(60, 70) if content == "photo" else rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    for index, (height, width) in enumerate(itertools.product(range(1, 41), repeat=2)):
        frame = np.ascontiguousarray(picture[index % 20 : index % 20 + height, index % 30 : index % 30 + width])
        data = plain.encode(frame, "rgb")
        pixels = pillow(data)
        assert pixels.shape[:2] == (height, width)
        difference = np.abs(opencv(data).astype(int) - (pixels if subsampling == "gray" else pixels[..., ::-1]))
        assert difference.max() <= 1
        other = others[index % len(others)].encode(frame, "rgb")
        assert np.array_equal(pillow(other), pixels), (height, width, index % len(others))
        if subsampling in ("444", "gray") and content == "photo":
            expected = frame if subsampling == "444" else frame @ np.array([0.299, 0.587, 0.114])
            assert np.abs(expected.astype(float) - pixels).mean() < 6


@needs_djpeg
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_djpeg_is_strict_about_nothing(subsampling, photo):
    for height, width in ((1, 1), (7, 40), (16, 16), (17, 33), (40, 23), (95, 130)):
        frame = photo(height, width)
        expected = djpeg(encode_jpeg(frame, subsampling=subsampling))
        for mode in MODES:
            assert djpeg(encode_jpeg(frame, subsampling=subsampling, threads=2, **mode)) == expected


def worst_frames(rng):
    board = (np.indices((72, 90)).sum(0) % 2).astype(bool)[..., None]
    yield rng.integers(0, 256, (72, 90, 3), dtype=np.uint8)
    yield rng.choice(np.array([0, 255], np.uint8), (72, 90, 3))
    yield np.where(board, np.uint8(0), np.uint8(255)).repeat(3, axis=2)
    yield np.where(board, np.array([0, 0, 255], np.uint8), np.array([255, 255, 0], np.uint8))
    yield np.zeros((72, 90, 3), np.uint8)


@needs_jpegtran
@pytest.mark.parametrize("step", [1, 2, 7])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_worst_contents_have_the_same_coefficients_in_every_mode(subsampling, step, rng):
    tables = (QuantTable(np.full((8, 8), step)),) * 2
    for frame in worst_frames(rng):
        expected = jpegtran(encode_jpeg(frame, tables=tables, subsampling=subsampling))
        for mode in MODES:
            data = encode_jpeg(frame, tables=tables, subsampling=subsampling, **mode)
            assert jpegtran(data) == expected, mode


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_threads_and_back_ends_do_not_change_a_byte(subsampling, photo, monkeypatch):
    frame = photo(250, 333)
    for mode in MODES:
        files = set()
        for backend in ("", "scalar"):
            monkeypatch.setenv("EDGEJPEG_BACKEND", backend)
            for threads in (1, 2, 3, 64):
                files.add(encode_jpeg(frame, subsampling=subsampling, threads=threads, **mode))
        assert len(files) == 1


# --- progressive ---


@needs_jpegtran
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_progressive_files_hold_the_baseline_coefficients(subsampling, photo, rng):
    noisy = np.clip(photo(130, 170) + rng.normal(0, 25, (130, 170, 3)), 0, 255).astype(np.uint8)
    for frame, quality in itertools.product((photo(130, 170), noisy), (1, 15, 50, 90, 100)):
        baseline = encode_jpeg(frame, quality=quality, subsampling=subsampling, effort=1)
        progressive = encode_jpeg(frame, quality=quality, subsampling=subsampling, progressive=True)
        info = parse_jpeg(progressive)
        assert (info.process, info.scans, info.complete) == ("progressive", 3 if subsampling == "gray" else 5, True)
        assert jpegtran(progressive) == baseline


@needs_jpegtran
def test_long_runs_of_blocks_without_levels(rng):
    """More blocks than an end-of-block run can say, and more correction bits than may wait for one."""
    flat = np.full((8 * 190, 8 * 190), 128, np.uint8)
    flat[-8:, -8:] = rng.integers(0, 256, (8, 8))
    waves = np.tile((128 + 90 * np.cos(np.arange(8) * np.pi / 3.1)).astype(np.uint8), (8 * 30, 30))
    for frame in (flat, waves, np.concatenate([waves[:80], flat[:80, :240]])):
        for quality in (20, 85):
            plain, progressive = (encode_jpeg(frame, quality=quality, progressive=p) for p in (False, True))
            assert jpegtran(progressive) == jpegtran(plain)


def test_progressive_saves_bytes_on_photos(photo):
    for quality in (50, 75, 90):
        frame = photo(400, 600)
        optimal = encode_jpeg(frame, quality=quality, effort=1)
        assert len(encode_jpeg(frame, quality=quality, progressive=True)) < 0.995 * len(optimal)


# --- containers ---


@pytest.mark.parametrize(("subsampling", "saved"), [("420", 34), ("gray", 22)])
def test_lean_files_have_fewer_segments_and_the_same_scan(subsampling, saved, photo):
    frame = photo(40, 60)
    plain, lean = (encode_jpeg(frame, subsampling=subsampling, container=name) for name in ("jfif", "lean"))
    assert len(plain) - len(lean) == saved
    markers = [segment.marker for segment in parse_jpeg(lean).segments]
    assert (markers.count(APP0), markers.count(DQT), markers.count(DHT)) == (0, 1, 1)
    first, second = parse_jpeg(plain), parse_jpeg(lean)
    assert first.huffman == second.huffman
    assert first.scan_bytes == second.scan_bytes
    assert plain[-first.scan_bytes :] == lean[-first.scan_bytes :]
    assert [t.tolist() for t in first.tables.values()] == [t.tolist() for t in second.tables.values()]


@pytest.mark.parametrize("container", ["jfif", "lean"])
@pytest.mark.parametrize("progressive", [False, True])
def test_viewers_see_the_orientation(container, progressive, photo):
    frame = photo(32, 48)
    for orientation in range(1, 9):
        data = encode_jpeg(frame, orientation=orientation, container=container, progressive=progressive)
        markers = [segment.marker for segment in parse_jpeg(data).segments]
        assert markers[1:3] == ([APP0, APP1] if container == "jfif" else [APP1, DQT])
        assert Image.open(io.BytesIO(data)).getexif()[274] == orientation
        turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert turned.shape[:2] == ((48, 32) if orientation >= 5 else (32, 48))
    assert APP1 not in [segment.marker for segment in parse_jpeg(encode_jpeg(frame)).segments]


# --- restart markers ---


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_restart_markers_stand_where_the_interval_says(subsampling, rows, photo):
    data = encode_jpeg(photo(200, 90), subsampling=subsampling, restart_rows=rows)
    info = parse_jpeg(data)
    high, wide = (16 if subsampling == "420" else 8), (16 if subsampling in ("420", "422") else 8)
    mcu_rows, mcu_columns = -(-200 // high), -(-90 // wide)
    assert info.restart_interval == min(rows, mcu_rows) * mcu_columns
    assert DRI in [segment.marker for segment in info.segments]
    scan = data[-2 - info.scan_bytes : -2]
    found = [scan[i + 1] for i in range(len(scan) - 1) if scan[i] == 0xFF and 0xD0 <= scan[i + 1] <= 0xD7]
    assert found == [0xD0 + i % 8 for i in range(-(-mcu_rows // rows) - 1)]


def test_a_damaged_interval_leaves_the_others_whole(photo):
    frame = photo(160, 160)
    data = bytearray(encode_jpeg(frame, restart_rows=1, subsampling="444"))
    whole = pillow(bytes(data)).astype(int)
    starts = [i for i in range(len(data) - 1) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
    assert len(starts) == 19
    for i in range(starts[4] + 12, starts[5] - 4):
        data[i] = 0x55
    damaged = pillow(bytes(data)).astype(int)
    assert np.array_equal(damaged[:40], whole[:40])
    assert not np.array_equal(damaged[40:48], whole[40:48])
    assert np.array_equal(damaged[48:], whole[48:])


def test_intervals_that_no_file_can_hold_are_refused():
    frame = np.zeros((72, 65500), np.uint8)
    encoder = NativeEncoder("gray", 0, 1, restart_rows=8)
    encoder.set_tables(ijg_tables(50)[0].array, None)
    with pytest.raises(InvalidInputError, match=r"a restart interval of 65536 MCUs.*65535 x 72.*at most 65535"):
        encoder.encode(np.zeros((72, 65535), np.uint8), "gray")
    assert parse_jpeg(encoder.encode(frame, "gray")).restart_interval == 65504


# --- options ---


def test_an_encoder_takes_all_of_them_and_is_pickled_with_them(photo):
    options = {
        "container": "lean",
        "restart_rows": 2,
        "orientation": 6,
        "effort": 1,
        "exact_huffman": True,
        "sampled_statistics": True,
    }
    with Encoder("efficientnet_lite0", **options) as encoder:
        data = encoder.encode(photo(50, 60))
        assert pickle.loads(pickle.dumps(encoder)).encode(photo(50, 60)) == data
    info = parse_jpeg(data)
    assert info.restart_interval == 8
    assert Image.open(io.BytesIO(data)).getexif()[274] == 6
    with Encoder(load_profile("efficientnet_lite0"), progressive=True) as encoder:
        assert parse_jpeg(encoder.encode(photo(50, 60))).process == "progressive"
        assert pickle.loads(pickle.dumps(encoder)).encode(photo(50, 60)) == encoder.encode(photo(50, 60))


def test_edgejpeg_encode_has_their_flags(photo, tmp_path):
    Image.fromarray(photo(40, 50)).save(tmp_path / "in.png")
    common = ["encode", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.jpg")]
    for tables in (["--quality", "60"], ["-p", "efficientnet_lite0"]):
        assert cli.main([*common, *tables, "--progressive", "--container", "lean", "--orientation", "6"]) == 0
        info = parse_jpeg((tmp_path / "out.jpg").read_bytes())
        assert info.process == "progressive"
        assert [segment.marker for segment in info.segments][1:3] == [APP1, DQT]
        assert cli.main([*common, *tables, "--restart-rows", "2", "--effort", "1", "--exact-huffman"]) == 0
        assert parse_jpeg((tmp_path / "out.jpg").read_bytes()).restart_interval == 8
    data = encode_jpeg(photo(40, 50), quality=60, effort=1, restart_rows=2)
    assert cli.main([*common, "--quality", "60", "--restart-rows", "2", "--effort", "1"]) == 0
    assert (tmp_path / "out.jpg").read_bytes() == data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progressive": 1}, "progressive is True or False; got 1"),
        ({"container": "exif"}, "container is one of jfif, lean; got 'exif'"),
        ({"restart_rows": -1}, "restart_rows is an integer from 0 to 65535; got -1"),
        ({"restart_rows": 65536}, "restart_rows is an integer from 0 to 65535; got 65536"),
        ({"orientation": 0}, "orientation is an integer from 1 to 8; got 0"),
        ({"orientation": 9}, "orientation is an integer from 1 to 8; got 9"),
        ({"exact_huffman": "yes"}, "exact_huffman is True or False; got 'yes'"),
        ({"progressive": True, "restart_rows": 3}, "restart_rows=3 with progressive=True"),
    ],
)
def test_options_outside_what_is_allowed(options, message):
    for make in (
        lambda: Encoder("efficientnet_lite0", **options),
        lambda: encode_jpeg(np.zeros((8, 8), np.uint8), **options),
    ):
        with pytest.raises(InvalidInputError, match=message):
            make()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"standard_huffman": 2}, "standard_huffman is 2; it is an integer from 0 to 1"),
        ({"container": 2}, "container is 2; it is an integer from 0 to 1"),
        ({"orientation": 9}, "orientation is 9; it is an integer from 0 to 8"),
        ({"restart_rows": -1}, "restart_rows is -1"),
        ({"progressive": 1, "restart_rows": 1}, "progressive is 1 and restart_rows is 1; one of them is 0"),
        ({"progressive": 1, "standard_huffman": 1}, "progressive and standard_huffman are 1; one of them is 0"),
    ],
)
def test_the_library_checks_its_options(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        NativeEncoder("420", 0, 1, **fields)
