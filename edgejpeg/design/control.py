"""Rate control: the water level, the scale of fixed tables, or the level of a ladder, for a number of bytes.

A model of bytes over the water level d needs a frame's statistics alone. Each quantised coefficient costs the entropy
of a Laplacian source; an affine correction, fitted on photographs and video frames, turns their sum into what the
Huffman coder writes. The model is within about 10 % of a real file, and its slope is far better than that: one encode
at the modelled level corrects it, and the second one lands. :func:`find_water_level` never returns more bytes than
asked for.

The compiled library has the same model and search; both are written in the same order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.design._checks import channel_array, finite_array, positive, step_limit
from edgejpeg.design.opts import design_gray_table, design_tables
from edgejpeg.design.statistics import Statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable, dead_zone_thresholds

TOLERANCE = 0.03
"""A result within this fraction below the budget ends the search."""

SCAN_BYTES_PER_ENTROPY_BYTE = (1.013, 1.026)
"""Bytes of a scan for each byte of modelled entropy, effort 0 and 1."""

SCAN_BYTES_PER_BLOCK = (0.363, 0.062)
"""What comes to it for each block: symbols that Huffman codes cannot make shorter than a bit, and ends of blocks."""

HEADER_BYTES = {1: (245, 190), 3: (440, 320)}
"""Everything but the scan, by components, effort 0 and 1: that of small files, in which it matters. The coarser the
steps, the fewer symbols the Huffman tables have."""

NEAR_ENOUGH = 0.4
"""An estimate within this part of the tolerance around the aim, its middle, is not improved."""

REFINEMENTS = 2
"""How often the control of an encode is corrected by an estimate, at most."""

_LARGEST_RATIO = 60.0  # q / lam beyond which a coefficient is zero but for one in 10^13
_MAX_TRIES = 16


class RateModel(Protocol):
    """Bytes of one frame as a falling function of a control: the water level, or the scale of fixed tables."""

    header_bytes: float
    lowest: float
    highest: float

    def bytes(self, control: float) -> float:
        """The expected size of the file."""


@dataclass(frozen=True)
class Match:
    """What a search found.

    Attributes:
        control: the water level (normalised d), or the scale of the tables.
        size: bytes of the file at that control, at most the budget.
        encodes: how often ``encode`` was called.
    """

    control: float
    size: int
    encodes: int


def laplace_entropy(lam: ArrayLike, q: ArrayLike, threshold: ArrayLike = 0.5) -> NDArray[np.float64]:
    """Entropy in bits of a Laplacian source after quantization: zero below t q, rounded to multiples of q otherwise.

    With r = q / lam: P(0) = 1 - exp(-t r), P(+-1) = exp(-t r) - exp(-1.5 r), and from there on geometric with exp(-r).

    Args:
        lam: mean absolute value, not negative; 0 gives 0 bits.
        q: step, above 0. Broadcast, as is
        threshold: t, .5 (plain rounding) to 1.
    """
    scale, step, t = np.broadcast_arrays(
        finite_array(lam, "lam", minimum=0.0), finite_array(q, "q"), finite_array(threshold, "threshold")
    )
    with np.errstate(divide="ignore", over="ignore"):
        ratio = step / scale
    alive = ratio < _LARGEST_RATIO
    r = np.where(alive, ratio, 1.0)
    nonzero = np.exp(-t * r)
    larger = np.exp((t - 1.5) * r)  # P(|K| > 1 | K != 0)
    again = np.exp(-r)  # P(|K| > k + 1 | |K| > k), k > 0
    magnitude = _binary_entropy(larger) + larger * _binary_entropy(again) / -np.expm1(-r)
    return np.asarray(np.where(alive, _binary_entropy(nonzero) + nonzero * (1.0 + magnitude), 0.0))


class WaterLevelModel:
    """Bytes of a frame over the luma water level of its OptS tables.

    Args:
        sensitivity: ``(3, 8, 8)`` raw s_i.
        statistics: of the frame, 1 or 3 components.
        q_max: the largest step, 1..255.
        chroma_ratio: chroma water level / luma water level.
        effort: 0 or 1, the entropy coder's.
        dead_zone: ``(luma, chroma)`` thresholds, 8x8 each; None rounds plainly.
    """

    def __init__(
        self,
        sensitivity: ArrayLike,
        statistics: Statistics,
        q_max: int = 100,
        chroma_ratio: float = 1.0,
        effort: int = 0,
        dead_zone: Sequence[ArrayLike] | None = None,
    ) -> None:
        self._sensitivity = channel_array(sensitivity, "sensitivity", (3,))
        self._q_max = step_limit(q_max)
        self._ratio = positive(chroma_ratio, "chroma_ratio")
        self._entropy = _FrameEntropy(statistics, effort, dead_zone)
        self._statistics = statistics
        self.header_bytes = self._entropy.header_bytes
        # From the highest level on, s sigma^2 < d holds everywhere and all steps are q_max; the lowest is so far below
        # that the steps of all but frequencies without any content are 1.
        peak = 10.0 * float(self._sensitivity[0].max())
        if peak == 0:
            raise InvalidInputError("the largest luma sensitivity is 0; a water level needs at least one above 0")
        power = self._sensitivity[: statistics.channels] * statistics.variance
        power[1:] /= self._ratio
        self.highest = max(float(power.max()) / peak, 1e-12) * 1.000001
        self.lowest = self.highest * 1e-12

    def tables(self, water_level: float) -> list[QuantTable]:
        """The luma table, and the chroma table unless gray."""
        if self._statistics.channels == 1:
            return [design_gray_table(self._sensitivity, self._statistics, water_level, self._q_max)]
        return list(
            design_tables(self._sensitivity, self._statistics, water_level, self._q_max, water_level * self._ratio)
        )

    def bytes(self, control: float) -> float:
        """The expected size of the file at a normalised luma water level."""
        return self._entropy.bytes(self.tables(control))


class ScaleModel:
    """Bytes of a frame over the scale of fixed tables.

    Args:
        tables: luma, and chroma unless gray.
        statistics, effort, dead_zone: as for :class:`WaterLevelModel`.
    """

    lowest, highest = 1.0 / 512.0, 512.0  # at the ends all steps are 1, or 255

    def __init__(
        self,
        tables: Sequence[QuantTable],
        statistics: Statistics,
        effort: int = 0,
        dead_zone: Sequence[ArrayLike] | None = None,
    ) -> None:
        if len(tables) < min(statistics.channels, 2):
            raise InvalidInputError(f"a colour file needs a luma and a chroma table; got {len(tables)}")
        self._tables = list(tables)
        self._entropy = _FrameEntropy(statistics, effort, dead_zone)
        self.header_bytes = self._entropy.header_bytes

    def bytes(self, control: float) -> float:
        """The expected size of the file with the tables scaled by a factor, as :func:`scale_one_by_one` does it."""
        return self._entropy.bytes([scale_one_by_one(table, control, slot) for slot, table in enumerate(self._tables)])


def scale_tables(table: QuantTable, factor: float) -> QuantTable:
    """A table with every step multiplied, rounded to the nearest integer (halves up) and kept within 1..255."""
    steps = np.floor(table.array * positive(factor, "factor") + 0.5)
    return QuantTable(np.clip(steps, 1, 255))


def scale_one_by_one(table: QuantTable, factor: float, slot: int) -> QuantTable:
    """A table with every step multiplied, kept within 1..255, and rounded at a fraction of its own.

    With one fraction for all, as :func:`scale_tables` has it, many steps change at the same factor, and the size of the
    file jumps. Here the steps of both tables change one after the other: what is added before rounding down is
    (r + 1/2) / 128, where r is the reverse of the zigzag position's six bits with the slot behind it. Neighbours are
    far apart, and on average it is 1/2. A factor of 1 gives the table itself.

    Args:
        table: the steps.
        factor: above 0.
        slot: 0 for the luma table, 1 for the chroma table.
    """
    reverse = np.array([int(f"{position:06b}"[::-1], 2) for position in range(64)])
    steps = np.floor(table.zigzag() * positive(factor, "factor") + (2 * reverse + slot + 0.5) / 128)
    return QuantTable.from_zigzag(np.clip(steps, 1, 255))


def invert(model: RateModel, size: float, start: float | None = None) -> float:
    """The control at which the model expects a size, within .1 %; an end of the range when the size is beyond it.

    Regula falsi in the logarithms (Illinois variant) from a bracket grown around ``start``; bisection where a step of
    the tables makes it slow.
    """
    target = math.log(max(size, 1.0))
    x = math.log(min(max(start or 1.0, model.lowest), model.highest))
    ends = math.log(model.lowest), math.log(model.highest)

    def excess(at: float) -> float:
        return math.log(max(model.bytes(math.exp(at)), 1.0)) - target

    # Grow the bracket towards the side where the root must be: files of photographs go about as d^-.4.
    value = excess(x)
    direction = 1.0 if value > 0 else -1.0
    left, left_value = x, value
    step = max(3.0 * abs(value), 0.05)
    while True:
        right = min(max(left + direction * step, ends[0]), ends[1])
        right_value = excess(right)
        if (right_value > 0) != (value > 0):
            break
        if right in ends:
            return model.highest if direction > 0 else model.lowest
        left, left_value = right, right_value
        step *= 2.0
    kept = 0
    for iteration in range(60):
        if abs(right - left) < 1e-4:
            break
        if iteration < 6:
            middle = left - left_value * (right - left) / (right_value - left_value)
        else:
            middle = 0.5 * (left + right)
        middle_value = excess(middle)
        if abs(middle_value) < 1e-3:
            return math.exp(middle)
        if (middle_value > 0) == (right_value > 0):
            right, right_value = middle, middle_value
            if kept == 1:
                left_value *= 0.5
            kept = 1
        else:
            left, left_value = middle, middle_value
            if kept == -1:
                right_value *= 0.5
            kept = -1
    # A step of the tables that jumps over the size: the side that stays below it.
    return math.exp(max(left, right))


def find_water_level(
    model: RateModel,
    budget: int,
    encode: Callable[[float], int],
    start: float | None = None,
    max_encodes: int = 2,
    estimate: Callable[[float], float] | None = None,
) -> Match:
    """The water level at which a file has at most ``budget`` bytes, and on natural frames at least 97 % of them.

    The first encode is at the level that the model gives, the second at that of the model corrected by the first. More
    than ``max_encodes`` follow only while none has met the budget. Of those that have, the largest file is taken.

    Args:
        model: of this frame. With a :class:`ScaleModel` the control is the scale of the tables.
        budget: bytes of the whole file.
        encode: gives the size of the file at a control; the caller keeps what it made last.
        start: where to begin inverting the model, such as the profile's level; it saves evaluations.
        max_encodes: at least 1.
        estimate: the size at a control, better than the model's, and cheaper than an encode: from counting the codes
            of a part of the frame. The control is corrected by it before every encode.

    Raises:
        InvalidInputError: a budget that is no positive integer, or that no table can meet; the smallest size is said.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise InvalidInputError(f"a budget is a positive number of bytes; got {budget!r}")
    floor = (1.0 - TOLERANCE) * budget
    aim = (1.0 - TOLERANCE / 2) * budget
    control = invert(model, aim, start)
    best: Match | None = None
    too_large = model.lowest

    def corrected(size: float) -> float:
        """Where the model meets the aim, if it errs by the same factor there as it does at ``control``."""
        modelled = model.bytes(control) - model.header_bytes
        correction = (size - model.header_bytes) / modelled if modelled > 0 else 1.0
        target = model.header_bytes + (aim - model.header_bytes) / max(correction, 0.01)
        return max(invert(model, target, control), min(too_large * 1.01, model.highest))

    for encodes in range(1, _MAX_TRIES + 1):
        for _ in range(REFINEMENTS if estimate is not None and encodes < _MAX_TRIES else 0):
            assert estimate is not None
            expected = float(estimate(control))
            if abs(expected - aim) < NEAR_ENOUGH * TOLERANCE * budget:
                break
            control = corrected(expected)
        size = int(encode(control))
        if size <= budget and (best is None or size > best.size):
            best = Match(control, size, encodes)
        if size <= budget and (size >= floor or control <= model.lowest):
            break
        if size > budget:
            if control >= model.highest and best is not None:
                break
            if control >= model.highest:
                raise InvalidInputError(
                    f"no table meets a budget of {budget} bytes: the smallest file of this frame has {size} bytes"
                )
            too_large = max(too_large, control)
        if best is not None and encodes >= max_encodes:
            break
        # After two that were too large, aim lower by more and more.
        if encodes >= 2:
            aim -= TOLERANCE / 2 * budget * 2 ** (encodes - 2)
        control = corrected(size)
        if encodes == _MAX_TRIES - 1:
            control = model.highest
    assert best is not None  # the last try is at the highest control, where a file too large raises
    return Match(best.control, best.size, encodes)


