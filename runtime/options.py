"""What an encoder is told besides its tables: checked here, once, and handed to the compiled library."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import check_subsampling
from edgejpeg.runtime.library import MAX_SIZE, MAX_THREADS

ROUND, TRIM, TRELLIS = 0, 1, 2
CONTAINERS = {"jfif": 0, "lean": 1}


@dataclass(frozen=True)
class Options:
    """The options of an encoder, as :class:`edgejpeg.Encoder` documents them.

    Attributes:
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        effort: 0 for stored Huffman tables, 1 for optimal ones per frame.
        threads: 1 to 256.
        progressive: write a progressive file.
        container: ``"jfif"`` or ``"lean"``.
        restart_rows: rows of MCUs between restart markers, 1 to 65535; 0 for none.
        orientation: the EXIF orientation, 1 to 8; None for no EXIF.
        exact_huffman: at effort 1, count every block of large frames too.
        sampled_statistics: measure a sample of the rows of large frames.
        trellis: False, True, ``"trim"``, or the trellis' multiplier, above 0.
        measure: keep a frame's statistics and coefficients whatever its tables are.
        timing: take the time of every stage.
        comment: write a comment with the profile's id, and with what was chosen for the frame.

    Raises:
        InvalidInputError: an option outside what is allowed.
    """

    subsampling: str = "420"
    effort: int = 0
    threads: int = 1
    progressive: bool = False
    container: str = "jfif"
    restart_rows: int = 0
    orientation: int | None = None
    exact_huffman: bool = False
    sampled_statistics: bool = False
    trellis: bool | str | float = False
    measure: bool = False
    timing: bool = False
    comment: bool = False

    def __post_init__(self) -> None:
        check_subsampling(self.subsampling)
        check_integer("effort", self.effort, 0, 1)
        check_integer("threads", self.threads, 1, MAX_THREADS)
        if self.container not in CONTAINERS:
            raise InvalidInputError(f"container is one of {', '.join(CONTAINERS)}; got {self.container!r}")
        check_integer("restart_rows", self.restart_rows, 0, MAX_SIZE)
        if self.orientation is not None:
            check_integer("orientation", self.orientation, 1, 8)
        if isinstance(self.trellis, str):
            is_allowed = self.trellis == "trim"
        else:
            is_allowed = isinstance(self.trellis, (bool, np.bool_)) or is_positive(self.trellis)
        if not is_allowed:
            raise InvalidInputError(
                f'trellis is False, True, "trim" or a positive, finite multiplier; got {self.trellis!r}'
            )
        for name in ("progressive", "exact_huffman", "sampled_statistics", "measure", "timing", "comment"):
            check_flag(name, getattr(self, name))
        if self.progressive and self.restart_rows:
            raise InvalidInputError(
                f"restart_rows={self.restart_rows} with progressive=True; restart markers are for baseline files: "
                "leave one of them out"
            )

    def fields(self) -> dict[str, int | float]:
        """The fields of ``edgejpeg_options`` that are not 0, besides the first three."""
        fields: dict[str, int | float] = {
            "exact_huffman": int(self.exact_huffman),
            "sampled_statistics": int(self.sampled_statistics),
            "container": CONTAINERS[self.container],
            "progressive": int(self.progressive),
            "restart_rows": int(self.restart_rows),
            "orientation": int(self.orientation or 0),
        }
        if self.trellis is not False:
            fields["quantization"] = TRIM if self.trellis == "trim" else TRELLIS
            if is_positive(self.trellis):
                fields["trellis_weight"] = float(self.trellis)
        fields["keep_statistics"] = int(self.measure)
        fields["timing"] = int(self.timing)
        fields["comment_control"] = int(self.comment)
        return {name: value for name, value in fields.items() if value != 0}


def is_positive(value: object) -> bool:
    """Whether a value is a number above 0 and finite; True is no number here."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return is_number and 0 < float(value) < math.inf  # type: ignore[arg-type]


def check_integer(name: str, value: int, low: int, high: int) -> int:
    """The integer, if it is one within the range."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise InvalidInputError(f"{name} is an integer from {low} to {high}; got {value!r}")
    return int(value)


def check_flag(name: str, value: bool) -> bool:
    """The flag, if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInputError(f"{name} is True or False; got {value!r}")
    return bool(value)
