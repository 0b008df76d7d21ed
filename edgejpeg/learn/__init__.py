"""What runs at the desk, not on the device: sensitivities of a network, tables learned for it, the JPEG transform.

Names are loaded when first used; importing this package imports neither torch nor Pillow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgejpeg.learn.data import Batch as Batch
    from edgejpeg.learn.data import ImageData as ImageData
    from edgejpeg.learn.data import open_data as open_data
    from edgejpeg.learn.entropy import file_bytes as file_bytes
    from edgejpeg.learn.sensitivity import Sensitivity as Sensitivity
    from edgejpeg.learn.sensitivity import estimate_sensitivity as estimate_sensitivity
    from edgejpeg.learn.tables import LearnedTables as LearnedTables
    from edgejpeg.learn.tables import learn_tables as learn_tables

_HOME = {
    "Batch": "edgejpeg.learn.data",
    "ImageData": "edgejpeg.learn.data",
    "LearnedTables": "edgejpeg.learn.tables",
    "Sensitivity": "edgejpeg.learn.sensitivity",
    "estimate_sensitivity": "edgejpeg.learn.sensitivity",
    "file_bytes": "edgejpeg.learn.entropy",
    "learn_tables": "edgejpeg.learn.tables",
    "open_data": "edgejpeg.learn.data",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
