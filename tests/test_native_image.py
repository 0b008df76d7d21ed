"""Images that the C interface must refuse, with the reason; buffers that it must leave alone."""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_size_t, c_void_p

import numpy as np
import pytest

from edgejpeg.runtime import library
from edgejpeg.runtime.library import NativeEncoder, load_library

OK, INVALID, TOO_SMALL = 0, 1, 4
RGB, BGR, LUMA, NV12, NV21, I420, YUYV = range(7)
MOST = 2**63 - 1


@pytest.fixture
def native():
    encoder = NativeEncoder("420", 0, 1)
    ones = np.ones((8, 8), np.uint8)
    encoder.set_tables(ones, ones)
    yield encoder
    encoder.close()


@pytest.fixture
def memory():
    return np.random.default_rng(0).integers(0, 256, 1 << 16, dtype=np.uint8)


def image_of(memory: np.ndarray, fmt: int, **changes) -> library._Image:
    """A correct image of 16 x 8 in the middle of the memory, but for the changes."""
    base = memory.ctypes.data + memory.size // 2
    image = library._Image(pixels=base, width=16, height=8, format=fmt)
    image.pixel_stride = {RGB: 3, BGR: 3, LUMA: 1, YUYV: 2}.get(fmt, 1)
    image.row_stride = 16 * image.pixel_stride
    if fmt in (NV12, NV21, I420):
        for plane in range(1 if fmt != I420 else 2):
            image.chroma[plane] = base + 1024 * (plane + 1)
            image.chroma_stride[plane] = 8 if fmt == I420 else 16
    for name, value in changes.items():
        field, _, index = name.partition("_at_")
        if index:
            getattr(image, field)[int(index)] = value
        else:
            setattr(image, name, value)
    return image


def encode(native, image) -> tuple[int, str]:
    lib = load_library()
    data, size = c_void_p(1), c_size_t(1)
    status = lib.edgejpeg_encoder_encode(native._handle, byref(image), byref(data), byref(size))
    assert bool(data.value) == bool(size.value) == (status == OK)
    return status, lib.edgejpeg_last_error().decode()


@pytest.mark.parametrize("fmt", range(7))
def test_correct_images(native, memory, fmt):
    assert encode(native, image_of(memory, fmt))[0] == OK
    row = image_of(memory, fmt).row_stride
    assert encode(native, image_of(memory, fmt, row_stride=-row))[0] == OK
    assert encode(native, image_of(memory, fmt, row_stride=row + 5))[0] == OK
    # Fields that the format does not use are not looked at.
    if fmt <= LUMA:
        assert encode(native, image_of(memory, fmt, range=99, chroma_stride_at_0=MOST))[0] == OK
    if fmt in (NV12, NV21):
        assert encode(native, image_of(memory, fmt, chroma_stride_at_1=MOST))[0] == OK
    for stride in (0, 1, MOST, -MOST - 1):
        height = 2 if fmt in (NV12, NV21, I420) else 1
        changes = (
            {"chroma_stride_at_0": stride, "chroma_stride_at_1": stride} if height == 2 else {"row_stride": stride}
        )
        assert encode(native, image_of(memory, fmt, height=height, **changes))[0] == OK


