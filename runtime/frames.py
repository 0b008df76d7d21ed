"""Frames from a camera, a video, an image, a folder of images or a GStreamer pipeline, through OpenCV.

>>> with open_source("camera:0", every=3, size=224) as source:
...     for frame in source:
...         jpeg = encoder.encode(frame.image)
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
ON_ERROR = ("skip", "fail")

_BGR_SINK = "! videoconvert ! video/x-raw,format=BGR ! appsink"
_GSTREAMER_COLORS = {"BGR": "bgr", "GRAY8": "bgr", "NV12": "nv12", "NV21": "nv21", "I420": "i420", "YUY2": "yuyv"}

# Containers such as WebM state a length in time, from which OpenCV estimates the frames: a few less is no damage.
_MISSING_TOLERATED = 0.02

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        image: (H, W, 3) uint8, BGR, upright, C-contiguous; of a source of another color, as an encoder of that color
            takes it.
        index: its place in the source, from 0, skipped frames counted.
        timestamp_ns: nanoseconds since 1970 when it was read; for a camera that is when it was taken, but for the
            driver's buffering.
        name: the file's name, or the source's and the index.
    """

    image: Image
    index: int
    timestamp_ns: int
    name: str


@dataclass(frozen=True)
class SourceOptions:
    """What :func:`open_source` says of frames."""

    limit: int | None
    every: int
    size: tuple[int, int] | None
    resize: int | None
    on_error: str

    def fit(self, image: Image) -> Image:
        return image if self.size is None else fit_frame(image, self.size, self.resize)


class FrameSource:
    """An open source: iterate over it once, and close it, best with ``with``.

    Attributes:
        description: what it is, for people.
        color: what its frames are, as :class:`~edgejpeg.Encoder` calls it: ``"bgr"``, unless a pipeline or raw video
            has another.
        total: frames that it will yield as far as can be told, or None (a camera).
        problems: one line for each thing that was skipped or found damaged, so far.

    Iterating raises DataError for a failure: always where the source is a camera that stops, and for a damaged image or
    a truncated video unless ``on_error`` is "skip".
    """

    def __init__(self, description: str, total: int | None, options: SourceOptions, color: str = "bgr") -> None:
        self.description = description
        self.color = color
        self.total = total
        self.problems: list[str] = []
        self._options = options

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        """Give the device or the file back; harmless when repeated."""

    def _problem(self, message: str) -> None:
        """Note a problem, or raise it when the caller wants to fail."""
        if self._options.on_error == "fail":
            raise DataError(message)
        self.problems.append(message)


def open_source(
    spec: str | Path,
    *,
    limit: int | None = None,
    every: int = 1,
    size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    on_error: str = "fail",
    own_color: bool = False,
) -> FrameSource:
    """Open a source of frames.

    Args:
        spec: ``camera:N``; ``gst:PIPELINE`` (without an appsink, one is added); or the path of a video, an image, or a
            folder, of which the images are taken in the order of their names.
        limit: yield at most so many frames.
        every: yield every n-th frame only.
        size: crop the centre to this size, a side of a square or (height, width), after scaling the frame so that its
            short side is ``resize``; None leaves frames as they are.
        resize: the short side before the crop; the size's larger side by default.
        on_error: "fail" raises for a damaged image or a truncated video, "skip" notes it in ``problems``.
        own_color: let a pipeline give the frames of the format that it names before its appsink, NV12, NV21, I420 or
            YUY2, as they are; the source's ``color`` says so. Without it they are refused.

    Raises:
        InvalidInputError: an option is outside what is allowed.
        DataError: the source does not exist, is empty or cannot be opened.
        MissingDependencyError: OpenCV is not installed.
    """
    options = check_options(limit, every, size, resize, on_error)
    text = str(spec)
    kind, _, rest = text.partition(":")
    if kind == "camera":
        if not (rest.isascii() and rest.isdigit()):
            raise InvalidInputError(f"a camera is written camera:N with its number, got {text!r}; try camera:0")
        return _CaptureSource(f"camera {int(rest)}", int(rest), _opencv().CAP_ANY, options)
    if kind == "gst":
        return _open_gstreamer(rest, options, own_color)
    path = Path(spec)
    if path.is_dir():
        return _FolderSource(path, _images_in(path), options)
    if not path.is_file():
        raise DataError(f"no source {text!r}; give camera:N, gst:PIPELINE, or an existing video, image or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _FolderSource(path, [path], options)
    cv2 = _opencv()
    # Where OpenCV has FFmpeg, its fallbacks do harm: one prints to stderr, one takes clip1.mp4 for a series of images.
    ffmpeg = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
    return _CaptureSource(path.name, str(path), cv2.CAP_FFMPEG if ffmpeg else cv2.CAP_ANY, options)


def read_image(path: str | Path) -> Image:
    """Read an image file as (H, W, 3) uint8 BGR, upright (its EXIF orientation applied), gray as B = G = R.

    Raises:
        DataError: the file is missing, no image, damaged or truncated.
    """
    cv2 = _opencv()
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror or error}") from error
    # OpenCV 4 decodes a truncated JPEG and fills the rest with gray. Entropy-coded data holds no FF DA and no FF D9.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise DataError(f"the image {path} is truncated: its JPEG data has no end marker")
    with _quiet(cv2):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        except cv2.error as error:
            raise DataError(f"the image {path} is damaged: {str(error).splitlines()[0][:200]}") from error
    if image is None:
        raise DataError(f"{path} is no image that OpenCV can read, or a damaged one")
    result: Image = image
    return result


