"""``run.json`` of a training, and the files beside it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import torch

from edgejpeg._version import __version__
from edgejpeg.learn.runs import LAYER, RunFolder
from edgejpeg.learn.trainer import Trainer
from edgejpeg.learn.training_data import LabelledImages
from edgejpeg.learn.training_layer import at_bounds
from edgejpeg.learn.training_run import FORMAT, KIND, JpegNetwork, layer_options


def training_report(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """The content of ``run.json`` but for the digests of the weights: plain values.

    Args:
        trainer: after its last step.
        seconds: of this process; of a resumed run, since it was resumed.
    """
    task, recipe = trainer.task, trainer.recipe
    model, layer = task.model, trainer.result().layer
    skipped = {**trainer.batches.skipped}
    for batches in trainer.evaluations.values():
        skipped.update(batches.skipped)
    return {
        "format": FORMAT,
        "kind": KIND,
        "model": model.name,
        "num_classes": model.num_classes,
        "class_names": None if task.images.class_names is None else list(task.images.class_names),
        "first_weights": model.weights,
        "first_weights_sha256": model.weights_sha256,
        "input": {
            "size": list(model.input_size),
            "mean": list(model.mean),
            "std": list(model.std),
            "resize": model.resize,
            "interpolation": model.interpolation,
        },
        "recipe": recipe.to_dict(),
        "layer": None if layer is None else layer_options(layer),
        "data": {
            "train": _described(task.images, len(trainer.batches.indices)),
            "test": None if task.test is None else _described(task.test, len(task.test)),
            "skipped": list(skipped),
        },
        "seed": recipe.run.seed,
        "epochs": recipe.schedule.epochs,
        "steps": trainer.total,
        "processes": trainer.world.size,
        "device": trainer.device.type,
        "results": _results(trainer.history),
        "history": trainer.history,
        "bounds": None if layer is None else at_bounds(layer),
        "torch": torch.__version__,
        "tool": f"edgejpeg {__version__}",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seconds": seconds,
    }


def write_run(folder: RunFolder, network: JpegNetwork, report: dict[str, Any]) -> dict[str, Any]:
    """Write weights, layer and report, the report last; returns it with the digests."""
    weights = folder.write_weights(network.network.state_dict())
    layer = None if network.layer is None else folder.write_weights(network.layer.state_dict(), LAYER)
    complete = {**report, "weights_sha256": weights, "layer_sha256": layer}
    folder.write_report(complete)
    return complete


def _described(images: LabelledImages, used: int) -> dict[str, Any]:
    return {"name": images.name, "images": len(images), "used": used, "per_class": images.counts()}


def _results(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The last epoch's numbers; beside them the best held-out epoch, by which nothing was chosen."""
    results = dict(history[-1])
    held_out = [entry for entry in history if "validation" in entry]
    if held_out:
        best = max(held_out, key=lambda entry: (entry["validation"]["top1"], -entry["epoch"]))
        results["best_validation"] = {"epoch": best["epoch"], "top1": best["validation"]["top1"]}
    return results
