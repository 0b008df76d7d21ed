"""Frames in, plain baseline JPEG files out, with the tables of a profile.

The work is done by the compiled library, without the interpreter's lock; this file checks what comes in.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.opts import raw_water_level
from edgejpeg.design.statistics import Statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime.library import MAX_SIZE, NativeEncoder
from edgejpeg.runtime.options import Options

COLORS = ("bgr", "rgb")


class Encoder:
    """Encodes frames with the tables of a profile. Made once, used for many frames; safe to share between threads.

    With an adaptive profile the library measures every frame and designs its tables (OptS, Zheng, Salamah, Ye, Yang,
    "JPEG compliant compression for DNN vision", ICIP 2023, Algorithms 1 and 2); with a fixed one they are the
    profile's, with a ladder those of its default level. The files are baseline JFIF, readable by any decoder, and
    depend neither on the number of threads nor on the instructions of the processor (``EDGEJPEG_BACKEND`` chooses
    ``scalar``, ``avx2`` or ``neon``, for tests; ``reference`` works in float64 and equals
    :func:`~edgejpeg.jpeg.reference.encode_reference` to the byte).

    >>> encoder = Encoder("efficientnet_lite0")
    >>> jpeg = encoder.encode(frame)

    An encoder can be pickled: the copy makes its own native handle.

    Args:
        profile: a :class:`~edgejpeg.profile.Profile`, the name of a shipped one, or a path.
        color: the order of the channels of colour frames, ``"bgr"`` (OpenCV's) or ``"rgb"``.
        effort: 0 for stored Huffman tables, chosen per frame, 1 for optimal ones per frame; default: the profile's.
        threads: threads for one frame, 1 to 256.
        water_level: another luma water level (normalised d, above 0) than the adaptive profile's; the chroma level
            keeps its ratio to it.
        progressive: write progressive files: the same pixels in fewer bytes for two to four times the time, always with
            optimal Huffman tables.
        container: ``"jfif"``, or ``"lean"`` for files without the APP0 segment and with one segment for all tables of
            a kind, which decoders know all the same: 34 bytes less, 22 for one component.
        restart_rows: rows of MCUs (8 or 16 pixels high) from a restart marker to the next, behind which a decoder goes
            on after a damaged part; 0 for none. Not with ``progressive``.
        orientation: an EXIF orientation 1 to 8, for viewers to turn the image by; None for no EXIF.
        exact_huffman: at effort 1, count the symbols of the whole of large frames (1280 x 720 pixels and more), and
            not of an eighth of their rows.
        sampled_statistics: of large frames, measure every fourth row of MCUs alone for the design.
        comment: write ``edgejpeg profile=NAME@ID`` into every file (a COM segment).

    Raises:
        InvalidInputError: an option outside what is allowed; ``water_level`` with a profile that is not adaptive; a
            profile with dead-zone thresholds, which this encoder does not apply yet.
        ProfileError: the profile cannot be read.
        NativeLibraryError: the compiled library is missing or of another version.
    """

    def __init__(
        self,
        profile: Profile | str | Path,
        color: str = "bgr",
        effort: int | None = None,
        threads: int = 1,
        water_level: float | None = None,
        *,
        progressive: bool = False,
        container: str = "jfif",
        restart_rows: int = 0,
        orientation: int | None = None,
        exact_huffman: bool = False,
        sampled_statistics: bool = False,
        comment: bool = False,
    ) -> None:
        if not isinstance(profile, (Profile, str, Path)):
            raise InvalidInputError(
                f"a profile is a Profile, the name of a shipped one, or a path; got {type(profile).__name__}"
            )
        self._profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self._color = _check_color(color)
        self._options = Options(
            self._profile.subsampling,
            self._profile.effort if effort is None else effort,
            threads,
            progressive=progressive,
            container=container,
            restart_rows=restart_rows,
            orientation=orientation,
            exact_huffman=exact_huffman,
            sampled_statistics=sampled_statistics,
            comment=comment,
        )
        self._water_level = water_level
        levels = _raw_levels(self._profile, water_level)
        tables = _rounded_tables(self._profile)
        self._lock = threading.Lock()
        self._native: NativeEncoder | None = NativeEncoder(
            self._options.subsampling, self._options.effort, self._options.threads, **self._options.fields()
        )
        if levels is not None and self._profile.sensitivity is not None:
            self._native.set_design(self._profile.sensitivity, *levels, self._profile.q_max)
        elif tables.luma is not None:
            chroma = tables.chroma
            self._native.set_tables(tables.luma.array, None if chroma is None else chroma.array)
        if comment:
            text = f"edgejpeg profile={self._profile.name}@{self._profile.profile_id}"
            self._native.set_comment(text.encode())

    @property
    def profile(self) -> Profile:
        """The profile that this encoder was made with."""
        return self._profile

    def encode(self, frame: NDArray[np.uint8]) -> bytes:
        """Encode one frame.

        Args:
            frame: ``(H, W, 3)`` uint8 in the encoder's channel order, or ``(H, W)`` or ``(H, W, 1)`` uint8 gray,
                which gives a file of one component, as every frame does with a ``"gray"`` profile. Sizes 1 to 65535
                (decoders on libjpeg read up to 65500). Any strides; a frame is copied only when the samples of a
                pixel are not adjacent.

        Returns:
            The bytes of the file.

        Raises:
            InvalidInputError: another type, dtype, shape or size; the encoder is closed.
            NativeLibraryError: memory is short.
        """
        pixels, pixel_format = _check_frame(frame, self._color)
        with self._lock:
            return self._open().encode(pixels, pixel_format)

    @property
    def tables(self) -> tuple[QuantTable, QuantTable | None] | None:
        """The luma and chroma tables of the last frame; chroma is None for one component; None before a frame."""
        with self._lock:
            tables = self._open().tables()
        if tables is None:
            return None
        luma, chroma = tables
        return QuantTable(luma), QuantTable(chroma) if chroma.any() else None

    @property
    def statistics(self) -> Statistics | None:
        """The DCT statistics of the last frame; None with a fixed profile, which needs none, and before a frame.

        lam_i is mean |C_i| (OptS eq. 12 as printed), which one pass over the frame gives: what
        :func:`~edgejpeg.design.statistics.image_statistics` gives with ``center=False``, up to the rounding of the
        encoder's int16 DCT. The tables are those of :func:`~edgejpeg.design.opts.design_tables` on these statistics.
        """
        with self._lock:
            arrays = self._open().statistics()
        return None if arrays is None else Statistics(**arrays)

    def close(self) -> None:
        """Free the native memory and threads; allowed more than once."""
        with self._lock:
            if self._native is not None:
                self._native.close()
                self._native = None

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "profile": self._profile,
            "color": self._color,
            "effort": self._options.effort,
            "threads": self._options.threads,
            "water_level": self._water_level,
            "progressive": self._options.progressive,
            "container": self._options.container,
            "restart_rows": self._options.restart_rows,
            "orientation": self._options.orientation,
            "exact_huffman": self._options.exact_huffman,
            "sampled_statistics": self._options.sampled_statistics,
            "comment": self._options.comment,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a native handle of its own

    def _open(self) -> NativeEncoder:
        if self._native is None:
            raise InvalidInputError("this Encoder is closed; make a new one to encode more frames")
        return self._native


def _rounded_tables(profile: Profile) -> Profile:
    """The profile itself, or a ladder's default level as a fixed one, if its coefficients are rounded plainly."""
    chosen = profile if profile.level is None else profile.at_level(profile.level)
    if chosen.dead_zone is not None:
        raise InvalidInputError(
            f"profile {chosen.name!r} has dead-zone thresholds, which this encoder cannot apply; use one without them"
        )
    return chosen


def _raw_levels(profile: Profile, water_level: float | None) -> tuple[float, float] | None:
    """The raw luma and chroma water levels of an adaptive profile; None for the others."""
    if profile.sensitivity is None or profile.water_level is None:
        if water_level is not None:
            raise InvalidInputError(
                f"water_level={water_level!r} with {profile.name!r}, a {profile.kind} profile, which has tables "
                "instead; leave it out, or use an adaptive profile"
            )
        return None
    luma = profile.water_level
    chroma = luma if profile.chroma_water_level is None else profile.chroma_water_level
    if water_level is not None:
        is_number = isinstance(water_level, (int, float, np.number)) and not isinstance(water_level, bool)
        if not is_number or not 0 < water_level < math.inf:
            raise InvalidInputError(f"water_level is a positive, finite number; got {water_level!r}")
        luma, chroma = float(water_level), float(water_level) * (chroma / luma)
    return raw_water_level(luma, profile.sensitivity), raw_water_level(chroma, profile.sensitivity)


def _check_color(color: str) -> str:
    if color not in COLORS:
        raise InvalidInputError(f"color is one of {', '.join(COLORS)}; got {color!r}")
    return color


def _check_frame(frame: NDArray[np.uint8], color: str) -> tuple[NDArray[np.uint8], str]:
    """The frame as the library takes it, and its pixel format: ``(H, W, 3)`` with adjacent samples, or ``(H, W)``."""
    if not isinstance(frame, np.ndarray):
        raise InvalidInputError(
            f"a frame is a NumPy array (H, W, 3) or (H, W), uint8; got {type(frame).__name__}: convert with np.asarray"
        )
    if frame.dtype != np.uint8:
        raise InvalidInputError(
            f"a frame has dtype uint8, samples 0..255; got {frame.dtype}: "
            "convert it, for floats in 0..1 with (frame * 255).round().clip(0, 255).astype(np.uint8)"
        )
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] not in (1, 3)):
        raise InvalidInputError(f"a frame has shape (H, W, 3), (H, W, 1) or (H, W); got {frame.shape}")
    if min(frame.shape[:2]) < 1 or max(frame.shape[:2]) > MAX_SIZE:
        raise InvalidInputError(
            f"a JPEG is 1 to {MAX_SIZE} pixels wide and high; got a frame of {frame.shape[1]} x {frame.shape[0]}"
        )
    if frame.ndim == 2 or frame.shape[2] == 1:
        return frame if frame.ndim == 2 else frame[:, :, 0], "gray"
    if frame.strides[2] == -1:
        # A reversed view such as bgr[..., ::-1]: the same pixels in the other order, without a copy.
        return frame[:, :, ::-1], "rgb" if color == "bgr" else "bgr"
    return frame if frame.strides[2] == 1 else np.ascontiguousarray(frame), color
