"""Export a network to ONNX, with the JPEG layer in front of it or without.

The layer is the node edgejpeg::JpegLayer, defined inside the file by standard operators, so that every runtime can run
it. Its tables are constants (--quality, or a fixed --profile) or a second input (an adaptive --profile).
The file is compared with PyTorch in ONNX Runtime, and is written only when they agree.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgejpeg.cli.arguments import add_model_arguments, model_from, positive_int

if TYPE_CHECKING:
    from edgejpeg.export import ExportResult, LayerTables

HELP = "export a network to ONNX, with the JPEG layer in front"

_DEFAULT_QUALITY, _DEFAULT_SUBSAMPLING = 75, "420"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    layer = parser.add_argument_group("JPEG layer")
    layer.add_argument("--jpeg-layer", choices=("on", "off"), default="on", help="off: the network alone")
    tables = layer.add_mutually_exclusive_group()
    tables.add_argument("-p", "--profile", help="tables of a shipped profile, or of a .toml file")
    tables.add_argument(
        "--quality", type=int, help=f"the IJG's tables at this quality, 1..100 (default: {_DEFAULT_QUALITY})"
    )
    layer.add_argument(
        "--subsampling",
        choices=("444", "422", "420", "gray"),
        help=f"with --quality (default: {_DEFAULT_SUBSAMPLING}); a profile has its own",
    )
    graph = parser.add_argument_group("graph")
    graph.add_argument("--format", choices=("onnx", "tensorrt"), default="onnx", help="(default: %(default)s)")
    graph.add_argument("--fp16", action="store_true", help="the network in half precision; inputs and outputs float32")
    graph.add_argument(
        "--input",
        choices=("float", "uint8"),
        default="float",
        help="float32 in 0..1 or uint8 in 0..255, RGB, NCHW (default: %(default)s)",
    )
    graph.add_argument("--opset", type=int, default=18, help="ONNX opset, 18 to 23 (default: %(default)s)")
    parser.add_argument("--check-images", type=positive_int, default=7, help="for the check (default: %(default)s)")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the files")
    parser.add_argument("--json", action="store_true", help="print the JSON that is written, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Export, check, write, and say what was written."""
    from edgejpeg.errors import InvalidInputError

    if args.format == "tensorrt":
        raise InvalidInputError(
            "--format tensorrt is not there yet; export ONNX, and build the engine with: trtexec --onnx=FILE"
        )
    layer = _layer(args)

    from edgejpeg.export import export_onnx

    model = model_from(args)
    result = export_onnx(
        model,
        args.output,
        layer=layer,
        precision="fp16" if args.fp16 else "fp32",
        uint8=args.input == "uint8",
        opset=args.opset,
        images=args.check_images,
    )
    notice = result.document["notice"]
    if notice:
        print(f"notice: {notice}", file=sys.stderr)
    if args.json:
        print(json.dumps(result.document, indent=2))
    else:
        _print(result, layer, by_default=args.quality is None and args.profile is None)
    return 0


def _layer(args: argparse.Namespace) -> LayerTables | None:
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.profile import load_profile

    if args.jpeg_layer == "off":
        for option in ("profile", "quality", "subsampling"):
            if getattr(args, option) is not None:
                raise InvalidInputError(
                    f"--{option} belongs to the JPEG layer, and --jpeg-layer is off; give one of them"
                )
        return None

    from edgejpeg.export import layer_from_profile, layer_from_quality

    if args.profile is not None:
        return layer_from_profile(load_profile(args.profile), args.subsampling)
    quality = _DEFAULT_QUALITY if args.quality is None else args.quality
    return layer_from_quality(quality, args.subsampling or _DEFAULT_SUBSAMPLING)


def _print(result: ExportResult, layer: LayerTables | None, by_default: bool) -> None:
    document, report = result.document, result.report
    for path in (result.onnx_path, result.json_path):
        print(f"wrote {path}  {_size(path.stat().st_size)}")
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
    print(f"next: {_next_command(result, layer, height, width)}")


def _next_command(result: ExportResult, layer: LayerTables | None, height: int, width: int) -> str:
    path = shlex.quote(str(result.onnx_path))
    if layer is None:
        return f"edgejpeg serve --model {path}"
    shapes = f"image:1x3x{height}x{width}" + (",tables:1x2x64" if layer.tables is None else "")
    return f"trtexec --onnx={path} --stronglyTyped --noTF32 --shapes={shapes}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
