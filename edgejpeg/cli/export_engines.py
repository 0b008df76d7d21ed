"""The engines of ``edgejpeg export``: which to build, with which options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgejpeg.cli.arguments import positive_int

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgejpeg.export import EngineOptions, EngineResult

FORMATS = ("onnx", "tensorrt", "tensorrt-rtx")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format``, the shapes and the builder's options."""
    group = parser.add_argument_group("engines")
    group.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="may be given several times; engines are built from the ONNX file, which is written in any case (default: "
        "onnx, and tensorrt where it is installed)",
    )
    for name, what in (
        ("--shapes", "the engine takes these shapes alone: image:1x3x224x224,tables:1x2x64"),
        ("--minShapes", "smallest shapes of an engine that takes a range"),
        ("--optShapes", "shapes to tune for; alone, the only ones"),
        ("--maxShapes", "largest shapes (default of all: batches of 1 to 8, tuned for 1)"),
    ):
        group.add_argument(name, metavar="NAME:DIMS", help=what)
    group.add_argument("--workspace", type=positive_int, metavar="MIB", help="bound of the builder's scratch memory")
    group.add_argument(
        "--optimization-level",
        type=int,
        metavar="0..5",
        help="the builder's; more is slower to build (default: its own)",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="TensorRT: loadable by later versions of the same major number",
    )
    group.add_argument(
        "--hardware-compatible",
        nargs="?",
        const="ampere_plus",
        choices=("ampere_plus", "same_compute_capability"),
        help="TensorRT: for every GPU from Ampere on (the default of the option; not on Jetson), or of one kind",
    )
    group.add_argument("--timing-cache", type=Path, metavar="FILE", help="TensorRT: read where it exists, and written")


@dataclass(frozen=True)
class EngineChoice:
    """What to build.

    Attributes:
        flavours: of engines, in the order of building.
        options: for each of them.
        why: one line: the formats, and why those.
        default_shapes: no shapes were given.
    """

    flavours: tuple[str, ...]
    options: EngineOptions | None
    why: str
    default_shapes: bool

    def check_shapes(self, inputs: Mapping[str, tuple[int | None, ...]]) -> None:
        """Refuse shapes that do not fit the graph before the long work."""
        if self.flavours and self.options is not None:
            from edgejpeg.export.shapes import profile_for

            profile_for(inputs, self.options.ranges)


def choose_engines(args: argparse.Namespace) -> EngineChoice:
    """The engines to build.

    Raises:
        InvalidInputError: options that contradict each other or that no chosen format has.
        ExportError: a format that was asked for is not installed, or not in a version that is supported.
    """
    from edgejpeg.errors import ExportError, InvalidInputError
    from edgejpeg.export.shapes import shape_ranges

    ranges = shape_ranges(args.shapes, args.minShapes, args.optShapes, args.maxShapes)
    flavours, why = _formats(args)
    builder_options = {
        "--workspace": args.workspace is not None,
        "--optimization-level": args.optimization_level is not None,
        "shapes": ranges is not None,
        "--version-compatible": args.version_compatible,
        "--hardware-compatible": args.hardware_compatible is not None,
        "--timing-cache": args.timing_cache is not None,
    }
    given = [option for option, there in builder_options.items() if there]
    if not flavours:
        if given:
            raise InvalidInputError(
                f"{', '.join(given)}: of an engine, and none is built ({why}); add --format tensorrt or tensorrt-rtx"
            )
        return EngineChoice((), None, why, ranges is None)
    from edgejpeg.export import EngineOptions

    options = EngineOptions(
        ranges=ranges,
        workspace_mib=args.workspace,
        optimization_level=args.optimization_level,
        version_compatible=args.version_compatible,
        hardware_compatibility=args.hardware_compatible or "none",
        timing_cache=args.timing_cache,
    )
    options.check("tensorrt" if "tensorrt" in flavours else flavours[0])
    if args.timing_cache is not None and not args.timing_cache.absolute().parent.is_dir():
        raise ExportError(f"cannot write the timing cache {args.timing_cache}: no such folder; make it first")
    return EngineChoice(flavours, options, why, ranges is None)


def build_engines(args: argparse.Namespace, choice: EngineChoice, onnx_path: Path) -> list[EngineResult]:
    """Build the chosen engines from an exported file, one after the other."""
    if not choice.flavours or choice.options is None:
        return []
    from edgejpeg.export import export_engine

    results = []
    for flavour in choice.flavours:
        options = choice.options if flavour == "tensorrt" else choice.options.without_tensorrt_only()
        results.append(export_engine(onnx_path, flavour, options=options, command=args.command))
    return results


def _formats(args: argparse.Namespace) -> tuple[tuple[str, ...], str]:
    from edgejpeg.errors import ExportError
    from edgejpeg.export.flavours import installed_version, not_installed
    from edgejpeg.export.tensorrt import current_device
    from edgejpeg.runtime.engine_info import FLAVOURS

    if args.format is not None:
        flavours = tuple(dict.fromkeys(name for name in args.format if name != "onnx"))
        versions = []
        for flavour in flavours:
            version = installed_version(flavour)
            if version is None:
                raise ExportError(not_installed(flavour))
            versions.append(f"{flavour} ({FLAVOURS[flavour]} {version})")
        return flavours, f"{', '.join(['onnx', *versions])}, as asked for"
    try:
        version = installed_version("tensorrt")
    except ExportError as error:
        return (), f"onnx alone: {error}"
    if version is None:
        return (), "onnx alone: TensorRT is not installed here (--format tensorrt-rtx builds engines without a GPU)"
    if current_device()[0] is None:
        return (), f"onnx alone: TensorRT {version} is installed, and there is no GPU that it could build for"
    return ("tensorrt",), f"onnx, and tensorrt because TensorRT {version} is installed"
