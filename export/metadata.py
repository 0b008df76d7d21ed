"""The JSON document of an exported network: inside the ONNX file, under the key ``edgejpeg``, and beside it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from edgejpeg._version import __version__
from edgejpeg.errors import ExportError

if TYPE_CHECKING:
    from edgejpeg.models import LoadedModel

FORMAT = 1
KEY = "edgejpeg"


def describe_export(
    model: LoadedModel,
    *,
    uint8: bool,
    jpeg_layer: dict[str, Any] | None,
    precision: str,
    opset: int,
    check: dict[str, Any],
) -> dict[str, Any]:
    """The document: what the graph is, what it expects, where it comes from, and what its check measured.

    Args:
        model: the network and its provenance.
        uint8: whether the input is uint8 in 0..255 instead of float32 in 0..1.
        jpeg_layer: subsampling, tables and source of the layer, or None without one.
        precision: ``"fp32"`` or ``"fp16"``.
        opset: of the graph.
        check: the check's figures.
    """
    import torch

    return {
        "format": FORMAT,
        "tool": "edgejpeg",
        "tool_version": __version__,
        "model": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "pretrained": model.pretrained,
        "notice": export_notice(model),
        "form": "pixels" if jpeg_layer is None else "layer",
        "input": {
            "name": "image",
            "dtype": "uint8" if uint8 else "float32",
            "layout": "NCHW",
            "color": "RGB",
            "range": [0, 255] if uint8 else [0, 1],
            "size": list(model.input_size),
            "resize": model.resize,
            "interpolation": model.interpolation,
        },
        "normalisation": {"inside": True, "mean": list(model.mean), "std": list(model.std)},
        "output": {"name": "logits", "dtype": "float32", "classes": model.num_classes},
        "class_names": None if model.class_names is None else list(model.class_names),
        "jpeg_layer": jpeg_layer,
        "precision": precision,
        "opset": opset,
        "torch_version": torch.__version__,
        "onnx_version": onnx.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "check": check,
    }


def export_notice(model: LoadedModel) -> str | None:
    """What a user of the file must know of its weights, or None."""
    if model.pretrained:
        return model.notice
    return f"the logits mean nothing: {model.notice or f'{model.name} has weights: {model.weights}'}"


def embed_metadata(model: onnx.ModelProto, document: dict[str, Any]) -> None:
    """Put the document into a model's metadata, in place of an earlier one."""
    others = {entry.key: entry.value for entry in model.metadata_props if entry.key != KEY}
    onnx.helper.set_model_props(model, {**others, KEY: json.dumps(document, allow_nan=False)})
    model.producer_name, model.producer_version = "edgejpeg", __version__


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The document inside an ONNX file.

    Raises:
        ExportError: no ONNX file, one that edgejpeg did not write, or one of another format.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ExportError(f"cannot read {path} as ONNX: {error}") from error
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    if text is None:
        raise ExportError(f"{path} has no {KEY!r} metadata; write it with: edgejpeg export")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ExportError(f"{path}: its {KEY!r} metadata is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else document
        raise ExportError(f"{path}: its {KEY!r} metadata has format {found!r}; this edgejpeg reads format {FORMAT}")
    return document
