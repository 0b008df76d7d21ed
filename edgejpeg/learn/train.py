"""Training of a network behind a JPEG layer, tables and weights together [JPEG-DL], or of the network alone.

A plain PyTorch loop: what depends on chance depends on the seed and the step alone, so that a resumed run equals an
uninterrupted one, and several processes see the same images as one. The last epoch is the result: no test image, and no
held-out one, chooses anything.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.distributed import World, device_for, open_world
from edgejpeg.learn.frozen import weights_digest
from edgejpeg.learn.recipe import Recipe
from edgejpeg.learn.runs import RunFolder
from edgejpeg.learn.trainer import Progress, Task, Trainer
from edgejpeg.learn.training_data import LabelledImages, open_images
from edgejpeg.learn.training_log import TrainingLog
from edgejpeg.learn.training_report import training_report, write_run
from edgejpeg.models.spec import LoadedModel


def train(
    model: LoadedModel,
    data: LabelledImages | str | Path,
    recipe: Recipe,
    output: str | Path,
    *,
    test: LabelledImages | str | Path | None = None,
    sensitivity: ArrayLike | None = None,
    device: str | None = None,
    resume: bool = False,
    on_error: str = "fail",
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, and write RUN; :func:`~edgejpeg.learn.training_run.load_run` reads it again.

    Under ``torchrun`` every process calls this; together they train one network, and the first one writes.

    >>> report = train(create_model("resnet18", "none", 12), "flowers/train", load_recipe("finegrained"), "run")

    Args:
        model: with as many classes as the data; its module is trained in place.
        data: labelled images, or what :func:`~edgejpeg.learn.training_data.open_images` takes.
        recipe: what to do; ``layer.enabled`` is false for the baseline.
        output: the folder RUN.
        test: images to report the accuracy on after each evaluated epoch. Nothing is chosen by them.
        sensitivity: (3, 8, 8) that the first tables come from, where the recipe has ``layer.initial = "sensitivity"``;
            by default that of the network with its first weights.
        device: by default a GPU where there is one.
        resume: go on from RUN's checkpoint, if there is one.
        on_error: ``"skip"`` or ``"fail"``, for an image that does not decode.
        tensorboard: write RUN/tensorboard.
        progress: called by the first process with (steps done, all steps, a record of numbers).

    Returns:
        The content of ``run.json``.

    Raises:
        DataError: data that cannot be used.
        InvalidInputError: classes that differ, a recipe that does not fit, a RUN that another training is in.
        ModelError: a loss, a gradient or logits that are NaN or infinite; the step and the last checkpoint are named.
        TrainingInterrupted: after Ctrl-C or SIGTERM; the state is saved.
    """
    images = data if isinstance(data, LabelledImages) else open_images(data)
    tested = test if test is None or isinstance(test, LabelledImages) else open_images(test, test=True)
    check_classes(model, images, tested, recipe)
    if sensitivity is not None and not recipe.layer.enabled:
        raise InvalidInputError("a sensitivity is for the layer's first tables, and layer.enabled is false")
    with open_world(gradients=True) as world:
        task = Task(with_recipe_input(model, recipe), images, tested, recipe, sensitivity, on_error)
        place = device_for(world, device)
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            return _train(task, Path(output), resume, tensorboard, world, place, progress)


def check_classes(model: LoadedModel, images: LabelledImages, test: LabelledImages | None, recipe: Recipe) -> None:
    """Refuse data whose classes are not the recipe's, the network's, or the test images'.

    Raises:
        InvalidInputError: with both numbers.
    """
    wanted = recipe.data.classes
    if wanted is not None and wanted != images.num_classes:
        raise InvalidInputError(
            f"{images.name} has {images.num_classes} classes, and the recipe's data.classes is {wanted}; correct one"
        )
    if model.num_classes != images.num_classes:
        raise InvalidInputError(
            f"{images.name} has {images.num_classes} classes, and {model.name} was made for {model.num_classes}; "
            f"give --num-classes {images.num_classes}, or other data"
        )
    named = test is not None and test.class_names is not None and images.class_names is not None
    if test is not None and (
        test.num_classes != images.num_classes or (named and test.class_names != images.class_names)
    ):
        raise InvalidInputError(
            f"the test images of {test.name} have {test.num_classes} classes, those of {images.name} "
            f"{images.num_classes}, or others by name; give the test part of the same data"
        )


def with_recipe_input(model: LoadedModel, recipe: Recipe) -> LoadedModel:
    """The model with ``data.size`` and ``data.resize``."""
    size = model.input_size if recipe.data.size is None else (recipe.data.size, recipe.data.size)
    resize = recipe.data.resize or round(model.resize * min(size) / min(model.input_size))
    return replace(model, input_size=size, resize=max(resize, min(size)))


def _train(
    task: Task,
    output: Path,
    resume: bool,
    tensorboard: bool,
    world: World,
    device: torch.device,
    progress: Progress | None,
) -> dict[str, Any]:
    recipe, began = task.recipe, time.monotonic()
    folder = RunFolder(
        output,
        {
            "model": task.model.name,
            "num_classes": task.model.num_classes,
            "weights": weights_digest(task.model.module),
            "data": task.images.name,
            "images": len(task.images),
            "recipe": recipe.trajectory(),
        },
    )
    folder.open(resume)
    with _deterministic(recipe.run.deterministic):
        trainer = Trainer(task, folder, world, device, progress)
        world.wait()  # nobody writes before all have read
        log = TrainingLog(folder if world.rank == 0 else None, tensorboard=tensorboard, first_step=trainer.first)
        try:
            trainer.run(log)
        finally:
            log.close()
    report = training_report(trainer, round(time.monotonic() - began, 1))
    if world.rank == 0:
        report = write_run(folder, trainer.result(), report)
    world.wait()  # nobody reads before it is written
    return report


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
