"""What each step of a training sees, for one process of several; it can begin at any step.

Small sets are decoded once and cropped on the device, all images of a batch at a time. Large ones are read and cropped
by worker processes. Both give the same pixels.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.learn.augment import Augmentation
from edgejpeg.learn.distributed import World
from edgejpeg.learn.recipe import RunRecipe
from edgejpeg.learn.training_data import LabelledImages

Indices = NDArray[np.int64]

_CACHE_BYTES = 2 << 30
_ORDER = 2  # the seed's stream for the order of images
_TRIES = 64  # damaged images in a row
_EVALUATION_BATCH = 256


class Micro(NamedTuple):
    """What one backward pass sees.

    Attributes:
        images: (n, 3, H, W) uint8 on the device.
        labels: (n,) int64 on the device.
    """

    images: Tensor
    labels: Tensor


class _Sample(NamedTuple):
    pixels: Tensor | None  # (H, W, 3); None for a damaged one that is left out
    label: int
    skipped: str | None  # why an image was left out
    failed: str | None  # why all must stop


@dataclass(eq=False)
class TrainingBatches:
    """The training images, cut into steps.

    Attributes:
        images, indices: the images, and which of them to train on.
        augmentation: what is done to them.
        run: batch size, accumulation, workers and cache.
        world: this process and the others; together they see ``run.batch_size`` images a step.
        device: where batches go.
        on_error: ``"skip"`` puts another image in the place of a damaged one; ``"fail"`` stops.
        skipped: what could not be read, with the reason.
    """

    images: LabelledImages
    indices: Indices
    augmentation: Augmentation
    run: RunRecipe
    world: World
    device: torch.device
    on_error: str = "fail"
    skipped: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = self.run.accumulation * self.world.size
        if self.run.batch_size % parts:
            raise InvalidInputError(
                f"run.batch_size {self.run.batch_size} cannot be shared by {self.world.size} processes with "
                f"run.accumulation {self.run.accumulation}: give a multiple of {parts}"
            )
        self._cache: _Cache | None = None
        if _wants_cache(self.run, self.augmentation, len(self.indices), self.augmentation.uses_whole):
            self._cache = _Cache.load(self.images, self.indices, self.augmentation, self)
            self.indices = self._cache.indices
        if len(self.indices) < self.run.batch_size:
            raise DataError(
                f"{self.images.name}: {len(self.indices)} images to train on are fewer than run.batch_size "
                f"{self.run.batch_size}; set a smaller one"
            )
        self.steps_per_epoch = len(self.indices) // self.run.batch_size

    @property
    def cached(self) -> bool:
        """Whether all images are in memory."""
        return self._cache is not None

    def steps(self, first: int, last: int) -> Iterator[list[Micro]]:
        """The backward passes of the steps ``first`` .. ``last - 1``."""
        passes = self._cached_passes(first, last) if self._cache is not None else self._loaded_passes(first, last)
        while True:
            step = [one for _, one in zip(range(self.run.accumulation), passes, strict=False)]
            if len(step) < self.run.accumulation:
                return
            yield step

    def _shares(self, first: int, last: int) -> Iterator[tuple[int, Indices]]:
        """(epoch, this process's images) of every backward pass."""
        size = self.run.batch_size // (self.run.accumulation * self.world.size)
        order, of_epoch = self.indices, -1
        for step in range(first, last):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != of_epoch:
                rng = np.random.default_rng([self.augmentation.seed, _ORDER, epoch])
                order, of_epoch = self.images.shuffled(self.indices, rng), epoch
            for part in range(self.run.accumulation):
                begin = place * self.run.batch_size + (part * self.world.size + self.world.rank) * size
                yield epoch, order[begin : begin + size]

    def _cached_passes(self, first: int, last: int) -> Iterator[Micro]:
        assert self._cache is not None
        for epoch, share in self._shares(first, last):
            centres, labels = self._cache.take(share)
            cropped = self.augmentation.train_cached(centres, epoch, share)
            yield Micro(cropped.permute(0, 3, 1, 2), labels)

    def _loaded_passes(self, first: int, last: int) -> Iterator[Micro]:
        dataset = _Crops(self.images, self.indices, self.augmentation, self.on_error)
        plan = ([(epoch, int(index)) for index in share] for epoch, share in self._shares(first, last))
        for images, labels, skipped in _loader(dataset, plan, self.run, self.device):
            self.skipped.update(dict.fromkeys(skipped))
            yield Micro(_sent(images, self.device), _sent(labels, self.device))


@dataclass(eq=False)
class EvaluationBatches:
    """Images as evaluation sees them: centre crops, in order; a damaged one is left out, or stops everything.

    Attributes:
        indices: of the images to see; of all processes.
        skipped: what could not be read, with the reason.
    """

    images: LabelledImages
    indices: Indices
    augmentation: Augmentation
    run: RunRecipe
    world: World
    device: torch.device
    on_error: str = "fail"
    skipped: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cache: _Cache | None = None

    def __iter__(self) -> Iterator[Micro]:
        if self._cache is None and _wants_cache(self.run, self.augmentation, len(self.indices), True):
            self._cache = _Cache.load(self.images, self.indices, self.augmentation, self)
            self.indices = self._cache.indices
        size = min(max(self.run.batch_size, 1), _EVALUATION_BATCH)
        begins = range(self.world.rank * size, len(self.indices), size * self.world.size)
        shares = [self.indices[begin : begin + size] for begin in begins]
        if self._cache is not None:
            for share in shares:
                centres, labels = self._cache.take(share)
                yield Micro(centres.permute(0, 3, 1, 2), labels)
            return
        dataset = _Crops(self.images, self.indices, self.augmentation, self.on_error)
        plan = ([(-1, int(index)) for index in share] for share in shares)
        for images, labels, skipped in _loader(dataset, plan, self.run, self.device):
            self.skipped.update(dict.fromkeys(skipped))
            if len(labels):
                yield Micro(_sent(images, self.device), _sent(labels, self.device))


def _wants_cache(run: RunRecipe, augmentation: Augmentation, count: int, centre: bool) -> bool:
    """Whether decoded images are kept in memory; ``centre``: nothing but their centre crops is used."""
    if run.cache == "on" and not centre:
        raise InvalidInputError(
            "run.cache = 'on' keeps centre crops, which data.crop = 'random-resized' and data.randaugment cannot use; "
            "set data.crop=pad, or run.cache=auto"
        )
    fits = 3 * count * augmentation.size[0] * augmentation.size[1] <= _CACHE_BYTES
    return run.cache == "on" or (run.cache == "auto" and centre and fits)


@dataclass(frozen=True, eq=False)
class _Cache:
    """Centre crops in memory."""

    indices: Indices  # sorted, without damaged images
    pixels: Tensor  # (N, H, W, 3) uint8
    labels: Tensor

    @classmethod
    def load(
        cls,
        images: LabelledImages,
        indices: Indices,
        augmentation: Augmentation,
        owner: TrainingBatches | EvaluationBatches,
    ) -> _Cache:
        def centre(index: int) -> NDArray[np.uint8] | str:
            try:
                return augmentation.centre(images.read(index), images.describe(index))
            except DataError as error:
                return str(error)

        pixels = np.empty((len(indices), *augmentation.size, 3), np.uint8)
        kept: list[int] = []
        ordered = np.sort(indices)
        with ThreadPoolExecutor(max(owner.run.workers, 1) if images.reads_in_threads else 1) as pool:
            for index, result in zip(ordered, pool.map(centre, ordered.tolist()), strict=True):
                if isinstance(result, str):
                    if owner.on_error == "fail":
                        raise DataError(f"{result}; --on-error skip leaves such files out")
                    owner.skipped[result] = None
                else:
                    pixels[len(kept)] = result
                    kept.append(int(index))
        which = np.array(kept, np.int64)
        labels = torch.from_numpy(images.labels[which])
        return cls(which, torch.from_numpy(pixels[: len(kept)]).to(owner.device), labels.to(owner.device))

    def take(self, indices: Indices) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.searchsorted(self.indices, indices)).to(self.pixels.device)
        return self.pixels[rows], self.labels[rows]


