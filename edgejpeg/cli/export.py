"""Export a network to ONNX, and to engines of TensorRT and TensorRT-RTX, in one of three forms.

layer: the JPEG layer in front of the network, as the network sees images in training, for inference on the device. The
layer is the node edgejpeg::JpegLayer, defined inside the file by standard operators, so that every runtime can run it.
Its tables are constants (--quality, or a fixed --profile) or a second input (an adaptive --profile).
pixels: the network alone on decoded pixels, for the server.
coefficients: the front end of an encoder on a GPU, no network: RGB frames of one --size to the statistics that a table
design needs, and quantized coefficients in zigzag order.

The ONNX file is compared with PyTorch (coefficients: with the reference encoder) in ONNX Runtime, and is written only
when they agree. Engines are built from it, and must have the precision and the layer that it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import add_model_arguments, add_on_error_argument, model_from, positive_int
from edgejpeg.cli.export_engines import EngineChoice, add_engine_arguments, build_engines, choose_engines
from edgejpeg.cli.export_output import print_coefficients, print_engines, print_network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgejpeg.export import ExportResult, LayerTables
    from edgejpeg.export.coefficients import CoefficientsResult
    from edgejpeg.models import LoadedModel

HELP = "export a network to ONNX, TensorRT and TensorRT-RTX, with the JPEG layer in front"

FORMS = ("layer", "pixels", "coefficients")

_DEFAULT_QUALITY, _DEFAULT_SUBSAMPLING, _CALIBRATION_IMAGES = 75, "420", 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser, required=False)
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="instead of --model: a file that was exported before, perhaps elsewhere; engines are built from it and "
        "written beside it, without PyTorch",
    )
    form = parser.add_argument_group("form")
    form.add_argument("--form", choices=FORMS, default="layer", help="see above (default: %(default)s)")
    form.add_argument("--size", type=_size, metavar="HxW", help="of the frames, for coefficients: 1080x1920")
    tables = form.add_mutually_exclusive_group()
    tables.add_argument("-p", "--profile", help="tables of a shipped profile, or of a .toml file")
    tables.add_argument(
        "--quality", type=int, help=f"the IJG's tables at this quality, 1..100 (default: {_DEFAULT_QUALITY})"
    )
    form.add_argument(
        "--subsampling",
        choices=("444", "422", "420", "gray"),
        help=f"with --quality (default: {_DEFAULT_SUBSAMPLING}); a profile has its own",
    )
    graph = parser.add_argument_group("graph")
    precision = graph.add_mutually_exclusive_group()
    precision.add_argument(
        "--fp16", action="store_true", help="the network in half precision; inputs and outputs float32"
    )
    precision.add_argument("--int8", action="store_true", help="the network in INT8 by Q/DQ nodes; needs --data")
    graph.add_argument("--data", type=Path, metavar="DIR", help="a folder of images that INT8 scales are taken from")
    graph.add_argument(
        "--calibration-images",
        type=positive_int,
        metavar="N",
        help=f"of --data, drawn at random; a quarter checks the result (default: {_CALIBRATION_IMAGES})",
    )
    add_on_error_argument(graph)
    graph.add_argument(
        "--input",
        choices=("float", "uint8"),
        help="float32 in 0..1 or uint8 in 0..255, RGB, NCHW (default: float for layer, uint8 for the others)",
    )
    graph.add_argument("--opset", type=int, default=18, help="ONNX opset, 18 to 23 (default: %(default)s)")
    add_engine_arguments(parser)
    parser.add_argument("--check-images", type=positive_int, default=7, help="for the check (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the files; not with --onnx")
    parser.add_argument("--json", action="store_true", help="print the JSON that is written, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Export, check, write, build engines, and say what was written."""
    _check(args)
    choice = choose_engines(args)
    if args.onnx is not None:
        path, document = args.onnx, _exported(args, choice)
    else:
        result = _coefficients(args, choice) if args.form == "coefficients" else _network(args, choice)
        path, document = result.onnx_path, result.document
    engines = build_engines(args, choice, path)
    if args.json:
        described = {"engines": [engine.info.to_document() for engine in engines]} if engines else {}
        print(json.dumps({**document, **described}, indent=2))
    else:
        print_engines(engines, choice)
    return 0


def _exported(args: argparse.Namespace, choice: EngineChoice) -> dict[str, Any]:
    """The metadata of ``--onnx``; there is nothing to do without an engine to build."""
    from edgejpeg.errors import ExportError
    from edgejpeg.export import read_metadata

    if not choice.flavours:
        raise ExportError(f"--onnx is there to build engines from, and none is built ({choice.why})")
    return read_metadata(args.onnx)


