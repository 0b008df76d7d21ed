"""What ``edgejpeg export`` prints."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgejpeg.cli.export_engines import EngineChoice
    from edgejpeg.export import EngineResult, ExportResult, LayerTables
    from edgejpeg.export.coefficients import CoefficientsResult


def print_network(result: ExportResult, layer: LayerTables | None, by_default: bool) -> None:
    """Files, layer, graph, check, and a command to go on with."""
    document, report = result.document, result.report
    _wrote(result.onnx_path, result.json_path)
    height, width = document["input"]["size"]
    image = f"image (N, 3, {height}, {width}) {document['input']['dtype']}"
    tables = ""
    if layer is None:
        print("JPEG layer: none")
    elif layer.tables is None:
        tables = ", tables (N or 1, 2, 64) float32"
        print(
            f"JPEG layer: {layer.subsampling}, {layer.source}; its tables change with every frame, so they are an input"
        )
    else:
        default = " (the default; choose with --quality or --profile)" if by_default else ""
        print(f"JPEG layer: {layer.subsampling}, {layer.source}{default}")
    if layer is not None and layer.dead_zones is not None:
        print("JPEG layer: it rounds; the profile's dead zone is in the encoder and in --form coefficients alone")
    print(f"graph: {image}{tables} -> logits (N, {document['output']['classes']}) float32, {document['precision']}")
    print(
        f"check: passed in ONNX Runtime ({', '.join(report.providers)}) against PyTorch, batches "
        f"{', '.join(map(str, report.batches))}: top-1 agrees on {report.top1_agreement} of {report.images}, logits "
        f"within {report.logit_error:.1e} of their standard deviation, {report.end_to_end_error:.1e} end to end"
    )
    if report.coefficients:
        print(
            f"check: JPEG layer against float64: {report.flipped} of {report.coefficients} coefficients flipped at a "
            f"rounding tie, pixels within {report.pixel_error:.1e} of full scale"
        )
    path = shlex.quote(str(result.onnx_path))
    if layer is None:
        print(f"next: edgejpeg serve --model {path}")
    else:
        shapes = f"image:1x3x{height}x{width}" + (",tables:1x2x64" if layer.tables is None else "")
        print(f"next: trtexec --onnx={path} --stronglyTyped --noTF32 --shapes={shapes}")


def print_coefficients(result: CoefficientsResult) -> None:
    """Files, tables, graph and check of a coefficient front end."""
    document, report = result.document, result.report
    _wrote(result.onnx_path, result.json_path)
    front_end = document["front_end"]
    height, width = document["input"]["size"]
    tables = ", tables (N or 1, 2, 64) float32" if front_end["tables"] == "input" else ""
    zones = ", with its dead-zone thresholds" if front_end["dead_zones"] else ""
    print(f"tables: {front_end['subsampling']}, {front_end['source']}{zones}")
    print(f"graph: image (N, 3, {height}, {width}) uint8{tables} -> {', '.join(document['outputs'])}")
    print(
        f"check: passed in ONNX Runtime ({', '.join(report.providers)}) against the reference encoder, {report.images} "
        f"frames: {report.flipped} of {report.coefficients} coefficients flipped at a rounding tie, statistics within "
        f"{report.statistics_error:.1e}"
    )


def print_engines(engines: list[EngineResult], choice: EngineChoice) -> None:
    """The formats and why, and for each engine its files, inputs and what was read back."""
    print(f"formats: {choice.why}")
    for engine in engines:
        info, facts = engine.info, engine.info.facts
        _wrote(engine.engine_path, engine.info_path)
        for tensor in info.inputs:
            low, best, high = (tensor.minimum, tensor.optimum, tensor.maximum)
            if low is None or best is None or high is None or low == high:
                words = _shape(low or tensor.shape)
            else:
                words = f"{_shape(low)} to {_shape(high)}, tuned for {_shape(best)}"
            default = " (the default; see --minShapes, --optShapes, --maxShapes)" if choice.default_shapes else ""
            print(f"engine: input {tensor.name} {tensor.dtype} {words}{default}")
        weighted = ", ".join(f"{count} in {kind}" for kind, count in facts["layers_with_weights"].items())
        layer = facts["jpeg_layer_operators"]
        inside = ", ".join(f"{count} in {kind}" for kind, count in layer.items())
        plugins = f"; plugins: {', '.join(facts['plugins'])}" if facts["plugins"] else ""
        print(
            f"engine: built in {engine.seconds:.1f} s by {info.flavour} {info.tensorrt_version}; layers with weights: "
            f"{weighted}{f'; of the JPEG layer: {inside}' if layer else ''}{plugins}"
        )
        print(f"engine: read back from {facts['read_from']}")
        for warning in engine.warnings:
            print(f"engine: its library warns: {warning}")


def _wrote(*paths: Path) -> None:
    for path in paths:
        print(f"wrote {path}  {_file_size(path.stat().st_size)}")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _file_size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
