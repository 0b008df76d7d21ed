"""libjpeg-turbo through its TurboJPEG interface, where the machine has it: the measure of the encoder's speed.

Only :mod:`edgejpeg.runtime.bench` needs it. Nothing of it is linked or shipped.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from ctypes import POINTER, byref, c_char_p, c_int, c_ulong, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError, NativeLibraryError

# The constants of turbojpeg.h, the same from version 1.3 to 3.
_SUBSAMPLING = {"444": 0, "422": 1, "420": 2, "gray": 3}
_BGR, _GRAY = 1, 6
_NO_REALLOCATION, _ACCURATE_DCT = 1024, 4096

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "tjInitCompress": (c_void_p, []),
    "tjDestroy": (c_int, [c_void_p]),
    "tjGetErrorStr": (c_char_p, []),
    "tjBufSize": (c_ulong, [c_int, c_int, c_int]),
    "tjCompress2": (
        c_int,
        [c_void_p, c_void_p, c_int, c_int, c_int, c_int, POINTER(c_void_p), POINTER(c_ulong), c_int, c_int, c_int],
    ),
}

_NAMES = ("libturbojpeg.so.0", "/opt/libjpeg-turbo/lib64/libturbojpeg.so.0", "libturbojpeg.so")


class TurboJpeg:
    """One compressor: BGR or gray frames in, baseline JPEG files with standard Huffman tables out.

    The DCT is the accurate one, libjpeg's default. One thread.

    Attributes:
        library: the file name of the library.
        version: its version, such as ``"2.1.5"``, or None where the library does not say.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        path = _path_of(library)
        self.library = path.name
        self.version = _version_in(path)
        self._handle = library.tjInitCompress()
        if not self._handle:
            raise NativeLibraryError(f"{self.library} makes no compressor: {self._message()}")
        self._buffer = np.empty(0, np.uint8)

    def encode(self, frame: NDArray[np.uint8], quality: int, subsampling: str) -> bytes:
        """Encode one frame.

        Args:
            frame: (H, W, 3) uint8 BGR or (H, W) uint8, rows of adjacent pixels.
            quality: 1 to 100.
            subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``; a gray frame needs ``"gray"``.

        Raises:
            InvalidInputError: the rows are not packed.
            NativeLibraryError: the library refuses the frame.
        """
        height, width = frame.shape[:2]
        channels = 1 if frame.ndim == 2 else frame.shape[2]
        if frame.strides[1] != channels or frame.strides[-1] != 1:
            raise InvalidInputError(f"libjpeg-turbo takes rows of adjacent pixels; got strides {frame.strides}")
        needed = self._library.tjBufSize(width, height, _SUBSAMPLING[subsampling])
        if self._buffer.size < needed:
            self._buffer = np.empty(needed, np.uint8)
        data, size = c_void_p(self._buffer.ctypes.data), c_ulong(self._buffer.size)
        status = self._library.tjCompress2(
            self._handle,
            frame.ctypes.data,
            width,
            frame.strides[0],
            height,
            _GRAY if channels == 1 else _BGR,
            byref(data),
            byref(size),
            _SUBSAMPLING[subsampling],
            quality,
            _NO_REALLOCATION | _ACCURATE_DCT,
        )
        if status != 0:
            raise NativeLibraryError(f"{self.library} does not encode a frame of {width} x {height}: {self._message()}")
        return ctypes.string_at(data.value or 0, size.value)

    def close(self) -> None:
        """Free the compressor; allowed more than once."""
        if self._handle:
            self._library.tjDestroy(self._handle)
            self._handle = None

    def __enter__(self) -> TurboJpeg:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _message(self) -> str:
        return str(self._library.tjGetErrorStr().decode(errors="replace"))


def find_turbojpeg() -> TurboJpeg | None:
    """The machine's libjpeg-turbo, or None where there is none with the TurboJPEG interface."""
    found = ctypes.util.find_library("turbojpeg")
    for name in (*_NAMES, *([found] if found else [])):
        try:
            return TurboJpeg(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
    return None


def _path_of(library: ctypes.CDLL) -> Path:
    """The file that a loaded library was mapped from; its name alone where the system does not tell."""
    address = ctypes.cast(library.tjInitCompress, c_void_p).value or 0
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(None, 5)
        start, _, end = fields[0].partition("-")
        if len(fields) == 6 and int(start, 16) <= address < int(end, 16):
            return Path(fields[5])
    return Path(library._name)


def _version_in(path: Path) -> str | None:
    """The version that the library's texts name; its interface has no call for it."""
    try:
        match = re.search(rb"libjpeg-turbo version (\d+(?:\.\d+)+)", path.read_bytes())
    except OSError:
        return None
    return match.group(1).decode() if match else None
