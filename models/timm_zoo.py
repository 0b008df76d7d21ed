"""timm's networks, as ``timm:NAME``."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from edgejpeg._optional import require
from edgejpeg.errors import MissingDependencyError, ModelError
from edgejpeg.models.spec import ModelSpec
from edgejpeg.models.torchvision_compat import import_torchvision
from edgejpeg.models.torchvision_zoo import imagenet_class_names

if TYPE_CHECKING:
    import torch

PREFIX = "timm:"
_FILES = ("model.safetensors", "pytorch_model.bin")


def timm_names() -> list[str]:
    """All names that ``timm:NAME`` takes, with the prefix; empty when timm is not installed."""
    try:
        timm = _import_timm("timm")
    except MissingDependencyError:
        return []
    return [PREFIX + name for name in timm.list_models(include_tags=False)]


def is_timm_name(name: str) -> bool:
    """Whether timm has a network of this name (with or without a weights tag; without the prefix)."""
    return bool(_import_timm(PREFIX + name).is_model(name))


def timm_spec(name: str) -> ModelSpec:
    """What timm's ``pretrained_cfg`` says of a network.

    Args:
        name: timm's name, without the prefix; ``resnet18.a1_in1k`` chooses the weights of a tag.

    Raises:
        ModelError: timm has the architecture, but not this tag.
    """
    timm = _import_timm(PREFIX + name)
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ModelError(f"cannot create {PREFIX + name}: {error}") from error
    config = {} if config is None else config.to_dict()
    _, height, width = config.get("input_size") or (3, 224, 224)
    mean, std = config.get("mean") or (0.485, 0.456, 0.406), config.get("std") or (0.229, 0.224, 0.225)
    num_classes = int(config.get("num_classes") or 1000)
    interpolation = str(config.get("interpolation"))

    def build(classes: int) -> torch.nn.Module:
        return cast("torch.nn.Module", timm.create_model(name, pretrained=False, num_classes=classes))

    def build_pretrained(path: Path) -> torch.nn.Module:
        overlay = {"file": str(path)}  # timm converts old checkpoints as it loads them
        return cast("torch.nn.Module", timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay))

    return ModelSpec(
        name=PREFIX + name,
        build=build,
        input_size=(height, width),
        mean=(255 * mean[0], 255 * mean[1], 255 * mean[2]),
        std=(255 * std[0], 255 * std[1], 255 * std[2]),
        num_classes=num_classes,
        class_names=imagenet_class_names if num_classes == 1000 else None,
        resize=math.floor(min(height, width) / float(config.get("crop_pct") or 1.0)),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        local_weights=lambda: _cached(config),
        download=lambda: _download(config, name),
        build_pretrained=build_pretrained,
        weights_name=f"timm {config.get('hf_hub_id') or name}",
    )


def _import_timm(purpose: str) -> ModuleType:
    import_torchvision(purpose)  # timm imports it, and would meet the broken compiled part
    return require("timm", extra="timm", purpose=purpose)


def _cached(config: dict[str, Any]) -> Path | None:
    if not config.get("hf_hub_id"):
        return None
    hub = require("huggingface_hub", extra="timm", purpose="timm's weights")
    for filename in _FILES:
        found = hub.try_to_load_from_cache(config["hf_hub_id"], filename)
        if isinstance(found, str):
            return Path(found)
    return None


def _download(config: dict[str, Any], name: str) -> Path:
    if not config.get("hf_hub_id"):
        raise ModelError(f"timm has no pretrained weights for {name}; pass --weights FILE, or none for random weights")
    hub = require("huggingface_hub", extra="timm", purpose="timm's weights")
    try:
        # The hub's client retries an unreachable network for a minute; one request tells.
        request = urllib.request.Request(hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=20).close()
    except urllib.error.HTTPError:
        pass  # reachable
    except OSError as error:
        raise _unreachable(name, hub.constants.ENDPOINT, error) from error
    try:
        return Path(hub.hf_hub_download(config["hf_hub_id"], _FILES[0]))
    except hub.errors.EntryNotFoundError:
        pass
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(name, hub.constants.ENDPOINT, error) from error
    try:
        return Path(hub.hf_hub_download(config["hf_hub_id"], _FILES[1]))
    except (hub.errors.HfHubHTTPError, hub.errors.EntryNotFoundError, OSError) as error:
        raise _unreachable(name, hub.constants.ENDPOINT, error) from error


def _unreachable(name: str, endpoint: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0]
    return ModelError(f"cannot download {PREFIX + name}'s weights from {endpoint}: {reason}; pass --weights FILE")
