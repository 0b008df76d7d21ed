"""Pictures of a quantizer, of tables, of sensitivities and of a network's inside, from numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.evaluate.canvas import COLOURS, canvas
from edgejpeg.jpeg.zigzag import to_zigzag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgejpeg.evaluate.quantizer_curves import QuantizerCurves

Float = NDArray[np.float64]
Pixels = NDArray[np.uint8]

PANELS = {
    "shape": ("soft", "Q_d (figure 2)", "Q_d(z)"),
    "z": ("by_z", "its derivative in z (figure 7)", "dQ_d / dz"),
    "q": ("by_q", "in the step (figure 8)", "dQ_d / dq"),
    "alpha": ("by_alpha", "in alpha (figure 9)", "dQ_d / dalpha"),
}
"""Name of a panel: attribute of QuantizerCurves, title, axis."""

CHANNELS = ("Y", "Cb", "Cr")


def draw_quantizer(curves: QuantizerCurves, path: str | Path, panels: Sequence[str] = tuple(PANELS)) -> None:
    """Q_d beside Q_u and its derivatives, a curve for every alpha [JPEG-DL figures 2, 7, 8, 9].

    Args:
        curves: of :func:`edgejpeg.evaluate.quantizer_curves.quantizer_curves`.
        path: .png, .svg or .pdf.
        panels: names of :data:`PANELS`.
    """
    if not panels or any(panel not in PANELS for panel in panels):
        raise InvalidInputError(f"panels are {', '.join(PANELS)}; got {', '.join(panels) or 'none'}")
    if len(curves.alphas) > len(COLOURS):
        raise InvalidInputError(f"at most {len(COLOURS)} curves can be told apart; got {len(curves.alphas)}")
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with canvas(path, 5.2 * columns, 3.5 * rows, dpi=120) as figure:
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for one, panel in zip(axes, panels, strict=False):
            attribute, title, label = PANELS[panel]
            if panel == "shape":
                one.plot(curves.z, curves.hard, color="#333333", lw=1, ls=":", label="Q_u")
            for colour, alpha, values in zip(COLOURS, curves.alphas, getattr(curves, attribute), strict=False):
                hardness = alpha * curves.q**2
                one.plot(curves.z, values, color=colour, lw=1.5, label=f"alpha {alpha:g}, h {hardness:.3g}")
            one.set(title=title, xlabel=f"coefficient z (q = {curves.q:g})", ylabel=label)
            one.set_axisbelow(True)
        for one in axes[len(panels) :]:
            one.remove()
        figure.axes[0].legend(frameon=False, fontsize=8.5)


@dataclass(frozen=True)
class TablePair:
    """A luma and a chroma table, real or integer.

    Attributes:
        name: above the pictures.
        steps: (2, 8, 8), row-major, above 0.
    """

    name: str
    steps: Float


def draw_tables(before: TablePair, after: TablePair, path: str | Path) -> Float:
    """Two pairs of tables, and what one became in the other [JPEG-DL figures 4 and 11].

    Returns:
        (2, 8, 8) log2(after / before), what the third column shows.
    """
    for pair in (before, after):
        if pair.steps.shape != (2, 8, 8) or not np.isfinite(pair.steps).all() or pair.steps.min() <= 0:
            raise InvalidInputError(f"{pair.name}: tables are two times 8x8 steps above 0; got {pair.steps.shape}")
    change: Float = np.log2(after.steps / before.steps)
    logs = np.log2(np.stack([before.steps, after.steps]))
    reach = max(float(np.abs(change).max()), 0.5)
    with canvas(path, 11.0, 7.0, dpi=110) as figure:
        axes = figure.subplots(2, 3)
        for row, channel in enumerate(("luma", "chroma")):
            for column, pair in enumerate((before, after)):
                one = axes[row, column]
                image = _heat(one, np.log2(pair.steps[row]), float(logs.min()), float(logs.max()), "viridis")
                _write(one, pair.steps[row], "%.3g", logs[column, row] > (logs.min() + logs.max()) / 2)
                one.set_title(f"{pair.name}: {channel}")
            difference = _heat(axes[row, 2], change[row], -reach, reach, "RdBu_r")
            _write(axes[row, 2], change[row], "%+.1f", np.abs(change[row]) < 0.6 * reach)
            axes[row, 2].set_title(f"log2(after / before): {channel}")
        figure.colorbar(image, ax=axes[:, :2], label="log2 of the step", shrink=0.6)
        figure.colorbar(difference, ax=axes[:, 2], label="finer < 0 < coarser", shrink=0.6)
    return change


def draw_sensitivities(
    profiles: Sequence[tuple[str, Float, Float | None]], path: str | Path
) -> list[tuple[str, Float]]:
    """Sensitivities over the zigzag index, logarithmic [JPEG-DL figure 10].

    Args:
        profiles: one to four of (name, (3, 8, 8) s_i, their standard errors or None).

    Returns:
        The names with (3, 64) in zigzag order, as drawn.
    """
    if not 1 <= len(profiles) <= 4:
        raise InvalidInputError(f"1 to 4 networks' sensitivities are drawn; got {len(profiles)}")
    drawn = []
    with canvas(path, 5.0 * min(len(profiles), 2), 3.4 * -(-len(profiles) // 2), dpi=120) as figure:
        axes = list(figure.subplots(-(-len(profiles) // 2), min(len(profiles), 2), squeeze=False, sharey=True).flat)
        for one, (name, sensitivity, error) in zip(axes, profiles, strict=False):
            values = to_zigzag(np.asarray(sensitivity, np.float64))
            drawn.append((name, values))
            index = np.arange(64)
            for channel, colour in enumerate((COLOURS[1], COLOURS[0], COLOURS[2])):
                shown = np.where(values[channel] > 0, values[channel], np.nan)
                one.plot(index, shown, color=colour, lw=1.3, marker=".", ms=3, label=CHANNELS[channel])
                if error is not None:
                    spread = 2 * to_zigzag(np.asarray(error, np.float64))[channel]
                    low = np.maximum(shown - spread, shown / 10)
                    one.fill_between(index, low, shown + spread, color=colour, alpha=0.15, lw=0)
            one.set(yscale="log", title=name, xlabel="frequency, zigzag index", ylabel="sensitivity s_i")
            one.set_axisbelow(True)
        for one in axes[len(profiles) :]:
            one.remove()
        figure.axes[0].legend(frameon=False, fontsize=8.5)
    return drawn


def draw_feature_maps(
    images: tuple[Pixels, Pixels], maps: tuple[Float, Float], path: str | Path, *, layer: str, channels: int = 6
) -> list[int]:
    """What a layer answers to an image before and after JPEG, and the difference [JPEG-DL figures 5 and 12].

    Args:
        images: (H, W, 3) uint8 RGB, before and after.
        maps: (C, h, w) of both.
        layer: its name, for the title.
        channels: so many are drawn, those that change most.

    Returns:
        The channels drawn, those of the largest mean absolute difference first.
    """
    before, after = maps
    if before.shape != after.shape or before.ndim != 3 or channels < 1:
        raise InvalidInputError(
            f"maps before and after have one shape (C, h, w), and channels are at least 1; got {before.shape}, "
            f"{after.shape} and {channels}"
        )
    moved = np.abs(after - before).mean((1, 2))
    chosen = [int(index) for index in np.argsort(-moved, kind="stable")[:channels]]
    with canvas(path, 1.7 * (len(chosen) + 1), 5.4, dpi=110) as figure:
        axes = figure.subplots(3, len(chosen) + 1, squeeze=False)
        difference = np.abs(images[1].astype(np.int16) - images[0]).max(2)
        for row, (picture, name) in enumerate(
            zip((*images, difference), ("before", "after JPEG", "change"), strict=True)
        ):
            _picture(axes[row, 0], picture, name, cmap="magma")
        for column, channel in enumerate(chosen, start=1):
            pair = (before[channel], after[channel])
            low, high = min(map(np.min, pair)), max(map(np.max, pair))
            for row, values in enumerate(pair):
                _picture(axes[row, column], values, f"channel {channel}", vmin=low, vmax=high)
            _picture(axes[2, column], np.abs(pair[1] - pair[0]), f"{moved[channel]:.2g}", cmap="magma")
        figure.suptitle(f"layer {layer}", fontsize=11, x=0.01, ha="left")
    return chosen


@dataclass(frozen=True)
class Explained:
    """A column of :func:`draw_class_maps`.

    Attributes:
        title: above.
        image: (H, W, 3) uint8 RGB.
        heat: (H, W), 0..1.
    """

    title: str
    image: Pixels
    heat: Float


def draw_class_maps(columns: Sequence[Explained], path: str | Path, *, title: str) -> None:
    """Images, and below them where the evidence for a class is [JPEG-DL figure 6]."""
    with canvas(path, 3.0 * len(columns), 6.4, dpi=110) as figure:
        axes = figure.subplots(2, len(columns), squeeze=False)
        for column, one in enumerate(columns):
            _picture(axes[0, column], one.image, one.title)
            _picture(axes[1, column], one.image, "")
            axes[1, column].imshow(one.heat, cmap="jet", alpha=0.45, vmin=0, vmax=1, interpolation="bilinear")
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")


def _heat(axes: Axes, values: Float, low: float, high: float, cmap: str) -> Any:
    axes.grid(visible=False)
    axes.set(xticks=range(8), yticks=range(8))
    return axes.imshow(values, vmin=low, vmax=max(high, low + 1e-9), cmap=cmap)


def _write(axes: Axes, values: Float, pattern: str, dark: NDArray[np.bool_]) -> None:
    for row in range(8):
        for column in range(8):
            colour = "#222222" if dark[row, column] else "white"
            text = pattern % values[row, column]
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)


def _picture(axes: Axes, values: NDArray[Any], title: str, **options: Any) -> None:
    axes.imshow(values, interpolation="nearest", **options)
    axes.set_title(title, fontsize=9, fontweight="normal")
    axes.set_axis_off()
