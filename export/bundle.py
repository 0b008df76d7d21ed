"""An exported network on disk: the ONNX file and its JSON, written only when the check has passed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgejpeg._optional import require_onnxruntime
from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.compare import CheckReport, check_export, check_images, ijg_array, module_inputs
from edgejpeg.export.files import writing
from edgejpeg.export.int8 import int8_from_float32, split_calibration
from edgejpeg.export.layer import ExportModule
from edgejpeg.export.metadata import describe_export, embed_metadata
from edgejpeg.export.onnx import check_opset, onnx_from_module
from edgejpeg.export.precision import float16_from_float32
from edgejpeg.export.rewrite import check_model
from edgejpeg.jpeg.colour import check_subsampling
from edgejpeg.jpeg.tables import QuantTable, ijg_tables

if TYPE_CHECKING:
    from edgejpeg.models import LoadedModel
    from edgejpeg.profile import Profile

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class LayerTables:
    """The JPEG layer to put in front of a network.

    Attributes:
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        tables: luma and chroma, constants of the graph; None makes them its second input.
        source: where the tables come from, for people.
        profile_id: of the profile that they come from; None for others.
        dead_zones: of the profile, luma and chroma, 8x8; the coefficient front end alone has them.
    """

    subsampling: str
    tables: tuple[QuantTable, QuantTable] | None
    source: str
    profile_id: str | None = None
    dead_zones: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def array(self) -> NDArray[np.float32] | None:
        """The tables as the layer takes them: (1, 2, 64) float32, row-major."""
        if self.tables is None:
            return None
        return np.stack([table.array.reshape(64) for table in self.tables]).astype(np.float32)[None]

    def to_document(self) -> dict[str, Any]:
        """Subsampling, tables (row-major, or the word ``"input"``) and source, as plain values."""
        document: dict[str, Any] = {
            "subsampling": self.subsampling,
            "tables": "input",
            "source": self.source,
            "profile_id": self.profile_id,
        }
        if self.tables is not None:
            luma, chroma = self.tables
            document["tables"] = {"luma": luma.array.tolist(), "chroma": chroma.array.tolist()}
        else:
            document["input"] = {
                "name": "tables",
                "dtype": "float32",
                "shape": ["N or 1", 2, 64],
                "order": "luma, chroma; row-major",
            }
        return document


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export_onnx` wrote.

    Attributes:
        onnx_path, json_path: the two files.
        document: what the JSON says, and the ONNX file's metadata under ``edgejpeg``.
        report: of the check.
    """

    onnx_path: Path
    json_path: Path
    document: dict[str, Any]
    report: CheckReport


def layer_from_quality(quality: int, subsampling: str = "420") -> LayerTables:
    """The layer of ordinary JPEG: the IJG's tables at a quality from 1 to 100."""
    check_subsampling(subsampling)
    return LayerTables(subsampling, ijg_tables(quality), f"IJG quality {quality}")


def layer_from_profile(profile: Profile, subsampling: str | None = None) -> LayerTables:
    """The layer of a profile. The tables of an adaptive one change with every frame, so they become an input.

    Args:
        profile: adaptive or fixed.
        subsampling: None, or what the profile must have.

    Raises:
        InvalidInputError: the profile is for another subsampling.
    """
    if subsampling not in (None, profile.subsampling):
        raise InvalidInputError(
            f"profile {profile.name!r} is for subsampling {profile.subsampling}, not {subsampling}; "
            "leave the subsampling out, or calibrate a profile for it"
        )
    source = f"{profile.kind} profile {profile.name} ({profile.profile_id})"
    # A gray profile may have one table; what is made for gray does not look at the second.
    tables = None if profile.luma is None else (profile.luma, profile.chroma or profile.luma)
    zone = profile.dead_zone
    dead_zones = None if zone is None else (zone.luma, zone.luma if zone.chroma is None else zone.chroma)
    return LayerTables(profile.subsampling, tables, source, profile.profile_id, dead_zones)


