"""What tables are learned on: images as coefficients, the network's answers to them, and the slopes of both by tables.

What the search descends is the squared error of the network's logits, the mean over the classes taken out of both. Its
minimum is near that of the KL, which is a quadratic form of the same errors, and a quarter of the images shows it as
well: a KL comes from the few classes and the few images that are in doubt, this from all of them. The slopes are those
of every image apart, so that the search knows how far to trust their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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

_HARD = 1e-6  # half width of a ramp that is a jump

State = NDArray[np.float64]


class Slopes(NamedTuple):
    """Some images at some parameters.

    Attributes:
        error: (n,) float64, the squared error of each image's logits.
        by_parameter: (n, PARAMETERS) float64, its derivatives.
        rates: (n,) float64, bits per pixel.
        rate_by_parameter: (PARAMETERS,) float64, the derivatives of the mean rate.
    """

    error: NDArray[np.float64]
    by_parameter: NDArray[np.float64]
    rates: NDArray[np.float64]
    rate_by_parameter: State


class Problem:
    """What is compressed, for whom: coefficients, answers to the clean images, the network.

    Args:
        model: the network, frozen, on the device to compute on.
        images: ``(N, 3, H, W)`` uint8.
        coefficients: Y, Cb, Cr of all images, each ``(N, rows, columns, 8, 8)`` float32, as the encoder has them.
        mean, std: of R, G, B in 0..255.
        subsampling, effort: of the files.
        batch_size: images that the network sees at once.
        bfloat16: whether slopes come from the network under bfloat16 autocast; answers to clean images, and
            :meth:`mean_divergence`, never do.
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
        bfloat16: bool = False,
    ) -> None:
        parameter = next(model.parameters(), torch.zeros(()))
        self.model, self.coefficients = model, coefficients
        self.device, self.dtype = parameter.device, parameter.dtype
        self.mean = torch.tensor(mean, dtype=self.dtype, device=self.device)[:, None, None]
        self.std = torch.tensor(std, dtype=self.dtype, device=self.device)[:, None, None]
        self.size = (images.shape[2], images.shape[3])
        self.subsampling, self.effort = subsampling, effort
        self.batch_size, self.bfloat16 = min(batch_size, len(images)), bfloat16
        with torch.no_grad():
            parts = [self._logits(torch.from_numpy(part)) for part in self._parts(images)]
        self.targets = torch.cat(parts)

    def mean_divergence(self, parameters: State) -> float:
        """Mean KL over all images with the parameters rounded to integer tables and the encoder's own quantiser."""
        steps, thresholds = self._tables(torch.from_numpy(parameters))
        with torch.no_grad():
            parts = [
                self.logits(torch.from_numpy(part), steps.round(), thresholds, half_width=_HARD)
                for part in self._parts(np.arange(self.count))
            ]
        clean, compressed = (logits.double().log_softmax(1) for logits in (self.targets, torch.cat(parts)))
        return float(F.kl_div(compressed, clean, reduction="none", log_target=True).sum(1).mean())

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.targets)

    def logits(self, index: Tensor, steps: Tensor, thresholds: Tensor, half_width: float = KERNEL_HALF_WIDTH) -> Tensor:
        """What the network answers on decoded files, through the decoder's rounding and clamping, (n, classes).

        Args:
            index: (n,) which images.
            steps, thresholds: (2, 8, 8), luma and chroma; or (2, n, 1, 1, 8, 8), each image's own.
            half_width: of the ramp at the threshold.
        """
        decoded = [
            dead_zone_quantize(plane, steps[min(i, 1)], thresholds[min(i, 1)], half_width=half_width)
            for i, plane in enumerate(self._coefficients(index))
        ]
        rgb = rgb_from_coefficients(decoded, self.subsampling, self.size)
        return self._logits(rgb + (rgb.detach().round().clamp(0, 255) - rgb.detach()))

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
        return _numpy(torch.cat(parts))

    def slopes(self, index: NDArray[np.int64], parameters: State) -> Slopes:
        """The error of the logits and the rate of some images, and their derivatives by the parameters."""
        which = torch.from_numpy(index)
        own = torch.from_numpy(parameters).repeat(len(index), 1).requires_grad_()
        steps, thresholds = self._tables(own)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            logits = self.logits(which, steps, thresholds)
        error = (logits - self.targets[which]).square().mean(1)
        (by_parameter,) = torch.autograd.grad(error.sum(), own)
        leaf = torch.from_numpy(parameters).requires_grad_()
        rates = self.bits_per_pixel(which, *self._tables(leaf))
        (rate_by_parameter,) = torch.autograd.grad(rates.mean(), leaf)
        return Slopes(_numpy(error), by_parameter.numpy(), _numpy(rates), rate_by_parameter.numpy())

    def _tables(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Steps and thresholds of (PARAMETERS,) or, each image's own, of (n, PARAMETERS)."""
        shape = (2, 2, 8, 8) if parameters.ndim == 1 else (-1, 2, 2, 1, 1, 8, 8)
        pairs = parameters.view(shape).to(self.device, torch.float32)
        if parameters.ndim > 1:
            pairs = pairs.movedim(0, 2)
        return pairs[0].exp(), pairs[1]

    def _coefficients(self, index: Tensor) -> list[Tensor]:
        return [plane[index].to(self.device) for plane in self.coefficients]

    def _parts(self, array: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        return [array[first : first + self.batch_size] for first in range(0, len(array), self.batch_size)]

    def _logits(self, rgb: Tensor) -> Tensor:
        inputs = (rgb.to(self.device, self.dtype) - self.mean) / self.std
        logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"learned tables need a network that gives (N, classes) logits; it gave {shape}")
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(
                "the network's logits are NaN or infinite; check its weights, and the images' mean and std"
            )
        logits = logits.to(self.dtype)
        return logits - logits.mean(1, keepdim=True)


def _numpy(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()
