"""Frames of every color: the samples of the standard's formulas, any strides, every back end; bad ones are refused.

The oracle of YUV frames is the reference encoder on a :class:`YuvImage`, float64 by BT.601's formulas; OpenCV's
conversion is a second one. RGBx and BGRx equal RGB and BGR without their fourth channel.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from edgejpeg.errors import BufferTooSmallError, InvalidInputError
from edgejpeg.jpeg.colour import YuvImage, sample_planes
from edgejpeg.jpeg.reference import encode_reference
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import Profile
from edgejpeg.runtime import Encoder, encode_jpeg

SUBSAMPLINGS = ("444", "422", "420", "gray")
ONES = (QuantTable(np.ones((8, 8), int)),) * 2
YUV = ("nv12", "nv21", "i420", "yuyv")
SIZES = [(2, 2), (2, 34), (6, 10), (16, 16), (18, 32), (30, 62), (40, 64), (64, 66), (34, 98)]
YUYV_SIZES = [(1, 2), (3, 30), (17, 34), *SIZES]


def yuv_image(rng, height, width, color, full=False) -> YuvImage:
    """Random samples with the chroma of a color, over all 256 values: cameras overshoot the limited range."""
    rows = height if color == "yuyv" else height // 2
    y, cb, cr = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((height, width), *[(rows, width // 2)] * 2))
    return YuvImage(y, cb, cr, full)


def pack(image: YuvImage, color: str) -> np.ndarray:
    """The frame as one array."""
    if color == "yuyv":
        frame = np.empty((*image.y.shape, 2), np.uint8)
        frame[..., 0], frame[:, 0::2, 1], frame[:, 1::2, 1] = image.y, image.cb, image.cr
        return frame
    width = image.y.shape[1]
    if color == "i420":
        parts = [image.cb, image.cr]
    else:
        parts = [np.stack((image.cb, image.cr) if color == "nv12" else (image.cr, image.cb), axis=2)]
    # Half a row is left of each I420 plane when H / 2 is odd.
    return np.concatenate([part.ravel() for part in (image.y, *parts)]).reshape(-1, width)


def yuv_range(image: YuvImage) -> str:
    return "full" if image.full_range else "limited"


def fixed(subsampling: str, tables=ONES) -> Profile:
    return Profile.fixed(name="fixed", luma=tables[0], chroma=tables[1], subsampling=subsampling)


def adaptive(subsampling: str) -> Profile:
    return Profile.adaptive(name="a", sensitivity=np.full((3, 8, 8), 1e-4), water_level=0.1, subsampling=subsampling)


# --- samples ---


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("color", YUV)
def test_yuv_equals_the_reference(color, subsampling, rng):
    for index, (height, width) in enumerate(YUYV_SIZES if color == "yuyv" else SIZES):
        image = yuv_image(rng, height, width, color, full=index % 2 == 0)
        ours = encode_jpeg(
            pack(image, color), tables=ONES, subsampling=subsampling, color=color, effort=1, yuv_range=yuv_range(image)
        )
        assert ours == encode_reference(image, ONES, subsampling, effort=1), (height, width, image.full_range)


@pytest.mark.parametrize("color", YUV)
def test_every_sample_value(color):
    values = np.arange(256, dtype=np.uint8)
    y = np.tile(values, (4, 1))
    # Every pair of neighbouring rows, so that all sums of two chroma samples occur.
    chroma = np.concatenate([[values[0::2], values[1::2]], [values[1::2], values[0::2]]]).astype(np.uint8)
    rows = 4 if color == "yuyv" else 2
    for full in (False, True):
        image = YuvImage(y, chroma[:rows], chroma[::-1][:rows].copy(), full)
        for subsampling in ("444", "420"):
            ours = encode_jpeg(
                pack(image, color),
                tables=ONES,
                subsampling=subsampling,
                color=color,
                effort=1,
                yuv_range=yuv_range(image),
            )
            assert ours == encode_reference(image, ONES, subsampling, effort=1)


def test_the_references_samples_are_those_of_the_standard():
    """BT.601's ends: Y 16 and 235 are black and white, Cb 16 and 240 the ends of the axis."""
    image = YuvImage(np.array([[0, 16, 235, 255]], np.uint8), *[np.array([[0, 16, 240, 255]], np.uint8)] * 2)
    y, cb, _ = (plane[0, :4].tolist() for plane in sample_planes(image, "444"))
    assert y == [-128, -128, 127, 127]
    assert cb == [-128, -127, 127, 127]
    full = YuvImage(image.y, image.cb, image.cr, full_range=True)
    assert sample_planes(full, "444")[0][0, :4].tolist() == [-128, -112, 107, 127]


