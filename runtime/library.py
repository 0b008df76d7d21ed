"""The compiled library: found, loaded once, its version checked, and its C interface (``edgejpeg.h``) for ctypes."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgejpeg
from edgejpeg.errors import BudgetError, BufferTooSmallError, InvalidInputError, NativeLibraryError

LIBRARY_NAME = "libedgejpeg.so"
MAX_SIZE, MAX_THREADS = 65535, 256

SUBSAMPLING_CODES = {"444": 0, "422": 1, "420": 2, "gray": 3}
FORMAT_CODES = {"rgb": 0, "bgr": 1, "gray": 2, "nv12": 3, "nv21": 4, "i420": 5, "yuyv": 6}

Planes = NDArray[np.uint8] | tuple[NDArray[np.uint8], ...]

_INVALID_ARGUMENT, _NOT_READY, _BUFFER_TOO_SMALL, _BUDGET_NOT_MET = 1, 3, 4, 5
_REBUILD = "rebuild with: pip install . (in a source checkout: pip install --no-build-isolation -e .)"


class _Options(ctypes.Structure):
    _fields_ = [
        ("subsampling", c_int32),
        ("effort", c_int32),
        ("threads", c_int32),
        ("standard_huffman", c_int32),
        ("exact_huffman", c_int32),
        ("sampled_statistics", c_int32),
        ("container", c_int32),
        ("progressive", c_int32),
        ("restart_rows", c_int32),
        ("orientation", c_int32),
        ("quantization", c_int32),
        ("trellis_weight", c_double),
        ("keep_statistics", c_int32),
        ("timing", c_int32),
        ("comment_control", c_int32),
    ]


class _Image(ctypes.Structure):
    _fields_ = [
        ("pixels", c_void_p),
        ("width", c_int32),
        ("height", c_int32),
        ("row_stride", c_ssize_t),
        ("pixel_stride", c_ssize_t),
        ("format", c_int32),
        ("chroma", c_void_p * 2),
        ("chroma_stride", c_ssize_t * 2),
        ("range", c_int32),
    ]


class _Statistics(ctypes.Structure):
    _fields_ = [
        ("components", c_int32),
        ("blocks", c_int64 * 3),
        ("mean", c_double * 64 * 3),
        ("variance", c_double * 64 * 3),
        ("laplace_scale", c_double * 64 * 3),
    ]


class _Level(ctypes.Structure):
    _fields_ = [
        ("luma", c_void_p),
        ("chroma", c_void_p),
        ("luma_dead_zone", c_void_p),
        ("chroma_dead_zone", c_void_p),
        ("rate", c_double),
    ]


class _Result(ctypes.Structure):
    _fields_ = [
        ("components", c_int32),
        ("level", c_int32),
        ("encodes", c_int32),
        ("luma_water_level", c_double),
        ("chroma_water_level", c_double),
        ("scale", c_double),
        ("bytes", c_size_t),
        ("bytes_app", c_size_t),
        ("bytes_comment", c_size_t),
        ("bytes_quantization", c_size_t),
        ("bytes_frame", c_size_t),
        ("bytes_huffman", c_size_t),
        ("bytes_scan_headers", c_size_t),
        ("bytes_entropy_coded", c_size_t),
        ("bytes_other", c_size_t),
        ("nanoseconds", c_uint64 * 5),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "edgejpeg_version": (c_char_p, []),
    "edgejpeg_last_error": (c_char_p, []),
    "edgejpeg_encoder_create": (c_int, [POINTER(_Options), POINTER(c_void_p)]),
    "edgejpeg_encoder_backend": (c_char_p, [c_void_p]),
    "edgejpeg_encoder_destroy": (None, [c_void_p]),
    "edgejpeg_encoder_set_tables": (c_int, [c_void_p, c_void_p, c_void_p]),
    "edgejpeg_encoder_set_design": (c_int, [c_void_p, c_void_p, c_double, c_double, c_int32]),
    "edgejpeg_encoder_set_dead_zone": (c_int, [c_void_p, c_void_p, c_void_p]),
    "edgejpeg_encoder_set_ladder": (c_int, [c_void_p, POINTER(_Level), c_int32, c_int32]),
    "edgejpeg_encoder_set_level": (c_int, [c_void_p, c_int32]),
    "edgejpeg_encoder_set_slope": (c_int, [c_void_p, c_double]),
    "edgejpeg_encoder_set_budget": (c_int, [c_void_p, c_size_t, c_double]),
    "edgejpeg_encoder_set_comment": (c_int, [c_void_p, c_char_p, c_size_t]),
    "edgejpeg_encoder_encode": (c_int, [c_void_p, POINTER(_Image), POINTER(c_void_p), POINTER(c_size_t)]),
    "edgejpeg_encoder_encode_to": (c_int, [c_void_p, POINTER(_Image), c_void_p, c_size_t, POINTER(c_size_t)]),
    "edgejpeg_encoder_tables": (c_int, [c_void_p, c_void_p, c_void_p]),
    "edgejpeg_encoder_statistics": (c_int, [c_void_p, POINTER(_Statistics)]),
    "edgejpeg_encoder_result": (c_int, [c_void_p, POINTER(_Result)]),
    "edgejpeg_encoder_swe": (c_int, [c_void_p, POINTER(c_double)]),
}

_lock = threading.Lock()
_loaded: ctypes.CDLL | None = None


def find_library() -> Path:
    """The path of the compiled library, installed or editable.

    Raises:
        NativeLibraryError: there is none on ``edgejpeg.__path__``.
    """
    for folder in edgejpeg.__path__:
        path = Path(folder) / "lib" / LIBRARY_NAME
        if path.is_file():
            return path
    raise NativeLibraryError(f"{LIBRARY_NAME} is not in lib/ of any of {list(edgejpeg.__path__)}; {_REBUILD}")


def open_library(path: Path) -> ctypes.CDLL:
    """Load a library file, check that its version is this package's, and declare its functions.

    Raises:
        NativeLibraryError: the file cannot be loaded, is another library, or has another version.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"cannot load {path}: {error}; {_REBUILD}") from error
    version = library.edgejpeg_version().decode()
    if version != edgejpeg.__version__:
        raise NativeLibraryError(f"{path} is version {version}, the package is {edgejpeg.__version__}; {_REBUILD}")
    return library


