"""How far two back ends agree: their logits and quantized coefficients on the same images. NumPy alone.

>>> agreement = Agreement("fp32", "fp16")
>>> agreement.add(logits_a, logits_b)
>>> agreement.document()["passed"]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError, ModelError

Array = NDArray[Any]

LOGIT_TOLERANCE = {"fp32": 1e-4, "fp16": 0.1, "int8": 3.0}
"""Largest difference of a logit, in standard deviations of its image's logits, on the same pixels."""

FLIPPED_LOGIT_TOLERANCE = {"fp32": 0.5, "fp16": 0.5, "int8": 3.0}
"""The same for images of which a coefficient flipped, or may have: their pixels differ by whole quantization steps."""

TOP1_TOLERANCE = {"fp32": 0.999, "fp16": 0.995, "int8": 0.95}
"""Smallest fraction of images with the same first class; the 95 % interval of what was found must not lie below it."""

FLIPPED_TOLERANCE = 1e-4
"""Largest fraction of quantized coefficients that differ."""

_ORDER = ("fp32", "fp16", "int8")


@dataclass
class Agreement:
    """Sums over images of what :meth:`add` was given.

    Args:
        first, second: precisions of the two sides, ``"fp32"``, ``"fp16"`` or ``"int8"``; the lower one sets the
            tolerances.
        has_layer: a JPEG layer is in both, so that an image whose levels are not known may have flipped ones.
        logit_tolerance, top1_tolerance, flipped_tolerance: in place of those of the precision; for the first class the
            fraction itself counts then, not its interval.
    """

    first: str
    second: str
    has_layer: bool = False
    logit_tolerance: float | None = None
    top1_tolerance: float | None = None
    flipped_tolerance: float | None = None
    images: int = 0
    same_top1: int = 0
    coefficients: int = 0
    flipped: int = 0
    images_with_flips: int = 0
    _errors: list[float] = field(default_factory=list)
    _flipped_errors: list[float] = field(default_factory=list)
    _divergences: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for precision in (self.first, self.second):
            if precision not in _ORDER:
                raise InvalidInputError(f"a precision is one of {', '.join(_ORDER)}; got {precision!r}")
        self.precision = max(self.first, self.second, key=_ORDER.index)

    def add(
        self,
        first: Array | None,
        second: Array | None,
        levels: tuple[Sequence[Array], Sequence[Array]] | None = None,
    ) -> None:
        """Compare one batch.

        Args:
            first, second: (N, classes) logits of the two sides; None for graphs without any.
            levels: of both sides the quantized coefficients, arrays (N, ...) of equal shapes; None where not known.

        Raises:
            ModelError: shapes that differ.
        """
        flips = None
        if levels is not None:
            flips = self._add_levels(*levels)
            self.images_with_flips += int((flips > 0).sum())
        if first is None or second is None:
            self.images += 0 if flips is None else len(flips)
            return
        if first.shape != second.shape or first.ndim != 2:
            raise ModelError(f"the two sides give logits of shape {first.shape} and {second.shape}")
        one, two = first.astype(np.float64), second.astype(np.float64)
        self.images += len(one)
        finite = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
        self.same_top1 += int(((one.argmax(axis=1) == two.argmax(axis=1)) & finite).sum())
        unsure = np.full(len(one), self.has_layer) if flips is None else flips > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = one.std(axis=1) if one.shape[1] > 1 else np.abs(one[:, 0])
            difference = np.abs(one - two).max(axis=1)
            errors = np.where(difference == 0, 0.0, difference / spread)
        errors = np.where(finite, errors, np.inf)
        self._errors += errors[~unsure].tolist()
        self._flipped_errors += errors[unsure].tolist()
        self._divergences += _divergence(one[finite], two[finite]).tolist()

    def _add_levels(self, first: Sequence[Array], second: Sequence[Array]) -> NDArray[np.int64]:
        if len(first) != len(second) or any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
            raise ModelError(
                f"the two sides give coefficients of shapes {[a.shape for a in first]} and {[b.shape for b in second]}"
            )
        flips = np.zeros(len(first[0]), dtype=np.int64)
        for a, b in zip(first, second, strict=True):
            flips += (a != b).reshape(len(a), -1).sum(axis=1)
            self.coefficients += a.size
        self.flipped += int(flips.sum())
        return flips

    def document(self) -> dict[str, Any]:
        """The figures, their tolerances and whether they are kept, as plain values for JSON."""
        logits = self._errors + self._flipped_errors
        result: dict[str, Any] = {"precision": self.precision, "images": self.images}
        failures: list[str] = [] if self.images else ["no image was compared"]
        if logits:
            low, high = wilson_interval(self.same_top1, self.images)
            wanted = TOP1_TOLERANCE[self.precision] if self.top1_tolerance is None else self.top1_tolerance
            result["top1"] = {
                "same": self.same_top1,
                "fraction": self.same_top1 / self.images,
                "interval95": [low, high],
                "tolerance": wanted,
            }
            if (high if self.top1_tolerance is None else self.same_top1 / self.images) < wanted:
                failures.append(
                    f"top-1 agreement is {self.same_top1} of {self.images} (95 %: {low:.4f} to {high:.4f}), below "
                    f"{wanted:g}"
                )
            for key, errors, standard in (
                ("logits", self._errors, LOGIT_TOLERANCE),
                ("logits_with_flips", self._flipped_errors, FLIPPED_LOGIT_TOLERANCE),
            ):
                tolerance = standard[self.precision] if self.logit_tolerance is None else self.logit_tolerance
                if errors:
                    largest = max(errors)
                    result[key] = {
                        "images": len(errors),
                        "largest_in_std": largest if math.isfinite(largest) else None,
                        "mean_in_std": float(np.mean(errors)) if math.isfinite(largest) else None,
                        "tolerance_in_std": tolerance,
                    }
                    if not largest <= tolerance:
                        failures.append(f"{key}: they differ by {largest:.2g} standard deviations, above {tolerance:g}")
            result["kl"] = {
                "mean": float(np.mean(self._divergences)) if self._divergences else None,
                "max": max(self._divergences, default=None),
            }
        if self.coefficients:
            bound = FLIPPED_TOLERANCE if self.flipped_tolerance is None else self.flipped_tolerance
            fraction = self.flipped / self.coefficients
            result["coefficients"] = {
                "count": self.coefficients,
                "flipped": self.flipped,
                "fraction": fraction,
                "images_with_flips": self.images_with_flips,
                "tolerance": bound,
            }
            if fraction > bound:
                failures.append(f"{self.flipped} of {self.coefficients} coefficients flipped, above {bound:g} of them")
        return {"passed": not failures, "failures": failures, **result}


def wilson_interval(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a fraction, 95 % by default."""
    if not count:
        return 0.0, 1.0
    fraction, square = successes / count, z * z / count
    centre = (fraction + square / 2) / (1 + square)
    half = z * math.sqrt(fraction * (1 - fraction) / count + square / count / 4) / (1 + square)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _divergence(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(softmax(first) || softmax(second)) of each row, in nats."""

    def log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
        shifted = values - values.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    if not len(first):
        return np.zeros(0)
    one, two = log_softmax(first), log_softmax(second)
    return np.maximum((np.exp(one) * (one - two)).sum(axis=1), 0)