def export_onnx(
    model: LoadedModel,
    folder: str | Path,
    *,
    layer: LayerTables | None = None,
    precision: str = "fp32",
    uint8: bool = False,
    opset: int = 18,
    images: int = 7,
    calibration: NDArray[np.uint8] | None = None,
) -> ExportResult:
    """Write a network as ``FOLDER/<model>[-jpeg][-fp16|-int8].onnx`` with a JSON of the same name beside it.

    The graph takes ``image``, (N, 3, H, W) RGB, and gives ``logits``, (N, classes) float32; N is dynamic and the
    normalisation is inside. With a layer whose tables are an input, that is ``tables``, (N or 1, 2, 64) float32.
    The graph is compared with PyTorch in ONNX Runtime first; nothing is written when they disagree.

    Args:
        model: from :func:`edgejpeg.models.create_model`.
        folder: made when it does not exist.
        layer: the JPEG layer in front, or None for the network alone.
        precision: ``"fp32"``, ``"fp16"`` for a backbone in half precision, or ``"int8"`` for one with Q/DQ nodes.
        uint8: the image is uint8 in 0..255 instead of float32 in 0..1.
        opset: of ONNX, 18 to 23.
        images: for the check, at least 4; not looked at with ``calibration``.
        calibration: for ``"int8"``: (count, 3, H, W) uint8 RGB, preprocessed as the network wants them, 8 or better
            some hundred; a quarter of them, at most 32, is held out for the check.

    Raises:
        InvalidInputError: an option outside what is allowed.
        ExportError: the folder cannot be written, the network cannot be lowered, or the check failed.
    """
    check_opset(opset)
    if precision not in PRECISIONS:
        raise InvalidInputError(f"precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
    require_onnxruntime(purpose="the check of edgejpeg export")
    if (precision == "int8") != (calibration is not None):
        raise InvalidInputError("int8 needs calibration images, and only int8 takes them")
    if calibration is None:
        pictures = check_images(images, model.input_size)
    else:
        calibration, pictures = split_calibration(_fitting(calibration, model.input_size))
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", model.name)
    stem = name + ("-jpeg" if layer else "") + ("" if precision == "fp32" else f"-{precision}")
    folder = Path(folder)
    with writing(folder / f"{stem}.onnx", folder / f"{stem}.json") as (onnx_file, json_file):
        module = ExportModule(
            model.module,
            size=model.input_size,
            mean=model.mean,
            std=model.std,
            uint8=uint8,
            subsampling=layer.subsampling if layer else None,
            tables=layer.array() if layer else None,
        ).eval()
        inputs = _example_inputs(model, uint8, tables_are_input=layer is not None and layer.tables is None)
        graph = onnx_from_module(
            module,
            inputs,
            batch_axes={"image": "N", "tables": "T"},
            output_name="logits",
            opset=opset,
            subsampling=layer.subsampling if layer else None,
        )
        if precision == "fp16":
            graph = float16_from_float32(graph)
        elif calibration is not None:
            graph = int8_from_float32(graph, _feeds(module, calibration, list(inputs)))
        check_model(graph)
        report = check_export(graph, module, pictures, input_names=list(inputs), precision=precision)
        if not report.passed:
            raise ExportError(
                f"the check of {stem}.onnx against PyTorch failed, and nothing was written: "
                + "; ".join(dict.fromkeys(report.failures))
            )
        document = describe_export(
            model,
            uint8=uint8,
            jpeg_layer=layer.to_document() if layer else None,
            precision=precision,
            opset=opset,
            check=report.to_document(),
        )
        embed_metadata(graph, document)
        onnx_file.write_bytes(graph.SerializeToString())
        json_file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return ExportResult(folder / f"{stem}.onnx", folder / f"{stem}.json", document, report)


def _fitting(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (3, *size):
        raise InvalidInputError(
            f"calibration images are (count, 3, {size[0]}, {size[1]}) uint8 for this network; got {images.shape} "
            f"{images.dtype}"
        )
    return images


def _feeds(module: ExportModule, images: NDArray[np.uint8], names: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    for start in range(0, len(images), 8):
        inputs = module_inputs(module, images[start : start + 8], shared=False)
        yield {name: value.numpy() for name, value in zip(names, inputs, strict=True)}


def _example_inputs(model: LoadedModel, uint8: bool, tables_are_input: bool) -> dict[str, torch.Tensor]:
    # Two images: an axis of size one would be taken for a constant.
    image = torch.zeros((2, 3, *model.input_size), dtype=torch.uint8 if uint8 else torch.float32)
    inputs = {"image": image}
    if tables_are_input:
        inputs["tables"] = torch.from_numpy(np.stack([ijg_array(75)] * 2))
    return inputs
