"""``import torchvision`` beside a CPU build of torch.

The torchvision wheel that PyPI serves has a compiled part for CUDA. Beside a CPU torch that part does not load, and the
import dies with "operator torchvision::nms does not exist", although the networks need no compiled operator.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from edgejpeg._optional import require

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # torch forgets the schemas when the library that holds them is collected


def import_torchvision(purpose: str = "this network") -> ModuleType:
    """Import torchvision, defining the schemas of nms and qnms when, and only when, they are what it fails for.

    Args:
        purpose: what needs torchvision, for the message when it is not installed.

    Raises:
        MissingDependencyError: torchvision is not installed. Every other failure of the import passes unchanged.
    """
    try:
        return require("torchvision", extra="train", purpose=purpose)
    except RuntimeError as error:
        if str(error) != _MISSING_OPERATOR or _library is not None:
            raise
    _define_schemas()
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]  # half-imported
    return require("torchvision", extra="train", purpose=purpose)


def _define_schemas() -> None:
    global _library
    import torch

    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        _library.define(schema)