@pytest.mark.parametrize("color", YUV)
def test_opencv_sees_the_same_picture(color, photo):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, whose conversion is compared, is not installed")
    names = {"nv12": "NV12", "nv21": "NV21", "i420": "I420", "yuyv": "YUY2"}
    i420 = cv2.cvtColor(photo(120, 160), cv2.COLOR_RGB2YUV_I420)
    y, cb, cr = i420[:120], i420[120:150].reshape(60, 80), i420[150:].reshape(60, 80)
    if color == "yuyv":
        cb, cr = (plane.repeat(2, axis=0) for plane in (cb, cr))
    frame = pack(YuvImage(y, cb, cr), color)
    expected = cv2.cvtColor(frame, getattr(cv2, f"COLOR_YUV2BGR_{names[color]}")).astype(int)
    data = encode_jpeg(frame, tables=ONES, subsampling="444", color=color)
    ours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
    # OpenCV replicates chroma, as a 4:4:4 file does. Its results are rounded once, ours also as full-range Y, Cb, Cr.
    assert np.abs(ours - expected).mean() < 0.8
    assert np.abs(ours - expected).max() <= 4


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_a_fourth_channel_does_not_matter(order, subsampling, rng):
    for height, width in [(1, 1), (3, 31), (8, 32), (17, 33), (16, 64), (33, 96), (20, 127)]:
        frame = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        options = {"tables": ijg_tables(80), "subsampling": subsampling}
        expected = encode_jpeg(frame[..., :3].copy(), color=order, **options)
        assert encode_jpeg(frame, color=order + "x", **options) == expected
        mirrored = {"bgr": "rgb", "rgb": "bgr"}[order]
        # Without its first channel: the byte behind the last pixel is not the frame's.
        assert encode_jpeg(frame[..., 1:], color=order, **options) == encode_jpeg(
            frame[..., 1:].copy(), color=order, **options
        )
        xfirst = np.ascontiguousarray(frame[..., ::-1])
        assert encode_jpeg(xfirst[..., ::-1], color=order + "x", **options) == expected
        assert encode_jpeg(frame[..., 2::-1], color=mirrored, **options) == expected


@pytest.mark.parametrize("color", ["bgr", "rgb", "bgrx", "rgbx"])
def test_gray_frames_of_any_color(color, photo):
    gray = photo(20, 30)[..., 0].copy()
    assert encode_jpeg(gray, color=color) == encode_jpeg(gray[..., None], color=color) == encode_jpeg(gray)


