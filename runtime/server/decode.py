"""From a stranger's JPEG to the network's input, within limits.

What is decoded: baseline and progressive JPEG, colour or gray (gray becomes R = G = B), by Pillow, that is by
libjpeg-turbo with its accurate DCT and smooth chroma upsampling. EXIF orientation and ICC profiles are ignored: what a
file means must not depend on what a camera wrote beside the pixels. CMYK is refused, since its colours need a profile.
Damage inside a scan that leaves all markers whole cannot be seen here, as libjpeg decodes something from any bits; the
request's ``sha256`` parameter is for that.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgejpeg._optional import require
from edgejpeg.errors import InvalidInputError
from edgejpeg.runtime.server.protocol import JPEG_MAGIC, RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 16_000_000
# Each scan of a progressive file walks over every block, however few bytes it has: 8 MiB could hold 100,000 scans
# and occupy a core for hours. libjpeg's own script has 10.
MAX_SCANS = 100

INTERPOLATIONS = ("bilinear", "bicubic")
DTYPES = ("float32", "float16", "uint8")


@dataclass(frozen=True)
class InputSpec:
    """What the network wants: size, and the numbers that pixels become.

    An image that has exactly the network's size is taken as it is. Any other is resized so that its short side is
    ``resize`` (long side rounded down, antialiased) and cropped in the centre, as torchvision's Resize and CenterCrop.

    Attributes:
        height, width: the network's input in pixels.
        resize: short side before the crop, at least max(height, width).
        interpolation: "bilinear" or "bicubic".
        dtype: "float32", "float16" or "uint8".
        value_range: what 0 and 255 become, for example (0, 1).
        mean, std: per channel R, G, B in units of value_range: x = (value - mean) / std.
    """

    height: int
    width: int
    resize: int
    interpolation: str = "bicubic"
    dtype: str = "float32"
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or max(self.height, self.width) > 4096:
            raise InvalidInputError(f"input size must be 1 to 4096 pixels a side, got {self.height} x {self.width}")
        if not max(self.height, self.width) <= self.resize <= 8192:
            raise InvalidInputError(
                f"resize must be {max(self.height, self.width)} (the input size) to 8192, got {self.resize}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise InvalidInputError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        if self.dtype not in DTYPES:
            raise InvalidInputError(f"input dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        numbers = (*self.value_range, *self.mean, *self.std)
        if not np.isfinite(numbers).all() or self.value_range[0] >= self.value_range[1] or min(self.std) <= 0:
            raise InvalidInputError(
                f"range, mean and std must be finite, range ascending and std positive, got range {self.value_range}, "
                f"mean {self.mean}, std {self.std}"
            )
        plain = (self.value_range, self.mean, self.std) == ((0.0, 255.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        if self.dtype == "uint8" and not plain:
            raise InvalidInputError("an input of uint8 takes pixels as they are: range 0,255, mean 0 and std 1")

    @cached_property
    def _lookup(self) -> npt.NDArray[Any]:
        """(3, 256): what each byte of each channel becomes, computed in float64 and rounded once."""
        low, high = self.value_range
        values = low + (high - low) * np.arange(256) / 255
        table = (values - np.array(self.mean)[:, None]) / np.array(self.std)[:, None]
        return table.astype(self.dtype)

    def tensor(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """RGB pixels (height, width, 3) as the network's input (3, height, width) in ``dtype``."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if self.dtype == "uint8":
            return planes
        return np.stack([table[plane] for table, plane in zip(self._lookup, planes, strict=True)])


def decode_jpeg(data: bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a JPEG to an RGB image, after its header passed the limits.

    Args:
        data: the whole file; bytes behind its end are ignored.
        max_pixels: width times height, checked before anything is decoded.

    Raises:
        RequestError: 415 no JPEG, 400 damaged or truncated, 413 too many pixels, 422 CMYK or too many scans.
    """
    image = open_jpeg(data, max_pixels)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise RequestError(f"the JPEG is damaged: {_reason(error)}") from None
    return image.convert("RGB")


def open_jpeg(data: bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """Read a JPEG's header alone and apply the limits; raises as :func:`decode_jpeg`."""
    pil = require("PIL.Image", extra="serve", purpose="decoding JPEG in the server")
    if not data.startswith(JPEG_MAGIC):
        raise RequestError(f"the image is no JPEG: it begins with {data[:4].hex(' ') or 'nothing'}, not ff d8", 415)
    try:
        image: Image = pil.open(io.BytesIO(data), formats=("JPEG",))
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise RequestError(f"the JPEG has more than the {max_pixels} pixels that are allowed", 413) from None
    except (OSError, SyntaxError, ValueError, IndexError, KeyError, EOFError) as error:
        raise RequestError(f"the JPEG's header is damaged or unsupported: {_reason(error)}") from None
    if image.width * image.height > max_pixels:
        raise RequestError(
            f"the JPEG has {image.width} x {image.height} pixels, more than the {max_pixels} that are allowed", 413
        )
    if image.mode not in ("RGB", "L"):
        raise RequestError(f"the JPEG has the colour mode {image.mode}; send YCbCr, RGB or gray", 422)
    # FF DA cannot occur inside entropy-coded data, where each FF is followed by 00 or a restart marker.
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise RequestError(f"the JPEG has {scans} scans, more than the {MAX_SCANS} that are allowed", 422)
    return image


def fit_image(image: Image, spec: InputSpec, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Bring an RGB image to the network's size, as :class:`InputSpec` says; returns (height, width, 3) uint8.

    Raises:
        RequestError: 422 when a very long image would grow beyond ``max_pixels`` on the way.
    """
    if image.size != (spec.width, spec.height):
        pil = require("PIL.Image", extra="serve", purpose="resizing in the server")
        short, long = min(image.size), max(image.size)
        grown = int(spec.resize * long / short)
        if grown * spec.resize > max_pixels:
            raise RequestError(
                f"the JPEG's {image.width} x {image.height} pixels cannot be fitted to {spec.width} x {spec.height}: "
                f"with the short side at {spec.resize} it would have more than {max_pixels} pixels",
                422,
            )
        size = (spec.resize, grown) if image.width <= image.height else (grown, spec.resize)
        if image.size != size:
            image = image.resize(size, getattr(pil.Resampling, spec.interpolation.upper()))
        left = round((image.width - spec.width) / 2)
        top = round((image.height - spec.height) / 2)
        image = image.crop((left, top, left + spec.width, top + spec.height))
    return np.asarray(image)


def images_to_batch(images: tuple[bytes, ...], spec: InputSpec, max_pixels: int = MAX_PIXELS) -> npt.NDArray[Any]:
    """Decode and fit JPEG files; returns (n, 3, height, width) in ``spec.dtype``.

    ``max_pixels`` bounds all images together, so that many large ones in one request are no way around it. Only one
    of them is in memory at full size at a time.

    Raises:
        RequestError: as :func:`decode_jpeg` and :func:`fit_image`; of several images, the message names which.
    """
    batch = np.empty((len(images), 3, spec.height, spec.width), spec.dtype)
    left = max_pixels
    for index, data in enumerate(images):
        try:
            image = decode_jpeg(data, left)
            left -= image.width * image.height
            batch[index] = spec.tensor(fit_image(image, spec, max_pixels))
        except RequestError as error:
            if len(images) == 1:
                raise
            raise RequestError(f"image {index}: {error}", error.status) from None
    return batch


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:120]
    # Pillow names the BytesIO object it was given, which tells the client nothing.
    return "cannot identify the image" if "BytesIO" in text or not text else text
