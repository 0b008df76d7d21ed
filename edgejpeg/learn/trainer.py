"""The training loop: one step after the other, checkpoints, evaluation."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)
from torch.nn.parallel import DistributedDataParallel

from edgejpeg.errors import DataError, InvalidInputError, ModelError
from edgejpeg.learn.augment import Augmentation, mix
from edgejpeg.learn.distributed import World
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.optimizers import Average, layer_optimizer, network_optimizer, set_rates
from edgejpeg.learn.recipe import Recipe
from edgejpeg.learn.runs import CHECKPOINT, RunFolder
from edgejpeg.learn.schedule import rate_factor
from edgejpeg.learn.training_batches import EvaluationBatches, Micro, TrainingBatches
from edgejpeg.learn.training_data import LabelledImages, hold_out
from edgejpeg.learn.training_layer import first_tables, keep_within_bounds, layer_for, layer_schedule, rate_term
from edgejpeg.learn.training_log import StopRequest, TrainingInterrupted, TrainingLog
from edgejpeg.learn.training_run import JpegNetwork
from edgejpeg.models.spec import LoadedModel

Progress = Callable[[int, int, Mapping[str, Any]], None]

_STEPS, _MIXTURES, _FIRST_IMAGES, _RATE_IMAGES = 3, 4, 7, 8  # streams of the seed
_RATED = 512  # training images whose files are counted
_TOP = 5
_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Task:
    """What to train on what, and how; see :func:`~edgejpeg.learn.train.train`."""

    model: LoadedModel
    images: LabelledImages
    test: LabelledImages | None
    recipe: Recipe
    sensitivity: ArrayLike | None
    on_error: str


class Trainer:
    """The state of a training, and its steps.

    Args:
        task: the model's module is trained in place.
        folder: of the checkpoint, which is restored when there is one.
        world: this process and the others.
        device: to compute on.
        progress: called by the first process.

    Attributes:
        network: layer, normalisation and network.
        first: the step to go on with.
        total: all steps.
        history: for every evaluated epoch its numbers.
    """

    def __init__(
        self, task: Task, folder: RunFolder, world: World, device: torch.device, progress: Progress | None
    ) -> None:
        recipe = task.recipe
        self.task, self.recipe, self.folder, self.world, self.device = task, recipe, folder, world, device
        self.progress = progress if world.rank == 0 else None
        self._open_data()
        state = folder.load()
        task.model.module.to(device)
        self.schedule = layer_schedule(recipe.layer)
        self.rate = rate_term(recipe.layer) if recipe.layer.enabled else None
        self.network = JpegNetwork(task.model, self._first_layer(state is None)).to(device)
        if recipe.run.channels_last:
            self.network.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = [network_optimizer(recipe.optimizer, self.network.network)]
        if self.network.layer is not None:
            self.optimizers.append(layer_optimizer(recipe.layer.optimizer, self.network.layer))
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.run.precision == "fp16")
        self.history: list[dict[str, Any]] = []
        self.first = 0
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, images of this epoch
        self._pending: list[tuple[int, Tensor]] = []
        part = 1 / recipe.run.accumulation
        self._weights = torch.tensor([part, 1, 1, part], dtype=torch.float64, device=device)
        self._saved: int | None = None
        if state is not None:
            self._restore(state)
        self.rated = None if self.rate is None else self._rated()
        self.wrapped = self._distributed()
        self.average = Average(self.network, recipe.run.ema) if recipe.run.ema else None
        if state is not None and self.average is not None:
            self.average.module.load_state_dict(state["average"])

    # --- beginning ---

    def _open_data(self) -> None:
        task, recipe = self.task, self.recipe
        model = task.model
        seed = recipe.run.seed
        self.augmentation = Augmentation(recipe.data, model.input_size, model.resize, model.interpolation, seed)
        kept, held = hold_out(task.images, recipe.data.validation, seed)
        arguments = (self.augmentation, recipe.run, self.world, self.device, task.on_error)
        self.batches = TrainingBatches(task.images, kept, *arguments)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total = recipe.schedule.epochs * self.steps_per_epoch
        self.evaluations: dict[str, EvaluationBatches] = {}
        if len(held):
            self.evaluations["validation"] = EvaluationBatches(task.images, held, *arguments)
        if task.test is not None:
            self.evaluations["test"] = EvaluationBatches(task.test, np.arange(len(task.test)), *arguments)

    def _first_layer(self, fresh: bool) -> JpegLayer | None:
        recipe = self.recipe.layer
        if not recipe.enabled:
            return None
        tables: Any = (np.ones((8, 8)), np.ones((8, 8)))  # from the checkpoint, or from the first process
        if fresh and self.world.rank == 0:
            rng = np.random.default_rng([self.recipe.run.seed, _FIRST_IMAGES])
            chosen = np.sort(rng.permutation(self.batches.indices)[: recipe.initial_images])
            tables = first_tables(recipe, self.task.model, self._as_evaluated(chosen), self.task.sensitivity)
        return layer_for(recipe, tables)

    def _rated(self) -> Tensor:
        """Training images as evaluation sees them: the black borders or the enlarged details of random crops would cost
        other bytes than what a device sends."""
        rng = np.random.default_rng([self.recipe.run.seed, _RATE_IMAGES])
        chosen = np.sort(rng.permutation(self.batches.indices)[:_RATED])
        return torch.cat([micro.images for micro in self._as_evaluated(chosen)])

    def _as_evaluated(self, chosen: NDArray[np.int64]) -> EvaluationBatches:
        """Training images, of all processes, in each of them."""
        return EvaluationBatches(
            self.task.images, chosen, self.augmentation, self.recipe.run, World(), self.device, self.task.on_error
        )

    def _distributed(self) -> nn.Module:
        """The network whose gradients are the means over all processes."""
        if self.world.size == 1:
            return self.network
        cuda = self.device.type == "cuda"
        if self.recipe.run.sync_batch_norm and not cuda:
            raise InvalidInputError("run.sync_batch_norm of several processes needs GPUs; set it to false")
        if self.recipe.run.sync_batch_norm:
            self.network.network = nn.SyncBatchNorm.convert_sync_batchnorm(  # type: ignore[no-untyped-call]
                self.network.network
            )
        return DistributedDataParallel(
            self.network,
            device_ids=[self.device.index] if cuda else None,
            # A layer that turns hard leaves alpha without a gradient.
            find_unused_parameters=self.recipe.layer.enabled and self.recipe.layer.learn_alpha,
        )

    # --- the steps ---

    def run(self, log: TrainingLog) -> None:
        """All steps that are left.

        Raises:
            ModelError: NaN or infinity in a loss or a gradient.
            TrainingInterrupted: after a signal, with the state saved.
        """
        run, every = self.recipe.run, 1 if self.device.type == "cpu" else self.recipe.run.log_every
        began, seen = time.monotonic(), self.first
        with StopRequest(patient=self.world.size > 1).listening() as stop:
            for step, passes in enumerate(self.batches.steps(self.first, self.total), self.first):
                try:
                    self._step(step, passes)
                except InvalidInputError:
                    self._check(stop.wanted)  # tables that have become NaN: it names the step in which they did
                    raise
                done = step + 1
                ends = done % self.steps_per_epoch == 0
                saves = ends or (run.checkpoint_every > 0 and done % run.checkpoint_every == 0)
                logs = done % run.log_every == 0
                at_once = stop.wanted and self.world.size == 1  # several processes look at the same steps
                if not (ends or saves or logs or at_once or done % every == 0):
                    continue
                asked = self._check(stop.wanted)
                if logs or ends:
                    record = {**self._numbers(step), "images_per_second": self._speed(done - seen, began)}
                    began, seen = time.monotonic(), done
                    log.write({"step": done, **record})
                    if self.progress is not None:
                        self.progress(done, self.total, record)
                if ends:
                    self._end_epoch(done, log)
                if saves or asked:
                    self._save(done)
                if asked and done < self.total:
                    raise TrainingInterrupted(
                        f"step {done} of {self.total} is saved in {str(self.folder.path / CHECKPOINT)!r}"
                    )

    def _step(self, step: int, passes: list[Micro]) -> None:
        layer, recipe = self.network.layer, self.recipe
        progress = step / self.total
        if layer is not None:
            self.schedule.apply(layer, progress)
        factor = rate_factor(recipe.schedule, step, self.steps_per_epoch)
        set_rates(self.optimizers[0], factor)
        for optimizer in self.optimizers[1:]:
            set_rates(optimizer, factor if recipe.layer.optimizer.schedule == "network" else 1.0)
        self.wrapped.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(4, dtype=torch.float64, device=self.device)  # loss, correct, images, rate term
        for index, micro in enumerate(passes):
            last = index == len(passes) - 1
            with self._without_sum(not last):
                totals += self._backward(step, index, micro) * self._weights
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norms = [
            nn.utils.clip_grad_norm_(part, recipe.run.clip_grad if recipe.run.clip_grad and not index else math.inf)
            for index, part in enumerate(self._parts())
        ]
        norms += [torch.zeros((), device=self.device)] * (2 - len(norms))
        self._pending.append((step, torch.cat([totals, torch.stack(norms).double()])))
        if self.device.type == "cpu" and not self._is_good(self._pending[-1][1]):
            return  # the check that follows raises
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if layer is not None:
            keep_within_bounds(layer)
            if self.rate is not None:
                self.rate.step()
        if self.average is not None:
            self.average.update(self.network, step)

    def _backward(self, step: int, index: int, micro: Micro) -> Tensor:
        """One backward pass: loss, correct answers, images, rate term."""
        run, loss_recipe = self.recipe.run, self.recipe.loss
        place = [run.seed, _STEPS, step, index, self.world.rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))  # dropout and the like
        images = micro.images.float()
        targets: Tensor = micro.labels
        if loss_recipe.mixup or loss_recipe.cutmix:
            targets = F.one_hot(targets, self.task.model.num_classes).float()
            rng = np.random.default_rng([run.seed, _MIXTURES, step])
            images, targets = mix(images, targets, loss_recipe, rng)
        images = images.contiguous(memory_format=torch.channels_last if run.channels_last else torch.contiguous_format)
        with self._autocast():
            logits = self._logits(self.wrapped, images)
        loss = F.cross_entropy(logits, targets, label_smoothing=loss_recipe.label_smoothing)
        rate = torch.zeros((), device=self.device)
        if self.rate is not None and self.network.layer is not None:
            rate = self.rate(self.network.layer, self._rated_now(step, index, len(images)))
        self.scaler.scale((loss + rate) / run.accumulation).backward()  # type: ignore[no-untyped-call]
        correct = (logits.detach().argmax(1) == micro.labels).sum()
        count = loss.new_full((), len(micro.labels))
        return torch.stack([loss.detach().double(), correct.double(), count.double(), rate.detach().double()])

    def _rated_now(self, step: int, index: int, count: int) -> Tensor:
        """The images whose files are counted in a pass; those of a step do not depend on the number of passes."""
        assert self.rated is not None
        count = self.recipe.layer.rate.images or count
        order = np.random.default_rng([self.recipe.run.seed, _RATE_IMAGES, step]).permutation(len(self.rated))
        begin = (index * self.world.size + self.world.rank) * count
        chosen = order[(begin + np.arange(min(count, len(order)))) % len(order)]
        return self.rated[torch.from_numpy(chosen).to(self.device)].float()

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        logits = network(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"{self.task.model.name} gives {shape} in training, where (N, classes) logits are needed; "
                "networks with auxiliary outputs are not supported: choose another"
            )
        return logits.float()

    def _parts(self) -> list[list[nn.Parameter]]:
        return [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in self.optimizers]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        chosen = _PRECISIONS[self.recipe.run.precision]
        return torch.autocast(self.device.type, chosen, enabled=chosen != torch.float32)

    def _without_sum(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        if wanted and isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    # --- looking back ---

    def _is_good(self, numbers: Tensor) -> bool:
        # With a scaled loss infinite gradients occur, and such steps are left out.
        looked_at = numbers[:4] if self.scaler.is_enabled() else numbers
        return bool(torch.isfinite(looked_at).all())

    def _check(self, stop: bool) -> bool:
        """Whether any process was asked to stop; all of them come here at the same steps."""
        if not self._pending:
            return stop
        rows = torch.stack([numbers for _, numbers in self._pending]).cpu()
        bad = [step for (step, _), row in zip(self._pending, rows, strict=True) if not self._is_good(row)]
        self._sums += rows[:, :3].sum(0) if not bad else 0
        self._last = rows[-1]
        self._pending.clear()
        first_bad = bad[0] if bad else math.inf
        flags = self.world.sum(torch.tensor([float(stop), float(bool(bad))], dtype=torch.float64))
        if flags[1]:
            raise self._stopped(rows, first_bad)
        return bool(flags[0])

    def _stopped(self, rows: Tensor, step: float) -> ModelError:
        where = f"at step {step + 1:.0f} of {self.total}" if math.isfinite(step) else "in another process"
        numbers = next((row for row in rows if not self._is_good(row)), rows[-1])
        kept = (
            f"{str(self.folder.path / CHECKPOINT)!r}, of step {self._saved}, is good"
            if self._saved
            else "none is saved yet"
        )
        epoch = f" (epoch {int(step) // self.steps_per_epoch + 1})" if math.isfinite(step) else ""
        return ModelError(
            f"the loss is {float(numbers[0]):g}, the norm of the network's gradient {float(numbers[4]):g} and of the "
            f"tables' {float(numbers[5]):g} {where}{epoch}; the last checkpoint: {kept}; "
            "try a lower optimizer.lr or layer.optimizer.lr, or run.clip_grad, in another folder"
        )

    def _numbers(self, step: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "epoch": step // self.steps_per_epoch + 1,
            "loss": float(self._last[0]),
            "learning_rate": self.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": float(self._last[4]),
        }
        if self.network.layer is not None:
            record["table_gradient_norm"] = float(self._last[5])
        if self.scaler.is_enabled():
            record["loss_scale"] = self.scaler.get_scale()
        if self.rate is not None:
            record["rate"] = dict(self.rate.last)
        return {name: value for name, value in record.items() if not (isinstance(value, float) and math.isinf(value))}

    def _speed(self, steps: int, began: float) -> float:
        return round(steps * self.recipe.run.batch_size / max(time.monotonic() - began, 1e-9), 1)

    def _end_epoch(self, done: int, log: TrainingLog) -> None:
        epoch = done // self.steps_per_epoch
        loss_sum, correct, images = self.world.sum(self._sums).tolist()
        steps = self.steps_per_epoch * self.world.size
        entry: dict[str, Any] = {"epoch": epoch, "train": {"loss": loss_sum / steps, "top1": correct / images}}
        self._sums = torch.zeros(3, dtype=torch.float64)
        if epoch % self.recipe.run.evaluate_every == 0 or done == self.total:
            for name, batches in self.evaluations.items():
                entry[name] = self.evaluate(batches, done)
        self.history.append(entry)
        log.write({"step": done, **entry})
        if self.progress is not None:
            self.progress(done, self.total, entry)

    @torch.no_grad()
    def evaluate(self, batches: EvaluationBatches, done: int) -> dict[str, float]:
        """Accuracy and loss of the weights that would be written after so many steps."""
        network = self.result(done)
        network.eval()
        self.world.share_buffers(network)  # of batch norm, which are each process's own
        sums = torch.zeros(4, dtype=torch.float64)
        for micro in batches:
            with self._autocast():
                logits = self._logits(network, micro.images.float().contiguous())
            best = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices == micro.labels[:, None]
            loss = F.cross_entropy(logits, micro.labels, reduction="sum")
            found = [loss.double(), best[:, 0].sum().double(), best.any(1).sum().double()]
            sums += torch.tensor([*(float(value) for value in found), len(micro.labels)], dtype=torch.float64)
        loss_sum, top1, top5, count = self.world.sum(sums).tolist()
        if not count:
            raise DataError(f"{batches.images.name}: none of the images to evaluate on can be read")
        if not math.isfinite(loss_sum):
            raise ModelError(f"the loss on {batches.images.name} is {loss_sum:g} after step {done}; try a lower rate")
        return {"top1": top1 / count, "top5": top5 / count, "loss": loss_sum / count, "images": int(count)}

    def result(self, done: int | None = None) -> JpegNetwork:
        """The weights and the layer that a run writes: the running average where there is one."""
        network = self.network if self.average is None else self.average.module
        assert isinstance(network, JpegNetwork)
        if network.layer is not None:
            self.schedule.apply(network.layer, (self.total if done is None else done) / self.total)
        return network

    # --- checkpoints ---

    def _save(self, done: int) -> None:
        sums = self.world.sum(self._sums)
        if self.world.rank == 0:
            self.folder.save(
                {
                    "step": done,
                    "history": self.history,
                    "sums": sums,
                    "network": self.network.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                    "scaler": self.scaler.state_dict(),
                    "average": None if self.average is None else self.average.module.state_dict(),
                    "rate": None if self.rate is None else self.rate.state_dict(),
                }
            )
        self._saved = done

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.first = self._saved = state["step"]
        self.history = list(state["history"])
        if self.world.rank == 0:
            self._sums = state["sums"].clone()
        self.network.load_state_dict(state["network"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(stored))
        self.scaler.load_state_dict(state["scaler"])
        if self.rate is not None:
            self.rate.load_state_dict(state["rate"])
