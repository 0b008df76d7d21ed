"""What runs at the desk, not on the device: sensitivities of a network, the JPEG transform in torch, image folders.

Names are loaded when first used; importing this package imports neither torch nor Pillow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgejpeg.learn.data import Batch as Batch
    from edgejpeg.learn.data import ImageData as ImageData
    from edgejpeg.learn.data import open_data as open_data
    from edgejpeg.learn.sensitivity import Sensitivity as Sensitivity
    from edgejpeg.learn.sensitivity import estimate_sensitivity as estimate_sensitivity

_HOME = {
    "Batch": "edgejpeg.learn.data",
    "ImageData": "edgejpeg.learn.data",
    "Sensitivity": "edgejpeg.learn.sensitivity",
    "estimate_sensitivity": "edgejpeg.learn.sensitivity",
    "open_data": "edgejpeg.learn.data",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
