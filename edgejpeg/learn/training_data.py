"""Labelled images to train on, from class folders, zip archives, torchvision's data sets, WebDataset shards or arrays.

All of them are lists of images that can be read in any order, so that the order of a training depends on its seed
alone: neither on the number of processes nor on where it was interrupted.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.learn.data import EXTENSIONS, ImageData, open_data, open_rgb

Labels = NDArray[np.int64]

_SPLITS = {"train", "test", "val", "valid", "validation"}


class LabelledImages:
    """Images with class numbers; a subclass says how one is read.

    Attributes:
        name: of the data, without the folders above it, for reports.
        labels: (N,) int64, from 0 on.
        class_names: one for each class, or None.
        num_classes: the number of names, or the largest label and one.
        shards: (N,) which images lie in one file and are best read together, or None.
        reads_in_threads: whether :meth:`read` can be called from several threads.
    """

    reads_in_threads = True

    def __init__(
        self, name: str, labels: ArrayLike, class_names: Sequence[str] | None, shards: ArrayLike | None = None
    ) -> None:
        self.name = name
        self.labels: Labels = np.asarray(labels, np.int64)
        if self.labels.ndim != 1 or not self.labels.size:
            raise DataError(f"{name} has no images with labels; got labels of shape {self.labels.shape}")
        self.class_names = None if class_names is None else tuple(class_names)
        self.num_classes = int(self.labels.max()) + 1 if self.class_names is None else len(self.class_names)
        self.shards = None if shards is None else np.asarray(shards, np.int64)
        self._check_classes()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Any:
        """The image as a Pillow image of mode RGB.

        Raises:
            DataError: it is missing or does not decode.
        """
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """What to call an image in a message."""
        return f"{self.name}: image {index}"

    def counts(self) -> list[int]:
        """Images of each class."""
        return np.bincount(self.labels, minlength=self.num_classes).tolist()

    def shuffled(self, indices: Labels, rng: np.random.Generator) -> Labels:
        """Some of the images in a random order: of shards, 16 random ones are mixed at a time."""
        if self.shards is None:
            return rng.permutation(indices)
        window = rng.permutation(int(self.shards.max()) + 1) // _MIXED_SHARDS
        return indices[np.lexsort((rng.random(len(indices)), window[self.shards[indices]]))]

    def _check_classes(self) -> None:
        if self.labels.min() < 0:
            raise DataError(f"{self.name}: classes are numbers from 0 on; got {self.labels.min()}")
        names = set(map(str.lower, self.class_names or ()))
        if names and names <= _SPLITS:
            raise DataError(f"{self.name} has the parts {', '.join(sorted(names))}, not classes; give one of the parts")
        empty = [number for number, count in enumerate(self.counts()) if not count]
        if empty:
            first = f"class {empty[0]}"
            if self.class_names is not None:
                first = f"the class folder {self.class_names[empty[0]]!r}"
            others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
            raise DataError(f"{self.name}: {first} has no images{others}; remove it, or put images into it")
        if self.num_classes < 2:
            raise DataError(f"{self.name} has one class; training needs at least 2, each in a folder of its own")


_MIXED_SHARDS = 16


class FolderImages(LabelledImages):
    """A folder with class folders, or with ``labels.csv``."""

    def __init__(self, data: ImageData) -> None:
        if data.labels is None:
            raise DataError(
                f"{str(data.root)!r} has images without labels; training needs a folder for each class, or labels.csv"
            )
        super().__init__(data.root.resolve().name, data.labels, data.class_names)
        self.files = data.files

    def read(self, index: int) -> Any:
        return open_rgb(self.files[index])

    def describe(self, index: int) -> str:
        return str(self.files[index])


class ArrayImages(LabelledImages):
    """Images in memory: (N, H, W, 3) uint8 RGB."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: ArrayLike,
        class_names: Sequence[str] | None = None,
        name: str = "array",
    ) -> None:
        if (
            images.ndim != 4
            or images.shape[3] != 3
            or images.dtype != np.uint8
            or len(images) != len(np.asarray(labels))
        ):
            raise InvalidInputError(
                f"images are (N, H, W, 3) uint8, with N labels; got {images.shape} {images.dtype} and "
                f"{len(np.asarray(labels))} labels"
            )
        super().__init__(name, labels, class_names)
        self.images = images

    def read(self, index: int) -> Any:
        image_module = require("PIL.Image", extra="train", purpose="reading images")
        return image_module.fromarray(self.images[index])


