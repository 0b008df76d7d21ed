"""The JPEG layer that a recipe describes: its options, its first tables, and where they are held by their bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.learn.initial import constant_tables, tables_from_magnitudes, tables_from_sensitivity
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.layer_schedule import LayerSchedule
from edgejpeg.learn.rate_term import RateTerm
from edgejpeg.learn.recipe import LayerRecipe
from edgejpeg.learn.sensitivity import estimate_sensitivity
from edgejpeg.learn.training_batches import EvaluationBatches
from edgejpeg.models.spec import LoadedModel

SMALLEST_ALPHA = 1e-4


def layer_for(recipe: LayerRecipe, tables: tuple[ArrayLike, ArrayLike]) -> JpegLayer:
    """A layer with the recipe's options.

    Args:
        recipe: ``[layer]``.
        tables: the first steps, luma and chroma, 8x8 each, brought within the recipe's bounds.
    """
    hardness = recipe.hardness if recipe.schedule.hardness is None else recipe.schedule.hardness[0]
    luma, chroma = (np.asarray(steps, np.float64).clip(recipe.q_min, recipe.q_max) for steps in tables)
    return JpegLayer(
        luma,
        chroma,
        recipe.subsampling,
        cast("Literal['soft', 'hard']", recipe.quantizer),
        bits=recipe.bits,
        window="exact" if recipe.window == "exact" else 5,
        clip=recipe.clip,
        alpha=recipe.alpha,
        hardness=hardness,
        learn_alpha=recipe.learn_alpha,
        q_min=recipe.q_min,
        q_max=recipe.q_max,
        integer_tables=recipe.integer_tables,
        rounds=recipe.rounds,
        input_range=255,
        upsampling=cast("Literal['fancy', 'plain']", recipe.upsampling),
        decoder_rounding=recipe.decoder_rounding,
        clamp=recipe.clamp,
    )


def layer_schedule(recipe: LayerRecipe) -> LayerSchedule:
    """``[layer.schedule]``."""
    schedule = recipe.schedule
    hardness = None if schedule.hardness is None else (schedule.hardness[0], schedule.hardness[1])
    return LayerSchedule(
        hardness=hardness,
        finish=schedule.finish,
        decoder_rounding=schedule.decoder_rounding,
        encoder_rounding=schedule.encoder_rounding,
    )


def rate_term(recipe: LayerRecipe) -> RateTerm | None:
    """``[layer.rate]``; None without a weight (or with 0) and without a target."""
    rate = recipe.rate
    if rate.target_bpp is None and not rate.weight:
        return None
    return RateTerm(weight=rate.weight, target_bpp=rate.target_bpp, effort=rate.effort, images=rate.images)


def first_tables(
    recipe: LayerRecipe,
    model: LoadedModel,
    images: EvaluationBatches,
    sensitivity: ArrayLike | None = None,
) -> tuple[Any, Any]:
    """Where the tables start, as ``layer.initial`` has it.

    Args:
        recipe: ``[layer]``.
        model: on the device; its present weights give the sensitivity when none is given.
        images: of the training set, as many as ``layer.initial_images``; not read for "ones" and "ijg".
        sensitivity: (3, 8, 8), of a profile; for ``"sensitivity"`` alone.

    Raises:
        InvalidInputError: a sensitivity where the recipe has another start, or one that is not positive.
    """
    if sensitivity is not None and recipe.initial != "sensitivity":
        raise InvalidInputError(
            f"a sensitivity is given, but layer.initial is {recipe.initial!r}; leave one of them out"
        )
    if recipe.initial == "ijg":
        luma, chroma = ijg_tables(recipe.initial_quality)
        return luma.array, chroma.array
    if recipe.initial == "ones":
        return constant_tables(1.0)
    if recipe.initial == "lsq":
        pixels = (micro.images.float() for micro in images)
        return tables_from_magnitudes(pixels, recipe.subsampling, bits=recipe.bits)
    if sensitivity is None:
        found = estimate_sensitivity(
            model.module, _pairs(images), mean=model.mean, std=model.std, subsampling=recipe.subsampling
        )
        sensitivity = found.sensitivity
    return tables_from_sensitivity(sensitivity, recipe.initial_q_max)


def at_bounds(layer: JpegLayer) -> dict[str, dict[str, list[list[int]]]]:
    """The steps that are at ``q_min`` or ``q_max``, or beyond: [round, row, column] of each, by table and bound."""
    found = {}
    for name, steps in (("luma", layer.luma), ("chroma", layer.chroma)):
        values = steps.detach().cpu()
        low, high = (values <= layer.q_min * (1 + 1e-6)), (values >= layer.q_max * (1 - 1e-6))
        found[name] = {"q_min": low.nonzero().tolist(), "q_max": high.nonzero().tolist()}
    return found


def keep_within_bounds(layer: JpegLayer) -> None:
    """Bring the steps back between ``q_min`` and ``q_max``, and a learned alpha above 0, where they have left them."""
    with torch.no_grad():
        for steps in (layer.luma, layer.chroma):
            steps.clamp_(layer.q_min, layer.q_max)
        for alpha in (layer.alpha_luma, layer.alpha_chroma):
            if alpha.requires_grad:
                alpha.clamp_(min=SMALLEST_ALPHA)


def _pairs(batches: EvaluationBatches) -> Iterator[tuple[Any, Tensor]]:
    for micro in batches:
        yield micro.images, micro.labels
