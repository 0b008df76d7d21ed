"""How far a network's output on compressed images is from its output on the clean ones.

Every measure is per image, so that two methods on the same images can be compared in pairs; means and
their intervals come from :func:`bootstrap_weights`, one set of resamples shared by all that is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile bootstrap interval.

    Attributes:
        value: the estimate on the sample itself.
        low, high: the ends of the interval.
        level: the interval's nominal coverage, for example 0.95.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def to_dict(self) -> dict[str, float]:
        """The four numbers, for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level}


def log_softmax(logits: ArrayLike) -> Float:
    """Logarithms of the softmax over the last axis, in float64 by log-sum-exp.

    Shape: (..., classes) -> (..., classes).

    Raises:
        InvalidInputError: no axis of classes, or a value that is not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise InvalidInputError(f"logits have shape {values.shape}; allowed is (..., classes) with classes >= 1")
    if not np.isfinite(values).all():
        raise InvalidInputError("logits hold NaN or infinity; softmax needs finite values: check the network's output")
    shifted = values - values.max(axis=-1, keepdims=True)
    result: Float = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def kl_divergence(clean_logits: ArrayLike, logits: ArrayLike) -> Float:
    """KL(softmax(clean) || softmax(compressed)) of each image, in nats, in float64.

    Shape: (..., classes), (..., classes) -> (...). Never negative: rounding below zero is cut to 0.

    Raises:
        InvalidInputError: shapes differ, or a value is not finite.
    """
    clean, compressed = _same_shape(clean_logits, logits)
    log_p, log_q = log_softmax(clean), log_softmax(compressed)
    divergence: Float = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
    return np.maximum(divergence, 0.0)


def top1_agreement(clean_logits: ArrayLike, logits: ArrayLike) -> NDArray[np.bool_]:
    """Whether each image's most likely class is that of the clean image.

    Shape: (..., classes), (..., classes) -> (...), bool. The first of equal logits is the top one.

    Raises:
        InvalidInputError: shapes differ.
    """
    clean, compressed = _same_shape(clean_logits, logits)
    same: NDArray[np.bool_] = clean.argmax(axis=-1) == compressed.argmax(axis=-1)
    return same


def accuracy(logits: ArrayLike, labels: ArrayLike, *, top: int = 1) -> float:
    """The fraction of images whose label is among the ``top`` largest logits.

    Shape: (images, classes) and (images,) integers in 0..classes-1.

    Raises:
        InvalidInputError: shapes that do not fit, labels outside the classes, ``top`` outside 1..classes, no image.
    """
    scores, truth = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or scores.size == 0:
        raise InvalidInputError(
            f"logits have shape {scores.shape} and labels {truth.shape}; allowed are (images, classes) and (images,)"
        )
    classes = scores.shape[1]
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= classes:
        raise InvalidInputError(f"labels must be integers in 0..{classes - 1}, one for each image")
    if not 1 <= top <= classes:
        raise InvalidInputError(f"top is {top}; allowed is 1..{classes}")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return float((best == truth[:, None]).any(axis=1).mean())


def bootstrap_weights(
    size: int, *, resamples: int = 1000, seed: int = 0, groups: Sequence[Any] | None = None
) -> NDArray[np.float64]:
    """How often each image is drawn in each resample: the bootstrap as one matrix of counts.

    One matrix serves all methods measured on the same images, and that is what pairs them.

    Args:
        size: number of images.
        resamples: number of resamples (rows).
        seed: of NumPy's PCG64.
        groups: one key for each image; images with equal keys are drawn together (the cluster bootstrap).
            Frames of one clip resemble each other: drawn one by one they would promise too narrow an interval.

    Returns:
        (resamples, size) float64 counts.

    Raises:
        InvalidInputError: no image, no resample, or not one key for each image.
    """
    if size < 1 or resamples < 1:
        raise InvalidInputError(f"bootstrap of {size} images and {resamples} resamples; both must be at least 1")
    if groups is None:
        member = np.arange(size)
    else:
        if len(groups) != size:
            raise InvalidInputError(f"groups has {len(groups)} keys for {size} images; allowed is one for each image")
        numbers: dict[Any, int] = {}
        member = np.array([numbers.setdefault(key, len(numbers)) for key in groups])
    count = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return drawn.astype(np.float64)[:, member]


def weighted_means(values: ArrayLike, weights: ArrayLike) -> Float:
    """Means over the last axis, one for each resample: (..., images) and (resamples, images) -> (..., resamples)."""
    sample = np.asarray(values, dtype=np.float64)
    counts = np.asarray(weights, dtype=np.float64)
    if counts.ndim != 2 or sample.ndim == 0 or sample.shape[-1] != counts.shape[1]:
        raise InvalidInputError(
            f"values have shape {sample.shape} and weights {counts.shape}; "
            "allowed are (..., images) and (resamples, images)"
        )
    means: Float = sample @ counts.T / counts.sum(axis=1)
    return means


def percentile_interval(value: float, resampled: ArrayLike, *, level: float = 0.95) -> Interval:
    """The percentile interval of resampled estimates around ``value``.

    Raises:
        InvalidInputError: ``level`` outside (0, 1), or no estimate.
    """
    if not 0.0 < level < 1.0:
        raise InvalidInputError(f"level is {level}; allowed is a number between 0 and 1, for example 0.95")
    estimates = np.asarray(resampled, dtype=np.float64)
    if estimates.size == 0 or not np.isfinite(estimates).all():
        raise InvalidInputError("the bootstrap gave no finite estimates; more images are needed")
    low, high = np.quantile(estimates, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(value), float(low), float(high), level)


def bootstrap_mean(values: ArrayLike, weights: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean of (images,) values with its interval; ``weights`` from :func:`bootstrap_weights`."""
    sample = np.asarray(values, dtype=np.float64)
    return percentile_interval(float(sample.mean()), weighted_means(sample, weights), level=level)


def bootstrap_difference(
    values: ArrayLike, reference: ArrayLike, weights: ArrayLike, *, level: float = 0.95
) -> Interval:
    """The mean of ``values - reference``, paired by image, with its interval.

    Raises:
        InvalidInputError: the two are not of one shape.
    """
    ours, other = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if ours.shape != other.shape:
        raise InvalidInputError(f"values have shape {ours.shape} and {other.shape}; pairs need the same images")
    return bootstrap_mean(ours - other, weights, level=level)


def _same_shape(first: ArrayLike, second: ArrayLike) -> tuple[Float, Float]:
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape or left.ndim == 0:
        raise InvalidInputError(
            f"logits have shapes {left.shape} and {right.shape}; allowed are two equal shapes (..., classes)"
        )
    return left, right
