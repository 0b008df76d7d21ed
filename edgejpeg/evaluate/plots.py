"""Pictures of measured curves, from numbers alone: whoever measured has written them down before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgejpeg._optional import require
from edgejpeg.errors import InvalidInputError
from edgejpeg.evaluate.canvas import COLOURS, MARKERS, canvas
from edgejpeg.evaluate.metrics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Series:
    """One method's points, in order of rate.

    Attributes:
        label: name in the legend.
        bpp: bits per pixel of whole files.
        kl: mean KL in nats at each point, above 0.
        agreement: top-1 agreement with the clean prediction at each point, 0..1.
    """

    label: str
    bpp: Sequence[float]
    kl: Sequence[Interval]
    agreement: Sequence[Interval]


def plot_rate_curves(
    series: Sequence[Series],
    path: str | Path,
    *,
    changes: Sequence[tuple[float, Interval]] = (),
    note: str = "",
) -> None:
    """Draw KL over rate (logarithmic) beside agreement over rate, each with its interval as a band.

    Args:
        series: one to four methods; the first is the one compared in ``changes``, the second its reference.
        path: the file, .png, .svg or .pdf.
        changes: for rates of the reference, the relative change of rate of the first series at equal KL, drawn below
            with its interval; needs two series.
        note: one line under the picture: the sample and the interval's meaning.

    Raises:
        InvalidInputError: no series, more than four, changes without a reference, or lengths that differ.
        DataError: the file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    if not 1 <= len(series) <= len(MARKERS) or (changes and len(series) < 2):
        raise InvalidInputError(
            f"{len(series)} series to plot; allowed are 1 to {len(MARKERS)}, and at least 2 to show changes"
        )
    for one in series:
        if not len(one.bpp) == len(one.kl) == len(one.agreement) > 0:
            raise InvalidInputError(f"the series {one.label!r} has lists of different lengths, or no point")
    with canvas(path, 10.4, 7.0 if changes else 4.6, note=note) as figure:
        figure.get_layout_engine().set(hspace=0.07)
        layout = [["kl", "agreement"], ["change", "change"]] if changes else [["kl", "agreement"]]
        axes = figure.subplot_mosaic(layout, height_ratios=[2, 1] if changes else [1])
        limit = 1.06 * max(max(one.bpp) for one in series)
        _draw_kl(axes["kl"], series)
        _draw_agreement(axes["agreement"], series)
        if changes:
            _draw_changes(axes["change"], changes, series[0].label, series[1].label)
        for one_axes in axes.values():
            one_axes.set_xlim(0, limit)
            one_axes.set_xlabel("bits per pixel of the whole file")
            one_axes.set_axisbelow(True)


def _draw_kl(axes: Axes, series: Sequence[Series]) -> None:
    ticker = require("matplotlib.ticker", extra="plot", purpose="the plot of rate curves")
    for index, one in enumerate(series):
        _draw(axes, one.label, one.bpp, one.kl, index)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_title("Change of the network's output: lower is better")
    axes.set_ylabel("mean KL(clean || compressed), nats")
    axes.legend(loc="upper right", frameon=False)


def _draw_agreement(axes: Axes, series: Sequence[Series]) -> None:
    ticker = require("matplotlib.ticker", extra="plot", purpose="the plot of rate curves")
    for index, one in enumerate(series):
        _draw(axes, one.label, one.bpp, one.agreement, index)
    axes.set_title("Top class kept: higher is better")
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(xmax=1.0, decimals=None, symbol=" %"))
    axes.set_ylabel("agreement with the clean frame")
    axes.set_ylim(top=min(1.02, axes.get_ylim()[1]))
    axes.legend(loc="lower right", frameon=False)


def _draw_changes(axes: Axes, changes: Sequence[tuple[float, Interval]], label: str, reference: str) -> None:
    ticker = require("matplotlib.ticker", extra="plot", purpose="the plot of rate curves")
    values = [interval.value for _, interval in changes]
    below = [interval.value - interval.low for _, interval in changes]
    above = [interval.high - interval.value for _, interval in changes]
    axes.axhline(0.0, color=COLOURS[1], lw=1.8)
    axes.errorbar(
        [rate for rate, _ in changes], values, yerr=[below, above], fmt=MARKERS[0], ms=5, color=COLOURS[0], capsize=3
    )
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: percent_label(value)))
    axes.set_title(f"Bytes of {label} for the KL that {reference} has at this rate: below zero it is the smaller")
    axes.set_ylabel("change of bytes")


def percent_label(value: float) -> str:
    """A change as a tick's label, with as many digits as it has up to two: ``-2.5 %`` for -.025, ``0`` for 0."""
    percent = round(value * 100, 2)
    return f"{percent:+g} %" if percent else "0"


def _draw(axes: Axes, label: str, bpp: Sequence[float], values: Sequence[Interval], index: int) -> None:
    colour = COLOURS[index]
    low, high = [v.low for v in values], [v.high for v in values]
    axes.fill_between(list(bpp), low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(list(bpp), [v.value for v in values], color=colour, marker=MARKERS[index], ms=4.5, lw=1.8, label=label)
