"""What runs at the desk, not on the device: sensitivities, learned tables, the JPEG layer, training, data.

Names are loaded when first used; importing this package imports neither torch nor Pillow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgejpeg._optional import require

if TYPE_CHECKING:
    from edgejpeg.learn.data import Batch as Batch
    from edgejpeg.learn.data import ImageData as ImageData
    from edgejpeg.learn.data import open_data as open_data
    from edgejpeg.learn.entropy import file_bytes as file_bytes
    from edgejpeg.learn.initial import constant_tables as constant_tables
    from edgejpeg.learn.initial import tables_from_magnitudes as tables_from_magnitudes
    from edgejpeg.learn.initial import tables_from_sensitivity as tables_from_sensitivity
    from edgejpeg.learn.layer import JpegLayer as JpegLayer
    from edgejpeg.learn.quantizer import annealed_hardness as annealed_hardness
    from edgejpeg.learn.quantizer import hard_quantize as hard_quantize
    from edgejpeg.learn.quantizer import soft_quantize as soft_quantize
    from edgejpeg.learn.recipe import Recipe as Recipe
    from edgejpeg.learn.recipe import load_recipe as load_recipe
    from edgejpeg.learn.sensitivity import Sensitivity as Sensitivity
    from edgejpeg.learn.sensitivity import estimate_sensitivity as estimate_sensitivity
    from edgejpeg.learn.tables import LearnedTables as LearnedTables
    from edgejpeg.learn.tables import learn_tables as learn_tables
    from edgejpeg.learn.training_data import open_images as open_images
    from edgejpeg.learn.training_run import TrainedRun as TrainedRun
    from edgejpeg.learn.training_run import load_run as load_run

_HOME = {
    "Batch": "edgejpeg.learn.data",
    "ImageData": "edgejpeg.learn.data",
    "JpegLayer": "edgejpeg.learn.layer",
    "LearnedTables": "edgejpeg.learn.tables",
    "Recipe": "edgejpeg.learn.recipe",
    "Sensitivity": "edgejpeg.learn.sensitivity",
    "TrainedRun": "edgejpeg.learn.training_run",
    "annealed_hardness": "edgejpeg.learn.quantizer",
    "constant_tables": "edgejpeg.learn.initial",
    "estimate_sensitivity": "edgejpeg.learn.sensitivity",
    "file_bytes": "edgejpeg.learn.entropy",
    "hard_quantize": "edgejpeg.learn.quantizer",
    "learn_tables": "edgejpeg.learn.tables",
    "load_recipe": "edgejpeg.learn.recipe",
    "load_run": "edgejpeg.learn.training_run",
    "open_data": "edgejpeg.learn.data",
    "open_images": "edgejpeg.learn.training_data",
    "soft_quantize": "edgejpeg.learn.quantizer",
    "tables_from_magnitudes": "edgejpeg.learn.initial",
    "tables_from_sensitivity": "edgejpeg.learn.initial",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", extra="train", purpose=f"edgejpeg.learn.{name}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
