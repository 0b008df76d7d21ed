"""Accuracy under attack: of a network, of it behind a soft JPEG layer, and of it behind real files.

Nothing here knows an encoder: :class:`Files` is handed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgejpeg.errors import DataError, InvalidInputError, ModelError
from edgejpeg.evaluate.metrics import Interval, bootstrap_mean, bootstrap_weights
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.learn.attacks import (
    STEPS,
    Forward,
    Gradient,
    fgsm,
    loss_gradient,
    pgd,
    random_start,
    straight_through,
    whole_pixels,
)
from edgejpeg.learn.data import Batch
from edgejpeg.learn.layer import JpegLayer

ATTACKS = ("fgsm", "pgd", "bpda", "soft", "transfer")
"""The first two take the system's own gradient; the others are PGD with BPDA's, with that through Q_d, and with that of
the network without JPEG."""

WORST = "worst"
"""An image counts when the clean one and every attack on it are answered rightly."""

Pixels = NDArray[np.uint8]


class Files:
    """Images through JPEG files: what a device sends and a server decodes.

    Args:
        encode: from (H, W, 3) uint8 RGB to a file.
        decode: back.
    """

    def __init__(self, encode: Callable[[Pixels], bytes], decode: Callable[[bytes], Pixels]) -> None:
        self._encode, self._decode = encode, decode

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..255, rounded to integers first, to the decoded pixels, without any derivative."""
        decoded = [self._decode(data) for data in self._files(images)]
        pixels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
        return pixels.to(images.device, images.dtype)

    def tables(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The luma and chroma tables in the images' files, each (N, 8, 8) float32.

        Raises:
            InvalidInputError: files of one component.
        """
        pairs = []
        for data in self._files(images):
            info = parse_jpeg(data)
            numbers = [component.table for component in info.components]
            if len(numbers) < 3:
                raise InvalidInputError("an attack through Q_d needs colour; these files are gray: leave out soft")
            pairs.append(np.stack([np.asarray(info.tables[number], np.float32) for number in numbers[:2]]))
        stacked = torch.from_numpy(np.stack(pairs)).to(images.device)
        return stacked[:, 0], stacked[:, 1]

    def bytes_of(self, images: Tensor) -> list[int]:
        """The length of every image's file."""
        return [len(data) for data in self._files(images)]

    def _files(self, images: Tensor) -> Iterator[bytes]:
        whole = images.detach().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return (self._encode(np.ascontiguousarray(image)) for image in whole)


@dataclass(frozen=True)
class System:
    """What is attacked.

    Attributes:
        name: for the table.
        answer: whole pixels (N, 3, H, W) in 0..255 to logits.
        gradients: for every attack that makes sense on it, from the clean images of a batch to the gradient to follow.
    """

    name: str
    answer: Forward
    gradients: Mapping[str, Callable[[Tensor], Gradient]]


def systems_of(
    network: Forward,
    *,
    layer: JpegLayer | None = None,
    files: Files | None = None,
    subsampling: str = "420",
    hardness: float = 5.0,
) -> list[System]:
    """The network alone, behind a soft layer and behind files, as far as they are given.

    Args:
        network: pixels in 0..255 to logits.
        layer: as trained; it is also what the attack through Q_d on the files goes through.
        files: the real thing.
        subsampling, hardness: without ``layer``, of the one that the attack through Q_d takes, with each file's tables.
    """

    def always(gradient: Gradient) -> Callable[[Tensor], Gradient]:
        return lambda _clean: gradient

    plain = always(loss_gradient(network))
    systems = [System("network", network, {"fgsm": plain, "pgd": plain})]
    if layer is not None:
        trained = layer

        def behind_layer(images: Tensor) -> Tensor:
            return network(trained(images))

        own = always(loss_gradient(behind_layer))
        systems.append(System("layer", behind_layer, {"fgsm": own, "pgd": own, "transfer": plain}))
    if files is not None:
        real = files

        def behind_files(images: Tensor) -> Tensor:
            return network(real(images))

        def through_soft(clean: Tensor) -> Gradient:
            if layer is not None:
                return loss_gradient(behind_layer)
            luma, chroma = real.tables(clean)
            soft = JpegLayer(torch.ones(8, 8), torch.ones(8, 8), subsampling, hardness=hardness, learn_tables=False)
            soft.to(clean.device)
            return loss_gradient(lambda images: network(soft(images, (luma, chroma))))

        own = always(loss_gradient(behind_files))
        adaptive = always(loss_gradient(lambda images: network(straight_through(real)(images))))
        gradients = {"fgsm": own, "pgd": own, "bpda": adaptive, "soft": through_soft, "transfer": plain}
        systems.append(System("files", behind_files, gradients))
    return systems


@dataclass
class Robustness:
    """Which images were answered rightly.

    Attributes:
        labels: (images,) int64.
        clean: for each system, (images,) bool.
        attacked: for each system, attack and eps, (images,) bool; with :data:`WORST` among the attacks.
    """

    labels: NDArray[np.int64]
    clean: dict[str, NDArray[np.bool_]]
    attacked: dict[tuple[str, str, float], NDArray[np.bool_]] = field(default_factory=dict)

    def figures(self, *, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, Any]]:
        """Accuracies with 95 % bootstrap intervals: {system: {"clean": ..., "attacks": {attack: {eps: ...}}}}."""
        weights = bootstrap_weights(len(self.labels), resamples=resamples, seed=seed)

        def interval(correct: NDArray[np.bool_]) -> Interval:
            return bootstrap_mean(correct.astype(np.float64), weights)

        result: dict[str, dict[str, Any]] = {
            name: {"clean": interval(correct), "attacks": {}} for name, correct in self.clean.items()
        }
        for (name, attack, eps), correct in self.attacked.items():
            result[name]["attacks"].setdefault(attack, {})[eps] = interval(correct)
        return result


