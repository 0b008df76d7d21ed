"""The look of all pictures, and how they are drawn and written: matplotlib without a display."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError

# Okabe and Ito's blue and a neutral grey: apart in print, and for every kind of colour vision.
COLOURS = ("#0072B2", "#6B6B6B", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D")
FORMATS = (".png", ".svg", ".pdf")

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


@contextlib.contextmanager
def canvas(path: str | Path, width: float, height: float, *, dpi: int = 160, note: str = "") -> Iterator[Any]:
    """A matplotlib Figure to draw on, written to ``path`` in the end.

    Args:
        path: .png, .svg or .pdf.
        width, height: in inches.
        note: a line under the picture.

    Raises:
        InvalidInputError: another ending.
        DataError: the file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    check_picture(path)
    matplotlib = require("matplotlib", extra="plot", purpose="drawing")
    # matplotlib.figure alone draws with Agg: no pyplot, no display, no state.
    figure_module = require("matplotlib.figure", extra="plot", purpose="drawing")
    with matplotlib.rc_context(_STYLE):
        figure = figure_module.Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")
        yield figure
        if note:
            figure.supxlabel(note, fontsize=8.5, color="#666666", x=0.01, ha="left")
        try:
            figure.savefig(path)
        except OSError as error:
            raise DataError(
                f"the plot cannot be written to {path}: {error.strerror or error}; check the folder"
            ) from error


def check_picture(path: str | Path) -> None:
    """Refuse a file name that is no picture's.

    Raises:
        InvalidInputError: an ending that is not .png, .svg or .pdf.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise InvalidInputError(f"a picture ends in {', '.join(FORMATS)}; got {str(path)!r}")