def level_for_budget(sizes: Sequence[int], budget: int) -> int:
    """The highest level of a ladder whose file has at most ``budget`` bytes.

    Args:
        sizes: bytes of this frame's file at every level.

    Raises:
        InvalidInputError: no level meets the budget; the smallest size is said.
    """
    fitting = [level for level, size in enumerate(sizes) if size <= budget]
    if not fitting:
        raise InvalidInputError(
            f"no level meets a budget of {budget} bytes: the smallest file of this frame has {min(sizes)} bytes"
        )
    return fitting[-1]


def level_of_equal_slope(sizes: Sequence[int], slope: float) -> int:
    """The level at which one more costs ``slope`` bytes on this frame's own curve.

    With the same slope for all frames their bytes go where a level costs least: for a given sum of levels no other
    choice takes fewer bytes. It is the level that minimises size - slope x level (on the curve's lower convex hull);
    of equal ones the lowest.

    Args:
        sizes: bytes of this frame's file at every level, in the order of rising rates.
        slope: bytes per level, 0 or more, for example from :func:`ladder_slope`.
    """
    if not (math.isfinite(slope) and slope >= 0):
        raise InvalidInputError(f"a slope is a finite number of bytes per level, 0 or more; got {slope!r}")
    costs = [size - slope * level for level, size in enumerate(sizes)]
    return costs.index(min(costs))