class ZipImages(LabelledImages):
    """A zip archive of class folders, at the top or below folders that hold nothing else."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(info.filename for info in archive.infolist() if _is_image(info))
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"cannot read {str(path)!r}: {error}") from error
        parts = [PurePosixPath(name).parts for name in names]
        depth = 0  # of the class folders: below what all have in common
        while parts and len({part[depth] for part in parts}) == 1 and all(len(part) > depth + 1 for part in parts):
            depth += 1
        if not parts or any(len(part) < depth + 2 for part in parts):
            raise DataError(f"{str(path)!r} has no two class folders with images; training needs one for each class")
        classes = sorted({part[depth] for part in parts})
        numbers = {name: number for number, name in enumerate(classes)}
        super().__init__(path.name, [numbers[part[depth]] for part in parts], classes)
        self.path, self.members = path, names
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def read(self, index: int) -> Any:
        if self._archive is None or self._process != os.getpid():
            # A file that is open in two processes has one position.
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        try:
            content = self._archive.read(self.members[index])
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"cannot read {self.describe(index)}: {error}") from error
        return open_rgb(self.describe(index), content)

    def describe(self, index: int) -> str:
        return f"{self.path}/{self.members[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def _is_image(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not info.is_dir() and not hidden and path.suffix.lower() in EXTENSIONS


class DatasetImages(LabelledImages):
    """A torchvision data set that was made without transforms."""

    reads_in_threads = False

    def __init__(self, dataset: Any, name: str) -> None:
        super().__init__(name, _dataset_labels(dataset, name), _dataset_names(dataset))
        self.dataset = dataset

    def read(self, index: int) -> Any:
        try:
            return self.dataset[index][0].convert("RGB")
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise DataError(f"cannot read {self.describe(index)}: {error}") from error


def _dataset_labels(dataset: Any, name: str) -> Any:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    if hasattr(dataset, "_samples"):
        return [int(label) for _, label in dataset._samples]
    raise DataError(f"torchvision's {name} does not tell its labels; give the images as class folders")


def _dataset_names(dataset: Any) -> Sequence[str] | None:
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)):
        return None
    return [name if isinstance(name, str) else name[0] for name in names]


_DATASETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "dtd": ("DTD", {"split": "train"}, {"split": "test"}),
    "fgvcaircraft": ("FGVCAircraft", {"split": "trainval"}, {"split": "test"}),
    "flowers102": ("Flowers102", {"split": "train"}, {"split": "test"}),
    "food101": ("Food101", {"split": "train"}, {"split": "test"}),
    "gtsrb": ("GTSRB", {"split": "train"}, {"split": "test"}),
    "imagenet": ("ImageNet", {"split": "train"}, {"split": "val"}),
    "oxfordiiitpet": ("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}),
    "stanfordcars": ("StanfordCars", {"split": "train"}, {"split": "test"}),
    "stl10": ("STL10", {"split": "train"}, {"split": "test"}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
}
"""Names on the command line: torchvision's class, and the arguments of its training and its test part."""


def open_images(source: str | Path, *, test: bool = False) -> LabelledImages:
    """Open labelled images; nothing but lists and labels is read yet.

    Args:
        source: a folder with class folders or ``labels.csv``; a ``.zip`` of class folders; ``NAME:ROOT`` for one of
            torchvision's data sets that lies below ROOT (cifar10, cifar100, flowers102, ...); or WebDataset shards, as
            ``shards-{000..010}.tar``.
        test: the test part of a torchvision data set.

    Raises:
        DataError: it does not exist, cannot be read, or has no labels; an empty class; one class alone.
        MissingDependencyError: torchvision is wanted and not installed.
    """
    text = str(source)
    if text.endswith((".tar", ".tar.gz", ".tgz")):
        from edgejpeg.learn.shards import ShardImages

        return ShardImages(text)
    if text.endswith(".zip"):
        return ZipImages(Path(text))
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9]+):(.+)", text)
    if match and not Path(text).exists():
        return _open_dataset(match[1].lower(), match[2], test)
    return FolderImages(open_data(Path(text)))


def _open_dataset(name: str, root: str, test: bool) -> LabelledImages:
    if name not in _DATASETS:
        raise DataError(f"no data set {name!r}; of torchvision's there are {', '.join(_DATASETS)}, as NAME:ROOT")
    from edgejpeg.models.torchvision_compat import import_torchvision

    kind, train_part, test_part = _DATASETS[name]
    try:
        module = import_torchvision(f"--data {name}:ROOT")
    except RuntimeError as error:
        raise DataError(f"{name}:{root} needs torchvision, which does not load here: {error}") from error
    try:
        dataset = getattr(module.datasets, kind)(root, **(test_part if test else train_part))
    except (RuntimeError, OSError, ValueError, ImportError) as error:  # not there, or scipy, which some need, is not
        reason = " ".join(str(error).split())
        raise DataError(
            f"cannot open torchvision's {kind} below {root!r}: {reason}; "
            f"torchvision.datasets.{kind}({root!r}, download=True) may fetch it"
        ) from error
    return DatasetImages(dataset, f"{name} ({'test' if test else 'train'})")


def hold_out(images: LabelledImages, part: float, seed: int) -> tuple[Labels, Labels]:
    """The indices to train on, and those held out: of every class the same part, at least one image if any.

    Raises:
        DataError: a class of one image, of which nothing can be held out.
    """
    everything = np.arange(len(images))
    if part == 0:
        return everything, everything[:0]
    rng = np.random.default_rng([seed, 1])
    held = []
    for number in range(images.num_classes):
        members = np.flatnonzero(images.labels == number)
        if len(members) < 2:
            raise DataError(
                f"{images.name}: class {number} has one image, and data.validation = {part:g} holds out some of every "
                "class; add images, or set data.validation=0"
            )
        count = min(max(round(part * len(members)), 1), len(members) - 1)
        held.append(rng.permutation(members)[:count])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(everything, chosen), chosen
