"""What a file costs at each setting of a profile, and the settings between two rates: what a network is adapted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.control import scale_tables
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Level, Profile

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels, Profile], bytes]
"""From (H, W, 3) uint8 RGB and a profile that is not a ladder to a JPEG file."""

SCALES = np.geomspace(1 / 32, 16, 160)
"""Factors of the tables of a fixed profile, about 4 % apart: from nearly lossless to steps of 255."""

WATER_LEVELS = np.geomspace(1e-4, 1e3, 200)
"""Normalised water levels of an adaptive profile, about 8 % apart."""

MAX_LEVELS = 8
"""Levels of the ladder that is made for a range of rates."""

_TOLERANCE = 0.05  # how far the mean rate of the nearest setting may be from the rate asked for


def ijg_profile(subsampling: str = "420") -> Profile:
    """The IJG's tables of quality 50 with optimal Huffman tables, to be scaled."""
    luma, chroma = ijg_tables(50)
    return Profile.fixed(
        name="ijg", luma=luma, chroma=None if subsampling == "gray" else chroma, subsampling=subsampling, effort=1
    )


def settings_of(profile: Profile) -> list[Profile]:
    """What a profile can be set to: a fixed one's tables scaled, a ladder's levels, or water levels."""
    if profile.kind == "ladder":
        return [profile.at_level(level) for level in range(len(profile.levels))]
    if profile.water_level is not None and profile.chroma_water_level is not None:
        ratio = profile.chroma_water_level / profile.water_level
        return [profile.with_water_level(float(level), float(level) * ratio) for level in WATER_LEVELS]
    return [
        replace(
            profile,
            luma=None if profile.luma is None else scale_tables(profile.luma, float(factor)),
            chroma=None if profile.chroma is None else scale_tables(profile.chroma, float(factor)),
        )
        for factor in SCALES
    ]


@dataclass(frozen=True, eq=False)
class RateRange:
    """The settings of a profile with their mean rates on real files, and the part of them that is wanted.

    Attributes:
        source: the profile that was set.
        settings: profiles in the order of rising rates, each of which an encoder takes as it is.
        rates: (settings,) float64, bits per pixel of whole files, rising.
        low, high: the wanted range in bits per pixel; equal for one rate.
    """

    source: Profile
    settings: tuple[Profile, ...]
    rates: NDArray[np.float64]
    low: float
    high: float

    def nearest(self, bpp: float) -> int:
        """The index of the setting whose rate is nearest in the logarithm."""
        return int(np.abs(np.log(self.rates) - math.log(bpp)).argmin())

    def draw(self, rng: np.random.Generator) -> int:
        """The index of a setting, log-uniform in the rate over the wanted range."""
        return self.nearest(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))

    def points(self, count: int) -> list[int]:
        """Up to ``count`` settings, evenly spread over the wanted range in the logarithm of the rate."""
        if self.low == self.high:
            return [self.nearest(self.low)]
        return sorted({self.nearest(float(bpp)) for bpp in np.geomspace(self.low, self.high, count)})

    def profile(self, name: str, provenance: Mapping[str, Any]) -> Profile:
        """What the device takes: the setting of the one rate, or a ladder over the range.

        An adaptive profile has no ladder: for a range it stands at the range's geometric middle, and the water levels
        of both ends are in the provenance.
        """
        origin = {"tables": self.source.name, **provenance}
        if self.source.kind == "adaptive" or self.low == self.high:
            index = self.nearest(math.sqrt(self.low * self.high))
            if self.source.kind == "adaptive":
                ends = [self.settings[self.nearest(bpp)].water_level for bpp in (self.low, self.high)]
                origin["water_levels"] = [float(level) for level in ends if level is not None]
            return replace(
                self.settings[index], name=name, provenance={**origin, "bpp": round(float(self.rates[index]), 4)}
            )
        levels = []
        for index in self.points(len(self.settings) if self.source.kind == "ladder" else MAX_LEVELS):
            setting = self.settings[index]
            if setting.luma is not None:
                levels.append(
                    Level(round(float(self.rates[index]), 4), setting.luma, setting.chroma, setting.dead_zone)
                )
        return Profile.ladder(
            name=name,
            levels=levels,
            subsampling=self.source.subsampling,
            effort=self.source.effort,
            provenance=origin,
        )


def measure_rates(
    profile: Profile, images: Sequence[Pixels], encode: Encode, *, low: float, high: float | None = None
) -> RateRange:
    """Encode images at every setting of a profile, and keep the range that is wanted.

    Args:
        profile: fixed (its tables are scaled), a ladder, or adaptive.
        images: (H, W, 3) uint8 RGB, of the size that will be sent.
        encode: makes the files.
        low, high: the wanted rates in bits per pixel; ``high`` None for ``low`` alone.

    Raises:
        InvalidInputError: a rate that is not positive or a range the wrong way round.
        DataError: the range is outside of what the profile reaches on these images, or no setting is within 5 % of the
            one rate.
    """
    top = low if high is None else high
    if not (0 < low < math.inf and 0 < top < math.inf):
        raise InvalidInputError(f"rates are positive numbers of bits per pixel; got {low:g} and {top:g}")
    if top < low or (high is not None and top == low):
        raise InvalidInputError(f"a range of rates rises; got {low:g} to {top:g} bits per pixel")
    if not images:
        raise DataError("no images to measure rates on")
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    settings = settings_of(profile)
    rates = np.array([sum(len(encode(image, setting)) for image in images) * 8 / pixels for setting in settings])
    order = np.argsort(rates, kind="stable")
    rising = [int(order[0])]
    for index in order[1:]:
        if rates[index] > rates[rising[-1]] * 1.001:
            rising.append(int(index))
    found = RateRange(profile, tuple(settings[index] for index in rising), rates[rising], low, top)
    reached = f"{found.rates[0]:.3g} to {found.rates[-1]:.3g} bits per pixel on these images"
    for bpp in dict.fromkeys((low, top)):
        outside = not found.rates[0] * (1 - _TOLERANCE) <= bpp <= found.rates[-1] * (1 + _TOLERANCE)
        missed = high is None and abs(found.rates[found.nearest(bpp)] / bpp - 1) > _TOLERANCE
        if outside or missed:
            nearest = found.rates[found.nearest(bpp)]
            raise DataError(
                f"profile {profile.name!r} has no setting of {bpp:g} bits per pixel: it reaches {reached}, "
                f"the nearest is {nearest:.3g}; ask for that"
            )
    return found
