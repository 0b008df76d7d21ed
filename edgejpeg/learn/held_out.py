"""What a network answers on held-out images and on their files, against the original on the clean images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgejpeg.errors import ModelError
from edgejpeg.learn.crops import Pixels, stacked
from edgejpeg.learn.rates import Encode, RateRange

Decode = Callable[[bytes], Pixels]
"""From a JPEG file to (H, W, 3) uint8 RGB."""

Answer = Callable[[Pixels], Any]
"""From (N, 3, h, w) uint8 RGB to what a network gives, without gradients: (N, classes) logits are expected."""

POINTS = 3
"""Rates at which the held-out images are measured."""


@dataclass(frozen=True)
class Figures:
    """A network on the held-out images, against the original on the clean ones.

    Attributes:
        bpp: mean bits per pixel of the files at each point.
        kl: mean KL(original(clean) || network(decoded)) in nats at each point.
        agreement: part of the images whose top-1 on the decoded image is the original's on the clean one.
        clean_kl, clean_agreement: the same on clean images, without any file.
        clean_loss: an estimate of the top-1 lost on clean images that needs no labels: the mean of what the original's
            softmax gives to its own top-1 minus what it gives to the network's. Never negative: 0 for the original.
    """

    bpp: tuple[float, ...]
    kl: tuple[float, ...]
    agreement: tuple[float, ...]
    clean_kl: float
    clean_agreement: float
    clean_loss: float

    @property
    def score(self) -> float:
        """The mean of log KL over the points; less is better."""
        return sum(math.log(max(value, 1e-12)) for value in self.kl) / len(self.kl)


class HeldOut:
    """Images and their files at rates of a range. What they cost and look like does not change.

    Args:
        images: (h, w, 3) uint8 RGB, of the network's input size.
        rates: whose range the points are spread over.
        encode, decode: the device's encoder and the server's decoder.
        original: answers of the network before it was changed.
        batch_size: images in one call.

    Raises:
        ModelError: the original gives no logits, or such that are NaN or infinite.
    """

    def __init__(
        self,
        images: Sequence[Pixels],
        rates: RateRange,
        encode: Encode,
        decode: Decode,
        original: Answer,
        *,
        batch_size: int,
    ) -> None:
        self._batch_size = batch_size
        self._sets: list[Sequence[Pixels]] = [images]
        bpp = []
        for index in rates.points(POINTS):
            files = [encode(image, rates.settings[index]) for image in images]
            bpp.append(sum(map(len, files)) * 8 / sum(image.shape[0] * image.shape[1] for image in images))
            self._sets.append([decode(data) for data in files])
        self._bpp = tuple(bpp)
        problem = "the network's logits are NaN or infinite; check its weights, and the images' mean and std"
        self._reference = self._log_softmax(original, images, problem)

    def figures(self, network: Answer, problem: str) -> Figures:
        """Measure a network.

        Raises:
            ModelError: saying ``problem``, when a logit is NaN or infinite.
        """
        (clean_kl, clean_agreement, clean_loss), *points = [
            self._compare(self._log_softmax(network, images, problem)) for images in self._sets
        ]
        return Figures(
            bpp=self._bpp,
            kl=tuple(point[0] for point in points),
            agreement=tuple(point[1] for point in points),
            clean_kl=clean_kl,
            clean_agreement=clean_agreement,
            clean_loss=clean_loss,
        )

    def _compare(self, answer: Tensor) -> tuple[float, float, float]:
        """Mean KL, top-1 agreement, and the probability that the original gives up by the network's top-1."""
        probabilities = self._reference.exp()
        kl = (probabilities * (self._reference - answer)).sum(dim=1).mean()
        own, top = self._reference.argmax(dim=1), answer.argmax(dim=1)
        given_up = probabilities.gather(1, own[:, None]) - probabilities.gather(1, top[:, None])
        return max(float(kl), 0.0), float((own == top).double().mean()), float(given_up.mean())

    def _log_softmax(self, network: Answer, images: Sequence[Pixels], problem: str) -> Tensor:
        """(images, classes) float64 on the CPU."""
        parts = []
        for first in range(0, len(images), self._batch_size):
            logits = network(stacked(images[first : first + self._batch_size]))
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ModelError(f"adaptation needs (N, classes) logits; the network gave {shape}")
            if not bool(torch.isfinite(logits).all()):
                raise ModelError(problem)
            parts.append(logits.double().cpu().log_softmax(1))
        return torch.cat(parts)
