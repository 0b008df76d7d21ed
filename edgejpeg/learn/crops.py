"""Unlabelled photos in memory, and the crops of them that a network is adapted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.learn.data import ON_ERROR, ImageData, open_rgb, read_image

Pixels = NDArray[np.uint8]

MIN_IMAGES = 8
"""Fewer images than this are refused: one in ten is held out, and what is left must be a batch."""

MAX_HELD_OUT = 200
_MARGIN = 1.5  # photos are kept at most so many times larger than the network's input


@dataclass(frozen=True, eq=False)
class Photos:
    """Images to train on, and a part held out from training.

    Attributes:
        train: (H, W, 3) uint8 RGB of any sizes, none smaller than the network's input.
        held_out: (h, w, 3) uint8 RGB of the network's input size, preprocessed as for evaluation.
        skipped: (file, reason) of every image left out.
    """

    train: tuple[Pixels, ...]
    held_out: tuple[Pixels, ...]
    skipped: tuple[tuple[Path, str], ...]


def load_photos(
    data: ImageData,
    *,
    size: tuple[int, int],
    resize: int,
    interpolation: str,
    max_images: int = 1000,
    held_out: float = 0.1,
    seed: int = 0,
    on_error: str = "skip",
) -> Photos:
    """Decode images once; about .3 MB each stays in memory at 224x224.

    Args:
        data: labels are not looked at.
        size, resize, interpolation: the network's input and its preprocessing, for the held-out part.
        max_images: so many are drawn with ``seed``.
        held_out: the part held out, 0..0.5; at least one image, at most 200.
        on_error: ``"skip"`` or ``"fail"`` for a file that does not decode.

    Raises:
        DataError: fewer than 8 images, or a damaged one with ``"fail"``.
        InvalidInputError: an option outside what is allowed.
    """
    if on_error not in ON_ERROR:
        raise InvalidInputError(f"on_error is one of {', '.join(ON_ERROR)}; got {on_error!r}")
    if not 0 < held_out <= 0.5:
        raise InvalidInputError(f"the part held out is above 0 and at most .5; got {held_out}")
    order = np.random.default_rng([seed, 1]).permutation(len(data))[:max_images]
    held = min(max(round(len(order) * held_out), 1), MAX_HELD_OUT)
    train: list[Pixels] = []
    kept: list[Pixels] = []
    skipped: list[tuple[Path, str]] = []
    for position, index in enumerate(order):
        file = data.files[int(index)]
        try:
            if position < held:
                image = read_image(file, size=size, resize=resize, interpolation=interpolation)
                kept.append(np.ascontiguousarray(image.transpose(1, 2, 0)))
            else:
                train.append(_read_photo(file, size))
        except DataError as error:
            if on_error == "fail":
                raise DataError(f"{error}; --on-error skip leaves such files out") from error
            skipped.append((file, str(error)))
    if not kept or len(train) + len(kept) < MIN_IMAGES:
        raise DataError(
            f"{str(data.root)!r} gave {len(train) + len(kept)} images, {len(skipped)} skipped; "
            f"adaptation needs at least {MIN_IMAGES}, and a few hundred to be of use"
        )
    return Photos(tuple(train), tuple(kept), tuple(skipped))


def _read_photo(file: Path, size: tuple[int, int]) -> Pixels:
    """The whole photo, scaled only when it is smaller than the input, or more than 1.5 times as large."""
    image_module = require("PIL.Image", extra="train", purpose="reading images")
    image = open_rgb(file)
    fit = max(size[0] / image.height, size[1] / image.width)
    factor = fit if fit > 1 else min(1.0, _MARGIN * fit)
    if factor != 1.0:
        scaled = (max(round(image.width * factor), size[1]), max(round(image.height * factor), size[0]))
        if scaled[0] * scaled[1] > 64 * size[0] * size[1]:
            raise DataError(
                f"cannot read {str(file)!r}: {image.width} x {image.height} pixels are too narrow to resize"
            )
        image = image.resize(scaled, image_module.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def random_crop(photo: Pixels, size: tuple[int, int], min_scale: float, rng: np.random.Generator) -> Pixels:
    """A crop of the input's shape at a random place and scale, flipped half the time.

    Args:
        photo: (H, W, 3) uint8.
        size: (height, width) of the result.
        min_scale: the smallest side of the crop as a part of the largest that fits, 0..1.
        rng: four draws are taken, whatever comes out.
    """
    image_module = require("PIL.Image", extra="train", purpose="cropping images")
    height, width = photo.shape[:2]
    largest = min(height / size[0], width / size[1])
    scale, down, right, flip = rng.random(4)
    factor = largest * (min_scale + (1.0 - min_scale) * scale)
    crop = (min(size[0] * factor, height), min(size[1] * factor, width))
    top, left = (height - crop[0]) * down, (width - crop[1]) * right
    image: Any = image_module.fromarray(photo)
    if crop != (float(size[0]), float(size[1])):
        box = (left, top, left + crop[1], top + crop[0])
        image = image.resize((size[1], size[0]), image_module.Resampling.BICUBIC, box=box)
    else:
        image = image.crop((round(left), round(top), round(left) + size[1], round(top) + size[0]))
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1] if flip < 0.5 else pixels)


def stacked(images: Sequence[Pixels]) -> Pixels:
    """(N, 3, H, W) of N (H, W, 3), as a network takes it."""
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