def load_library() -> ctypes.CDLL:
    """The compiled library, loaded when first needed and then kept."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = open_library(find_library())
        return _loaded


def library_version() -> str:
    """The version of the compiled library.

    Raises:
        NativeLibraryError: it is missing, or of another version than the package.
    """
    return str(load_library().edgejpeg_version().decode())


class NativeEncoder:
    """One native encoder: checked Python values in, bytes out. One thread at a time: see :class:`Encoder`.

    Args:
        fields: of ``edgejpeg_options``, as :meth:`edgejpeg.runtime.options.Options.fields` gives them.
    """

    def __init__(self, subsampling: str, effort: int, threads: int, **fields: int | float) -> None:
        self._library = load_library()
        handle = c_void_p()
        options = _Options(SUBSAMPLING_CODES[subsampling], effort, threads, **fields)
        self._check(self._library.edgejpeg_encoder_create(byref(options), byref(handle)))
        self._handle = handle
        self._image, self._data, self._size = _Image(), c_void_p(), c_size_t()
        self._destroy = weakref.finalize(self, self._library.edgejpeg_encoder_destroy, handle)

    def close(self) -> None:
        """Free the native memory and threads; allowed more than once. No other call may follow."""
        self._destroy()

    @property
    def backend(self) -> str:
        """The instructions in use: ``"scalar"``, ``"avx2"``, ``"avx512"`` or ``"neon"``."""
        return str(self._library.edgejpeg_encoder_backend(self._handle).decode())

    def set_tables(self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8] | None) -> None:
        """(8, 8) tables, row-major."""
        luma = np.ascontiguousarray(luma)
        chroma = None if chroma is None else np.ascontiguousarray(chroma)
        self._check(
            self._library.edgejpeg_encoder_set_tables(
                self._handle, luma.ctypes.data, None if chroma is None else chroma.ctypes.data
            )
        )

    def set_design(self, sensitivity: NDArray[np.float64], luma_level: float, chroma_level: float, q_max: int) -> None:
        """(3, 8, 8) raw sensitivities, row-major, and raw water levels."""
        sensitivity = np.ascontiguousarray(sensitivity, dtype=np.float64)
        self._check(
            self._library.edgejpeg_encoder_set_design(
                self._handle, sensitivity.ctypes.data, luma_level, chroma_level, q_max
            )
        )

    def set_dead_zone(self, luma: NDArray[np.float64] | None, chroma: NDArray[np.float64] | None) -> None:
        """(8, 8) thresholds in steps, row-major; None rounds plainly."""
        zones = [None if zone is None else np.ascontiguousarray(zone, dtype=np.float64) for zone in (luma, chroma)]
        self._check(self._library.edgejpeg_encoder_set_dead_zone(self._handle, *map(_address, zones)))

    def set_ladder(self, levels: Sequence[tuple[float, Sequence[NDArray[Any] | None]]], level: int) -> None:
        """Each level: its rate, and luma and chroma tables (uint8) and thresholds (float64), (8, 8) row-major."""
        kept = [[None if array is None else np.ascontiguousarray(array) for array in arrays] for _, arrays in levels]
        raw = (_Level * len(levels))(
            *(_Level(*map(_address, arrays), rate) for arrays, (rate, _) in zip(kept, levels, strict=True))
        )
        self._check(self._library.edgejpeg_encoder_set_ladder(self._handle, raw, len(levels), level))

    def set_level(self, level: int) -> None:
        """The level of the ladder for all following frames."""
        self._check(self._library.edgejpeg_encoder_set_level(self._handle, level))

    def set_slope(self, slope: float) -> None:
        """Bytes per level, for all following frames."""
        self._check(self._library.edgejpeg_encoder_set_slope(self._handle, slope))

    def set_budget(self, max_bytes: int, max_bits_per_pixel: float) -> None:
        """No following file is larger; 0 and 0 for no budget."""
        self._check(self._library.edgejpeg_encoder_set_budget(self._handle, max_bytes, max_bits_per_pixel))

    def set_comment(self, comment: bytes) -> None:
        """A COM segment for all following files; empty for none."""
        self._check(self._library.edgejpeg_encoder_set_comment(self._handle, comment, len(comment)))

    def set_full_range(self, full: bool) -> None:
        """Whether the samples of YUV frames have JPEG's range 0..255 already; not so at first."""
        self._image.range = int(full)

    def encode(self, planes: Planes, pixel_format: str) -> bytes:
        """The file of a :class:`~edgejpeg.runtime.pixels.Picture`, whose only plane may come by itself."""
        self._describe(planes, pixel_format)
        self._check(
            self._library.edgejpeg_encoder_encode(
                self._handle, byref(self._image), byref(self._data), byref(self._size)
            )
        )
        return ctypes.string_at(self._data, self._size.value)

    def encode_to(self, planes: Planes, pixel_format: str, out: memoryview) -> int:
        """The same into a writable buffer of bytes; returns the size of the file.

        Raises:
            BufferTooSmallError: the file is larger; the buffer is as it was.
        """
        self._describe(planes, pixel_format)
        memory = (ctypes.c_ubyte * out.nbytes).from_buffer(out) if out.nbytes else None
        status = self._library.edgejpeg_encoder_encode_to(
            self._handle, byref(self._image), memory, out.nbytes, byref(self._size)
        )
        if status == _BUFFER_TOO_SMALL:
            raise BufferTooSmallError(self._library.edgejpeg_last_error().decode(), self._size.value)
        self._check(status)
        return self._size.value

    def _describe(self, planes: Planes, pixel_format: str) -> None:
        planes = planes if isinstance(planes, tuple) else (planes,)
        image, first = self._image, planes[0]
        image.pixels, image.format = first.ctypes.data, FORMAT_CODES[pixel_format]
        image.height, image.width = first.shape[:2]
        image.row_stride, image.pixel_stride = first.strides[:2]
        for index, plane in enumerate(planes[1:]):
            image.chroma[index], image.chroma_stride[index] = plane.ctypes.data, plane.strides[0]

    def tables(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """The last frame's tables, (8, 8) row-major; chroma is zero for a one-component file; None before a frame."""
        luma, chroma = np.empty((8, 8), np.uint8), np.empty((8, 8), np.uint8)
        status = self._library.edgejpeg_encoder_tables(self._handle, luma.ctypes.data, chroma.ctypes.data)
        if status == _NOT_READY:
            return None
        self._check(status)
        return luma, chroma

    def statistics(self) -> dict[str, NDArray[Any]] | None:
        """The last frame's mean, variance, laplace_scale (C, 8, 8) and blocks (C,); None where none were needed."""
        raw = _Statistics()
        status = self._library.edgejpeg_encoder_statistics(self._handle, byref(raw))
        if status == _NOT_READY:
            return None
        self._check(status)
        count = raw.components
        arrays: dict[str, NDArray[Any]] = {
            name: np.array(getattr(raw, name), dtype=np.float64).reshape(3, 8, 8)[:count]
            for name in ("mean", "variance", "laplace_scale")
        }
        return arrays | {"blocks": np.array(raw.blocks, dtype=np.int64)[:count]}

    def result(self) -> _Result | None:
        """The last frame's ``edgejpeg_result``; None before a frame."""
        raw = _Result()
        status = self._library.edgejpeg_encoder_result(self._handle, byref(raw))
        if status == _NOT_READY:
            return None
        self._check(status)
        return raw

    def swe(self) -> NDArray[np.float64] | None:
        """The last frame's weighted error of Y, Cb, Cr; None where no coefficients were kept."""
        errors = (c_double * 3)()
        status = self._library.edgejpeg_encoder_swe(self._handle, errors)
        if status == _NOT_READY:
            return None
        self._check(status)
        return np.array(errors)

    def _check(self, status: int) -> None:
        if status == 0:
            return
        message = self._library.edgejpeg_last_error().decode()
        if status == _BUDGET_NOT_MET:
            raise BudgetError(f"{message}; give a larger budget, or a smaller frame", self._size.value)
        if status == _INVALID_ARGUMENT:
            raise InvalidInputError(message)
        raise NativeLibraryError(f"libedgejpeg: {message}")


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else int(array.ctypes.data)
