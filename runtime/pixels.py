"""What a frame is: NumPy arrays of every color that cameras and libraries deliver, as the planes that are encoded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError, NativeLibraryError
from edgejpeg.runtime.library import MAX_SIZE

COLORS = ("bgr", "rgb", "bgrx", "rgbx", "nv12", "nv21", "i420", "yuyv")
YUV_RANGES = ("limited", "full")

Plane = NDArray[np.uint8]
Frame = Plane | tuple[Plane, ...] | list[Plane]

_YUV_SHAPES = {
    "nv12": "(H * 3/2, W), or a tuple of planes (H, W) and (H/2, W) or (H/2, W/2, 2), with even H and W",
    "nv21": "(H * 3/2, W), or a tuple of planes (H, W) and (H/2, W) or (H/2, W/2, 2), with even H and W",
    "i420": "(H * 3/2, W), or a tuple of planes (H, W), (H/2, W/2) and (H/2, W/2), with even H and W",
    "yuyv": "(H, W, 2) with an even W",
}


class Picture(NamedTuple):
    """A checked frame.

    Attributes:
        planes: for ``"bgr"`` and ``"rgb"`` one of (H, W, 3) with adjacent samples, 3, 4 or more bytes from a pixel to
            the next; for ``"gray"`` (H, W); for ``"nv12"`` and ``"nv21"`` (H, W) and (H/2, W) or (H/2, W/2, 2); for
            ``"i420"`` (H, W) and two of (H/2, W/2); for ``"yuyv"`` (H, W, 2). Views of the frame where its strides
            allow it.
        format: a key of :data:`~edgejpeg.runtime.library.FORMAT_CODES`.
    """

    planes: tuple[Plane, ...]
    format: str


def size_of(frame: Frame, color: str) -> tuple[int, int]:
    """(height, width) in pixels of a frame of a color, whose shape fits it."""
    first = frame[0] if isinstance(frame, (tuple, list)) else frame
    height, width = first.shape[:2]
    is_stacked = color in ("nv12", "nv21", "i420") and not isinstance(frame, (tuple, list))
    return (height // 3 * 2 if is_stacked else height), width


def check_color(color: str) -> str:
    """The color, if it is one of :data:`COLORS`."""
    if color not in COLORS:
        raise InvalidInputError(f"color is one of {', '.join(COLORS)}; got {color!r}")
    return color


def check_yuv_range(yuv_range: str) -> str:
    """The range, if it is one of :data:`YUV_RANGES`."""
    if yuv_range not in YUV_RANGES:
        raise InvalidInputError(f"yuv_range is one of {', '.join(YUV_RANGES)}; got {yuv_range!r}")
    return yuv_range


def picture_of(frame: Frame, color: str) -> Picture:
    """Check a frame of a color; copied only where its memory cannot be read as it lies.

    Raises:
        InvalidInputError: another type, dtype, shape or size.
    """
    if color in _YUV_SHAPES:
        picture = Picture(_yuv_planes(frame, color), color)
        _check_size(picture.planes[0])
        return picture
    if not isinstance(frame, np.ndarray):
        raise _no_array(frame)
    _check_dtype(frame)
    channels = len(color)
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] not in (1, channels)):
        hint = {3: ": for three channels, color is bgr or rgb", 4: ": for four channels, color is bgrx or rgbx"}
        raise InvalidInputError(
            f"a frame for color {color!r} has shape (H, W, {channels}), (H, W, 1) or (H, W); got {frame.shape}"
            + (hint.get(frame.shape[2], "") if frame.ndim == 3 else "")
        )
    _check_size(frame)
    if frame.ndim == 2 or frame.shape[2] == 1:
        return Picture((_separate(frame if frame.ndim == 2 else frame[:, :, 0], 1),), "gray")
    order = color[:3]
    if channels == 4:
        frame = frame[:, :, :3]
    if frame.strides[2] == -1:
        # A reversed view such as bgr[..., ::-1]: the same pixels in the other order, without a copy.
        frame, order = frame[:, :, ::-1], "rgb" if order == "bgr" else "bgr"
    elif frame.strides[2] != 1:
        frame = _copy(frame)
    return Picture((_separate(frame, 3),), order)


def output_of(out: Any, frame: Frame) -> memoryview:
    """A caller's buffer as writable bytes.

    Raises:
        InvalidInputError: it is no buffer, read-only, not contiguous, not of bytes, or shares memory with the frame.
    """
    try:
        view = memoryview(out)
    except TypeError as error:
        raise InvalidInputError(
            f"out is a writable buffer such as a bytearray, a memoryview or a uint8 array; got {type(out).__name__}"
        ) from error
    if view.readonly or not view.c_contiguous or view.itemsize != 1:
        kind = "read-only" if view.readonly else "not contiguous" if not view.c_contiguous else "not of bytes"
        raise InvalidInputError(f"out is a writable, contiguous buffer of bytes; the {type(out).__name__} is {kind}")
    view = view.cast("B") if view.nbytes else memoryview(bytearray())
    memory = np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
    if any(np.may_share_memory(memory, plane) for plane in (frame if isinstance(frame, (tuple, list)) else [frame])):
        raise InvalidInputError("out overlaps the memory of the frame; give a buffer of its own")
    return view


def _yuv_planes(frame: Frame, color: str) -> tuple[Plane, ...]:
    given = frame if isinstance(frame, (tuple, list)) else [frame]
    for plane in given:
        if not isinstance(plane, np.ndarray):
            raise _no_array(plane)
        _check_dtype(plane)
    if isinstance(frame, (tuple, list)):
        planes = tuple(given) if color != "yuyv" and _planes_fit(given, color) else None
    elif color == "yuyv":
        fits = frame.ndim == 3 and frame.shape[2] == 2 and frame.shape[1] % 2 == 0
        planes = (frame,) if fits else None
    else:
        planes = _split(frame[:, :, 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame, color)
    if planes is None:
        shapes = ", ".join(str(plane.shape) for plane in given)
        raise InvalidInputError(
            f"a frame for color {color!r} has shape {_YUV_SHAPES[color]}; got "
            + (f"planes {shapes}" if isinstance(frame, (tuple, list)) else shapes)
        )
    return tuple(_rows(plane) for plane in planes)


def _planes_fit(planes: tuple[Plane, ...] | list[Plane], color: str) -> bool:
    if not planes or planes[0].ndim != 2:
        return False
    height, width = planes[0].shape
    if height % 2 or width % 2:
        return False
    shapes = [plane.shape for plane in planes[1:]]
    if color == "i420":
        return shapes == [(height // 2, width // 2)] * 2
    return len(shapes) == 1 and shapes[0] in ((height // 2, width), (height // 2, width // 2, 2))


def _split(frame: Plane, color: str) -> tuple[Plane, ...] | None:
    """The planes of a frame in one array, as OpenCV and GStreamer have it."""
    if frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2:
        return None
    rows, width = frame.shape
    height = rows // 3 * 2
    if color != "i420":
        return frame[:height], frame[height:]
    # Two rows of Cb or Cr share one of the array, so that its rows must follow each other.
    chroma = _copy(frame[height:]).reshape(2, height // 2, width // 2)
    return frame[:height], chroma[0], chroma[1]


def _rows(plane: Plane) -> Plane:
    """The plane itself if its rows are without gaps and do not overlap, else a copy."""
    packed = plane.strides[-1] == 1 and (plane.ndim == 2 or plane.strides[1] == plane.shape[2])
    width = int(np.prod(plane.shape[1:]))
    if packed and (plane.shape[0] == 1 or abs(plane.strides[0]) >= width):
        return plane
    return _copy(plane)


def _separate(plane: Plane, size: int) -> Plane:
    """The plane itself, or a copy where pixels of ``size`` bytes share memory: broadcasts and sliding windows."""
    height, width = plane.shape[:2]
    down, across = abs(plane.strides[0]), abs(plane.strides[1])
    if (width == 1 or across >= size) and (height == 1 or down >= (width - 1) * across + size):
        return plane
    if down >= size and across >= (height - 1) * down + size:
        return plane
    return _copy(plane)


def _copy(plane: Plane) -> Plane:
    """C-contiguous, itself where it is so."""
    try:
        return np.ascontiguousarray(plane)
    except MemoryError as error:
        raise NativeLibraryError(
            f"not enough memory to copy a frame of {plane.shape[1]} x {plane.shape[0]} with strides {plane.strides}"
        ) from error


def _check_size(frame: Plane) -> None:
    if min(frame.shape[:2]) < 1 or max(frame.shape[:2]) > MAX_SIZE:
        raise InvalidInputError(
            f"a JPEG is 1 to {MAX_SIZE} pixels wide and high; got a frame of {frame.shape[1]} x {frame.shape[0]}"
        )


def _check_dtype(frame: NDArray[Any]) -> None:
    if frame.dtype != np.uint8:
        raise InvalidInputError(
            f"a frame has dtype uint8, samples 0..255; got {frame.dtype}: "
            "convert it, for floats in 0..1 with (frame * 255).round().clip(0, 255).astype(np.uint8)"
        )


def _no_array(frame: object) -> InvalidInputError:
    return InvalidInputError(
        f"a frame is a NumPy array (H, W, 3) or (H, W), uint8; got {type(frame).__name__}: convert with np.asarray"
    )
