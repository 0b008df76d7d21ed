"""The bytes of a JPEG layer's files as a term of the loss: with a weight, or held at a rate while the tables learn.

What is added is the size that :func:`~edgejpeg.learn.entropy.file_bytes` counts for the images of the step, in bits per
pixel, differentiable in the tables: weight x bpp, or, with a target, mu log(bpp). The target is held in two ways at
once. After every step of the optimiser a common factor on all steps of the tables takes out what the rate is off, so
that the tables walk on the surface of the wanted rate, whatever the optimiser and its learning rate are. And mu, the
multiplier of the constraint, rises while the optimiser pulls towards more bytes and falls while it pulls towards fewer
(dual ascent on log mu): where the two balance, no table of this rate has a smaller loss nearby.

The rate of a batch is noisy. What is controlled is an estimate that follows the tables' own changes through the
gradient of log(bpp), and the measurements slowly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.entropy import file_bytes
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.planes import encode_planes
from edgejpeg.learn.transform import blocks_from_planes

_FIRST_WEIGHT = 0.01  # mu, the loss per unit of log(bpp)
_DUAL_RATE = 0.05  # of log mu per step, at most
_TRUST = 0.1  # of a batch's rate in the estimate
_SMOOTHING = 0.9  # of the optimiser's pull
_GAIN = 0.3  # of what the rate is off, taken out per step
_LARGEST_FACTOR = 0.2  # the logarithm of all steps' common factor
_UNREACHABLE = 0.05


class RateTerm:
    """A term of the loss for the size of the files.

    >>> rate = RateTerm(target_bpp=2.0)
    >>> loss = task_loss + rate(layer, images)        # images: what goes into the layer, in 0..255
    >>> loss.backward(); optimizer.step(); rate.step()

    With several processes each calls it for its own images; the controllers agree by one small sum per step.

    Args:
        weight: the loss per bit per pixel, at least 0.
        target_bpp: in the place of a weight: the mean bits per pixel of whole files, headers included, to be held.
        effort: entropy coding of the files: 0 for stored Huffman tables, 1 for optimal ones.
        images: of a batch at most so many are counted, its first ones; None for all.

    Attributes:
        last: ``bpp``, the mean of the last batch, and ``weight``, the loss per bit per pixel.

    Raises:
        InvalidInputError: both or neither of weight and target, or a value out of range.
    """

    def __init__(
        self,
        *,
        weight: float | None = None,
        target_bpp: float | None = None,
        effort: int = 1,
        images: int | None = None,
    ) -> None:
        if (weight is None) == (target_bpp is None):
            raise InvalidInputError(
                f"a rate term has a weight or a target_bpp, one of them; got {weight!r} and {target_bpp!r}"
            )
        if weight is not None and not _is_number(weight, zero=True):
            raise InvalidInputError(f"the weight of the rate is finite and at least 0; got {weight!r}")
        if target_bpp is not None and not _is_number(target_bpp):
            raise InvalidInputError(f"target_bpp is finite and above 0; got {target_bpp!r}")
        if effort not in (0, 1) or isinstance(effort, bool):
            raise InvalidInputError(f"effort is 0 (stored Huffman tables) or 1 (optimal ones); got {effort!r}")
        if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
            raise InvalidInputError(f"images counted of a batch are at least 1; got {images!r}")
        self.weight, self.target_bpp, self.effort, self.images = weight, target_bpp, effort, images
        self.last: dict[str, float] = {}
        self._log_mu = math.log(_FIRST_WEIGHT)
        self._log_rate: float | None = None  # the estimate that is controlled
        self._pull = self._size_of_pull = 0.0
        self._seen: _Seen | None = None

    def __call__(self, layer: JpegLayer, images: Tensor) -> Tensor:
        """The term to add to the loss: a scalar, differentiable in the layer's tables.

        Args:
            layer: the files' subsampling and tables, as its forward pass has them now; of one round.
            images: (N, 3, H, W) float, in 0..255, N at least 1.

        Raises:
            InvalidInputError: no images, several rounds of tables, or a target with tables that do not learn.
        """
        counted = images if self.images is None else images[: self.images]
        if len(counted) == 0:
            raise InvalidInputError("the rate of a batch needs at least one image; got none")
        rates, luma, chroma = bits_per_pixel(layer, counted, effort=self.effort)
        bpp = rates.mean()
        value = float(bpp.detach())
        if self.target_bpp is None:
            assert self.weight is not None
            self.last = {"bpp": value, "weight": self.weight}
            return self.weight * bpp
        if not (luma.requires_grad and chroma.requires_grad):
            raise InvalidInputError("a target_bpp is held by the layer's tables; make the layer with learn_tables=True")
        by_step = torch.autograd.grad(bpp, (luma, chroma), retain_graph=True)
        by_log_step = torch.stack([g * q.detach() for g, q in zip(by_step, (luma, chroma), strict=True)])
        if self._seen is None or self._seen.layer is not layer:
            self._seen = _Seen(layer)
        self._seen.add(len(counted), value, by_log_step)
        mu = math.exp(self._log_mu)
        self.last = {"bpp": value, "weight": mu / value}
        return mu * bpp.log()

    def step(self) -> None:
        """After the optimiser's step: bring the tables back to the target, and change mu.

        Raises:
            InvalidInputError: all steps are at a bound and the target is still away: no tables meet it.
        """
        seen, self._seen = self._seen, None
        if self.target_bpp is None or seen is None:
            return
        rate, slopes = seen.mean()
        goal, measured = math.log(self.target_bpp), math.log(rate)
        if self._log_rate is None:
            self._log_rate = measured
        self._log_rate += _TRUST * (measured - self._log_rate)
        slopes = slopes / rate
        layer = seen.layer
        # What the optimiser has just done to the rate, and with it the pull on mu.
        pull = float((slopes * (_log_steps(layer) - seen.log_steps)).sum())
        self._log_rate += pull
        self._pull = _SMOOTHING * self._pull + (1 - _SMOOTHING) * pull
        self._size_of_pull = _SMOOTHING * self._size_of_pull + (1 - _SMOOTHING) * abs(pull)
        if self._size_of_pull > 0:
            self._log_mu += _DUAL_RATE * self._pull / self._size_of_pull
        # All of the pull and a part of what was off before it, by the steps that can move.
        wanted = _GAIN * (goal - self._log_rate + pull) - pull
        bound = layer.q_max if wanted < 0 else layer.q_min
        free = (_log_steps(layer) - math.log(bound)).abs() > 1e-6
        factor = wanted / min(float((slopes * free).sum()), -1e-2)
        factor = min(max(factor, -_LARGEST_FACTOR), _LARGEST_FACTOR)
        before = _log_steps(layer)
        with torch.no_grad():
            for parameter in (layer.luma, layer.chroma):
                parameter.clamp_(layer.q_min, layer.q_max).mul_(math.exp(factor)).clamp_(layer.q_min, layer.q_max)
        after = _log_steps(layer)
        self._log_rate += float((slopes * (after - before)).sum())
        away = (measured - goal) * factor > _UNREACHABLE * abs(factor)
        if away and bool(((after - math.log(bound)).abs() < 1e-6).all()):
            raise InvalidInputError(
                f"no tables meet a target of {self.target_bpp:g} bits per pixel: with all steps at {bound:g} the files "
                f"have {rate:.3g}; a file's headers count, too"
            )

    def state_dict(self) -> dict[str, float | None]:
        """What :meth:`load_state_dict` needs to go on: plain values."""
        return {
            "log_mu": self._log_mu,
            "log_rate": self._log_rate,
            "pull": self._pull,
            "size_of_pull": self._size_of_pull,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            InvalidInputError: it is none.
        """
        if set(state) != set(self.state_dict()):
            raise InvalidInputError(
                f"the state of a rate term has {', '.join(self.state_dict())}; got {', '.join(map(str, state))}"
            )
        self._log_mu, self._log_rate = state["log_mu"], state["log_rate"]
        self._pull, self._size_of_pull = state["pull"], state["size_of_pull"]
        self._seen = None


