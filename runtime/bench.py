"""Times encoders against each other, in the terms of TensorRT's trtexec.

>>> from edgejpeg.runtime.bench import Settings, measure, summarise

Every encoder gets every frame in turn, in one run: what disturbs the machine disturbs all of them. At each turn each
encoder has another frame, so that none finds its own in the cache because the one before it has just read it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError

Image = NDArray[np.uint8]
Encode = Callable[[Image], bytes]

# trtexec's defaults.
WARM_UP_MS, DURATION_S, ITERATIONS, PERCENTILES = 200.0, 3.0, 10, (90.0, 95.0, 99.0)


@dataclass(frozen=True)
class Settings:
    """How long to measure, in trtexec's terms.

    Attributes:
        warm_up_ms: milliseconds of encoding before the measurement; each encoder gets one frame at least.
        duration_s: seconds of measurement at least.
        iterations: turns at least. A measurement ends with a whole rotation of the frames.
        percentiles: percentiles of the time per frame to report, 0 to 100.

    Raises:
        InvalidInputError: a number outside what is allowed.
    """

    warm_up_ms: float = WARM_UP_MS
    duration_s: float = DURATION_S
    iterations: int = ITERATIONS
    percentiles: tuple[float, ...] = PERCENTILES

    def __post_init__(self) -> None:
        for name in ("warm_up_ms", "duration_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InvalidInputError(f"{name} is {value}; it is a finite number from 0 on")
        if self.iterations < 1:
            raise InvalidInputError(f"iterations is {self.iterations}; it is at least 1")
        for value in self.percentiles:
            if not 0 <= value <= 100:
                raise InvalidInputError(f"percentile {value} is outside 0 to 100")


@dataclass
class Measurement:
    """What one encoder did.

    Attributes:
        milliseconds: per call, in order.
        bytes_per_frame: the size of each frame's file, in the order of the frames.
    """

    milliseconds: list[float] = field(default_factory=list)
    bytes_per_frame: list[int] = field(default_factory=list)

    def rotations(self) -> list[float]:
        """Milliseconds for all frames, once per rotation."""
        count = len(self.bytes_per_frame)
        return [sum(self.milliseconds[at : at + count]) for at in range(0, len(self.milliseconds), count)]


def measure(
    encoders: Sequence[Encode],
    frames: Sequence[Image],
    settings: Settings,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[Measurement]:
    """Time the encoders on the frames, interleaved.

    At turn t, encoder e of E gets frame (t + e * F // E) mod F of F frames.

    Args:
        encoders: functions from a frame to a file; each is called with every frame equally often.
        frames: at least one, of any sizes.
        settings: how long.
        clock: nanoseconds.

    Raises:
        InvalidInputError: no frame.
    """
    if not frames:
        raise InvalidInputError("there are no frames to encode; give at least one")
    count = len(frames)
    offsets = [number * count // len(encoders) for number in range(len(encoders))]
    start, turn = clock(), 0
    while turn == 0 or clock() - start < settings.warm_up_ms * 1e6:
        for encode, offset in zip(encoders, offsets, strict=True):
            encode(frames[(turn + offset) % count])
        turn += 1
    results = [Measurement(bytes_per_frame=[0] * count) for _ in encoders]
    start, turn = clock(), 0
    while turn % count or turn < settings.iterations or clock() - start < settings.duration_s * 1e9:
        for encode, offset, result in zip(encoders, offsets, results, strict=True):
            index = (turn + offset) % count
            frame = frames[index]
            begin = clock()
            data = encode(frame)
            result.milliseconds.append((clock() - begin) / 1e6)
            result.bytes_per_frame[index] = len(data)
        turn += 1
    return results


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile, as trtexec has it: of n sorted values the one at rank ceil(percent / 100 * n).

    The rank is computed exactly: the 99th percentile of 100 values is the second largest.

    Raises:
        InvalidInputError: no values, or ``percent`` outside 0 to 100.
    """
    if not values or not 0 <= percent <= 100:
        raise InvalidInputError(f"percentile {percent} of {len(values)} values; it is 0 to 100, of at least one value")
    rank = math.ceil(Fraction(repr(float(percent))) * len(values) / 100)
    return sorted(values)[max(rank, 1) - 1]


def summarise(measurement: Measurement, frames: Sequence[Image], percentiles: Sequence[float]) -> dict[str, Any]:
    """The figures of one encoder, for JSON.

    Returns:
        ``encodes``, ``frames_per_second`` and ``megapixels_per_second`` (both over the encoder's own time),
        ``latency_ms`` with ``min``, ``max``, ``mean``, ``median`` and ``percentiles`` (by their number as text),
        ``bytes_per_frame`` and ``bits_per_pixel`` (means over the frames, each counted once).
    """
    times = measurement.milliseconds
    pixels = [frame.shape[0] * frame.shape[1] for frame in frames]
    rotation = statistics.fmean(measurement.rotations())
    size = sum(measurement.bytes_per_frame)
    return {
        "encodes": len(times),
        "frames_per_second": 1e3 * len(frames) / rotation,
        "megapixels_per_second": sum(pixels) / rotation / 1e3,
        "latency_ms": {
            "min": min(times),
            "max": max(times),
            "mean": statistics.fmean(times),
            "median": statistics.median(times),
            "percentiles": {f"{percent:g}": percentile(times, percent) for percent in percentiles},
        },
        "bytes_per_frame": size / len(frames),
        "bits_per_pixel": 8 * size / sum(pixels),
    }


def measure_stages(
    encode: Callable[[Image], Mapping[str, float]], frames: Sequence[Image], rounds: int
) -> dict[str, float]:
    """Milliseconds of each stage of an encoder, the mean over the frames of the median over the rounds.

    Args:
        encode: encodes a frame and gives the time of its stages, as :attr:`edgejpeg.Encoder.last` has it. An encoder of
            its own, since taking the time takes some.
        frames: at least one.
        rounds: over all frames, at least one; one more warms up.
    """
    for frame in frames:
        encode(frame)
    times = [[encode(frame) for frame in frames] for _ in range(rounds)]
    return {
        stage: statistics.fmean(statistics.median(taken[at][stage] for taken in times) for at in range(len(frames)))
        for stage in times[0][0]
    }


def compare(ours: Measurement, theirs: Measurement) -> dict[str, float]:
    """Our time and bytes as parts of theirs.

    Returns:
        ``time``: the median over the rotations of the ratio of the times for all frames; ``bytes``: the ratio of the
        bytes of all frames.
    """
    ratios = [own / other for own, other in zip(ours.rotations(), theirs.rotations(), strict=True)]
    return {
        "time": statistics.median(ratios),
        "bytes": sum(ours.bytes_per_frame) / sum(theirs.bytes_per_frame),
    }


def nearest_quality(size_at: Callable[[int], int], target: int) -> int:
    """The quality, 1 to 100, at which an encoder's bytes come nearest to a target.

    Args:
        size_at: bytes at a quality; they grow with it.
        target: bytes.
    """
    low, high = 1, 100
    sizes: dict[int, int] = {}

    def size(quality: int) -> int:
        if quality not in sizes:
            sizes[quality] = size_at(quality)
        return sizes[quality]

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < target else (low, middle)
    return min((low, high), key=lambda quality: abs(size(quality) - target))
