"""torchvision's classification networks, under torchvision's names."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlparse

from edgejpeg.errors import MissingDependencyError, ModelError
from edgejpeg.models.spec import ModelSpec
from edgejpeg.models.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    import torch


def torchvision_names() -> list[str]:
    """The names of torchvision's classification networks, sorted; empty when torchvision is not installed."""
    try:
        models = import_torchvision().models
    except MissingDependencyError:
        return []
    return sorted(models.list_models(module=models))


def imagenet_class_names() -> list[str] | None:
    """The names of ImageNet's 1000 classes as torchvision has them; None when torchvision is not installed."""
    try:
        models = import_torchvision().models
    except MissingDependencyError:
        return None
    return list(models.get_model_weights("resnet18").DEFAULT.meta["categories"])


def torchvision_spec(name: str) -> ModelSpec:
    """What torchvision knows of a classification network, from its default weights.

    Args:
        name: one of :func:`torchvision_names`.
    """
    models = import_torchvision(name).models
    weights = models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    categories = list(weights.meta["categories"])
    crop = transforms.crop_size

    def build(num_classes: int) -> torch.nn.Module:
        return cast("torch.nn.Module", models.get_model(name, weights=None, num_classes=num_classes))

    def build_pretrained(path: Path) -> torch.nn.Module:
        # get_model sets what some networks need beside the weights (aux_logits, transform_input); it finds the file
        # where torch.hub keeps it.
        return cast("torch.nn.Module", models.get_model(name, weights=weights, progress=False))

    return ModelSpec(
        name=name,
        build=build,
        input_size=(crop[0], crop[-1]),
        mean=_in_pixels(transforms.mean),
        std=_in_pixels(transforms.std),
        num_classes=len(categories),
        class_names=lambda: categories,
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        local_weights=lambda: _cached(weights),
        download=lambda: _download(weights, name),
        build_pretrained=build_pretrained,
        weights_name=f"torchvision {weights}",
    )


def _in_pixels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (round(255 * value, 6) for value in values)
    return red, green, blue


def _hub_file(weights: Any) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name


def _cached(weights: Any) -> Path | None:
    path = _hub_file(weights)
    return path if path.is_file() else None


def _download(weights: Any, name: str) -> Path:
    try:
        weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"cannot download {name}'s weights from {weights.url}: {error}; "
            f"put the file into {_hub_file(weights).parent}, or pass --weights FILE"
        ) from error
    return _hub_file(weights)