def measure_robustness(
    systems: Sequence[System],
    batches: Iterable[Batch],
    *,
    eps: Sequence[float],
    attacks: Sequence[str] = ATTACKS,
    steps: int = STEPS,
    start_seed: int | None = None,
    max_images: int | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda images: None,
) -> Robustness:
    """Attack every image with every attack at every eps, and ask every system what it sees.

    The attacked images are rounded to whole pixels inside the ball. Untargeted; the labels are the data's.

    Args:
        systems: of :func:`systems_of`, in eval mode and without weight gradients (see :func:`~edgejpeg.learn.frozen`).
        batches: with labels.
        eps: 1 or more, of 255.
        attacks: of :data:`ATTACKS`.
        steps: of all that are PGD.
        start_seed: PGD begins at random in the ball, by this seed; None: at the image.
        max_images: stop after so many.
        progress: told how many images are done.

    Raises:
        InvalidInputError: an attack, eps or number of steps that is not allowed, or an attack that fits no system.
        DataError: no image, or no labels.
        ModelError: logits that are none.
    """
    _check(systems, eps, attacks)
    labels: list[NDArray[np.int64]] = []
    clean: dict[str, list[NDArray[np.bool_]]] = {system.name: [] for system in systems}
    attacked: dict[tuple[str, str, float], list[NDArray[np.bool_]]] = {}
    done = 0
    for batch in batches:
        count = len(batch.images) if max_images is None else min(len(batch.images), max_images - done)
        if batch.labels is None:
            raise DataError("attacks need labels: a folder for each class, or labels.csv")
        if count > 0:
            images = torch.from_numpy(batch.images[:count]).to(device, torch.float32)
            truth = torch.from_numpy(np.asarray(batch.labels[:count], np.int64)).to(device)
            start = None
            if start_seed is not None:
                seeds = [start_seed * 1_000_003 + int(position) for position in batch.positions[:count]]
                start = random_start(tuple(images.shape[1:]), seeds).to(device)
            labels.append(truth.cpu().numpy())
            for system in systems:
                unharmed = _right(system, images, truth)
                clean[system.name].append(unharmed)
                for attack, value, correct in _attacked(system, images, truth, unharmed, eps, attacks, steps, start):
                    attacked.setdefault((system.name, attack, value), []).append(correct)
            done += count
            progress(done)
        if max_images is not None and done >= max_images:
            break
    if not done:
        raise DataError("no images to attack")
    return Robustness(
        labels=np.concatenate(labels),
        clean={name: np.concatenate(parts) for name, parts in clean.items()},
        attacked={key: np.concatenate(parts) for key, parts in attacked.items()},
    )


def _attacked(
    system: System,
    images: Tensor,
    labels: Tensor,
    unharmed: NDArray[np.bool_],
    eps: Sequence[float],
    attacks: Sequence[str],
    steps: int,
    start: Tensor | None,
) -> Iterator[tuple[str, float, NDArray[np.bool_]]]:
    gradients = {attack: system.gradients[attack](images) for attack in attacks if attack in system.gradients}
    for value in eps:
        worst = unharmed
        for attack, gradient in gradients.items():
            if attack == "fgsm":
                adversarial = fgsm(gradient, images, labels, value)
            else:
                adversarial = pgd(gradient, images, labels, value, steps=steps, start=start)
            correct = _right(system, whole_pixels(adversarial, images, value), labels)
            worst = worst & correct
            yield attack, value, correct
        yield WORST, value, worst


def _right(system: System, images: Tensor, labels: Tensor) -> NDArray[np.bool_]:
    with torch.no_grad():
        logits = system.answer(images)
    if logits.ndim != 2 or not bool(torch.isfinite(logits).all()):
        raise ModelError(f"attacks need finite (N, classes) logits; the network gave {tuple(logits.shape)} or NaN")
    return np.asarray((logits.argmax(1) == labels).cpu().numpy(), dtype=np.bool_)


def _check(systems: Sequence[System], eps: Sequence[float], attacks: Sequence[str]) -> None:
    if not eps or not all(1 <= value <= 255 for value in eps):
        raise InvalidInputError(f"eps is 1 to 255, of 255, as whole pixels are attacked; got {list(eps)}")
    wrong = [attack for attack in attacks if attack not in ATTACKS]
    if wrong or not attacks:
        raise InvalidInputError(f"attacks are {', '.join(ATTACKS)}; got {', '.join(wrong) or 'none'}")
    possible = {attack for system in systems for attack in system.gradients}
    unfit = [attack for attack in attacks if attack not in possible]
    if unfit:
        raise InvalidInputError(
            f"the attack {unfit[0]} is for a network behind JPEG; give a profile, or a run with a layer"
        )