def bits_per_pixel(layer: JpegLayer, images: Tensor, *, effort: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The estimated rate of the files that a layer stands for.

    Args:
        layer: of one round; its tables as its forward pass has them, its subsampling.
        images: (N, 3, H, W) float, in 0..255.
        effort: as in :func:`~edgejpeg.learn.entropy.file_bytes`.

    Returns:
        (N,) bits per pixel of whole files, and the luma and chroma steps, (8, 8), that it is differentiable in.

    Raises:
        InvalidInputError: several rounds of tables, which no single file has.
    """
    luma, chroma = layer.steps()
    size = (images.shape[2], images.shape[3])
    with torch.autocast(images.device.type, enabled=False):
        y, cb_cr = encode_planes(images.detach().float(), layer.subsampling, rounding=bool(layer.encoder_rounding))
        levels = [
            blocks_from_planes(plane.float()) / q
            for plane, q in zip((y, *cb_cr.unbind(1)), (luma, chroma, chroma), strict=True)
        ]
        steps = (luma.detach(), chroma.detach())
        counted = file_bytes(levels, size, layer.subsampling, effort=effort, steps=steps)
        rates = counted * (8 / (size[0] * size[1]))
    return rates, luma, chroma


class _Seen:
    """The batches since the last step: with accumulated gradients, and with several processes, there are several."""

    def __init__(self, layer: JpegLayer) -> None:
        self.layer = layer
        self.log_steps = _log_steps(layer)
        self.count, self.rate = 0, 0.0
        self.slopes = torch.zeros(2, 8, 8, dtype=torch.float64)

    def add(self, count: int, rate: float, slopes: Tensor) -> None:
        self.count += count
        self.rate += count * rate
        self.slopes += count * slopes.detach().double().cpu()

    def mean(self) -> tuple[float, Tensor]:
        """The mean bits per pixel and its derivatives by log q, over all processes."""
        numbers = torch.cat([torch.tensor([self.count, self.rate], dtype=torch.float64), self.slopes.flatten()])
        if dist.is_available() and dist.is_initialized():
            moved = numbers.to(self.layer.luma.device)
            dist.all_reduce(moved)
            numbers = moved.cpu()
        return float(numbers[1] / numbers[0]), (numbers[2:] / numbers[0]).view(2, 8, 8)


def _log_steps(layer: JpegLayer) -> Tensor:
    """(2, 8, 8) float64: the logarithms of the steps within their bounds."""
    steps = torch.stack([layer.luma.detach()[0], layer.chroma.detach()[0]])
    return steps.double().cpu().clamp(layer.q_min, layer.q_max).log()


def _is_number(value: object, *, zero: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < math.inf and (zero or value > 0)
