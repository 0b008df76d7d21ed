"""The encoder: files that every decoder reads, equal to the reference's where the tables are fine, of any frame.

Coarser tables and designed ones: test_runtime_coefficients.py.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError, ProfileError
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.reference import encode_reference
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import Level, Profile
from edgejpeg.runtime import Encoder, encode_jpeg

SUBSAMPLINGS = ("444", "422", "420", "gray")
ONES = (QuantTable(np.ones((8, 8), int)),) * 2


def synthetic_sensitivity(seed: int = 0) -> np.ndarray:
    """(3, 8, 8) with the shape of measured maps: luma peaks at middle frequencies, chroma falls, its DC is large."""
    radius = np.add.outer(np.arange(8.0), np.arange(8.0))
    luma = 2.7e-4 * np.exp(-(((radius - 4) / 3.5) ** 2))
    chroma = [peak * np.exp(-radius / 1.7) for peak in (3e-4, 2e-4)]
    noise = np.random.default_rng(seed).lognormal(0, 0.3, (3, 8, 8))
    return np.stack([luma, *chroma]) * noise


def adaptive(**changes) -> Profile:
    settings = {"name": "test", "sensitivity": synthetic_sensitivity(), "water_level": 0.05}
    return Profile.adaptive(**(settings | changes))


def decode(data: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="Pillow, the decoder to test against, is not installed")
    return np.asarray(image.open(io.BytesIO(data)))


def expected_file(ours: bytes, image: np.ndarray, tables, subsampling: str, effort: int = 0) -> bytes:
    """The reference's file for an image; at effort 0 with the Huffman tables that ours chose."""
    chosen = parse_jpeg(ours).huffman if effort == 0 else None
    return encode_reference(image, tables, subsampling, effort=effort, huffman_tables=chosen)


# --- the same bytes as the reference: tables so fine that the float64 DCT is used ---


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_small_size_equals_the_reference(subsampling, rng):
    for height, width in itertools.product(range(1, 18), repeat=2):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        effort, threads = (height + width) % 2, 1 + height % 3
        ours = encode_jpeg(image, tables=ONES, subsampling=subsampling, effort=effort, threads=threads)
        assert ours == expected_file(ours, image, ONES, subsampling, effort), (height, width)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("effort", [0, 1])
def test_a_photo_equals_the_reference(subsampling, effort, photo):
    image = photo(97, 131)
    for quality in (95, 98, 100):
        ours = encode_jpeg(image, quality=quality, subsampling=subsampling, effort=effort, threads=2)
        assert ours == expected_file(ours, image, ijg_tables(quality), subsampling, effort)


