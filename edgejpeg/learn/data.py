"""Folders of images as batches of uint8 arrays: class folders, a folder with ``labels.csv``, or images alone."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image in a folder, in any case (torchvision's list)."""

ON_ERROR = ("skip", "fail")
_MAX_PIXELS = 178_956_970  # Pillow's bound for decoding, here for resizing


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
        images: ``(N, 3, H, W)`` uint8 RGB; N may be 0 when every file of the batch was skipped.
        labels: ``(N,)`` int64 class numbers, or None; any sequence of N for a loss of your own.
        positions: ``(N,)`` int64, where each image stands in the order of the data.
        span: (first, past the last) position that this batch covers, with those skipped.
    """

    images: NDArray[np.uint8]
    labels: Any
    positions: NDArray[np.int64]
    span: tuple[int, int]


@dataclass(frozen=True)
class ImageData:
    """The images of a folder, and their labels.

    Attributes:
        root: the folder.
        files: the images, sorted as torchvision's ImageFolder does, or in the order of ``labels.csv``.
        labels: a class number for each file, or None.
        class_names: the folders' names when the classes are folders, else None.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    def check_labels(self, num_classes: int) -> None:
        """Refuse labels outside 0 .. num_classes - 1.

        Raises:
            DataError: naming the first file.
        """
        for file, label in zip(self.files, self.labels or (), strict=False):
            if not 0 <= label < num_classes:
                raise DataError(
                    f"{self.root}: the label of {file.relative_to(self.root)} is {label}, outside the network's "
                    f"0..{num_classes - 1}; give the network these labels belong to, or --labels self"
                )

    def batches(
        self,
        batch_size: int,
        *,
        size: tuple[int, int],
        resize: int | None = None,
        interpolation: str = "bilinear",
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        on_error: str = "fail",
    ) -> Batches:
        """Batches of decoded images, in the same order in every run.

        Args:
            batch_size: images in a batch; the last one may have fewer.
            size: (height, width) of the centre crop.
            resize: the short side before the crop; None only enlarges images that are smaller than the crop.
            interpolation: ``"bilinear"`` or ``"bicubic"``.
            seed: shuffles the files; None keeps their order.
            rank, world_size: this process reads every ``world_size``-th batch.
            on_error: ``"fail"`` raises at the first file that is missing or does not decode; ``"skip"`` leaves it out
                and lists it in :attr:`Batches.skipped`.
        """
        if batch_size < 1:
            raise InvalidInputError(f"the batch size is at least 1; got {batch_size}")
        if on_error not in ON_ERROR:
            raise InvalidInputError(f"on_error is one of {', '.join(ON_ERROR)}; got {on_error!r}")
        if interpolation not in ("bilinear", "bicubic"):
            raise InvalidInputError(f"interpolation is 'bilinear' or 'bicubic'; got {interpolation!r}")
        order = np.arange(len(self.files)) if seed is None else np.random.default_rng(seed).permutation(len(self.files))
        return Batches(self, order, batch_size, size, resize, interpolation, rank, world_size, on_error)


@dataclass(frozen=True, eq=False)
class Batches:
    """An iterable of :class:`Batch`, made by :meth:`ImageData.batches`; it can begin anywhere.

    Attributes:
        skipped: (file, reason) of every image left out so far.
    """

    data: ImageData
    order: NDArray[Any]
    batch_size: int
    size: tuple[int, int]
    resize: int | None
    interpolation: str
    rank: int
    world_size: int
    on_error: str
    start: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def from_position(self, start: int) -> Batches:
        """The same images from a position of the order on; :attr:`skipped` is shared."""
        return replace(self, start=start)

    def __iter__(self) -> Iterator[Batch]:
        step = self.batch_size * self.world_size
        for first in range(self.start + self.rank * self.batch_size, len(self.order), step):
            yield self._read(first, min(first + self.batch_size, len(self.order)))

    def _read(self, first: int, last: int) -> Batch:
        images, labels, positions = [], [], []
        for position in range(first, last):
            index = int(self.order[position])
            file = self.data.files[index]
            try:
                images.append(read_image(file, size=self.size, resize=self.resize, interpolation=self.interpolation))
            except DataError as error:
                if self.on_error == "fail":
                    raise DataError(f"{error}; --on-error skip leaves such files out") from error
                self.skipped.append((file, str(error)))
                continue
            positions.append(position)
            if self.data.labels is not None:
                labels.append(self.data.labels[index])
        return Batch(
            images=np.stack(images) if images else np.empty((0, 3, *self.size), np.uint8),
            labels=None if self.data.labels is None else np.array(labels, np.int64),
            positions=np.array(positions, np.int64),
            span=(first, last),
        )


