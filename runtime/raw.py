"""Raw frames from a file or a pipe: samples without a header, as GStreamer's fdsink and FFmpeg's rawvideo write them.

>>> for frame in read_raw("clip.yuv", 1920, 1080, "nv12"):
...     jpeg = encoder.encode(frame)
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.runtime.frames import Frame, FrameSource, check_options
from edgejpeg.runtime.library import MAX_SIZE
from edgejpeg.runtime.pixels import COLORS

RAW_COLORS = (*COLORS, "gray")


def raw_shape(width: int, height: int, color: str) -> tuple[int, ...]:
    """The shape of the array that is one frame, as :class:`edgejpeg.Encoder` takes it.

    Args:
        width, height: 1 to 65535; even where the color's chroma is coarser.
        color: an encoder's color, or ``"gray"``.

    Raises:
        InvalidInputError: a size or a color outside what is allowed.
    """
    if color not in RAW_COLORS:
        raise InvalidInputError(f"color is one of {', '.join(RAW_COLORS)}; got {color!r}")
    if not (1 <= width <= MAX_SIZE and 1 <= height <= MAX_SIZE):
        raise InvalidInputError(f"a JPEG is 1 to {MAX_SIZE} pixels wide and high; got {width}x{height}")
    planar = color in ("nv12", "nv21", "i420")
    if (width % 2 and (planar or color == "yuyv")) or (height % 2 and planar):
        sides = "width and height are" if planar else "width is"
        raise InvalidInputError(f"the {sides} even with {color}; got {width}x{height}")
    if planar:
        return height // 2 * 3, width
    channels = {"gray": 1, "yuyv": 2}.get(color, len(color))
    return (height, width) if channels == 1 else (height, width, channels)


def read_raw(
    source: str | Path | BinaryIO, width: int, height: int, color: str
) -> Generator[NDArray[np.uint8], None, None]:
    """The frames of raw video, each an array of its own, up to the end of the source.

    Args:
        source: a file, or an open stream of bytes.
        width, height, color: as in :func:`raw_shape`.

    Raises:
        DataError: the file cannot be read, has no frame, or ends within one.
        InvalidInputError: a size or a color outside what is allowed.
    """
    shape = raw_shape(width, height, color)
    if not isinstance(source, (str, Path)):
        yield from _read_stream(source, "the stream", shape, f"{width}x{height} {color}")
        return
    try:
        with Path(source).open("rb") as stream:
            yield from _read_stream(stream, str(source), shape, f"{width}x{height} {color}")
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error


class RawSource(FrameSource):
    """Raw video as a source of frames of its color.

    Args:
        source, width, height, color: as in :func:`read_raw`; gray frames are one of ``"bgr"``, which takes them too.
        limit, every, on_error: as in :func:`~edgejpeg.runtime.frames.open_source`; a source that ends within a frame is
            what "skip" notes.

    Raises:
        InvalidInputError: a size, a color or an option outside what is allowed.
        DataError: the file does not exist. Iterating raises it as :func:`read_raw` does.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        width: int,
        height: int,
        color: str,
        *,
        limit: int | None = None,
        every: int = 1,
        on_error: str = "fail",
    ) -> None:
        options = check_options(limit, every, None, None, on_error)
        frame_bytes = math.prod(raw_shape(width, height, color))
        total, name = limit, "raw video"
        if isinstance(source, (str, Path)):
            name = Path(source).name
            try:
                whole = -(-(Path(source).stat().st_size // frame_bytes) // every)
            except OSError as error:
                raise DataError(f"cannot read {source}: {error.strerror or error}") from error
            if Path(source).is_file():
                total = whole if limit is None else min(whole, limit)
        super().__init__(name, total, options, "bgr" if color == "gray" else color)
        self._frames = read_raw(source, width, height, color)

    def __iter__(self) -> Iterator[Frame]:
        every, limit = self._options.every, self._options.limit
        chosen = islice(enumerate(self._frames), 0, None if limit is None else (limit - 1) * every + 1, every)
        try:
            for index, image in chosen:
                yield Frame(image, index, time.time_ns(), f"{self.description}#{index}")
        except DataError as error:
            self._problem(str(error))

    def close(self) -> None:
        self._frames.close()


def _read_stream(stream: BinaryIO, name: str, shape: tuple[int, ...], kind: str) -> Iterator[NDArray[np.uint8]]:
    index = 0
    while True:
        frame = np.empty(shape, np.uint8)
        memory = memoryview(frame.reshape(-1))  # type: ignore[arg-type]
        got = 0
        # A pipe gives what it has.
        while got < frame.size and (more := stream.readinto(memory[got:])):  # type: ignore[attr-defined]
            got += more
        if got < frame.size:
            if got or not index:
                raise DataError(f"{name} ends in frame {index}, after {got} of its {frame.size} bytes; is it {kind}?")
            return
        yield frame
        index += 1