def fit_frame(image: Image, size: tuple[int, int], resize: int | None = None) -> Image:
    """Scale a frame so that its short side is ``resize`` and crop the centre to ``size`` (height, width).

    Shrinking averages over areas, growing interpolates linearly. An image of just that size is returned as it is.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the result.
        resize: short side before the crop, at least the larger of ``size``, which is its default.
    """
    if image.shape[:2] == size:
        return image
    cv2 = _opencv()
    short = max(size) if resize is None else resize
    height, width = image.shape[:2]
    scale = short / min(height, width)
    new_height, new_width = max(round(height * scale), size[0]), max(round(width * scale), size[1])
    if (new_height, new_width) != (height, width):
        if max(new_height, new_width) > 65535:
            raise DataError(f"a frame of {height} x {width} is too long to be scaled to a short side of {short}")
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (new_width, new_height), interpolation=method)
    top, left = (new_height - size[0]) // 2, (new_width - size[1]) // 2
    return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])


class _FolderSource(FrameSource):
    def __init__(self, path: Path, files: list[Path], options: SourceOptions) -> None:
        _opencv()
        chosen = len(range(0, len(files), options.every))
        super().__init__(str(path), chosen if options.limit is None else min(chosen, options.limit), options)
        self._files = files

    def __iter__(self) -> Iterator[Frame]:
        yielded = 0
        for index in range(0, len(self._files), self._options.every):
            if yielded == self._options.limit:
                return
            path = self._files[index]
            try:
                image = self._options.fit(read_image(path))
            except DataError as error:
                self._problem(str(error))
                continue
            yielded += 1
            yield Frame(image, index, time.time_ns(), path.name)


class _CaptureSource(FrameSource):
    """A camera (``target`` is its number), or a video file or pipeline (its text)."""

    def __init__(
        self, description: str, target: int | str, backend: int, options: SourceOptions, color: str = "bgr"
    ) -> None:
        cv2 = _opencv()
        pipeline = backend == cv2.CAP_GSTREAMER
        with _quiet(cv2):
            self._capture: Any = cv2.VideoCapture(target, backend)
        if not self._capture.isOpened():
            self._capture.release()
            raise DataError(f"{description} cannot be opened as a source of frames; {_hint(target, pipeline)}")
        self._live = isinstance(target, int)
        self._cv2 = cv2
        # Zero or less when the container does not say, and for cameras and pipelines.
        count = 0 if self._live or pipeline else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._promised = max(count, 0)
        total = options.limit
        if self._promised:
            chosen = len(range(0, self._promised, options.every))
            total = chosen if total is None else min(chosen, total)
        self._pipeline = pipeline
        super().__init__(description, total, options, color)

    def __iter__(self) -> Iterator[Frame]:
        every, limit = self._options.every, self._options.limit
        index = yielded = 0
        while yielded != limit:
            # grab() advances without decoding, for the frames in between.
            if not self._grab():
                self._ended(index)
                return
            taken = time.time_ns()
            if index % every == 0:
                image = self._retrieve()
                if image is None:
                    self._ended(index)
                    return
                yielded += 1
                yield Frame(self._options.fit(image), index, taken, f"{self.description}#{index}")
            index += 1

    def close(self) -> None:
        self._capture.release()

    def _grab(self) -> bool:
        with _quiet(self._cv2):
            return bool(self._capture.grab())

    def _retrieve(self) -> Image | None:
        with _quiet(self._cv2):
            good, image = self._capture.retrieve()
        if not good or image is None:
            return None
        if self._pipeline:
            self._check_format(image)
        if self.color == "bgr" and (image.ndim == 2 or image.shape[2] == 1):
            image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        result: Image = np.ascontiguousarray(image)
        return result

    def _check_format(self, image: Image) -> None:
        """OpenCV gives a pipeline's samples as they come; by their shape alone NV12 might be a gray picture."""
        rows = int(self._capture.get(self._cv2.CAP_PROP_FRAME_HEIGHT))
        channels = 1 if image.ndim == 2 else image.shape[2]
        fits = {"bgr": channels == 3 or (channels == 1 and image.shape[0] == rows), "yuyv": channels == 2}
        stacked = channels == 1 and image.shape[0] * 2 == rows * 3 and rows % 2 == image.shape[1] % 2 == 0
        if not fits.get(self.color, stacked):
            raise DataError(
                f"{self.description} gives frames of {image.shape[1]} x {rows} as samples {image.shape}, which are not "
                f"{self.color}; end it with {_BGR_SINK}"
            )

    def _ended(self, frames: int) -> None:
        """Tell the end of a source from its failure."""
        if self._live:
            raise DataError(f"{self.description} stopped delivering after {frames} frames; is it still connected?")
        if not frames:
            raise DataError(f"{self.description} has no frame that can be decoded")
        missing = self._promised - frames
        if missing > max(1, self._promised * _MISSING_TOLERATED):
            self._problem(
                f"{self.description} ends after {frames} of the {self._promised} frames that its header promises: "
                "it is truncated or damaged"
            )


