"""The search behind learned tables: least KL at a given rate, over log q and a zeroing threshold for every frequency.

A common factor on all steps is the handle on the rate, so the search walks on the surface of the wanted rate. With
a = sum dKL / d log q and b = sum dR / d log q, the change of KL along the surface is that of KL + mu R with
mu = -a / b: the weight of the rate needs no sweep, it follows from the target. What drift is left is taken out after
every step by the factor itself. The result is the mean of the second half of the walk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import ModelError
from edgejpeg.learn.dead_zone import dead_zone_quantize
from edgejpeg.learn.entropy import KERNEL_HALF_WIDTH, file_bytes
from edgejpeg.learn.transform import rgb_from_coefficients

PARAMETERS = 4 * 64
"""log q of luma and chroma, thresholds of luma and chroma; each row-major."""

STEP_RATE, THRESHOLD_RATE = 0.1, 0.03
_FIRST, _SECOND = 0.9, 0.99  # Adam's decays
_SMOOTHING = 0.95  # of the slopes a and b
_GAIN = 0.3  # of the control of the rate
_LAST_RATE = 0.1  # the learning rate falls to this part
_CONTROL = 4  # a, b, their weight; the target
_HARD = 1e-6  # half width of a ramp that is a jump

State = NDArray[np.float64]


class Problem:
    """What is compressed, for whom: coefficients, clean predictions, the network.

    Args:
        model: the network, frozen, on the device to compute on.
        images: ``(N, 3, H, W)`` uint8.
        coefficients: Y, Cb, Cr of all images, each ``(N, rows, columns, 8, 8)`` float32, as the encoder has them.
        mean, std: of R, G, B in 0..255.
        subsampling, effort: of the files.
        batch_size: images that the network sees at once.
    """

    def __init__(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        coefficients: Sequence[Tensor],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        subsampling: str,
        effort: int,
        batch_size: int,
    ) -> None:
        parameter = next(model.parameters(), torch.zeros(()))
        self.model, self.coefficients = model, coefficients
        self.device, self.dtype = parameter.device, parameter.dtype
        self.mean = torch.tensor(mean, dtype=self.dtype, device=self.device)[:, None, None]
        self.std = torch.tensor(std, dtype=self.dtype, device=self.device)[:, None, None]
        self.size = (images.shape[2], images.shape[3])
        self.subsampling, self.effort = subsampling, effort
        self.batch_size = min(batch_size, len(images))
        with torch.no_grad():
            parts = [self._log_probabilities(torch.from_numpy(part)) for part in self._parts(images)]
        self.targets = torch.cat(parts)

    def mean_divergence(self, parameters: State) -> float:
        """Mean KL over all images with the parameters rounded to integer tables and the encoder's own quantiser."""
        steps, thresholds = self._tables(torch.from_numpy(parameters))
        with torch.no_grad():
            parts = [
                self.divergence(torch.from_numpy(part), steps.round(), thresholds, half_width=_HARD)
                for part in self._parts(np.arange(self.count))
            ]
        return float(torch.cat(parts).double().mean())

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.targets)

    def divergence(
        self, index: Tensor, steps: Tensor, thresholds: Tensor, half_width: float = KERNEL_HALF_WIDTH
    ) -> Tensor:
        """KL(clean || compressed) of each image in nats, through the decoder's rounding and clamping.

        Args:
            index: (n,) which images.
            steps, thresholds: (2, 8, 8), luma and chroma.
            half_width: of the ramp at the threshold.
        """
        decoded = [
            dead_zone_quantize(plane, steps[min(i, 1)], thresholds[min(i, 1)], half_width=half_width)
            for i, plane in enumerate(self._coefficients(index))
        ]
        rgb = rgb_from_coefficients(decoded, self.subsampling, self.size)
        rgb = rgb + (rgb.detach().round().clamp(0, 255) - rgb.detach())
        return F.kl_div(self._log_probabilities(rgb), self.targets[index], reduction="none", log_target=True).sum(1)

    def bits_per_pixel(self, index: Tensor, steps: Tensor, thresholds: Tensor) -> Tensor:
        """The estimated rate of each image, headers included."""
        levels = [plane / steps[min(i, 1)] for i, plane in enumerate(self._coefficients(index))]
        size = file_bytes(
            levels, self.size, self.subsampling, thresholds=list(thresholds), effort=self.effort, steps=list(steps)
        )
        return size * (8 / (self.size[0] * self.size[1]))

    def rates(self, parameters: State, index: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """The estimated rate of every image, or of some."""
        steps, thresholds = self._tables(torch.from_numpy(parameters))
        with torch.no_grad():
            parts = [
                self.bits_per_pixel(torch.from_numpy(part), steps, thresholds)
                for part in self._parts(np.arange(self.count) if index is None else index)
            ]
        return torch.cat(parts).double().cpu().numpy()

    def slopes(self, index: Tensor, parameters: State) -> tuple[float, NDArray[np.float64], State, State]:
        """Mean KL, each image's rate, and the gradients of the mean KL and of the mean rate by the parameters."""
        leaf = torch.from_numpy(parameters).requires_grad_()
        steps, thresholds = self._tables(leaf)
        divergence = self.divergence(index, steps, thresholds).mean()
        rates = self.bits_per_pixel(index, steps, thresholds)
        if not bool(torch.isfinite(divergence)):
            raise ModelError("the network's output on compressed images is NaN or infinite; check its weights")
        by_parameter = [
            torch.autograd.grad(value, leaf, retain_graph=keep)[0].numpy()
            for value, keep in ((divergence, True), (rates.mean(), False))
        ]
        return divergence.item(), rates.detach().double().cpu().numpy(), by_parameter[0], by_parameter[1]

    def _tables(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        pairs = parameters.view(2, 2, 8, 8).to(self.device, torch.float32)
        return pairs[0].exp(), pairs[1]

    def _coefficients(self, index: Tensor) -> list[Tensor]:
        return [plane[index].to(self.device) for plane in self.coefficients]

    def _parts(self, array: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        return [array[first : first + self.batch_size] for first in range(0, len(array), self.batch_size)]

    def _log_probabilities(self, rgb: Tensor) -> Tensor:
        inputs = (rgb.to(self.device, self.dtype) - self.mean) / self.std
        logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"learned tables need a network that gives (N, classes) logits; it gave {shape}")
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(
                "the network's logits are NaN or infinite; check its weights, and the images' mean and std"
            )
        return logits.log_softmax(1)


@dataclass
class Walk:
    """One level's search: all that it knows is in one array of float64, which can be stored and continued.

    Attributes:
        state: :meth:`width` numbers: parameters, Adam's two moments, the sum over the second half, control, and the
            rates of all images at the start.
        steps: the length of the walk.
    """

    state: State
    steps: int

    @staticmethod
    def width(images: int) -> int:
        """The length of the state."""
        return 4 * PARAMETERS + _CONTROL + images

    @classmethod
    def begin(cls, problem: Problem, parameters: State, target: float, steps: int) -> Walk:
        """Start from tables of any rate: their common factor is changed until the estimate meets the target.

        Args:
            target: the wanted mean of the estimated rate, bits per pixel.
        """
        walk = cls(np.zeros(cls.width(problem.count)), steps)
        walk.control[3] = target
        low, high = -math.log(255.0), math.log(255.0)
        sample = np.linspace(0, problem.count - 1, min(problem.count, 64)).astype(np.int64)
        for _ in range(12):
            middle = (low + high) / 2
            rate = problem.rates(shifted(parameters, middle), sample).mean()
            low, high = (middle, high) if rate > target else (low, middle)
        walk.parameters[:] = shifted(parameters, (low + high) / 2)
        walk.start_rates[:] = problem.rates(walk.parameters)
        return walk

    @property
    def parameters(self) -> State:
        """Where the walk is; a view."""
        return self._part(0)

    @property
    def start_rates(self) -> NDArray[np.float64]:
        """The estimated rate of each image at the start; a view."""
        return self.state[4 * PARAMETERS + _CONTROL :]

    @property
    def control(self) -> NDArray[np.float64]:
        """The smoothed slopes a and b, their weight, and the target; a view."""
        return self.state[4 * PARAMETERS : 4 * PARAMETERS + _CONTROL]

    def step(self, problem: Problem, number: int, index: NDArray[np.int64]) -> tuple[float, float]:
        """One step on the images of ``index``; returns their mean KL and the estimated mean rate of all images."""
        parameters, first, second, total = (self._part(i) for i in range(4))
        control, target = self.control, self.control[3]
        divergence, rates, by_kl, by_rate = problem.slopes(torch.from_numpy(index), parameters)
        # How the batch's rate moved since the start says how all images' rate moved, whatever images these are.
        rate = float(rates.sum() / self.start_rates[index].sum() * self.start_rates.mean())
        weights = np.array([by_kl[: PARAMETERS // 2].sum(), by_rate[: PARAMETERS // 2].sum(), 1.0])
        control[:3] = _SMOOTHING * control[:3] + (1 - _SMOOTHING) * weights
        rate_slope = min(control[1] / control[2], -1e-3 * target)
        weight = max(0.0, -control[0] / control[2] / rate_slope)
        gradient = by_kl + weight * by_rate
        first[:] = _FIRST * first + (1 - _FIRST) * gradient
        second[:] = _SECOND * second + (1 - _SECOND) * gradient**2
        progress = number / self.steps
        scale = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2
        move = first / (1 - _FIRST ** (number + 1)) / (np.sqrt(second / (1 - _SECOND ** (number + 1))) + 1e-12)
        parameters[: PARAMETERS // 2] -= STEP_RATE * scale * move[: PARAMETERS // 2]
        parameters[PARAMETERS // 2 :] -= THRESHOLD_RATE * scale * move[PARAMETERS // 2 :]
        parameters[: PARAMETERS // 2] += np.clip(_GAIN * (rate - target) / -rate_slope, -0.1, 0.1)
        parameters[:] = shifted(parameters, 0.0)
        if number >= self.steps // 2:
            total += parameters
        return divergence, rate

    def result(self) -> State:
        """The mean of the parameters over the second half."""
        return self._part(3) / (self.steps - self.steps // 2)

    def _part(self, number: int) -> State:
        return self.state[number * PARAMETERS : (number + 1) * PARAMETERS]


def shifted(parameters: State, log_factor: float) -> State:
    """All steps times a factor, kept within what a file and an encoder hold: q in 1..255, t in .5..1, DC's t .5."""
    pairs = parameters.reshape(2, 2, 64).copy()
    pairs[0] = np.clip(pairs[0] + log_factor, 0.0, math.log(255.0))
    pairs[1] = np.clip(pairs[1], 0.5, 1.0)
    pairs[1, :, 0] = 0.5
    return pairs.reshape(-1)
