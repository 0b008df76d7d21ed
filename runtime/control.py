"""Which tables a profile gives an encoder, and who chooses among them: the profile, the caller, a budget or a slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.opts import raw_water_level
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.profile import DeadZone, Profile
from edgejpeg.runtime.library import NativeEncoder
from edgejpeg.runtime.options import check_integer, is_positive

MAX_BUDGET = 2**63 - 1


@dataclass(frozen=True)
class Control:
    """What chooses the tables of a frame, as :class:`edgejpeg.Encoder` documents it. None: the profile.

    Attributes:
        water_level: normalised d above 0, for an adaptive profile.
        max_bytes: at least 1.
        target_bpp: bits per pixel, above 0.
        level: of a ladder.
        slope: bytes per level of a ladder, 0 or more.
    """

    water_level: float | None = None
    max_bytes: int | None = None
    target_bpp: float | None = None
    level: int | None = None
    slope: float | None = None

    def check(self, profile: Profile) -> None:
        """Check the values, and that they fit the profile.

        Raises:
            InvalidInputError: they do not.
        """
        if self.water_level is not None:
            if profile.kind != "adaptive":
                raise InvalidInputError(
                    f"water_level={self.water_level!r} with {profile.name!r}, a {profile.kind} profile, which has "
                    "tables instead; leave it out, or use an adaptive profile"
                )
            if not is_positive(self.water_level):
                raise InvalidInputError(f"water_level is a positive, finite number; got {self.water_level!r}")
            raw_levels(profile, self.water_level)
        if self.max_bytes is not None:
            check_integer("max_bytes", self.max_bytes, 1, MAX_BUDGET)
        if self.target_bpp is not None and not is_positive(self.target_bpp):
            raise InvalidInputError(f"target_bpp is bits per pixel, positive and finite; got {self.target_bpp!r}")
        if self.level is not None:
            self.check_level(profile, self.level)
        if self.slope is not None:
            _check_ladder(profile, "slope", self.slope)
            if not is_positive(self.slope) and (self.slope is False or self.slope != 0):
                raise InvalidInputError(f"slope is a finite number of bytes per level, 0 or more; got {self.slope!r}")
        if self.water_level is not None and self.has_budget:
            raise InvalidInputError(
                f"water_level={self.water_level!r} and a budget both choose the water level; give one of them"
            )

    @property
    def has_budget(self) -> bool:
        """Whether the bytes of a file are bounded."""
        return self.max_bytes is not None or self.target_bpp is not None

    def check_level(self, profile: Profile, level: int) -> int:
        """The index of a level of a ladder, if it is one and may be chosen.

        Raises:
            InvalidInputError: it is not.
        """
        _check_ladder(profile, "level", level)
        if self.slope is not None:
            raise InvalidInputError(f"level={level!r} and slope={self.slope!r} both choose a level; give one of them")
        return check_integer("level", level, 0, len(profile.levels) - 1)

    def first_level(self, profile: Profile) -> int:
        """The level of a ladder that is taken, or with a budget the highest that may be."""
        if self.level is not None:
            return int(self.level)
        return len(profile.levels) - 1 if self.has_budget or profile.level is None else profile.level

    def apply(self, profile: Profile, native: NativeEncoder) -> None:
        """Give a native encoder the profile's tables and what chooses among them."""
        if profile.sensitivity is not None:
            native.set_design(profile.sensitivity, *raw_levels(profile, self.water_level), profile.q_max)
        elif profile.luma is not None:
            native.set_tables(*_arrays(profile.luma, profile.chroma))
        else:
            levels = [
                (entry.rate, [*_arrays(entry.luma, entry.chroma), *_thresholds(entry.dead_zone)])
                for entry in profile.levels
            ]
            native.set_ladder(levels, self.first_level(profile))
            if self.slope is not None:
                native.set_slope(float(self.slope))
        if profile.dead_zone is not None:
            native.set_dead_zone(*_thresholds(profile.dead_zone))
        if self.has_budget:
            native.set_budget(int(self.max_bytes or 0), float(self.target_bpp or 0))


def raw_levels(profile: Profile, water_level: float | None) -> tuple[float, float]:
    """The raw luma and chroma water levels of an adaptive profile, at its own level or at another."""
    assert profile.sensitivity is not None
    assert profile.water_level is not None
    luma = profile.water_level
    chroma = luma if profile.chroma_water_level is None else profile.chroma_water_level
    if water_level is not None:
        luma, chroma = float(water_level), float(water_level) * (chroma / luma)
    return raw_water_level(luma, profile.sensitivity), raw_water_level(chroma, profile.sensitivity)


def _check_ladder(profile: Profile, name: str, value: object) -> None:
    if profile.kind != "ladder":
        raise InvalidInputError(
            f"{name}={value!r} with {profile.name!r}, a profile of kind {profile.kind!r}, which has no levels; "
            "leave it out, or use a ladder"
        )


def _arrays(luma: QuantTable, chroma: QuantTable | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    return luma.array, None if chroma is None else chroma.array


def _thresholds(zone: DeadZone | None) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    return (None, None) if zone is None else (zone.luma, zone.chroma)