def extreme_frames(rng):
    y, x = np.mgrid[0:50, 0:70]
    board = ((x + y) % 2).astype(bool)
    black, white = np.zeros(3, np.uint8), np.full(3, 255, np.uint8)
    blue, yellow, red, cyan = (np.array(c, np.uint8) for c in ([0, 0, 255], [255, 255, 0], [255, 0, 0], [0, 255, 255]))
    yield "noise", rng.integers(0, 256, (150, 170, 3), dtype=np.uint8)
    yield "two values", rng.choice(np.array([0, 255], np.uint8), (100, 90, 3))
    yield "checkerboard", np.where(board[..., None], white, black)
    yield "blue and yellow", np.where(board[..., None], blue, yellow)
    yield "red and cyan", np.where(board[..., None], red, cyan)
    yield "blocks", np.where((((x // 8) + (y // 8)) % 2).astype(bool)[..., None], white, black)
    yield "stripes of 4", np.where(((x // 4) % 2).astype(bool)[..., None], red, cyan)
    yield "constant", np.broadcast_to(blue, (40, 40, 3))


@pytest.mark.parametrize("effort", [0, 1])
def test_extremes_at_step_one_equal_the_reference(effort, rng):
    for name, image in extreme_frames(rng):
        for subsampling in SUBSAMPLINGS:
            ours = encode_jpeg(image, tables=ONES, subsampling=subsampling, effort=effort)
            assert ours == expected_file(ours, image, ONES, subsampling, effort), (name, subsampling)


def test_gray_frames_equal_the_reference(photo):
    gray = photo(45, 77)[..., 1].copy()
    expected = encode_jpeg(gray, quality=97)
    assert expected == expected_file(expected, gray, ijg_tables(97), "gray")
    assert encode_jpeg(gray[..., None], quality=97, subsampling="444") == expected
    assert encode_jpeg(gray, tables=ijg_tables(97)[0], subsampling="gray") == expected
    assert parse_jpeg(expected).subsampling == "gray"


@pytest.mark.parametrize(("height", "width"), [(1, 65535), (65535, 1), (65535, 9)])
def test_longest_sides(height, width):
    column = np.random.default_rng(1).integers(0, 256, (height, 1, 3), dtype=np.uint8)
    image = np.broadcast_to(column, (height, width, 3))
    data = encode_jpeg(image, quality=98)
    info = parse_jpeg(data)
    assert (info.height, info.width, info.complete) == (height, width, True)
    if width < 9:
        assert data == expected_file(data, image, ijg_tables(98), "420")
    # libjpeg, and so every decoder here, stops at 65500.
    side = (min(height, 65500), min(width, 65500))
    assert decode(encode_jpeg(image[: side[0], : side[1]], quality=50)).shape == (*side, 3)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_threads_do_not_change_a_byte(subsampling, photo):
    frame = photo(250, 333)
    profile = adaptive(subsampling=subsampling)
    for effort in (0, 1):
        files = [encode_jpeg(frame, subsampling=subsampling, effort=effort, threads=n) for n in (1, 2, 3, 4, 64)]
        assert len(set(files)) == 1
        designed = [Encoder(profile, effort=effort, threads=n).encode(frame) for n in (1, 2, 3, 4, 64)]
        assert len(set(designed)) == 1


# --- read by others ---


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_decoders_agree(subsampling, photo, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, a decoder to test against, is not installed")
    data = encode_jpeg(photo(93, 121), quality=90, subsampling=subsampling, effort=1)
    pillow = decode(data)
    flag = cv2.IMREAD_GRAYSCALE if subsampling == "gray" else cv2.IMREAD_COLOR_RGB
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    assert pillow.shape == opencv.shape
    assert np.abs(pillow.astype(int) - opencv).max() <= 1
    if shutil.which("djpeg") is None:
        pytest.skip("djpeg (libjpeg-turbo-progs) is not installed; Pillow and OpenCV agreed")
    (tmp_path / "a.jpg").write_bytes(data)
    run = subprocess.run(["djpeg", "-strict", "-pnm", tmp_path / "a.jpg"], capture_output=True, check=True)
    assert run.stderr == b""
    assert np.abs(pillow.astype(int) - decode(run.stdout)).max() <= 1


def test_step_one_is_near_the_input(rng, photo):
    for image in (photo(64, 90), rng.integers(0, 256, (33, 41, 3), dtype=np.uint8)):
        # Y, Cb and Cr are integers, so that up to 1.772 * .5 + .5 and the decoder's own rounding are lost.
        difference = decode(encode_jpeg(image, tables=ONES, subsampling="444")).astype(int) - image
        assert np.abs(difference).max() <= 4
        assert np.abs(difference).mean() < 0.8
        assert np.abs(difference.mean(axis=(0, 1))).max() < 0.1
        gray = image[..., 0]
        assert np.abs(decode(encode_jpeg(gray, tables=ONES[0])).astype(int) - gray).max() <= 2


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="jpegtran (libjpeg-turbo-progs) is not installed")
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_effort_one_equals_libjpegs_optimisation_of_effort_zero(subsampling, photo, rng, tmp_path):
    frames = [photo(75, 110), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), np.zeros((20, 20, 3), np.uint8)]
    for image, quality in itertools.product(frames, (20, 100)):
        plain, optimal = (encode_jpeg(image, quality=quality, subsampling=subsampling, effort=e) for e in (0, 1))
        (tmp_path / "a.jpg").write_bytes(plain)
        command = ["jpegtran", "-optimize", "-copy", "all", tmp_path / "a.jpg"]
        theirs = subprocess.run(command, capture_output=True, check=True).stdout
        assert parse_jpeg(optimal).huffman == parse_jpeg(theirs).huffman
        assert optimal[optimal.index(b"\xff\xda") :] == theirs[theirs.index(b"\xff\xda") :]
        assert len(optimal) <= len(plain)


# --- frames of all kinds ---


def test_views_equal_their_copies(rng):
    base = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    four = rng.integers(0, 256, (30, 40, 4), dtype=np.uint8)
    views = {
        "upside down": base[::-1],
        "mirrored": base[:, ::-1],
        "both": base[::-1, ::-1],
        "strided": base[3:50:2, 1:70:3],
        "transposed": base.transpose(1, 0, 2),
        "channels reversed": base[..., ::-1],
        "all reversed": base[::-1, ::-1, ::-1],
        "BGRx": four[..., :3],
        "planar": np.ascontiguousarray(base.transpose(2, 0, 1)).transpose(1, 2, 0),
        "Fortran": np.asfortranarray(base),
        "one pixel repeated": np.broadcast_to(base[0, 0], (20, 30, 3)),
        "gray plane": base[..., 1],
        "gray strided": base[::-2, ::3, 2],
        "gray with an axis": base[:, :, 1:2],
        "read only": np.frombuffer(base.tobytes(), np.uint8).reshape(base.shape),
    }
    with Encoder(adaptive()) as encoder:
        for name, view in views.items():
            before = view.copy()
            assert encode_jpeg(view) == encode_jpeg(before), name
            assert encode_jpeg(view, color="bgr", subsampling="422") == encode_jpeg(
                before, color="bgr", subsampling="422"
            ), name
            assert encoder.encode(view) == encoder.encode(before), name
            np.testing.assert_array_equal(view, before)


def test_color_order(photo):
    rgb = photo(40, 56)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    assert encode_jpeg(rgb) == encode_jpeg(bgr, color="bgr") != encode_jpeg(bgr)
    assert Encoder(adaptive()).encode(bgr) == Encoder(adaptive(), color="rgb").encode(rgb)


def test_frames_of_changing_size_share_an_encoder(photo):
    encoder = Encoder(adaptive(), color="rgb", threads=2)
    for height, width in ((8, 8), (200, 120), (1, 1), (33, 300), (200, 120)):
        frame = photo(height, width)
        assert encoder.encode(frame) == Encoder(adaptive(), color="rgb").encode(frame)


# --- tables ---


def test_pillow_reads_the_tables(photo):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    encoder = Encoder(adaptive(), color="rgb")
    read = image.open(io.BytesIO(encoder.encode(photo(80, 80)))).quantization
    assert [read[0], read[1]] == [table.raster_list() for table in encoder.tables]
    assert encoder.tables[0] != encoder.tables[1]


def test_fixed_profile(photo):
    luma, chroma = ijg_tables(96)
    profile = Profile.fixed(name="fixed", luma=luma, chroma=chroma, subsampling="422", effort=1)
    encoder = Encoder(profile, color="rgb")
    assert encoder.tables is None
    frame = photo(50, 70)
    assert encoder.encode(frame) == encode_reference(frame, (luma, chroma), "422", effort=1)
    assert encoder.tables == (luma, chroma)
    assert encoder.statistics is None
    stored = Encoder(profile, color="rgb", effort=0).encode(frame)
    assert stored == expected_file(stored, frame, (luma, chroma), "422")


def test_water_level(photo):
    frame = photo(100, 100)
    profile = adaptive(water_level=0.02, chroma_water_level=0.06)
    sizes = [len(Encoder(profile, color="rgb", water_level=d).encode(frame)) for d in (0.005, 0.02, 0.1, 0.5)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    moved = adaptive(water_level=0.1, chroma_water_level=0.1 * (0.06 / 0.02))
    assert Encoder(profile, water_level=0.1).encode(frame) == Encoder(moved).encode(frame)


def test_comment(photo):
    profile = adaptive(name="camera é")
    data = Encoder(profile, comment=True).encode(photo(20, 20))
    assert parse_jpeg(data).comments == [
        f"edgejpeg profile=camera é@{profile.profile_id} d={profile.water_level:g}".encode()
    ]
    assert decode(data).shape == (20, 20, 3)
    assert parse_jpeg(Encoder(profile).encode(photo(20, 20))).comments == []


def test_encode_jpeg_defaults(photo):
    frame = photo(40, 40)
    assert encode_jpeg(frame) == encode_jpeg(frame, quality=75, subsampling="420", color="rgb", effort=0)
    assert encode_jpeg(frame, quality=40) == encode_jpeg(frame, tables=ijg_tables(40))


# --- threads, processes, lifetime ---


def test_one_encoder_from_four_threads(photo):
    frames = [photo(40 + 13 * i, 90 - 11 * i) for i in range(6)] * 5
    with Encoder(adaptive(), threads=2) as encoder:
        expected = [encoder.encode(frame) for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(encoder.encode, frames)) == expected


def test_spawned_process(photo):
    encoder = Encoder(adaptive(), color="rgb", effort=1, threads=2, water_level=0.2, comment=True)
    frame = photo(60, 60)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(encoder.encode, (frame,)) == encoder.encode(frame)


def test_pickled(photo):
    encoder = Encoder(adaptive(), "rgb", 1, 2, 0.2, comment=True)
    copy = pickle.loads(pickle.dumps(encoder))
    encoder.close()
    assert copy.encode(photo(30, 30)) == Encoder(adaptive(), "rgb", 1, 2, 0.2, comment=True).encode(photo(30, 30))


FORK = """
import os
import numpy as np
from edgejpeg.runtime import Encoder
from edgejpeg.profile import Profile

encoder = Encoder(Profile.adaptive(name="a", sensitivity=np.full((3, 8, 8), 1e-4), water_level=0.1), threads=3)
frame = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
expected = encoder.encode(frame)
child = os.fork()
if child == 0:
    equal = encoder.encode(frame) == expected
    encoder.close()
    os._exit(0 if equal else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert encoder.encode(frame) == expected
print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_with_threads():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert (run.stdout, run.returncode) == ("equal\n", 0), run.stderr


def test_closed(photo):
    encoder = Encoder(adaptive())
    with encoder:
        encoder.encode(photo(8, 8))
    encoder.close()
    for use in (lambda: encoder.encode(photo(8, 8)), lambda: encoder.tables, lambda: encoder.statistics):
        with pytest.raises(InvalidInputError, match="this Encoder is closed; make a new one"):
            use()


# --- bad input ---


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([[1, 2], [3, 4]], "got list: convert with np.asarray"),
        (None, "got NoneType"),
        (b"\xff\xd8", "got bytes"),
        (np.zeros((8, 8, 3)), "got float64: convert it"),
        (np.zeros((8, 8, 3), np.float32), "got float32"),
        (np.zeros((8, 8, 3), np.uint16), "got uint16"),
        (np.zeros((8, 8), bool), "got bool"),
        (np.zeros((8, 8, 4), np.uint8), r"got \(8, 8, 4\)"),
        (np.zeros((8, 8, 2), np.uint8), r"got \(8, 8, 2\)"),
        (np.zeros((3, 8, 8), np.uint8), r"got \(3, 8, 8\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"got \(1, 8, 8, 3\)"),
        (np.zeros(8, np.uint8), r"got \(8,\)"),
        (np.uint8(1), "got uint8"),
        (np.zeros((0, 8, 3), np.uint8), "got a frame of 8 x 0"),
        (np.zeros((8, 0), np.uint8), "got a frame of 0 x 8"),
        (np.zeros((1, 65536), np.uint8), "got a frame of 65536 x 1"),
        (np.zeros((65536, 1, 3), np.uint8), "got a frame of 1 x 65536"),
    ],
)
def test_bad_frames(frame, message):
    encoder = Encoder(adaptive())
    for call in (encoder.encode, encode_jpeg):
        with pytest.raises(InvalidInputError, match=message) as caught:
            call(frame)
        assert "\n" not in str(caught.value)


FRAME = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"color": "yuv"}, "color is one of bgr, rgb, bgrx, rgbx, nv12, nv21, i420, yuyv; got 'yuv'"),
        ({"effort": 2}, "effort is an integer from 0 to 1; got 2"),
        ({"effort": "1"}, "effort is an integer from 0 to 1; got '1'"),
        ({"effort": True}, "effort is an integer"),
        ({"threads": 0}, "threads is an integer from 1 to 256; got 0"),
        ({"threads": 1.5}, "threads is an integer from 1 to 256; got 1.5"),
        ({"threads": 10**20}, "threads is an integer from 1 to 256"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Encoder(adaptive(), **arguments)
    with pytest.raises(InvalidInputError, match=message):
        encode_jpeg(FRAME, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subsampling": "411"}, "subsampling is one of 444, 422, 420, gray; got '411'"),
        ({"quality": 0}, "from 1 to 100; got 0"),
        ({"quality": 101}, "from 1 to 100; got 101"),
        ({"quality": 90, "tables": ijg_tables(90)}, "tables and quality=90 were both given; give one of them"),
        ({"tables": ONES[0]}, r"needs a luma and a chroma table; got one: give tables=\(luma, chroma\)"),
        ({"tables": (ONES[0], None)}, "needs a luma and a chroma table"),
        (
            {"tables": (None, ONES[0])},
            r"tables is \(luma, chroma\), each a QuantTable; got \['NoneType', 'QuantTable'\]",
        ),
        ({"tables": ()}, r"tables is \(luma, chroma\), each a QuantTable; got \[\]"),
        ({"tables": ONES + ONES}, "each a QuantTable"),
        ({"tables": np.ones((2, 8, 8))}, r"got \['ndarray', 'ndarray'\]"),
        ({"tables": 5}, "each a QuantTable; got int"),
    ],
)
def test_bad_encode_jpeg_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        encode_jpeg(FRAME, **arguments)


@pytest.mark.parametrize("level", [0, -1.0, float("nan"), float("inf"), "0.1", True, 1e308])
def test_bad_water_level(level):
    with pytest.raises(InvalidInputError, match="water_level"):
        Encoder(adaptive(sensitivity=np.full((3, 8, 8), 10.0)), water_level=level)


def test_water_level_of_a_fixed_profile():
    luma, chroma = ijg_tables(50)
    with pytest.raises(InvalidInputError, match=r"water_level=0\.1 with 'x', a fixed profile"):
        Encoder(Profile.fixed(name="x", luma=luma, chroma=chroma), water_level=0.1)


def test_bad_profiles(tmp_path):
    with pytest.raises(ProfileError):
        Encoder("no such profile")
    with pytest.raises(ProfileError):
        Encoder(tmp_path / "missing.toml")
    with pytest.raises(
        InvalidInputError, match="a profile is a Profile, the name of a shipped one, or a path; got int"
    ):
        Encoder(3)


def test_a_ladder_encodes_at_its_default_level(photo):
    pairs = [ijg_tables(quality) for quality in (20, 60)]
    levels = [Level(0.5 + i, *pair) for i, pair in enumerate(pairs)]
    frame = photo(50, 70)
    for level, pair in enumerate(pairs):
        profile = Profile.ladder(name="steps", levels=levels, level=level)
        assert Encoder(profile, color="rgb").encode(frame) == encode_jpeg(frame, tables=pair)
    with pytest.raises(InvalidInputError, match="a ladder profile"):
        Encoder(profile, water_level=1.0)
