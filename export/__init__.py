"""Networks as ONNX files, with the JPEG layer in front when wanted, checked in ONNX Runtime before they are written.
Engines of TensorRT and TensorRT-RTX from them. The front end of an encoder on a GPU.

>>> from edgejpeg.export import export_onnx, layer_from_quality
>>> result = export_onnx(edgejpeg.create_model("resnet18"), "out", layer=layer_from_quality(75), precision="fp16")
>>> result.onnx_path, result.report.top1_agreement
"""

from __future__ import annotations

if __name__ != "edgejpeg.export":
    raise ImportError(f"import this package as edgejpeg.export, not as {__name__}")

import importlib
from typing import TYPE_CHECKING, Any

from edgejpeg._optional import require

if TYPE_CHECKING:
    from edgejpeg.export.bundle import ExportResult as ExportResult
    from edgejpeg.export.bundle import LayerTables as LayerTables
    from edgejpeg.export.bundle import export_onnx as export_onnx
    from edgejpeg.export.bundle import layer_from_profile as layer_from_profile
    from edgejpeg.export.bundle import layer_from_quality as layer_from_quality
    from edgejpeg.export.coefficients import export_coefficients as export_coefficients
    from edgejpeg.export.compare import CheckReport as CheckReport
    from edgejpeg.export.engines import EngineOptions as EngineOptions
    from edgejpeg.export.engines import EngineResult as EngineResult
    from edgejpeg.export.engines import export_engine as export_engine
    from edgejpeg.export.layer import JpegFrontEnd as JpegFrontEnd
    from edgejpeg.export.metadata import read_metadata as read_metadata
    from edgejpeg.export.rewrite import rewrite_for as rewrite_for
    from edgejpeg.export.shapes import ShapeRange as ShapeRange

_HOME = {
    "CheckReport": "edgejpeg.export.compare",
    "EngineOptions": "edgejpeg.export.engines",
    "EngineResult": "edgejpeg.export.engines",
    "ExportResult": "edgejpeg.export.bundle",
    "JpegFrontEnd": "edgejpeg.export.layer",
    "LayerTables": "edgejpeg.export.bundle",
    "ShapeRange": "edgejpeg.export.shapes",
    "export_coefficients": "edgejpeg.export.coefficients",
    "export_engine": "edgejpeg.export.engines",
    "export_onnx": "edgejpeg.export.bundle",
    "layer_from_profile": "edgejpeg.export.bundle",
    "layer_from_quality": "edgejpeg.export.bundle",
    "read_metadata": "edgejpeg.export.metadata",
    "rewrite_for": "edgejpeg.export.rewrite",
}

_WITHOUT_TORCH = {"EngineOptions", "EngineResult", "ShapeRange", "export_engine", "read_metadata", "rewrite_for"}
"""What a board needs that builds engines from ONNX files of another machine."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("onnx",) if name in _WITHOUT_TORCH else ("torch", "onnx", "onnxscript"):
        require(package, extra="export", purpose="edgejpeg.export")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
