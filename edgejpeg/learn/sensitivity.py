"""How much each DCT frequency matters to a network: the sensitivities s_i of OptS.

[OptS]: Zheng, Salamah, Ye, Yang, "JPEG compliant compression for DNN vision", ICIP 2023, eq. 8 and 9:
``s_i = mean over images of ( sum over the image's blocks of (dL/dC_ij)^2 )``, for each of Y, Cb and Cr.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import DataError, InvalidInputError, ModelError
from edgejpeg.learn.checkpoint import Checkpoint
from edgejpeg.learn.data import Batch
from edgejpeg.learn.distributed import World
from edgejpeg.learn.frozen import frozen, weights_digest
from edgejpeg.learn.transform import chroma_factors, coefficients_from_rgb, rgb_from_coefficients

LABELS = ("true", "self", "fisher")
MATTERING = 0.01
"""A frequency matters to the stopping rule when its s_i is at least this part of the largest of all 192."""

MIN_IMAGES_TO_STOP = 64
"""Standard errors of fewer images are too uncertain themselves to stop by."""

_MAPS = 3 * 64
_IMAGES, _CORRECT, _LABELLED, _POSITION, _BATCHES = range(2 * _MAPS, 2 * _MAPS + 5)

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivities of a network to the coefficients of a JPEG file.

    Attributes:
        sensitivity: (3, 8, 8) float64, Y, Cb, Cr, row-major (row = vertical frequency): the raw s_i of [OptS eq. 9], in
            squared loss per squared coefficient at the scale of a file (DC = 8 x mean).
        standard_error: (3, 8, 8) float64, of each s_i as a mean over images; NaN after a single image.
        images: the number of images.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        labels: ``"true"``, ``"self"`` or ``"fisher"``.
        accuracy: the part of labelled images whose top-1 is the true label; None without labels.
        stopped_early: whether the bound on the relative standard error ended the run.
    """

    sensitivity: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    images: int
    subsampling: str
    labels: str
    accuracy: float | None
    stopped_early: bool

    @property
    def relative_error(self) -> float:
        """The largest relative standard error of the frequencies that matter (see :data:`MATTERING`)."""
        return _relative_error(self.sensitivity, self.standard_error)


def estimate_sensitivity(
    model: nn.Module,
    batches: Iterable[Batch] | Iterable[tuple[Any, Any]],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    subsampling: str = "420",
    labels: str = "true",
    loss: Loss | None = None,
    fisher_samples: int = 1,
    seed: int = 0,
    max_images: int | None = None,
    target_relative_error: float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 16,
    resume: bool = True,
    configuration: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
    world: World | None = None,
) -> Sensitivity:
    """Estimate s_i [OptS eq. 8, 9] from the gradients of a loss, streamed.

    The leaf of the gradient is the coefficient tensor of the planes as a file holds them, chroma subsampled: C -> IDCT
    -> libjpeg-turbo's chroma upsampling -> RGB -> (rgb - mean) / std -> network -> loss, without clamp and rounding.
    The network runs in eval mode without weight gradients and is left as it was. The result depends neither on the
    batch size nor on the number of processes, up to float rounding.

    Args:
        model: a network on the device to compute on.
        batches: :class:`~edgejpeg.learn.data.Batch` objects, or (images, labels) pairs with images ``(N, 3, H, W)``
            R, G, B in 0..255. An iterable with ``from_position`` (as of ``ImageData.batches``) resumes without decoding
            again what was done.
        mean, std: of R, G, B in 0..255.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        labels: what the loss is taken against: ``"true"`` labels, the model's own top-1 (``"self"``), or labels drawn
            from its softmax (``"fisher"``, the diagonal of the Fisher information in the DCT domain).
        loss: ``loss(model(x), y)``, cross entropy by default. It returns one loss per image, ``(N,)``, or a scalar that
            is their SUM; a mean, which would scale every s_i by 1/N^2, is detected and refused.
        fisher_samples: labels drawn per image.
        seed: of the drawn labels; a label depends on the seed and the image's position alone.
        max_images: use the first so many positions.
        target_relative_error: stop after a batch when :attr:`Sensitivity.relative_error` is at most this (after at
            least 64 images).
        checkpoint: a file to write every ``checkpoint_every`` batches and at the end, and, with ``resume``, to continue
            from when it exists. The result is that of an uninterrupted run.
        configuration: plain values that a checkpoint must share beside this function's own, such as the data's name.
        progress: called with (images so far, relative error so far) after every batch.
        world: the processes to sum over; each is given its own part of the batches.

    Raises:
        InvalidInputError: an option outside what is allowed, a loss that is a mean or has no gradient, a checkpoint of
            another configuration.
        DataError: no images, labels missing or outside the network's classes.
        ModelError: the network's output is NaN, or no logits where logits are needed.
    """
    _check_options(labels, fisher_samples, max_images, target_relative_error, checkpoint_every, subsampling)
    world = world or World()
    run = _Run(model, mean, std, subsampling, labels, loss, fisher_samples, seed)
    totals = torch.zeros(2 * _MAPS + 5, dtype=torch.float64)
    store = None
    if checkpoint is not None:
        store = Checkpoint(Path(checkpoint), {**run.fingerprint(), **(configuration or {})})
        if resume and world.rank == 0:
            totals = torch.from_numpy(store.load(totals.numpy()))
        totals = world.sum(totals)  # the others may not see rank 0's disk
    source = _positioned(batches, int(totals[_POSITION]), max_images, world)
    stopped, rounds = False, 0
    with frozen(model):
        while not (stopped := _precise_enough(totals, target_relative_error)):
            batch = next(source, None)
            part = torch.zeros_like(totals) if batch is None else run.accumulate(batch)
            part = world.sum(part)
            if part[_BATCHES] == 0:  # no process had one
                break
            totals += part
            rounds += 1
            if progress is not None:
                progress(int(totals[_IMAGES]), _relative_error(*_estimates(totals)))
            if store is not None and world.rank == 0 and rounds % checkpoint_every == 0:
                store.save(totals.numpy())
    if store is not None and world.rank == 0 and rounds:
        store.save(totals.numpy())
    if totals[_IMAGES] == 0:
        raise DataError("no images to estimate sensitivities from; every file was skipped, or the data is empty")
    estimate, error = _estimates(totals)
    return Sensitivity(
        sensitivity=estimate,
        standard_error=error,
        images=int(totals[_IMAGES]),
        subsampling=subsampling,
        labels=labels,
        accuracy=float(totals[_CORRECT] / totals[_LABELLED]) if totals[_LABELLED] else None,
        stopped_early=stopped,
    )


