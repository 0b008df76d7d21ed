"""Quantization tables learned for a frozen network, without labels: the least change of its output at a given rate.

For every frequency of luma and chroma a step q and a zeroing threshold t are learned, so that the logits of a network
change least over a few hundred images at a mean rate in bits per pixel: the layer of JPEG-DL (Salamah, Zheng, Liu,
Yang, "JPEG inspired deep learning") with the network held still, the encoder's own quantiser, the decoder's rounding
and clamping, and a rate that counts the bits of real files. What comes out are integers in 1..255 and thresholds in
.5..1, at the wanted rate by the real bytes of the encoder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.jpeg.reference import component_blocks
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.learn.checkpoint import Checkpoint
from edgejpeg.learn.frozen import frozen, weights_digest
from edgejpeg.learn.table_problem import PARAMETERS, Problem, State
from edgejpeg.learn.table_search import Walk, shifted
from edgejpeg.learn.transform import chroma_factors
from edgejpeg.profile import DeadZone, Level, Profile

MAX_LEVELS = 16
TOLERANCE = 0.02
"""How far the real mean rate may end from the target, as a part of it."""

_FIRST_QUALITY, _FIRST_THRESHOLD = 50, 0.55  # where the search starts
_SAVE_EVERY = 10  # steps
_BISECTIONS = 16
_SMALL_BIAS = 0.01  # of the estimated rate

MakeEncoder = Callable[[Profile], Callable[[NDArray[np.uint8]], bytes]]
"""From a profile to a function from ``(H, W, 3)`` uint8 RGB to a file, such as that of ``edgejpeg.Encoder``."""


@dataclass(frozen=True)
class LearnedTables:
    """The levels learned for a network.

    Attributes:
        levels: tables, thresholds and real mean rates on the images learned from, in the order of rising rates.
        divergences: for each level, the mean KL(clean || compressed) in nats on the images learned from.
        subsampling, effort: of the files that the rates are of.
        images: the number of images.
    """

    levels: tuple[Level, ...]
    divergences: tuple[float, ...]
    subsampling: str
    effort: int
    images: int

    def profile(self, name: str, provenance: Mapping[str, Any] | None = None) -> Profile:
        """One level as a fixed profile, several as a ladder."""
        if len(self.levels) > 1:
            return Profile.ladder(
                name=name,
                levels=self.levels,
                subsampling=self.subsampling,
                effort=self.effort,
                provenance=provenance,
            )
        return _fixed(name, self.levels[0], self.subsampling, self.effort, provenance)


def learn_tables(
    model: nn.Module,
    images: NDArray[np.uint8],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    rates: Sequence[float],
    make_encoder: MakeEncoder,
    subsampling: str = "420",
    effort: int = 1,
    steps: int = 120,
    batch_size: int = 20,
    seed: int = 0,
    bfloat16: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    configuration: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, float, float], None] | None = None,
) -> LearnedTables:
    """Learn tables and thresholds for each wanted rate, the highest first; the others start from the one above.

    The network runs in eval mode without weight gradients and is left as it was. All images' coefficients are kept in
    memory, 300 kB for one of 224 x 224 at 4:2:0.

    Args:
        model: a network that gives ``(N, classes)`` logits, float32 or float64, on the device to compute on.
        images: ``(N, 3, H, W)`` uint8 RGB of the network's input size; some hundreds like those it will see.
        mean, std: of R, G, B in 0..255.
        rates: mean bits per pixel of whole files on these images, rising, 1 to 16 of them.
        make_encoder: gives the files whose bytes count.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        effort: 0 for stored Huffman tables, 1 for tables made for each file.
        steps: steps of the search for each level; that of the highest rate takes twice as many.
        batch_size: images in a step.
        seed: of the order of the images.
        bfloat16: take the slopes under bfloat16 autocast: faster on devices that have it, and slower on others.
        checkpoint: a file to write every ten steps, and, with ``resume``, to continue from when it exists. The result
            is that of an uninterrupted run.
        configuration: plain values that a checkpoint must share beside this function's own.
        progress: called after every step with (level, steps done in it, mean squared error of the step's logits,
            estimated mean rate).

    Raises:
        InvalidInputError: an option outside what is allowed, a rate out of reach (the message has the range), a
            checkpoint of another configuration.
        DataError: no images.
        ModelError: the network gives no logits, or NaN.
    """
    _check(images, rates, subsampling, effort, steps, batch_size, seed)
    run = _Run(model, images, mean, std, [float(rate) for rate in rates], make_encoder, subsampling, effort)
    run.check_reach()
    state = np.zeros(2 + Walk.width(len(images)) + len(rates) * (PARAMETERS + 2))
    store = None
    if checkpoint is not None:
        own = {
            "weights": weights_digest(model),
            "images": hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
            "rates": run.rates,
            "subsampling": subsampling,
            "effort": effort,
            "steps": steps,
            "batch_size": batch_size,
            "seed": seed,
            "bfloat16": bfloat16,
        }
        store = Checkpoint(Path(checkpoint), {**own, **(configuration or {})})
        if resume:
            state = store.load(state)
    walking = state[2 : 2 + Walk.width(len(images))]
    finished = state[2 + Walk.width(len(images)) :].reshape(len(rates), PARAMETERS + 2)
    with frozen(model):
        problem = Problem(model, images, run.coefficients(), mean, std, subsampling, effort, batch_size, bfloat16)
        for done in range(int(state[0]), len(rates)):
            # From the highest rate down: what is zeroed says little about what it would be good for.
            level = len(rates) - 1 - done
            length = steps if done else 2 * steps
            if state[1] == 0:
                start = finished[level + 1, :PARAMETERS] if done else _start()
                known = Walk(walking, length).covariance if done else None
                walking[:] = run.begin(problem, start, known, run.rates[level], length).state
            walk = Walk(walking, length)
            for number in range(int(state[1]), length):
                index = _batch(problem, seed, level, number)
                error, rate = walk.step(problem, number, index)
                state[1] = number + 1
                if store is not None and (number + 1) % _SAVE_EVERY == 0:
                    store.save(state)
                if progress is not None:
                    progress(level, number + 1, error, rate)
            parameters, rate = run.meet(walk.parameters, level)
            finished[level] = [*parameters, rate, problem.mean_divergence(parameters)]
            state[:2] = done + 1, 0
            if store is not None:
                store.save(state)
    return LearnedTables(
        levels=tuple(_level(entry[:PARAMETERS], float(entry[PARAMETERS])) for entry in finished),
        divergences=tuple(float(entry[PARAMETERS + 1]) for entry in finished),
        subsampling=subsampling,
        effort=effort,
        images=len(images),
    )


class _Run:
    """The images as files: their coefficients, and their real rate with given tables."""

    def __init__(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        rates: list[float],
        make_encoder: MakeEncoder,
        subsampling: str,
        effort: int,
    ) -> None:
        self.images = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in images]
        self.rates, self.make_encoder, self.subsampling, self.effort = rates, make_encoder, subsampling, effort
        self.pixels = images.shape[0] * images.shape[2] * images.shape[3]

    def coefficients(self) -> list[torch.Tensor]:
        """Y, Cb, Cr as the encoder has them before it quantises, ``(N, rows, columns, 8, 8)`` float32."""
        blocks = [component_blocks(image, self.subsampling) for image in self.images]
        return [
            torch.from_numpy(np.stack([image[component].astype(np.float32) for image in blocks]))
            for component in range(3)
        ]

    def real_rate(self, level: Level) -> float:
        """Mean bits per pixel of the files of all images."""
        encode = self.make_encoder(_fixed("learning", level, self.subsampling, self.effort))
        return sum(len(encode(image)) for image in self.images) * 8 / self.pixels

    def check_reach(self) -> None:
        """Refuse rates that no tables give on these images."""
        low, high = (
            self.real_rate(Level(1.0, QuantTable(flat), QuantTable(flat)))
            for flat in (np.full((8, 8), 255), np.ones((8, 8), int))
        )
        for rate in self.rates:
            if not low <= rate <= high:
                raise InvalidInputError(
                    f"a rate of {rate:g} bpp is out of reach: with these images, tables of 255 give {low:.3g} bpp and "
                    f"tables of 1 give {high:.3g}; ask for a rate between"
                )

    def begin(self, problem: Problem, parameters: State, known: State | None, rate: float, steps: int) -> Walk:
        """The walk to a real rate: what the estimate is off by at its start is taken into its target."""
        walk = Walk.begin(problem, parameters, rate, steps, known)
        bias = self.real_rate(_level(walk.parameters, 1.0)) / float(walk.start_rates.mean())
        return walk if abs(bias - 1) < _SMALL_BIAS else Walk.begin(problem, parameters, rate / bias, steps, known)

    def meet(self, parameters: State, number: int) -> tuple[State, float]:
        """The parameters with the common factor on the steps that gives the wanted rate in integers, and that rate."""
        target = self.rates[number]
        floor = self.rates[number - 1] * (1 + TOLERANCE) if number else 0.0
        low, high = -math.log(255.0), math.log(255.0)
        best, best_rate = parameters, math.inf
        for attempt in range(_BISECTIONS):
            middle = (low + high) / 2 if attempt else 0.0
            scaled = shifted(parameters, middle)
            rate = self.real_rate(_level(scaled, 1.0))
            if abs(rate - target) < abs(best_rate - target):
                best, best_rate = scaled, rate
            if abs(rate - target) < 1e-3 * target:
                break
            low, high = (middle, high) if rate > target else (low, middle)
        if abs(best_rate - target) > TOLERANCE * target or best_rate <= floor * (1 - TOLERANCE):
            raise InvalidInputError(
                f"the tables learned for {target:g} bpp come no nearer to it than {best_rate:.4g} bpp in integers; "
                "ask for rates further apart, or less extreme ones"
            )
        return best, best_rate


def _check(
    images: NDArray[np.uint8],
    rates: Sequence[float],
    subsampling: str,
    effort: int,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    chroma_factors(subsampling)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise InvalidInputError(f"images are (N, 3, H, W), uint8; got {images.shape} {images.dtype}")
    if not images.size:
        raise DataError("no images to learn tables from; every file was skipped, or the data is empty")
    if not 1 <= len(rates) <= MAX_LEVELS:
        raise InvalidInputError(f"a profile has 1 to {MAX_LEVELS} levels; got {len(rates)} rates")
    for before, rate in zip([0.0, *rates], rates, strict=False):
        if not 0 < rate < math.inf:
            raise InvalidInputError(f"a rate is a positive, finite number of bits per pixel; got {rate}")
        if not rate > before * (1 + 2 * TOLERANCE):
            raise InvalidInputError(
                f"rates rise by at least {2 * TOLERANCE:.0%} from level to level; got {rate:g} after {before:g}"
            )
    if effort not in (0, 1):
        raise InvalidInputError(f"effort is 0 (stored Huffman tables) or 1 (optimal ones); got {effort!r}")
    if steps < 2 or batch_size < 1 or seed < 0:
        raise InvalidInputError(f"steps are at least 2, batch_size 1 and seed 0; got {steps}, {batch_size} and {seed}")


def _start() -> State:
    """Where the search begins: the IJG's tables, and thresholds a little above rounding."""
    tables = np.stack([np.asarray(table, dtype=np.float64) for table in ijg_tables(_FIRST_QUALITY)])
    return shifted(np.concatenate([np.log(tables).ravel(), np.full(2 * 64, _FIRST_THRESHOLD)]), 0.0)


def _batch(problem: Problem, seed: int, level: int, number: int) -> NDArray[np.int64]:
    """The images of a step: every epoch of a level has an order of its own, a function of the seed."""
    epoch, place = divmod(number, problem.count // problem.batch_size)
    order = np.random.default_rng([seed, level, epoch]).permutation(problem.count)
    return np.sort(order[place * problem.batch_size : (place + 1) * problem.batch_size])


def _level(parameters: State, rate: float) -> Level:
    """The integer tables and thresholds that parameters stand for."""
    pairs = parameters.reshape(2, 2, 8, 8)
    luma, chroma = (QuantTable(np.exp(steps).round().clip(1, 255).astype(np.int64)) for steps in pairs[0])
    return Level(rate, luma, chroma, DeadZone(*(thresholds.round(4) for thresholds in pairs[1])))


def _fixed(
    name: str, level: Level, subsampling: str, effort: int, provenance: Mapping[str, Any] | None = None
) -> Profile:
    return Profile.fixed(
        name=name,
        luma=level.luma,
        chroma=level.chroma,
        dead_zone=level.dead_zone,
        subsampling=subsampling,
        effort=effort,
        provenance=provenance,
    )
