"""The table of hardening: accuracy, KL, agreement and rate of every rung, paired with the first one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejpeg.evaluate.metrics import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_weights,
    kl_divergence,
    top1_agreement,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgejpeg.learn.harden import Hardened, Steps


@dataclass(frozen=True)
class RungFigures:
    """One row.

    Attributes:
        number, name: of the rung.
        accuracy: top-1.
        difference: of accuracy, this rung minus rung 1, paired by image; None for rung 1.
        kl: KL(softmax(rung 1) || softmax(this rung)) in nats; None for rung 1.
        agreement: part of the images with rung 1's top-1; None for rung 1.
        bpp: bits per pixel of whole files; None without files.
        estimated: whether ``bpp`` is counted from the levels instead of real files.
    """

    number: int
    name: str
    accuracy: Interval
    difference: Interval | None
    kl: Interval | None
    agreement: float | None
    bpp: Interval | None
    estimated: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        intervals = {name: getattr(self, name) for name in ("accuracy", "difference", "kl", "bpp")}
        return {
            "rung": self.number,
            "name": self.name,
            **{name: None if value is None else value.to_dict() for name, value in intervals.items()},
            "agreement": self.agreement,
            "bpp_is_estimated": self.estimated,
        }


def rung_figures(hardened: Hardened, *, resamples: int = 1000, seed: int = 0) -> list[RungFigures]:
    """The rows of the table, with 95 % intervals by one paired bootstrap over the images."""
    weights = bootstrap_weights(len(hardened.labels), resamples=resamples, seed=seed)
    first = hardened.rung(1)

    def correct(logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return (logits.argmax(axis=1) == hardened.labels).astype(np.float64)

    rows = []
    for rung in hardened.rungs:
        other = rung is not first
        rows.append(
            RungFigures(
                number=rung.number,
                name=rung.name,
                accuracy=bootstrap_mean(correct(rung.logits), weights),
                difference=bootstrap_difference(correct(rung.logits), correct(first.logits), weights)
                if other
                else None,
                kl=bootstrap_mean(kl_divergence(first.logits, rung.logits), weights) if other else None,
                agreement=float(top1_agreement(first.logits, rung.logits).mean()) if other else None,
                bpp=None if rung.bpp is None else bootstrap_mean(rung.bpp, weights),
                estimated=rung.number == 3,
            )
        )
    return rows


def rung_table(rows: Iterable[RungFigures], pixels: int) -> list[str]:
    """The rows as lines of text.

    Args:
        pixels: of an image, to say bytes beside bits per pixel.
    """
    lines = [
        f"{'rung':<24}{'top-1':>8}   {'change, points':<22}{'KL, nats':>10}{'agreement':>11}{'bpp':>9}{'bytes':>8}"
    ]
    for row in rows:
        change = kl = agreement = bpp = size = ""
        if row.difference is not None:
            low, value, high = (100 * one for one in (row.difference.low, row.difference.value, row.difference.high))
            change = f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
        if row.kl is not None and row.agreement is not None:
            kl, agreement = f"{row.kl.value:.2e}", f"{row.agreement:.2%}"
        if row.bpp is not None:
            bpp = f"{'~' if row.estimated else ''}{row.bpp.value:.3f}"
            size = f"{row.bpp.value * pixels / 8:.0f}"
        number = str(row.number) if row.number else "-"
        lines.append(
            f"{number + '  ' + row.name:<24}{row.accuracy.value:>8.2%}   {change:<22}{kl:>10}{agreement:>11}"
            f"{bpp:>9}{size:>8}"
        )
    return lines


def step_notes(name: str, steps: Steps, q_min: float, q_max: float) -> list[str]:
    """What is worth saying of a table: steps at a bound, steps that no file holds, coefficients beyond the alphabet."""
    notes = []
    for at, bound, word in ((steps.at_low, q_min, "lowest"), (steps.at_high, q_max, "highest")):
        if at:
            notes.append(
                f"{name}: {len(at)} of 64 steps are at the {word} bound of the training, {bound:g}: {_places(at)}"
            )
    if steps.below_one:
        least = float(steps.values.min())
        notes.append(
            f"{name}: {len(steps.below_one)} of 64 steps are below 1 (the least is {least:.2g}), which no file holds; "
            f"they become 1 on rungs 3 and 4, coarser than trained: {_places(steps.below_one)}"
        )
    if max(steps.clipped) > 0:
        notes.append(
            f"{name}: the alphabet of the training cuts {steps.clipped[0]:.2%} of DC and {steps.clipped[1]:.2%} of the "
            "other coefficients on rungs 1 and 2; a file has them whole"
        )
    return notes


def _places(at: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"({row}, {column})" for row, column in at[:8])
    return f"{shown}, ..." if len(at) > 8 else shown