def _check_options(
    labels: str,
    fisher_samples: int,
    max_images: int | None,
    target_relative_error: float | None,
    checkpoint_every: int,
    subsampling: str,
) -> None:
    chroma_factors(subsampling)
    if labels not in LABELS:
        raise InvalidInputError(f"labels are one of {', '.join(LABELS)}; got {labels!r}")
    if fisher_samples < 1 or checkpoint_every < 1 or (max_images is not None and max_images < 1):
        raise InvalidInputError(
            "fisher_samples, checkpoint_every and max_images are at least 1; "
            f"got {fisher_samples}, {checkpoint_every} and {max_images}"
        )
    if target_relative_error is not None and not 0 < target_relative_error < math.inf:
        raise InvalidInputError(f"target_relative_error is a positive number; got {target_relative_error}")


class _Run:
    """One batch's contribution to the sums, and what it depends on."""

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        subsampling: str,
        labels: str,
        loss: Loss | None,
        fisher_samples: int,
        seed: int,
    ) -> None:
        parameter = next(model.parameters(), torch.zeros(()))
        self.model, self.loss = model, loss
        self.device, self.dtype = parameter.device, parameter.dtype
        if self.dtype not in (torch.float32, torch.float64):
            raise InvalidInputError(
                f"squared gradients need a float32 or float64 network; got {self.dtype}; use .float()"
            )
        self.mean = torch.tensor(mean, dtype=self.dtype, device=self.device)[:, None, None]
        self.std = torch.tensor(std, dtype=self.dtype, device=self.device)[:, None, None]
        self.subsampling, self.labels = subsampling, labels
        self.draws = fisher_samples if labels == "fisher" else 1
        self.seed = seed
        self.loss_is_sum = loss is None  # the default gives one loss per image

    def fingerprint(self) -> dict[str, Any]:
        """What two runs must have in common for their sums to be added."""
        return {
            "model": type(self.model).__qualname__,
            "weights": weights_digest(self.model),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "subsampling": self.subsampling,
            "labels": self.labels,
            "loss": getattr(self.loss, "__qualname__", type(self.loss).__qualname__),
            "fisher_samples": self.draws,
            "seed": self.seed,
        }

    def accumulate(self, batch: Batch) -> Tensor:
        """The sums over one batch: s, s squared, and the counts."""
        sums = torch.zeros(2 * _MAPS + 5, dtype=torch.float64)
        sums[_POSITION] = batch.span[1] - batch.span[0]
        sums[_BATCHES] = 1
        if len(batch.positions) == 0:
            return sums
        with torch.enable_grad():
            per_image, outputs = self._squared_gradients(batch)
        if not bool(torch.isfinite(per_image).all()):
            raise ModelError(
                "the network's gradients are NaN or infinite; check its weights, and the images' mean and std"
            )
        flat = per_image.reshape(len(per_image), _MAPS).cpu()
        sums[:_MAPS] = flat.sum(dim=0)
        sums[_MAPS : 2 * _MAPS] = flat.square().sum(dim=0)
        sums[_IMAGES] = len(flat)
        self._count_correct(sums, outputs, batch)
        return sums

    def _squared_gradients(self, batch: Batch) -> tuple[Tensor, Any]:
        """[OptS eq. 8] per image, ``(N, 3, 8, 8)`` float64, and what the network gave."""
        rgb = torch.as_tensor(batch.images).to(self.device, self.dtype)
        if rgb.ndim != 4 or rgb.shape[1] != 3:
            raise InvalidInputError(f"images have the shape (N, 3, H, W); got {tuple(rgb.shape)}")
        leaves = [plane.detach().requires_grad_() for plane in coefficients_from_rgb(rgb, self.subsampling)]
        decoded = rgb_from_coefficients(leaves, self.subsampling, (rgb.shape[2], rgb.shape[3]))
        outputs = self.model((decoded - self.mean) / self.std)
        per_image = torch.zeros(len(rgb), 3, 8, 8, dtype=torch.float64, device=self.device)
        targets = self._targets(outputs, batch)
        for draw, target in enumerate(targets):
            total = self._total_loss(outputs, target, len(rgb))
            gradients = torch.autograd.grad(total, leaves, retain_graph=draw + 1 < len(targets), allow_unused=True)
            for channel, gradient in enumerate(gradients):
                if gradient is not None:
                    per_image[:, channel] += gradient.double().square().sum(dim=(1, 2)) / len(targets)
        return per_image, outputs

    def _targets(self, outputs: Any, batch: Batch) -> list[Any]:
        """What the loss is taken against, once for each draw."""
        if self.labels == "true":
            return [self._true_labels(outputs, batch.labels)]
        logits = self._logits(outputs)
        if self.labels == "self":
            return [logits.argmax(dim=1)]
        probabilities = torch.softmax(logits.detach().double(), dim=1).cpu().numpy()
        drawn = np.stack(
            [
                draw_labels(row, self.draws, self.seed, int(position))
                for row, position in zip(probabilities, batch.positions, strict=True)
            ]
        )
        return [torch.from_numpy(column.copy()).to(self.device) for column in drawn.T]

    def _true_labels(self, outputs: Any, labels: Any) -> Any:
        if self.loss is not None:  # labels of any kind, or none: the loss knows
            return torch.as_tensor(labels, device=self.device) if isinstance(labels, (np.ndarray, Tensor)) else labels
        if labels is None:
            raise DataError('the data has no labels; use labels="self" or "fisher", which need none')
        target = torch.as_tensor(labels, device=self.device).long()
        classes = self._logits(outputs).shape[1]
        wrong = target[(target < 0) | (target >= classes)]
        if len(wrong):
            raise DataError(f"label {int(wrong[0])} is outside the network's 0..{classes - 1}")
        return target

    def _logits(self, outputs: Any) -> Tensor:
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ModelError(
                f"cross entropy, self and Fisher labels need (N, classes) logits; the network gave {shape}; "
                'pass your own loss with labels="true"'
            )
        if not bool(torch.isfinite(outputs).all()):
            raise ModelError(
                "the network's logits are NaN or infinite; check its weights, and the images' mean and std"
            )
        return outputs

    def _total_loss(self, outputs: Any, target: Any, count: int) -> Tensor:
        value = F.cross_entropy(outputs, target, reduction="none") if self.loss is None else self.loss(outputs, target)
        if not isinstance(value, Tensor) or not value.requires_grad or value.shape not in ((), (count,)):
            got = (tuple(value.shape), value.requires_grad) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(
                f"a loss returns a tensor with gradient, one value per image ({count},) or their sum (); "
                f"got (shape, has gradient) = {got}"
            )
        if value.ndim == 0 and not self.loss_is_sum:
            self._refuse_mean(outputs, target, count, value.item())
        return value.sum()

    def _refuse_mean(self, outputs: Any, target: Any, count: int, value: float) -> None:
        """A sum doubles when every image is there twice; a mean stays."""
        if self.loss is None or value == 0.0:
            return
        with torch.no_grad():
            twice = float(self.loss(_doubled(outputs, count), _doubled(target, count)))
        if not math.isclose(twice, 2 * value, rel_tol=1e-3):
            raise InvalidInputError(
                f"the loss is no sum over the batch: {value:g} for {count} images becomes {twice:g}, "
                f'not {2 * value:g}, when each is there twice; use reduction="sum" or "none"'
            )
        self.loss_is_sum = True

    def _count_correct(self, sums: Tensor, outputs: Any, batch: Batch) -> None:
        labels = batch.labels
        if isinstance(labels, (np.ndarray, Tensor)) and isinstance(outputs, Tensor) and outputs.ndim == 2:
            truth = torch.as_tensor(labels)
            if truth.shape == (len(outputs),):
                sums[_CORRECT] = int((outputs.argmax(dim=1).cpu() == truth.cpu()).sum())
                sums[_LABELLED] = len(truth)


