"""Frames in, plain baseline JPEG files out, with the tables of a profile.

The work is done by the compiled library, without the interpreter's lock; this file checks what comes in.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from edgejpeg.design.opts import raw_water_level
from edgejpeg.design.statistics import Statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime.library import MAX_THREADS, NativeEncoder
from edgejpeg.runtime.many import default_workers, encode_frames
from edgejpeg.runtime.options import Options, check_integer
from edgejpeg.runtime.pixels import Frame, check_color, check_yuv_range, output_of, picture_of


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
        color: what frames are: ``"bgr"`` (OpenCV's) or ``"rgb"``; with a fourth channel that does not matter,
            ``"bgrx"`` or ``"rgbx"``; or as cameras deliver them, ``"nv12"``, ``"nv21"``, ``"i420"`` or ``"yuyv"``.
        effort: 0 for stored Huffman tables, chosen per frame, 1 for optimal ones per frame; default: the profile's.
        threads: threads for one frame, 1 to 256.
        water_level: another luma water level (normalised d, above 0) than the adaptive profile's; the chroma level
            keeps its ratio to it.
        progressive: write progressive files: the same pixels in fewer bytes for three to four times the time; always
            with optimal Huffman tables.
        container: ``"jfif"``, or ``"lean"`` for files without the APP0 segment and with one segment for all tables of
            a kind, which decoders know all the same: 34 bytes less, 22 for one component.
        restart_rows: rows of MCUs (8 or 16 pixels high) from a restart marker to the next, behind which a decoder goes
            on after a damaged part; 0 for none. Not with ``progressive``.
        orientation: an EXIF orientation 1 to 8, for viewers to turn the image by; None for no EXIF.
        exact_huffman: at effort 1, count the symbols of the whole of large frames (1280 x 720 pixels and more), and
            not of an eighth of their rows.
        sampled_statistics: of large frames, measure every fourth row of MCUs alone for the design.
        yuv_range: of the samples of YUV frames: ``"limited"`` (Y 16..235, Cb and Cr 16..240, as cameras and video have
            it), which is widened to JPEG's, or ``"full"``. The matrix is BT.601's, as JFIF wants it.
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
        yuv_range: str = "limited",
        comment: bool = False,
    ) -> None:
        if not isinstance(profile, (Profile, str, Path)):
            raise InvalidInputError(
                f"a profile is a Profile, the name of a shipped one, or a path; got {type(profile).__name__}"
            )
        self._profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self._color = check_color(color)
        self._yuv_range = check_yuv_range(yuv_range)
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
        self._levels = _raw_levels(self._profile, water_level)
        self._tables = _rounded_tables(self._profile)
        self._lock = threading.Lock()
        self._native: NativeEncoder | None = self._create(self._options.threads)

    def _create(self, threads: int) -> NativeEncoder:
        """A native handle with all the settings of this encoder."""
        options = self._options
        native = NativeEncoder(options.subsampling, options.effort, threads, **options.fields())
        native.set_full_range(self._yuv_range == "full")
        if self._levels is not None and self._profile.sensitivity is not None:
            native.set_design(self._profile.sensitivity, *self._levels, self._profile.q_max)
        elif self._tables.luma is not None:
            chroma = self._tables.chroma
            native.set_tables(self._tables.luma.array, None if chroma is None else chroma.array)
        if options.comment:
            text = f"edgejpeg profile={self._profile.name}@{self._profile.profile_id}"
            native.set_comment(text.encode())
        return native

    @property
    def profile(self) -> Profile:
        """The profile that this encoder was made with."""
        return self._profile

    @overload
    def encode(self, frame: Frame, *, out: None = None) -> bytes: ...
    @overload
    def encode(self, frame: Frame, *, out: Any) -> memoryview: ...
    def encode(self, frame: Frame, *, out: Any = None) -> bytes | memoryview:
        """Encode one frame.

        Args:
            frame: uint8, of the encoder's color:

                - ``"bgr"``, ``"rgb"``: ``(H, W, 3)``; ``"bgrx"``, ``"rgbx"``: ``(H, W, 4)``. With these also gray,
                  ``(H, W)`` or ``(H, W, 1)``, which gives a file of one component, as every frame does with a
                  ``"gray"`` profile.
                - ``"nv12"``, ``"nv21"``: ``(H * 3/2, W)`` with the rows of Y above those of the chroma, as OpenCV and
                  GStreamer have them; or a tuple of planes, ``(H, W)`` and ``(H/2, W)`` or ``(H/2, W/2, 2)``.
                - ``"i420"``: ``(H * 3/2, W)``, or a tuple of planes, ``(H, W)`` and two of ``(H/2, W/2)``, Cb first.
                - ``"yuyv"``: ``(H, W, 2)``.

                H and W are even where chroma is coarser. Sizes 1 to 65535 (decoders on libjpeg read up to 65500). Any
                strides; what lies in memory as described, rows at any distance, is not copied.
            out: where to write the file: a writable, contiguous buffer of bytes (a bytearray, a memoryview, a uint8
                array) that shares no memory with the frame.

        Returns:
            The bytes of the file; with ``out``, a memoryview of those written to it.

        Raises:
            InvalidInputError: another type, dtype, shape or size; the encoder is closed.
            BufferTooSmallError: the file does not fit into ``out``, which is as it was; ``needed`` says the size.
            NativeLibraryError: memory is short.
        """
        picture = picture_of(frame, self._color)
        if out is None:
            with self._lock:
                return self._open().encode(*picture)
        buffer = output_of(out, frame)
        with self._lock:
            return buffer[: self._open().encode_to(*picture, buffer)]

    def encode_many(self, frames: Iterable[Frame], workers: int | None = None) -> Iterator[bytes]:
        """Encode many frames in several threads, each with a native encoder of its own.

        Args:
            frames: anything that can be iterated over, a camera without an end as well. It is asked for frames in the
                thread of the caller, up to ``2 * workers`` ahead of the file that is given out: a frame's memory
                must not be used for another one until its file has come.
            workers: threads, 1 to 256; default: the processors that this process may use.

        Returns:
            An iterator of the files, in the order of the frames, the same bytes as :meth:`encode` gives. A frame that
            cannot be encoded raises what :meth:`encode` would, in its place. Stop early by ``close()``, or by letting
            go of the iterator: the threads end.

        >>> for jpeg in encoder.encode_many(frames):
        ...     send(jpeg)
        """
        workers = check_integer("workers", default_workers() if workers is None else workers, 1, MAX_THREADS)
        if not isinstance(frames, Iterable):
            raise InvalidInputError(f"frames is something to iterate over; got {type(frames).__name__}")
        with self._lock:
            self._open()
        return encode_frames(
            lambda: self._create(1),
            lambda native, frame: native.encode(*picture_of(frame, self._color)),
            frames,
            workers,
        )

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
            "yuv_range": self._yuv_range,
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
