"""Frames to measure with: of a size, from the pixels of real pictures, or generated where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError

Image = NDArray[np.uint8]

_TILE = 480  # pixels a side: what is left of small pictures is large enough to look like one
_NOISE = 2.0  # standard deviation of the sensor's noise, in levels


def mosaic(pictures: Sequence[Image], width: int, height: int, seed: int) -> Image:
    """A frame of crops of pictures side by side, unscaled: scaling would change the spectrum that is encoded.

    Args:
        pictures: (H, W, 3) uint8, each repeated where it is smaller than a tile of the frame.
        width, height: of the frame.
        seed: of the choice of the crops.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InvalidInputError: no picture.
    """
    if not pictures:
        raise InvalidInputError("there are no pictures to make frames of; give at least one")
    rng = np.random.default_rng(seed)
    frame = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            tile = frame[top : top + _TILE, left : left + _TILE]
            picture = pictures[int(rng.integers(len(pictures)))]
            rows, columns = (
                (rng.integers(max(have - need, 0) + 1) + np.arange(need)) % have
                for need, have in zip(tile.shape[:2], picture.shape[:2], strict=True)
            )
            tile[:] = picture[np.ix_(rows, columns)]
    return frame


def generated_scenes(width: int, height: int, count: int, seed: int = 0) -> list[Image]:
    """Frames of a camera that moves over a generated scene: a photo's spectrum (amplitude 1/f), edges, sensor noise.

    Returns:
        ``count`` frames, (height, width, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    margin = 16
    rows, columns = height + margin, width + margin
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    frequency[0, 0] = 1
    scene = np.empty((rows, columns, 3), np.float32)
    for channel, contrast in enumerate((18.0, 40.0, 18.0)):
        spectrum = np.fft.rfft2(rng.normal(size=(rows, columns))) / frequency
        spectrum[0, 0] = 0
        texture = np.fft.irfft2(spectrum, s=(rows, columns))
        scene[..., channel] = 128 + contrast * texture / max(float(texture.std()), 1e-9)
    scene += (scene[..., 1:2] - 128) * 0.5  # what is bright is so in all channels
    for _ in range(24):
        top, left = rng.integers(rows), rng.integers(columns)
        high, wide = 1 + rng.integers(max(rows // 6, 1)), 1 + rng.integers(max(columns // 6, 1))
        scene[top : top + high, left : left + wide] += rng.normal(0, 30, 3).astype(np.float32)
    frames = []
    for index in range(count):
        y, x = (5 * index) % (margin + 1), (3 * index) % (margin + 1)
        part = scene[y : y + height, x : x + width]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * _NOISE
        frames.append(np.clip(part + noise, 0, 255).astype(np.uint8))
    return frames