@dataclass(frozen=True, eq=False)
class _Crops(Dataset[_Sample]):
    """Reads (epoch, index); the epoch -1 stands for the centre crops of evaluation."""

    images: LabelledImages
    indices: Indices
    augmentation: Augmentation
    on_error: str

    def __getitem__(self, place: tuple[int, int]) -> _Sample:
        epoch, index = place
        skipped = None
        for attempt in range(_TRIES):
            name = self.images.describe(index)
            try:
                image = self.images.read(index)
                if epoch < 0:
                    pixels = self.augmentation.centre(image, name)
                else:
                    pixels = self.augmentation.train(image, name, epoch, index)
                return _Sample(torch.from_numpy(np.array(pixels)), int(self.images.labels[index]), skipped, None)
            except DataError as error:
                if self.on_error == "fail":
                    return _Sample(None, 0, None, f"{error}; --on-error skip leaves such files out")
                skipped = skipped or str(error)
                if epoch < 0:
                    return _Sample(None, 0, skipped, None)
                position = int(np.searchsorted(self.indices, index)) + 1 + attempt
                index = int(self.indices[position % len(self.indices)])
        return _Sample(None, 0, None, f"{_TRIES} images in a row cannot be read, the first: {skipped}")


def _collate(samples: list[_Sample]) -> tuple[Tensor, Tensor, list[str], str | None]:
    failed = next((sample.failed for sample in samples if sample.failed is not None), None)
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    images = torch.stack(pixels).permute(0, 3, 1, 2) if pixels else torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([sample.label for sample in samples if sample.pixels is not None], dtype=torch.int64)
    return images, labels, [sample.skipped for sample in samples if sample.skipped is not None], failed


def _loader(
    dataset: _Crops, plan: Iterator[list[tuple[int, int]]], run: RunRecipe, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=_Plan(plan),
        num_workers=run.workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    for images, labels, skipped, failed in loader:
        if failed is not None:
            raise DataError(failed)
        yield images, labels, skipped


@dataclass(frozen=True)
class _Plan:
    batches: Iterator[list[tuple[int, int]]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches


def _start_worker(_: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the training decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
