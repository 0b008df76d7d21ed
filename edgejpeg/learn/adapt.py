"""Adaptation without labels: a network learns to answer on decoded JPEGs as it did on clean images.

A copy of the pretrained network is trained to minimise KL(original(clean) || copy(decoded)), and the distance of its
feature maps from the original's, on random crops of unlabelled images, which go through real JPEG files at rates drawn
from the range that is wanted, with some clean ones among them. Batch norm statistics stay frozen. In the end the
weights are taken from the straight line between the original's and the copy's (Wortsman et al., "Robust fine-tuning of
zero-shot models", CVPR 2022), where held-out images say: a part of the way keeps most of what was learned and forgets
less. Everything random depends on the seed and the step alone, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.learn.crops import Photos, Pixels, random_crop, stacked
from edgejpeg.learn.features import Taps, feature_distance, stage_names
from edgejpeg.learn.held_out import Decode, Figures, HeldOut
from edgejpeg.learn.rates import Encode, RateRange
from edgejpeg.learn.runs import RunFolder

MIXES = (1.0, 0.85, 0.7, 0.5, 0.35, 0.2)
"""Parts of the way from the original weights to the trained ones, of which the held-out images choose one."""

_ADVICE = "the last checkpoint, if any, is good: try a lower --lr in another folder"


_NOT_OF_THE_STEPS = ("workers", "checkpoint_every", "clean_limit")


@dataclass(frozen=True)
class AdaptOptions:
    """How to adapt.

    Attributes:
        epochs: passes over the images, each with new crops.
        batch_size: images of a step.
        learning_rate: of AdamW, after a linear warm-up and with a cosine to 0.
        weight_decay: on everything but biases and norms.
        warmup: the part of the steps in which the rate rises, 0..1.
        clean: the part of the images that is not compressed, 0..1 (exclusive).
        features: weight of :func:`~edgejpeg.learn.features.feature_distance` between the copy's feature maps and the
            original's beside the KL; 0 for the answers alone.
        ema: decay of a running average of the weights; 0 for none. With one, it is a candidate as well.
        clean_limit: how much of its top-1 on clean images the network may lose, 0..1; see :attr:`Figures.clean_loss`.
        min_scale: the smallest crop as a part of the largest that fits, 0..1.
        crop_size: side of the crops in training; None for the network's input size. Smaller ones are faster.
        clip_norm: largest norm of the gradient.
        bfloat16: compute in bfloat16 where autocast does; the weights stay float32.
        seed: of crops, rates and the order of images.
        workers: threads that crop, encode and decode ahead.
        checkpoint_every: steps between checkpoints, beside those at the end of every epoch.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clean: float = 0.15
    features: float = 100.0
    ema: float = 0.0
    clean_limit: float = 0.01
    min_scale: float = 0.5
    crop_size: int | None = None
    clip_norm: float = 1.0
    bfloat16: bool = False
    seed: int = 0
    workers: int = 1
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        whole = {name: getattr(self, name) for name in ("epochs", "batch_size", "workers", "checkpoint_every")}
        for name, value in {**whole, "crop_size": self.crop_size or 1}.items():
            if value < 1:
                raise InvalidInputError(f"{name} is at least 1; got {value}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInputError(f"{name} is a positive number; got {getattr(self, name)}")
        for name in ("warmup", "clean", "ema", "clean_limit", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is at least 0 and below 1; got {getattr(self, name)}")
        if not 0 <= self.features < math.inf:
            raise InvalidInputError(f"features is at least 0 and finite; got {self.features}")
        if not 0 < self.min_scale <= 1:
            raise InvalidInputError(f"min_scale is above 0 and at most 1; got {self.min_scale}")
        if self.seed < 0:
            raise InvalidInputError(f"seed is at least 0; got {self.seed}")

    def trajectory(self) -> dict[str, Any]:
        """The options that the trained weights depend on: a resumed run must share them."""
        return {key: value for key, value in asdict(self).items() if key not in _NOT_OF_THE_STEPS}


@dataclass(frozen=True, eq=False)
class Adapted:
    """The outcome.

    Attributes:
        state: the adapted weights, on the CPU.
        before, after: the original, and the weights chosen.
        mix: how far they are from the original's to the trained ones, one of :data:`MIXES`.
        averaged: whether the trained ones are their running average.
        clean_limit_met: whether they lose at most ``clean_limit`` on clean images; if not, no candidate did.
        candidates: the figures of all candidates, as plain values.
        history: for every epoch, the figures of the weights, as plain values.
        steps: of training.
    """

    state: dict[str, Tensor]
    before: Figures
    after: Figures
    mix: float
    averaged: bool
    clean_limit_met: bool
    candidates: list[dict[str, Any]]
    history: list[dict[str, Any]]
    steps: int


def adapt(
    model: nn.Module,
    photos: Photos,
    rates: RateRange,
    *,
    encode: Encode,
    decode: Decode,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    options: AdaptOptions | None = None,
    folder: RunFolder | None = None,
    resume: bool = False,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
) -> Adapted:
    """Train a copy of a network to answer on decoded JPEGs as the original does on clean images.

    After every epoch the weights are measured on the held-out images. In the end the same images choose between the
    parts :data:`MIXES` of the way from the original weights to the trained ones (and to their running average): of
    those that keep within ``clean_limit``, the one of the least mean log KL over the rates.

    Args:
        model: (N, 3, h, w) normalised RGB to (N, classes) logits, on the device to compute on; left as it was.
        photos: from :func:`~edgejpeg.learn.crops.load_photos`.
        rates: from :func:`~edgejpeg.learn.rates.measure_rates`.
        encode, decode: the device's encoder and the server's decoder; called from threads.
        mean, std: of R, G, B in 0..255.
        options: by default those of :class:`AdaptOptions`.
        folder: where checkpoints and ``metrics.jsonl`` go.
        resume: continue from the folder's checkpoint, when there is one.
        progress: called with (step, steps, that step's numbers) after every step.

    Raises:
        ModelError: logits, a loss or a gradient that is NaN or infinite; the step is named, and the last checkpoint,
            which is good, stays.
        InvalidInputError: the folder's checkpoint is of another run.
    """
    chosen = options or AdaptOptions()
    run = _Run(model, photos, rates, encode, decode, mean, std, chosen)
    if folder is not None and resume:
        run.restore(folder)
    run.start()
    with ThreadPoolExecutor(chosen.workers) as pool, run.tapped():
        for step, batch in run.batches(pool):
            record = run.train(step, batch, folder)
            if folder is not None:
                folder.log(record)
            if (step + 1) % run.steps_per_epoch == 0:
                figures = run.end_of_epoch((step + 1) // run.steps_per_epoch)
                if folder is not None:
                    folder.log({"step": step + 1, **figures})
                    folder.save(run.checkpoint(step + 1))
            if progress is not None:
                progress(step + 1, run.steps, record)
    return run.outcome()


class _Batch(NamedTuple):
    clean: Pixels  # (N, 3, h, w)
    decoded: Pixels
    bpp: float  # of the files; NaN when all were left clean


class _Run:
    def __init__(
        self,
        model: nn.Module,
        photos: Photos,
        rates: RateRange,
        encode: Encode,
        decode: Decode,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        options: AdaptOptions,
    ) -> None:
        self.options, self.photos, self.rates = options, photos, rates
        self.encode, self.decode = encode, decode
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(mean, device=self.device)[:, None, None]
        self.std = torch.tensor(std, device=self.device)[:, None, None]
        # eval mode: batch norm keeps its statistics, and dropout stays off.
        self.original = _channels_last(copy.deepcopy(model).eval().requires_grad_(False))
        self.student = _channels_last(copy.deepcopy(model).eval().requires_grad_(True))
        self.optimizer = torch.optim.AdamW(_groups(self.student, options.weight_decay), lr=options.learning_rate)
        self.average = copy.deepcopy(self.student).requires_grad_(False) if options.ema else None
        self.taps: tuple[Taps, Taps] | None = None
        self.batch_size = min(options.batch_size, len(photos.train))
        self.steps_per_epoch = len(photos.train) // self.batch_size
        self.steps = self.steps_per_epoch * options.epochs
        self.first = 0
        self.history: list[dict[str, Any]] = []

    def start(self) -> None:
        """Measure the original."""
        self.held_out = HeldOut(
            self.photos.held_out,
            self.rates,
            self.encode,
            self.decode,
            partial(self._logits, self.original),
            batch_size=self.batch_size,
        )
        self.before = self._figures(self.original, 0)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Inside of it the feature maps of both networks are at hand, when they have a weight."""
        if not self.options.features:
            yield
            return
        example = self._normalised(stacked(self.photos.held_out[:1]))
        names = stage_names(self.original, example)
        with Taps(self.original, names) as theirs, Taps(self.student, names) as ours:
            self.taps = (ours, theirs)
            yield
        self.taps = None

    def restore(self, folder: RunFolder) -> None:
        state = folder.load()
        if state is None:
            folder.keep_steps(0)
            return
        self.first, self.history = state["step"], state["history"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        folder.keep_steps(self.first)

    def checkpoint(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "history": self.history,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def batches(self, pool: ThreadPoolExecutor) -> Iterator[tuple[int, _Batch]]:
        """The batches of the steps to do, one made ahead of the one in use."""
        ahead: deque[list[Future[tuple[Pixels, Pixels, int]]]] = deque()
        for step in range(self.first, self.steps + 1):
            if step < self.steps:
                order = self._order(step)
                ahead.append([pool.submit(self._sample, step, int(index)) for index in order])
            if step > self.first:
                clean, decoded, sizes = zip(*(future.result() for future in ahead.popleft()), strict=True)
                bits = [8 * size / (image.shape[0] * image.shape[1]) for size, image in zip(sizes, clean, strict=True)]
                files = [value for value in bits if value]
                bpp = sum(files) / len(files) if files else math.nan
                yield step - 1, _Batch(stacked(clean), stacked(decoded), bpp)

    def _order(self, step: int) -> Any:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, 2, epoch]).permutation(len(self.photos.train))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def _sample(self, step: int, index: int) -> tuple[Pixels, Pixels, int]:
        """A crop, what comes out of its file, and the file's bytes: 0 for one that stays clean."""
        rng = np.random.default_rng([self.options.seed, 3, step, index])
        side = self.options.crop_size
        size = self.photos.held_out[0].shape[:2] if side is None else (side, side)
        crop = random_crop(self.photos.train[index], (size[0], size[1]), self.options.min_scale, rng)
        setting = self.rates.settings[self.rates.draw(rng)]
        if rng.random() < self.options.clean:
            return crop, crop, 0
        data = self.encode(crop, setting)
        return crop, self.decode(data), len(data)

    def train(self, step: int, batch: _Batch, folder: RunFolder | None) -> dict[str, float]:
        """One step of the optimiser."""
        rate = self._learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._autocast():
            with torch.no_grad():
                target = self.original(self._normalised(batch.clean)).float().log_softmax(1)
            answer = self.student(self._normalised(batch.decoded)).float().log_softmax(1)
        divergence = F.kl_div(answer, target, reduction="batchmean", log_target=True)
        distance = None
        if self.taps is not None:
            ours, theirs = self.taps
            distance = feature_distance(ours.take(), theirs.take())
        loss = divergence if distance is None else divergence + self.options.features * distance
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), self.options.clip_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise ModelError(
                f"the loss is {value:g} and its gradient {float(norm):g} at step {step + 1} of {self.steps}; {_ADVICE}"
            )
        if folder is not None and step > self.first and step % self.options.checkpoint_every == 0:
            # Weights are saved once a step has shown that they are good.
            folder.save(self.checkpoint(step))
        self.optimizer.step()
        if self.average is not None:
            decay = min(self.options.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, new in zip(self.average.parameters(), self.student.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        record = {
            "step": step + 1,
            "loss": value,
            "kl": divergence.item(),
            "learning_rate": rate,
            "gradient_norm": float(norm),
        }
        if distance is not None:
            record["features"] = distance.item()
        return record if math.isnan(batch.bpp) else {**record, "bpp": batch.bpp}

    def _learning_rate(self, step: int) -> float:
        warm = max(round(self.options.warmup * self.steps), 1)
        if step < warm:
            return self.options.learning_rate * (step + 1) / warm
        done = (step - warm) / max(self.steps - warm, 1)
        return self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def end_of_epoch(self, epoch: int) -> dict[str, Any]:
        """Measure the weights."""
        entry = {"epoch": epoch, **asdict(self._figures(self.student, epoch * self.steps_per_epoch))}
        self.history.append(entry)
        return entry

    def outcome(self) -> Adapted:
        """Measure the candidates, and choose one of them."""
        network = copy.deepcopy(self.original)
        original = self.original.state_dict()
        trained = [(False, self.student)] + ([] if self.average is None else [(True, self.average)])
        candidates: list[dict[str, Any]] = []
        best: tuple[tuple[float, float], bool, float, Figures] | None = None
        for averaged, source in trained:
            for mix in MIXES:
                network.load_state_dict(_blended(original, source.state_dict(), mix))
                figures = self._figures(network, self.steps)
                candidates.append({"mix": mix, "averaged": averaged, **asdict(figures)})
                within = figures.clean_loss <= self.options.clean_limit
                # Those within the limit go before those that are not; of the latter, what loses least.
                key = (0.0, figures.score) if within else (1.0, figures.clean_loss)
                if best is None or key < best[0]:
                    best = (key, averaged, mix, figures)
        assert best is not None
        key, averaged, mix, figures = best
        state = _blended(original, dict(trained)[averaged].state_dict(), mix)
        return Adapted(
            state={name: value.detach().cpu().contiguous() for name, value in state.items()},
            before=self.before,
            after=figures,
            mix=mix,
            averaged=averaged,
            clean_limit_met=key[0] == 0,
            candidates=candidates,
            history=self.history,
            steps=self.steps,
        )

    def _figures(self, network: nn.Module, step: int) -> Figures:
        problem = f"the logits are NaN or infinite after step {step} of {self.steps}; {_ADVICE}"
        return self.held_out.figures(partial(self._logits, network), problem)

    def _logits(self, network: nn.Module, images: Pixels) -> Any:
        with torch.no_grad(), self._autocast():
            return network(self._normalised(images))

    def _normalised(self, images: Pixels) -> Tensor:
        rgb = torch.from_numpy(images).to(self.device, torch.float32)
        return ((rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bfloat16)


def _channels_last(module: nn.Module) -> nn.Module:
    """The layout in which convolutions are about a third faster on the CPU."""
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _blended(original: Mapping[str, Tensor], trained: Mapping[str, Tensor], mix: float) -> dict[str, Tensor]:
    """A part of the way from one state to another; what is no floating-point number is the same in both."""
    return {
        name: torch.lerp(value, trained[name], mix) if value.is_floating_point() else value
        for name, value in original.items()
    }


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and norms."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