def read_image(
    file: Path, *, size: tuple[int, int], resize: int | None = None, interpolation: str = "bilinear"
) -> NDArray[np.uint8]:
    """Decode, resize the short side, cut the centre: ``(3, H, W)`` uint8 RGB.

    Sizes round as torchvision's Resize and CenterCrop do. An image that is still smaller than the crop is enlarged
    until it covers it.

    Raises:
        DataError: the file is missing, is no image, is truncated, or has more than eight bits a sample.
    """
    fitted = fit_image(open_rgb(file), name=str(file), size=size, resize=resize, interpolation=interpolation)
    return np.ascontiguousarray(np.asarray(fitted, dtype=np.uint8).transpose(2, 0, 1))


def fit_image(
    image: Any, *, name: str, size: tuple[int, int], resize: int | None = None, interpolation: str = "bilinear"
) -> Any:
    """What :func:`read_image` does to a Pillow image: resize the short side, cut the centre; a Pillow image.

    Raises:
        DataError: an image so narrow that resizing it would take too much memory; ``name`` is for the message.
    """
    image_module = require("PIL.Image", extra="train", purpose="reading images")
    filters = {"bilinear": image_module.Resampling.BILINEAR, "bicubic": image_module.Resampling.BICUBIC}
    height, width = size
    scaled = _scaled_size(image.width, image.height, width, height, resize)
    if scaled[0] * scaled[1] > _MAX_PIXELS:
        raise DataError(f"cannot read {name!r}: {image.width} x {image.height} pixels are too narrow to resize")
    if scaled != image.size:
        image = image.resize(scaled, filters[interpolation])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def open_rgb(file: str | Path, content: bytes | None = None) -> Any:
    """Decode a file into a Pillow image of mode RGB.

    Args:
        file: a path; with ``content``, only a name for messages.
        content: the file's bytes, when they lie elsewhere.

    Raises:
        DataError: the file is missing, is no image, is truncated, or has more than eight bits a sample.
    """
    image_module = require("PIL.Image", extra="train", purpose="reading images")
    try:
        with image_module.open(file if content is None else io.BytesIO(content)) as opened:
            if opened.mode.startswith(("I", "F")):
                raise DataError(f"cannot read {str(file)!r}: samples of mode {opened.mode}; 8-bit images are allowed")
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"cannot read {str(file)!r}: no such file") from error
    except DataError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        image_module.DecompressionBombError,
    ) as error:  # what Pillow raises for damaged files
        raise DataError(f"cannot read {str(file)!r}: {error}") from error


def _scaled_size(width: int, height: int, crop_width: int, crop_height: int, resize: int | None) -> tuple[int, int]:
    if resize is not None:
        short = min(width, height)
        width, height = (resize * width // short, resize * height // short)
    enlarge = max(crop_width / width, crop_height / height, 1.0)
    if enlarge > 1.0:
        width, height = max(round(width * enlarge), crop_width), max(round(height * enlarge), crop_height)
    return width, height


def open_data(folder: str | Path) -> ImageData:
    """List the images of a folder; nothing is decoded yet.

    Three layouts: ``labels.csv`` with the columns ``file,class`` (paths inside the folder, class numbers from 0); one
    folder for each class, numbered in sorted order (torchvision's ImageFolder); or images alone, without labels.

    Raises:
        DataError: no such folder, no image in it, a damaged ``labels.csv``, or images beside class folders.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"no folder {str(root)!r}; give a folder of images")
    if (root / "labels.csv").is_file():
        return _from_labels_file(root)
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    per_class = [_images_below(entry) for entry in classes]
    here = sorted(entry for entry in root.iterdir() if _is_image(entry))
    if any(per_class) and here:
        raise DataError(
            f"{str(root)!r} has images ({here[0].name}, ...) beside class folders ({classes[0].name}, ...); "
            "keep one of the two, or write a labels.csv (file,class)"
        )
    if any(per_class):
        return ImageData(
            root=root,
            files=tuple(file for files in per_class for file in files),
            labels=tuple(index for index, files in enumerate(per_class) for _ in files),
            class_names=tuple(entry.name for entry in classes),
        )
    if not here:
        raise DataError(
            f"no images in {str(root)!r}; looked for {', '.join(EXTENSIONS)} in it and in its class folders"
        )
    return ImageData(root=root, files=tuple(here), labels=None, class_names=None)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _from_labels_file(root: Path) -> ImageData:
    source = root / "labels.csv"
    files, labels = [], []
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "class"} <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{str(source)!r} has the columns {reader.fieldnames}; it needs a first line file,class"
                )
            for row in reader:
                name, label = (row["file"] or "").strip(), (row["class"] or "").strip()
                if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                    raise DataError(f"{str(source)!r}, line {reader.line_num}: {name!r} is no path inside the folder")
                if not (label.isascii() and label.isdigit() and len(label) <= 9):
                    raise DataError(f"{str(source)!r}, line {reader.line_num}: class {label!r} is no number from 0 on")
                files.append(root / name)
                labels.append(int(label))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {str(source)!r}: {error}") from error
    if not files:
        raise DataError(f"{str(source)!r} lists no images")
    return ImageData(root=root, files=tuple(files), labels=tuple(labels), class_names=None)