def check_options(
    limit: int | None, every: int, size: int | tuple[int, int] | None, resize: int | None, on_error: str
) -> SourceOptions:
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1, got {limit}")
    if every < 1:
        raise InvalidInputError(f"every must be at least 1, got {every}")
    shape = (size, size) if isinstance(size, int) else size
    if shape is not None and not (len(shape) == 2 and all(1 <= side <= 65535 for side in shape)):
        raise InvalidInputError(f"size must be 1 to 65535 pixels a side, got {size}")
    if resize is not None and (shape is None or not max(shape) <= resize <= 65535):
        raise InvalidInputError(f"resize needs a size, and must be from its larger side to 65535, got {resize}")
    if on_error not in ON_ERROR:
        raise InvalidInputError(f"on_error must be one of {', '.join(ON_ERROR)}, got {on_error!r}")
    return SourceOptions(limit, every, shape, resize, on_error)


def _images_in(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror or error}") from error
    if not files:
        raise DataError(f"no image in {folder}; images are files that end in {', '.join(IMAGE_SUFFIXES)}")
    return files


def _open_gstreamer(pipeline: str, options: SourceOptions, own_color: bool) -> FrameSource:
    cv2 = _opencv()
    if not pipeline.strip():
        raise InvalidInputError("gst: needs a pipeline, for example 'gst:v4l2src ! videoconvert'")
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise DataError(
            f"this OpenCV {cv2.__version__} is built without GStreamer; install one that has it (the system's "
            "python3-opencv has), or use camera:N or a video file"
        )
    color = "bgr"
    if "appsink" not in pipeline:
        pipeline += f" {_BGR_SINK}"
    else:
        # Behind a conversion OpenCV asks for BGR itself; a format that stands there has the last word.
        named = re.findall(r"format\s*=\s*(?:\(string\)\s*)?\"?(\w+)", pipeline.rpartition("videoconvert")[2])
        color = _GSTREAMER_COLORS.get(named[-1] if named else "BGR", "")
        if color != "bgr" and not (color and own_color and options.size is None):
            wanted = "BGR is what can be scaled and cropped" if color and own_color else "BGR is wanted here"
            raise DataError(f"the GStreamer pipeline ends in {named[-1]}, and {wanted}: end it with {_BGR_SINK}")
    return _CaptureSource("the GStreamer pipeline", pipeline, cv2.CAP_GSTREAMER, options, color)


def _hint(target: int | str, pipeline: bool) -> str:
    if isinstance(target, int):
        return "is it connected, free, and are you allowed to read /dev/video*?"
    if pipeline:
        return "run it with gst-launch-1.0 to see why"
    return "it is no video that OpenCV can read, or a truncated one"


def _opencv() -> ModuleType:
    return require("cv2", extra="camera", purpose="reading frames and image files")


@contextmanager
def _quiet(cv2: ModuleType) -> Iterator[None]:
    """Keep OpenCV's own lines off stderr: what goes wrong is reported by an exception."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