def _network(args: argparse.Namespace, choice: EngineChoice) -> ExportResult:
    from edgejpeg.export import export_onnx

    layer = _tables(args) if args.form == "layer" else None
    model = model_from(args)
    inputs: dict[str, tuple[int | None, ...]] = {"image": (None, 3, *model.input_size)}
    if layer is not None and layer.tables is None:
        inputs["tables"] = (None, 2, 64)
    choice.check_shapes(inputs)
    result = export_onnx(
        model,
        args.output,
        layer=layer,
        precision="fp16" if args.fp16 else "int8" if args.int8 else "fp32",
        uint8=(args.input or ("uint8" if layer is None else "float")) == "uint8",
        opset=args.opset,
        images=args.check_images,
        calibration=_calibration_images(args, model) if args.int8 else None,
    )
    if result.document["notice"]:
        print(f"notice: {result.document['notice']}", file=sys.stderr)
    if not args.json:
        print_network(result, layer, by_default=args.quality is None and args.profile is None)
    return result


def _coefficients(args: argparse.Namespace, choice: EngineChoice) -> CoefficientsResult:
    from edgejpeg.export import export_coefficients

    tables = _tables(args)
    inputs: dict[str, tuple[int | None, ...]] = {"image": (None, 3, *args.size)}
    if tables.tables is None:
        inputs["tables"] = (None, 2, 64)
    choice.check_shapes(inputs)
    result = export_coefficients(args.output, size=args.size, tables=tables, opset=args.opset)
    if not args.json:
        print_coefficients(result)
    return result


def _check(args: argparse.Namespace) -> None:
    """Refuse options that another option makes meaningless."""
    from edgejpeg.errors import InvalidInputError

    if args.onnx is not None:
        _check_onnx(args)
        return
    if args.output is None:
        raise InvalidInputError("-o DIR is needed, the folder for the files")
    given = {
        "--model": args.model is not None,
        "--mean": args.mean is not None,
        "--std": args.std is not None,
        "--size": args.size is not None,
        "--profile": args.profile is not None,
        "--quality": args.quality is not None,
        "--subsampling": args.subsampling is not None,
        "--fp16": args.fp16,
        "--int8": args.int8,
        "--input float": args.input == "float",
    }
    refused = {
        "layer": ("--size",),
        "pixels": ("--size", "--profile", "--quality", "--subsampling"),
        "coefficients": ("--model", "--mean", "--std", "--fp16", "--int8", "--input float"),
    }[args.form]
    for option in refused:
        if given[option]:
            raise InvalidInputError(f"{option} has no meaning with --form {args.form}; leave it out")
    needed = "--size" if args.form == "coefficients" else "--model"
    if not given[needed]:
        raise InvalidInputError(f"--form {args.form} needs {needed}")
    if args.int8 and args.data is None:
        raise InvalidInputError("--int8 needs images to take its scales from: --data DIR")
    if not args.int8 and (args.data is not None or args.calibration_images is not None):
        raise InvalidInputError("--data and --calibration-images belong to --int8")


def _check_onnx(args: argparse.Namespace) -> None:
    from edgejpeg.errors import InvalidInputError

    of_an_export = {
        "--model": args.model,
        "--mean": args.mean,
        "--std": args.std,
        "--form": args.form != "layer",
        "--size": args.size,
        "--profile": args.profile,
        "--quality": args.quality,
        "--subsampling": args.subsampling,
        "--fp16": args.fp16,
        "--int8": args.int8,
        "--input": args.input,
        "--data": args.data,
        "-o": args.output,
    }
    for option, given in of_an_export.items():
        if given not in (None, False):
            raise InvalidInputError(f"{option} has no meaning with --onnx, whose file has it already; leave it out")


def _tables(args: argparse.Namespace) -> LayerTables:
    from edgejpeg.export import layer_from_profile, layer_from_quality
    from edgejpeg.profile import load_profile

    if args.profile is not None:
        return layer_from_profile(load_profile(args.profile), args.subsampling)
    quality = _DEFAULT_QUALITY if args.quality is None else args.quality
    return layer_from_quality(quality, args.subsampling or _DEFAULT_SUBSAMPLING)


def _calibration_images(args: argparse.Namespace, model: LoadedModel) -> NDArray[np.uint8]:
    import numpy as np

    from edgejpeg.learn.data import open_data

    wanted = args.calibration_images or _CALIBRATION_IMAGES
    batches = open_data(args.data).batches(
        min(wanted, 32),
        size=model.input_size,
        resize=model.resize,
        interpolation=model.interpolation,
        seed=0,
        on_error=args.on_error,
    )
    images: list[NDArray[np.uint8]] = []
    for batch in batches:
        images.extend(batch.images)
        if len(images) >= wanted:
            break
    for file, reason in batches.skipped:
        print(f"edgejpeg export: skipped {file}: {reason}", file=sys.stderr)
    return np.stack(images[:wanted]) if images else np.empty((0, 3, *model.input_size), dtype=np.uint8)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdigit() or not width.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a height and a width such as 1080x1920")
    return int(height), int(width)