@pytest.mark.parametrize("color", ["bgrx", *YUV])
def test_back_ends_and_threads(color, rng, monkeypatch):
    frames = []
    for height, width in [(2, 2), (50, 66), (64, 96), (34, 258)]:
        if color == "bgrx":
            frames.append(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
        else:
            frames.append(pack(yuv_image(rng, height, width, color), color))
    for subsampling, scan_range in itertools.product(SUBSAMPLINGS, ("limited", "full")):
        for profile in (fixed(subsampling, ijg_tables(60)), adaptive(subsampling)):
            files = []
            for backend, threads in (("scalar", 1), ("", 1), ("", 3)):
                monkeypatch.setenv("EDGEJPEG_BACKEND", backend)
                with Encoder(profile, color, threads=threads, yuv_range=scan_range) as encoder:
                    files.append([encoder.encode(frame) for frame in frames])
            assert files[0] == files[1] == files[2], (subsampling, scan_range, profile.kind)


# --- strides and planes ---


def padded_rows(plane: np.ndarray, rng, gap: int) -> np.ndarray:
    """The same plane, its rows further apart, noise between them."""
    wide = rng.integers(0, 256, (plane.shape[0], plane[0].size + gap), dtype=np.uint8)
    view = wide[:, : plane[0].size]
    view[:] = plane.reshape(plane.shape[0], -1)
    return view if plane.ndim == 2 else view.reshape(plane.shape)


@pytest.mark.parametrize("color", ["nv12", "nv21", "i420"])
def test_planes_of_any_strides(color, rng):
    image = yuv_image(rng, 36, 50, color)
    frame = pack(image, color)
    expected = encode_jpeg(frame, color=color)
    if color == "i420":
        chroma = [image.cb, image.cr]
    else:
        chroma = [np.stack((image.cb, image.cr) if color == "nv12" else (image.cr, image.cb), axis=2)]
    assert encode_jpeg((image.y, *chroma), color=color) == expected
    assert encode_jpeg([padded_rows(plane, rng, 7) for plane in (image.y, *chroma)], color=color) == expected
    upside_down = [np.ascontiguousarray(plane[::-1])[::-1] for plane in (image.y, *chroma)]
    assert encode_jpeg(upside_down, color=color) == expected
    spaced = [np.repeat(plane, 2, axis=1)[:, ::2] for plane in (image.y, *chroma)]
    assert encode_jpeg(spaced, color=color) == expected
    flat = [image.y, *(plane.reshape(plane.shape[0], -1) for plane in chroma)]
    assert encode_jpeg(flat, color=color) == expected
    assert encode_jpeg(frame[..., None], color=color) == expected
    assert encode_jpeg(padded_rows(frame, rng, 14), color=color) == expected
    assert encode_jpeg(np.asfortranarray(frame), color=color) == expected


def test_nv12_rows_apart_are_not_copied(rng):
    from edgejpeg.runtime.pixels import picture_of

    frame = padded_rows(pack(yuv_image(rng, 36, 50, "nv12"), "nv12"), rng, 14)
    planes = picture_of(frame, "nv12").planes
    assert all(np.shares_memory(plane, frame) for plane in planes)
    bgrx = rng.integers(0, 256, (9, 11, 4), dtype=np.uint8)
    assert np.shares_memory(picture_of(bgrx[::-1, ::-1], "bgrx").planes[0], bgrx)


def test_yuyv_strides(rng):
    frame = pack(yuv_image(rng, 19, 26, "yuyv"), "yuyv")
    expected = encode_jpeg(frame, color="yuyv")
    for view in (np.ascontiguousarray(frame[::-1])[::-1], np.asfortranarray(frame), np.repeat(frame, 2, 0)[::2]):
        assert encode_jpeg(view, color="yuyv") == expected
    assert encode_jpeg(np.broadcast_to(frame[:1], frame.shape), color="yuyv") == encode_jpeg(
        np.repeat(frame[:1], 19, 0), color="yuyv"
    )


def test_repeated_and_overlapping_rows_are_copied(rng):
    row = rng.integers(0, 256, 500, dtype=np.uint8)
    views = [
        np.broadcast_to(row[:3], (20, 30, 3)),
        np.lib.stride_tricks.as_strided(row, (20, 30, 3), (5, 3, 1)),
        np.lib.stride_tricks.as_strided(row, (20, 30, 3), (60, 1, 1)),
        np.lib.stride_tricks.as_strided(row, (20, 30), (0, 1)),
    ]
    for view in views:
        assert encode_jpeg(view) == encode_jpeg(view.copy())


# --- out= ---


@pytest.mark.parametrize("make", [bytearray, lambda n: np.empty(n, np.uint8), lambda n: memoryview(bytearray(n))])
def test_out(make, photo):
    encoder = Encoder(adaptive("420"), "rgb")
    frame = photo(60, 80)
    expected = encoder.encode(frame)
    out = make(len(expected) + 100)
    memoryview(out).cast("B")[:] = b"\xaa" * (len(expected) + 100)
    written = encoder.encode(frame, out=out)
    assert isinstance(written, memoryview) and written == expected
    assert bytes(out) == expected + b"\xaa" * 100
    exact = make(len(expected))
    assert encoder.encode(frame, out=exact) == expected == bytes(exact)
    assert encoder.tables is not None


def test_too_small_a_buffer(photo):
    encoder = Encoder(adaptive("420"), "rgb")
    frame = photo(60, 80)
    expected = encoder.encode(frame)
    for size in (0, 1, len(expected) - 1):
        out = bytearray(b"\x55" * size)
        message = f"the file has {len(expected)} bytes, the buffer {size}; give a larger one"
        with pytest.raises(BufferTooSmallError, match=message) as caught:
            encoder.encode(frame, out=out)
        assert caught.value.needed == len(expected)
        assert out == b"\x55" * size
    assert encoder.encode(frame, out=bytearray(caught.value.needed)) == expected


def test_bad_buffers(photo):
    encoder = Encoder(adaptive("420"), "rgb")
    frame = photo(60, 80)
    pixels = frame.copy()
    everything = np.zeros(60 * 80 * 3 + 5000, np.uint8)
    inside = everything[: frame.size].reshape(frame.shape)
    cases = [
        (frame, b"x" * 9999, "the bytes is read-only"),
        (frame, np.empty((100, 200), np.uint8)[:, ::2], "the ndarray is not contiguous"),
        (frame, np.empty(9999, np.float32), "the ndarray is not of bytes"),
        (frame, 5, "such as a bytearray, a memoryview or a uint8 array; got int"),
        (frame, "text", "got str"),
        (inside, everything, "out overlaps the memory of the frame"),
        (inside[::2], everything[100:], "out overlaps the memory of the frame"),
        (inside, memoryview(everything[frame.size - 1 :]), "out overlaps the memory of the frame"),
    ]
    for image, out, message in cases:
        with pytest.raises(InvalidInputError, match=message) as caught:
            encoder.encode(image, out=out)
        assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(frame, pixels)
    assert not everything.any()
    assert len(encoder.encode(inside, out=everything[frame.size :])) > 0


# --- bad input ---


@pytest.mark.parametrize(
    ("color", "frame", "message"),
    [
        ("nv12", np.zeros((480, 640, 3), np.uint8), r"shape \(H \* 3/2, W\), or a tuple .* got \(480, 640, 3\)"),
        ("nv12", np.zeros((8, 8), np.uint8), r"got \(8, 8\)"),
        ("nv21", np.zeros((9, 7), np.uint8), r"even H and W; got \(9, 7\)"),
        ("i420", np.zeros((10, 8), np.uint8), r"got \(10, 8\)"),
        ("i420", np.zeros(12, np.uint8), r"got \(12,\)"),
        ("yuyv", np.zeros((8, 8), np.uint8), r"shape \(H, W, 2\) with an even W; got \(8, 8\)"),
        ("yuyv", np.zeros((8, 7, 2), np.uint8), r"got \(8, 7, 2\)"),
        ("yuyv", (np.zeros((8, 8), np.uint8),), r"got planes \(8, 8\)"),
        ("nv12", (np.zeros((8, 8), np.uint8),), r"got planes \(8, 8\)"),
        ("nv12", (), "got planes "),
        ("nv12", (np.zeros((7, 8), np.uint8), np.zeros((3, 8), np.uint8)), r"got planes \(7, 8\), \(3, 8\)"),
        ("nv12", (np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)), r"got planes \(8, 8\), \(4, 4\)"),
        ("i420", (np.zeros((8, 8), np.uint8),) * 3, r"got planes \(8, 8\), \(8, 8\), \(8, 8\)"),
        ("i420", (np.zeros((8, 8), np.uint8), np.zeros((4, 4))), "a frame has dtype uint8.* got float64"),
        ("nv12", np.zeros((12, 8), np.int16), "got int16"),
        ("nv12", [1, 2], "got int"),
        ("nv12", None, "got NoneType"),
        ("nv12", np.zeros((0, 8), np.uint8), "got a frame of 8 x 0"),
        ("i420", np.zeros((3, 65536), np.uint8), "got a frame of 65536 x 2"),
        ("yuyv", np.zeros((1, 0, 2), np.uint8), "got a frame of 0 x 1"),
        ("bgrx", np.zeros((8, 8, 3), np.uint8), r"\(H, W, 4\), .* got \(8, 8, 3\): for three channels, color is bgr"),
        ("bgr", np.zeros((8, 8, 4), np.uint8), r"got \(8, 8, 4\): for four channels, color is bgrx or rgbx"),
        ("rgb", (np.zeros((8, 8), np.uint8),) * 3, "got tuple"),
    ],
)
def test_bad_frames(color, frame, message):
    encoder = Encoder(adaptive("420"), color)
    for call in (encoder.encode, lambda image: encode_jpeg(image, color=color)):
        with pytest.raises(InvalidInputError, match=message) as caught:
            call(frame)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["Limited", "tv", None, 1])
def test_bad_range(value):
    with pytest.raises(InvalidInputError, match="yuv_range is one of limited, full; got"):
        Encoder(adaptive("420"), "nv12", yuv_range=value)
    with pytest.raises(InvalidInputError, match="yuv_range is one of limited, full; got"):
        encode_jpeg(np.zeros((12, 8), np.uint8), color="nv12", yuv_range=value)


def test_decoders_read_the_size(rng):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for color, (height, width) in itertools.product(YUV, [(2, 2), (30, 34)]):
        data = encode_jpeg(pack(yuv_image(rng, height, width, color), color), color=color)
        assert image.open(io.BytesIO(data)).size == (width, height)