@pytest.mark.parametrize(
    ("fmt", "changes", "message"),
    [
        (RGB, {"pixels": None}, "image->pixels is NULL"),
        (RGB, {"format": 7}, "image format is 7; it is an integer from 0 to 6"),
        (RGB, {"row_stride": 0}, "image row_stride is 0, .* rows of 16 pixels of 3 bytes are at least 48 bytes apart"),
        (RGB, {"row_stride": 47}, "row_stride is 47, .* at least 48 bytes apart, or minus as many"),
        (BGR, {"row_stride": -47}, "row_stride is -47"),
        (BGR, {"pixel_stride": 0}, "pixels are 0 bytes apart; samples must not overlap"),
        (BGR, {"pixel_stride": 2}, "pixels are 2 bytes apart"),
        (BGR, {"pixel_stride": -4, "row_stride": 62}, "row_stride is 62, .* at least 63 bytes apart"),
        (LUMA, {"row_stride": 15}, "at least 16 bytes apart"),
        (LUMA, {"row_stride": MOST}, r"image row_stride is 9223372036854775807, .*: 16 x 8 of them are outside of the"),
        (LUMA, {"pixel_stride": MOST // 15}, "outside of the address space"),
        (LUMA, {"pixel_stride": -MOST - 1, "width": 2}, "outside of the address space"),
        (RGB, {"row_stride": -(2**60)}, "outside of the address space"),
        (NV12, {"width": 15}, "image width is 15; that of NV12 is even"),
        (NV21, {"height": 7}, "image height is 7; that of NV21 is even"),
        (I420, {"height": 7}, "image height is 7; that of I420 is even"),
        (I420, {"width": 1}, "image width is 1; that of I420 is even"),
        (YUYV, {"width": 15}, "image width is 15; that of YUYV is even"),
        (YUYV, {"pixel_stride": 1}, "image pixel_stride is 1; that of YUYV is 2"),
        (NV12, {"pixel_stride": 2}, "image pixel_stride is 2; that of NV12 is 1"),
        (NV12, {"range": 2}, "image range is 2; it is an integer from 0 to 1"),
        (YUYV, {"range": -1}, "image range is -1"),
        (NV12, {"chroma_at_0": None}, r"image->chroma\[0\] is NULL; NV12 has 2 planes"),
        (I420, {"chroma_at_1": None}, r"image->chroma\[1\] is NULL; I420 has 3 planes"),
        (NV12, {"chroma_stride_at_0": 15}, r"chroma_stride\[0\] is 15, .* rows of 8 pixels of 2 bytes are at least 16"),
        (NV21, {"chroma_stride_at_0": 0}, r"chroma_stride\[0\] is 0"),
        (I420, {"chroma_stride_at_1": 7}, r"chroma_stride\[1\] is 7, .* rows of 8 pixels of 1 bytes are at least 8"),
        (I420, {"chroma_stride_at_0": MOST}, r"chroma_stride\[0\] is 9223372036854775807, .* outside of the address"),
        (YUYV, {"row_stride": 31}, "row_stride is 31, .* at least 32 bytes apart"),
    ],
)
def test_wrong_images(native, memory, fmt, changes, message):
    status, error = encode(native, image_of(memory, fmt, **changes))
    assert status == INVALID
    assert re.search(message, error), error
    assert "\n" not in error
    assert encode(native, image_of(memory, fmt))[0] == OK  # a refusal does no harm


@pytest.mark.parametrize("fmt", [RGB, BGR, LUMA])
def test_columns_may_follow_each_other_instead_of_rows(native, memory, fmt):
    size = 1 if fmt == LUMA else 3
    image = image_of(memory, fmt, pixel_stride=8 * size, row_stride=size)
    assert encode(native, image)[0] == OK
    assert encode(native, image_of(memory, fmt, pixel_stride=8 * size - 1, row_stride=size))[0] == INVALID


@pytest.mark.parametrize("fmt", range(7))
def test_strides_of_every_kind_against_the_set_of_bytes(native, memory, fmt):
    """No accepted image has a byte in two of its pixels, and every image of rows without overlap is accepted."""
    size = {RGB: 3, BGR: 3, YUYV: 2}.get(fmt, 1)
    rng = np.random.default_rng(fmt)
    for _ in range(300):
        across = int(rng.integers(-8, 9)) if fmt <= LUMA else size
        down = int(rng.integers(-70, 71))
        width, height = (2 * int(rng.integers(1, 6)) for _ in range(2))
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        bytes_of = ((across * x + down * y)[..., None] + np.arange(size)).ravel()
        disjoint = len(set(bytes_of.tolist())) == bytes_of.size
        status, _ = encode(
            native, image_of(memory, fmt, width=width, height=height, pixel_stride=across, row_stride=down)
        )
        assert status in (OK, INVALID)
        if status == OK:
            assert disjoint, (across, down, width, height)
        elif abs(across) >= size:
            assert abs(down) < (width - 1) * abs(across) + size


def encode_to(native, image, out, capacity) -> tuple[int, int, str]:
    lib = load_library()
    size = c_size_t(77)
    status = lib.edgejpeg_encoder_encode_to(native._handle, byref(image), out, capacity, byref(size))
    return status, size.value, lib.edgejpeg_last_error().decode()


def test_encode_to(native, memory):
    image = image_of(memory, NV12)
    before = memory.copy()
    status, size, error = encode_to(native, image, None, 0)
    assert (status, error) == (TOO_SMALL, f"the file has {size} bytes, the buffer 0; give a larger one")
    out = (ctypes.c_ubyte * (size + 4))(*[7] * (size + 4))
    assert encode_to(native, image, out, size - 1)[:2] == (TOO_SMALL, size)
    assert bytes(out) == b"\7" * (size + 4)
    assert encode_to(native, image, out, size)[:2] == (OK, size)
    assert bytes(out)[size:] == b"\7" * 4
    planes = [np.ndarray((h, 16), np.uint8, memory, memory.size // 2 + offset) for h, offset in ((8, 0), (4, 1024))]
    assert bytes(out)[:size] == native.encode(tuple(planes), "nv12")
    np.testing.assert_array_equal(memory, before)


@pytest.mark.parametrize("fmt", range(7))
def test_overlapping_output(native, memory, fmt):
    image = image_of(memory, fmt)
    before = memory.copy()
    row, first = image.row_stride, image.pixels
    for begin, capacity in ((first, 1), (first - 5, 6), (first + 8 * row - 1, 9), (first - 9, 1 << 12)):
        status, size, error = encode_to(native, image, begin, capacity)
        assert (status, size) == (INVALID, 0)
        assert error.endswith(f"the {capacity} bytes of out overlap the memory of the image")
    if fmt in (NV12, NV21, I420):
        last = first + (1024 if fmt != I420 else 2048)
        assert encode_to(native, image, last + image.chroma_stride[0] * 4 - 1, 5)[0] == INVALID
        assert encode_to(native, image, last + image.chroma_stride[0] * 4, 5)[0] == TOO_SMALL
    mirrored = image_of(memory, fmt, row_stride=-row)
    assert encode_to(native, mirrored, first - 7 * row, 1)[0] == INVALID
    assert encode_to(native, mirrored, first - 7 * row - 3, 3)[0] == TOO_SMALL
    assert encode_to(native, image, first - 5, 5)[0] == TOO_SMALL
    np.testing.assert_array_equal(memory, before)


def test_encode_to_with_null(native, memory):
    lib = load_library()
    image, size, out = image_of(memory, RGB), c_size_t(), (ctypes.c_ubyte * 10)()
    calls = {
        "encoder": (None, byref(image), out, 10, byref(size)),
        "image": (native._handle, None, out, 10, byref(size)),
        "out": (native._handle, byref(image), None, 10, byref(size)),
        "size": (native._handle, byref(image), out, 10, None),
    }
    for name, arguments in calls.items():
        assert lib.edgejpeg_encoder_encode_to(*arguments) == INVALID
        assert lib.edgejpeg_last_error().decode() == f"edgejpeg_encoder_encode_to: {name} is NULL"