def ladder_slope(rates: Sequence[float], level: int, pixels: int) -> float:
    """Bytes per level around a level of a ladder, for a frame with the ladder's own rates.

    Args:
        rates: bits per pixel of every level, rising.
        level: where the slope is taken, 0 to the number of levels - 1; a frame like those of the design gets this
            level if the rates rise faster and faster, as those of a geometric ladder do.
        pixels: of a frame.
    """
    if not 0 <= level < len(rates):
        raise InvalidInputError(f"a level of this ladder is 0 to {len(rates) - 1}; got {level!r}")
    below, above = max(level - 1, 0), min(level + 1, len(rates) - 1)
    return (rates[above] - rates[below]) / max(above - below, 1) * pixels / 8


class _FrameEntropy:
    """Modelled bytes of a frame for given tables."""

    def __init__(self, statistics: Statistics, effort: int, dead_zone: Sequence[ArrayLike] | None) -> None:
        if effort not in (0, 1):
            raise InvalidInputError(f"effort is 0 (stored Huffman tables) or 1 (optimal ones); got {effort!r}")
        slots = min(statistics.channels, 2)
        if dead_zone is not None and len(dead_zone) < slots:
            raise InvalidInputError(f"a colour file needs thresholds for luma and chroma; got {len(dead_zone)} set")
        thresholds = [np.full((8, 8), 0.5) if dead_zone is None else dead_zone_thresholds(dead_zone[slot])
                      for slot in range(slots)]  # fmt: skip
        self._thresholds = thresholds
        self._blocks = statistics.blocks
        self._effort = effort
        self.header_bytes = float(HEADER_BYTES[statistics.channels][effort])
        # Frames mix smooth and busy blocks: tails are heavier than a Laplacian's, and the entropy is lower. The ratio
        # of the mean deviation to the standard deviation, 1 for a Laplacian, tells by how much.
        deviation = np.sqrt(statistics.variance)
        tail = math.sqrt(2.0) * statistics.laplace_scale / np.where(deviation > 0, deviation, 1.0)
        self._scale = statistics.laplace_scale * np.sqrt(tail)
        self._scale[:, 0, 0] = deviation[:, 0, 0] / math.sqrt(2.0)  # DC, whatever mean was removed

    def bytes(self, tables: Sequence[QuantTable]) -> float:
        bits = 0.0
        for component, scale in enumerate(self._scale):
            slot = min(component, 1)
            entropy = laplace_entropy(scale, tables[slot].array.astype(np.float64), self._thresholds[slot])
            bits += float(entropy.sum()) * int(self._blocks[component])
        scan = SCAN_BYTES_PER_ENTROPY_BYTE[self._effort] * bits / 8.0
        return self.header_bytes + scan + SCAN_BYTES_PER_BLOCK[self._effort] * int(self._blocks.sum())


def _binary_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p log2 p - (1 - p) log2(1 - p) for p in (0, 1]."""
    rest = 1.0 - p
    safe = np.where(rest > 0, rest, 1.0)
    return np.asarray(-(p * np.log2(p) + rest * np.log2(safe)))
