"""What an encoder did with its last frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.opts import normalised_water_level
from edgejpeg.design.statistics import Statistics
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.profile import Profile
from edgejpeg.runtime.library import NativeEncoder

STAGES = ("colour", "transform", "design", "quantise", "entropy")
SEGMENTS = ("app", "comment", "quantization", "frame", "huffman", "scan_headers", "entropy_coded", "other")


@dataclass(frozen=True, eq=False)
class EncodeResult:
    """How a frame was encoded: :attr:`edgejpeg.Encoder.last`.

    Attributes:
        tables: luma, and chroma or None for one component, as in the file.
        water_level: the luma water level (normalised d) that the tables were designed at; None unless designed.
        chroma_water_level: the same for chroma; None unless designed, and for one component.
        scale: what given tables were multiplied by for a budget, 1.0 without one; None if designed or of a ladder.
        level: the level of the ladder; None unless a ladder.
        encodes: how often the frame was quantised and coded; more than once for a budget only.
        statistics: of the DCT coefficients; None where nothing needed them (``measure=True`` does).
        segments: bytes by kind of segment: ``app``, ``comment``, ``quantization``, ``frame``, ``huffman``,
            ``scan_headers``, ``entropy_coded`` and ``other`` (SOI, EOI, DRI). They add up to
        size: bytes of the file.
        milliseconds: time by stage, summed over the threads: ``colour``, ``transform`` (DCT and statistics), ``design``
            (and the search of a budget), ``quantise`` (and a trellis), ``entropy``; None without ``timing=True``.
    """

    tables: tuple[QuantTable, QuantTable | None]
    water_level: float | None
    chroma_water_level: float | None
    scale: float | None
    level: int | None
    encodes: int
    statistics: Statistics | None
    segments: Mapping[str, int]
    size: int
    milliseconds: Mapping[str, float] | None
    _errors: Callable[[], NDArray[np.float64] | None] = field(repr=False)

    @property
    def swe(self) -> NDArray[np.float64] | None:
        """The sensitivity-weighted error by component, (1,) or (3,) float64, computed when asked for.

        The sum of s (C - q K)^2 over the frame [OptS eq. 10], with the coefficients C of the encoder's DCT and the
        levels K in the file; s = 1 where the profile has no sensitivities. None where no statistics were made.

        Raises:
            InvalidInputError: the encoder has encoded another frame since, or was closed.
        """
        errors = self._errors()
        return None if errors is None else errors[: 1 if self.tables[1] is None else 3]


def read_result(
    native: NativeEncoder, profile: Profile, timing: bool, errors: Callable[[], NDArray[np.float64] | None]
) -> EncodeResult | None:
    """The result of an encoder's last frame; None before one."""
    raw, tables = native.result(), native.tables()
    if raw is None or tables is None:
        return None
    arrays = native.statistics()
    designed = raw.luma_water_level > 0
    is_gray = raw.components == 1

    def normalised(level: float) -> float | None:
        return (
            normalised_water_level(level, profile.sensitivity)
            if level > 0 and profile.sensitivity is not None
            else None
        )

    return EncodeResult(
        tables=(QuantTable(tables[0]), None if is_gray else QuantTable(tables[1])),
        water_level=normalised(raw.luma_water_level),
        chroma_water_level=normalised(raw.chroma_water_level),
        scale=None if designed or raw.level >= 0 else raw.scale,
        level=raw.level if raw.level >= 0 else None,
        encodes=raw.encodes,
        statistics=None if arrays is None else Statistics(**arrays),
        segments={name: int(getattr(raw, f"bytes_{name}")) for name in SEGMENTS},
        size=int(raw.bytes),
        milliseconds={name: raw.nanoseconds[i] / 1e6 for i, name in enumerate(STAGES)} if timing else None,
        _errors=errors,
    )
