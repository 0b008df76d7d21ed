"""WebDataset shards: tar files in which the files of a sample share a name and differ in the extension.

The headers of all shards are read once; then a sample is read where it lies, in any order. So a run on shards can hold
out a part of the images, resume in the middle of an epoch, and does not depend on the number of readers.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from edgejpeg.errors import DataError
from edgejpeg.learn.data import EXTENSIONS, open_rgb
from edgejpeg.learn.training_data import LabelledImages

_MOST = 100_000  # shards


def expand_shards(pattern: str) -> list[Path]:
    """The files of ``shards-{000..010}.tar``, of ``{a,b}.tar``, or of a pattern with ``*`` and ``?``, sorted.

    Raises:
        DataError: none match, or one of them does not exist.
    """
    names = _expand_braces(pattern)
    if len(names) > _MOST:
        raise DataError(f"{pattern!r} stands for {len(names)} shards; at most {_MOST} are allowed")
    files = []
    for name in names:
        path = Path(name)
        found = sorted(path.parent.glob(path.name)) if re.search(r"[*?]", path.name) else [path]
        if not found or not found[0].is_file():
            raise DataError(f"no shard {name!r}; shards are local .tar files, as shards-{{000..010}}.tar")
        files.extend(found)
    return files


def _expand_braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if not first <= last < first + _MOST:
            raise DataError(f"{match[0]} in {pattern!r} is no range: from a number up to a larger one")
        words = [str(value).zfill(len(numbers[1])) for value in range(first, last + 1)]
    else:
        words = match[1].split(",")
    rest = _expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + word + end for word in words for end in rest]


class ShardImages(LabelledImages):
    """Samples with an image (``.jpg``, ``.png``, ``.webp``, ...) and a label: ``.cls``, or ``.json`` with "label"."""

    def __init__(self, pattern: str) -> None:
        self.files = expand_shards(pattern)
        places: list[tuple[int, int, int]] = []
        labels: list[int] = []
        for number, file in enumerate(self.files):
            for offset, size, label in _samples(file):
                places.append((number, offset, size))
                labels.append(label)
        if not places:
            raise DataError(f"{pattern!r} has no samples: files with one name, such as 0001.jpg and 0001.cls")
        self.places = np.array(places, np.int64)
        super().__init__(Path(pattern).name, labels, None, shards=self.places[:, 0])

    def read(self, index: int) -> Any:
        number, offset, size = map(int, self.places[index])
        try:
            descriptor = os.open(self.files[number], os.O_RDONLY)
            try:
                content = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"cannot read {self.describe(index)}: {error.strerror or error}") from error
        return open_rgb(self.describe(index), content)

    def describe(self, index: int) -> str:
        return f"{self.files[self.places[index, 0]]}, byte {self.places[index, 1]}"


def _samples(file: Path) -> list[tuple[int, int, int]]:
    """(offset, size, label) of a shard's samples, in its order."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}"
                last = "." + extension.rpartition(".")[2].lower()
                if last in EXTENSIONS and key not in images:
                    images[key] = (member.offset_data, member.size)
                elif last in (".cls", ".json") and (key not in labels or last == ".cls"):
                    label = _label(archive, member, last)
                    if label is not None:
                        labels[key] = label
    except tarfile.ReadError as error:
        raise DataError(f"cannot read the shard {str(file)!r}: {error}; it has to be a plain .tar") from error
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"cannot read the shard {str(file)!r}: {error}") from error
    unlabelled = next((key for key in images if key not in labels), None)
    if unlabelled is not None:
        raise DataError(
            f"{str(file)!r}: the sample {unlabelled.lstrip('/')!r} has no label: a file .cls with a class number, "
            'or .json with {"label": number}'
        )
    return [(*place, labels[key]) for key, place in images.items()]


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> int | None:
    stream = archive.extractfile(member)
    content = b"" if stream is None else stream.read(1 << 20)
    try:
        if extension == ".cls":
            return int(content.decode().strip())
        found = json.loads(content)
        label = found.get("label", found.get("cls")) if isinstance(found, dict) else None
        return label if type(label) is int else None
    except ValueError as error:
        raise DataError(f"{str(archive.name)!r}: {member.name!r} is no class number: {content[:30]!r}") from error