def draw_labels(probabilities: NDArray[np.float64], count: int, seed: int, position: int) -> NDArray[np.int64]:
    """Draw class numbers from one image's softmax; the same for the same (seed, position), whatever the batch is."""
    cumulative = np.cumsum(probabilities)
    uniform = np.random.default_rng([seed, position]).random(count) * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, uniform, side="right"), len(probabilities) - 1).astype(np.int64)


def _doubled(value: Any, count: int) -> Any:
    """Outputs or labels of ``count`` images, of every usual layout, with each image there twice."""
    if isinstance(value, Tensor):
        return torch.cat([value, value]) if value.ndim and len(value) == count else value
    if isinstance(value, Mapping):
        return {key: _doubled(entry, count) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        batched = bool(value) and all(isinstance(e, Tensor) and e.ndim and len(e) == count for e in value)
        if len(value) == count and not batched:
            return [*value, *value]  # one entry for each image, as detectors take and give
        return type(value)(_doubled(entry, count) for entry in value)
    return value


def _positioned(batches: Iterable[Any], start: int, max_images: int | None, world: World) -> Iterator[Batch]:
    """The batches from a position on, cut at ``max_images``."""
    if start and hasattr(batches, "from_position"):
        batches = batches.from_position(start)
    count = 0
    for entry in batches:
        if isinstance(entry, Batch):
            batch = entry
        elif world.size > 1:
            raise InvalidInputError("several processes need edgejpeg.learn.Batch objects, which carry their positions")
        else:
            images, labels = entry
            batch = Batch(images, labels, np.arange(count, count + len(images)), (count, count + len(images)))
        count = batch.span[1]
        if max_images is not None and batch.span[0] >= max_images:
            return
        batch = _between(batch, start, math.inf if max_images is None else max_images)
        if batch.span[1] > batch.span[0]:
            yield batch


def _between(batch: Batch, first: int, last: float) -> Batch:
    low, high = max(batch.span[0], first), int(min(batch.span[1], last))
    if (low, high) == batch.span or high <= low:
        return batch._replace(span=(low, high))
    keep = np.flatnonzero((batch.positions >= low) & (batch.positions < high))
    if isinstance(batch.labels, (list, tuple)):
        labels: Any = [batch.labels[index] for index in keep]
    else:
        labels = None if batch.labels is None else batch.labels[keep]
    return Batch(batch.images[keep], labels, batch.positions[keep], (low, high))


def _estimates(totals: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard error of the mean of each s_i."""
    sums = totals.numpy()
    images = sums[_IMAGES]
    if images == 0:
        return np.zeros((3, 8, 8)), np.full((3, 8, 8), np.nan)
    mean = sums[:_MAPS] / images
    if images < 2:
        return mean.reshape(3, 8, 8), np.full((3, 8, 8), np.nan)
    variance = np.maximum(sums[_MAPS : 2 * _MAPS] - images * mean**2, 0.0) / (images - 1)
    return mean.reshape(3, 8, 8), np.sqrt(variance / images).reshape(3, 8, 8)


def _relative_error(mean: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    matters = (mean > 0) & (mean >= MATTERING * mean.max())
    if not matters.any() or bool(np.isnan(error).any()):
        return math.inf
    return float((error[matters] / mean[matters]).max())


def _precise_enough(totals: Tensor, target: float | None) -> bool:
    if target is None or totals[_IMAGES] < MIN_IMAGES_TO_STOP:
        return False
    return _relative_error(*_estimates(totals)) <= target
