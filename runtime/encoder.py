"""Frames in, plain baseline JPEG files out, with the tables of a profile.

The work is done by the compiled library, without the interpreter's lock; this file checks what comes in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.statistics import Statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime.control import Control
from edgejpeg.runtime.library import MAX_THREADS, NativeEncoder
from edgejpeg.runtime.many import default_workers, encode_frames
from edgejpeg.runtime.options import Options, check_integer
from edgejpeg.runtime.pixels import Frame, check_color, check_yuv_range, output_of, picture_of
from edgejpeg.runtime.result import EncodeResult, read_result


class Encoder:
    """Encodes frames with the tables of a profile. Made once, used for many frames; safe to share between threads.

    With an adaptive profile the library measures every frame and designs its tables (OptS, Zheng, Salamah, Ye, Yang,
    "JPEG compliant compression for DNN vision", ICIP 2023, Algorithms 1 and 2); with a fixed one they are the
    profile's, with a ladder those of one of its levels. Dead-zone thresholds of the profile are applied. The files are
    baseline JFIF, readable by any decoder, and depend neither on the number of threads nor on the instructions of the
    processor (``EDGEJPEG_BACKEND`` chooses ``scalar``, ``avx2``, ``avx512`` or ``neon``, for tests; ``reference``
    works in float64 and equals :func:`~edgejpeg.jpeg.reference.encode_reference` to the byte).

    >>> encoder = Encoder("efficientnet_lite0")
    >>> jpeg = encoder.encode(frame)

    No file is larger than a budget, where there is one. With an adaptive profile the water level is found for every
    frame, with a fixed one the tables are scaled, with a ladder the highest level that fits is taken. Natural frames
    come to 97 to 100 % of the budget (a ladder: as near as its levels are) in one or two encodings:

    >>> Encoder("efficientnet_lite0", max_bytes=20_000).encode(frame)

    An encoder can be pickled: the copy makes its own native handle.

    Args:
        profile: a :class:`~edgejpeg.profile.Profile`, the name of a shipped one, or a path.
        color: what frames are: ``"bgr"`` (OpenCV's) or ``"rgb"``; with a fourth channel that does not matter,
            ``"bgrx"`` or ``"rgbx"``; or as cameras deliver them, ``"nv12"``, ``"nv21"``, ``"i420"`` or ``"yuyv"``.
        effort: 0 for stored Huffman tables, chosen per frame, 1 for optimal ones per frame; default: the profile's.
        threads: threads for one frame, 1 to 256.
        water_level: another luma water level (normalised d, above 0) than the adaptive profile's; the chroma level
            keeps its ratio to it.
        max_bytes: the budget: the largest file, headers included, 1 or more.
        target_bpp: the budget in bits per pixel of the frame, above 0. With both, the smaller one counts.
        level: of a ladder, 0 (the lowest rate) to the number of levels - 1; with a budget, the highest one; default:
            the profile's, with a budget the last.
        slope: of a ladder: for every frame the level at which one more costs so many bytes, 0 or more, on the frame's
            own curve (:func:`~edgejpeg.design.control.level_of_equal_slope`, which says what for; large frames are
            counted in a sample of their rows); with a budget, it is the highest one.
        trellis: levels that weigh the error against the length of their codes: True, or lambda, the weighted error per
            bit, in units of the water level (of q^2 / 12 with given tables; True is 1.5), or ``"trim"`` to drop levels
            at a block's end only. Fewer bytes at equal error; networks notice zeroing more than the error says.
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
        measure: make :attr:`last` have statistics and SWE with given tables too.
        timing: take the time of every stage, for :attr:`last`.
        comment: write ``edgejpeg profile=NAME@ID d=WATER_LEVEL`` into every file (a COM segment); a ladder has
            ``level=``, tables that were scaled ``scale=``.

    Raises:
        InvalidInputError: an option outside what is allowed, or one that does not fit the profile's kind.
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
        max_bytes: int | None = None,
        target_bpp: float | None = None,
        level: int | None = None,
        slope: float | None = None,
        trellis: bool | str | float = False,
        progressive: bool = False,
        container: str = "jfif",
        restart_rows: int = 0,
        orientation: int | None = None,
        exact_huffman: bool = False,
        sampled_statistics: bool = False,
        yuv_range: str = "limited",
        measure: bool = False,
        timing: bool = False,
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
            trellis=trellis,
            measure=measure,
            timing=timing,
            progressive=progressive,
            container=container,
            restart_rows=restart_rows,
            orientation=orientation,
            exact_huffman=exact_huffman,
            sampled_statistics=sampled_statistics,
            comment=comment,
        )
        self._control = Control(water_level, max_bytes, target_bpp, level, slope)
        self._control.check(self._profile)
        self._lock = threading.Lock()
        self._frames = 0
        self._native: NativeEncoder | None = self._create(self._options.threads)

    def _create(self, threads: int) -> NativeEncoder:
        """A native handle with all the settings of this encoder."""
        options = self._options
        native = NativeEncoder(options.subsampling, options.effort, threads, **options.fields())
        native.set_full_range(self._yuv_range == "full")
        self._control.apply(self._profile, native)
        if options.comment:
            text = f"edgejpeg profile={self._profile.name}@{self._profile.profile_id}"
            native.set_comment(text.encode())
        return native

    @property
    def profile(self) -> Profile:
        """The profile that this encoder was made with."""
        return self._profile

    @overload
    def encode(self, frame: Frame, *, out: None = None, level: int | None = None) -> bytes: ...
    @overload
    def encode(self, frame: Frame, *, out: Any, level: int | None = None) -> memoryview: ...
    def encode(self, frame: Frame, *, out: Any = None, level: int | None = None) -> bytes | memoryview:
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
            level: of a ladder, for this frame alone.

        Returns:
            The bytes of the file; with ``out``, a memoryview of those written to it.

        Raises:
            InvalidInputError: another type, dtype, shape or size; a level that the profile does not have, or with a
                slope; the encoder is closed.
            BufferTooSmallError: the file does not fit into ``out``, which is as it was; ``needed`` says the size.
            BudgetError: no table meets the budget; it says the smallest size. The encoder stays usable.
            NativeLibraryError: memory is short.
        """
        picture = picture_of(frame, self._color)
        buffer = None if out is None else output_of(out, frame)
        chosen = None if level is None else self._control.check_level(self._profile, level)
        with self._lock:
            native = self._open()
            self._frames += 1
            if chosen is not None:
                native.set_level(chosen)
            try:
                if buffer is None:
                    return native.encode(*picture)
                return buffer[: native.encode_to(*picture, buffer)]
            finally:
                if chosen is not None:
                    native.set_level(self._control.first_level(self._profile))

    @property
    def last(self) -> EncodeResult | None:
        """How :meth:`encode` did the last frame that it could encode; None before one, and after a budget not met.

        A frame that is refused leaves it as it was, as :meth:`encode_many` does; a file that did not fit into ``out``
        counts.
        """
        with self._lock:
            frames = self._frames
            return read_result(self._open(), self._profile, self._options.timing, lambda: self._weighted_errors(frames))

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
        """The DCT statistics of the last frame; None where nothing needed them, and before a frame.

        An adaptive profile, a budget, a trellis and ``measure=True`` need them.

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
        options = asdict(self._options)
        del options["subsampling"]
        own = {"profile": self._profile, "color": self._color, "yuv_range": self._yuv_range}
        return own | options | asdict(self._control)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a native handle of its own

    def _weighted_errors(self, frames: int) -> NDArray[np.float64] | None:
        with self._lock:
            if self._frames != frames:
                raise InvalidInputError("the encoder has had another frame since; ask for swe before it")
            return self._open().swe()

    def _open(self) -> NativeEncoder:
        if self._native is None:
            raise InvalidInputError("this Encoder is closed; make a new one to encode more frames")
        return self._native
