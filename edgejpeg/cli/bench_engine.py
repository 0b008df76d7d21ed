"""``edgejpeg bench`` of engines: trtexec's options, one engine or two in turn, reports."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import positive_int

if TYPE_CHECKING:
    from edgejpeg.runtime.engine_bench import InferenceSettings
    from edgejpeg.runtime.engines import Engine

BUILDERS = ("tensorrt", "tensorrt-rtx")
_MEASURED_LAYERS = 10


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of engines; those that the encoder has as well are the verb's own."""
    group = parser.add_argument_group("engine")
    group.add_argument("--onnx", type=Path, metavar="FILE", help="as FILE: trtexec's name for it")
    group.add_argument("--loadEngine", type=Path, metavar="FILE", help="as FILE: trtexec's name for it")
    group.add_argument(
        "--saveEngine", type=Path, metavar="FILE", help="build an engine from the .onnx file, keep and time it"
    )
    group.add_argument("--builder", choices=BUILDERS, help="build an engine from the .onnx file, and time that")
    group.add_argument("--compare", type=Path, metavar="FILE", help="time this one in turn with the first, as its base")
    group.add_argument("--fp16", action="store_true", help="with --model: the network in half precision")
    group.add_argument(
        "--shapes", metavar="NAME:DIMS", help="image:8x3x224x224 (default: the graph's, with a batch of 1)"
    )
    group.add_argument(
        "--providers",
        default="cpu",
        metavar="P1,P2",
        help="ONNX Runtime's: cpu, cuda, tensorrt; the first must run (default: %(default)s)",
    )
    group.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default: %(default)s)")
    group = parser.add_argument_group("inference")
    group.add_argument(
        "--infStreams", type=positive_int, default=1, metavar="N", help="inferences at once (default: 1)"
    )
    group.add_argument(
        "--avgRuns", type=positive_int, default=10, metavar="N", help="queries in an average (default: 10)"
    )
    group.add_argument(
        "--trtexec",
        type=int,
        choices=(10, 11),
        help="whose defaults: 10 copies inputs and outputs, 11 does not, launches a CUDA graph and spins (default: "
        "that of the installed TensorRT, else 10)",
    )
    for off, on, what in (
        ("--noDataTransfers", "--includeDataTransfers", "copy inputs and outputs in every query"),
        ("--noCudaGraph", "--useCudaGraph", "launch a CUDA graph"),
        ("--noSpinWait", "--useSpinWait", "wait by spinning"),
    ):
        either = group.add_mutually_exclusive_group()
        either.add_argument(on, dest=on[2:], action="store_const", const=True, help=what)
        either.add_argument(off, dest=on[2:], action="store_const", const=False, help=f"do not {what}")
    group = parser.add_argument_group("reports")
    group.add_argument(
        "--exportTimes", type=Path, metavar="FILE", help="every query's times as JSON, with trtexec's keys"
    )
    group.add_argument(
        "--dumpProfile", action="store_true", help="print the time of each layer, from runs of their own"
    )
    group.add_argument("--exportProfile", type=Path, metavar="FILE", help="the same as JSON, with trtexec's keys")


def named_engines(args: argparse.Namespace) -> list[str]:
    """The options that name something to infer with."""
    named = {
        str(args.file): args.file,
        "--onnx": args.onnx,
        "--loadEngine": args.loadEngine,
        "--model": args.model,
    }
    return [name for name, value in named.items() if value is not None]


def bench_engine(args: argparse.Namespace, *, quiet: bool, machine: dict[str, Any]) -> dict[str, Any]:
    """Time one engine, or two in turn; print unless quiet; give the report.

    Raises:
        EdgeJpegError: options that contradict each other, or of the export, the builder and the engine.
    """
    from edgejpeg import __version__
    from edgejpeg.runtime.board import BoardMonitor
    from edgejpeg.runtime.engine_bench import cost, measure_engine, measure_interleaved, summarise
    from edgejpeg.runtime.trtexec_report import (
        exported_profile,
        exported_times,
        profile_lines,
        summary_lines,
        trace_lines,
    )

    _check(args)

    def say(*lines: str) -> None:
        if not quiet:
            print(*lines, sep="\n", flush=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgejpeg-bench-")))
        paths = _files(args, folder)
        engines = []
        for path in paths.values():
            engines.append(_open(args, path))
            stack.callback(engines[-1].close)
        settings = _settings(args, engines[0])
        feeds = [_feeds(args, engine) for engine in engines]
        for name, engine, feed in zip(paths, engines, feeds, strict=True):
            say(_title(name, engine, feed))
        say(_settings_line(settings, engines[0]))
        with BoardMonitor(_gpu(args, engines[0])) as board:
            if len(engines) == 1:
                timings = [measure_engine(engines[0], feeds[0], settings)]
            else:
                timings = measure_interleaved(engines, feeds, settings)
        reports: list[dict[str, Any]] = []
        for name, engine, feed, timing in zip(paths, engines, feeds, timings, strict=True):
            figures = summarise(timing, settings, interleaved=len(engines) > 1)
            batch = next(iter(feed.values())).shape[0] if feed else 1
            figures["images_per_second"] = batch * figures["throughput_qps"]
            if args.verbose:
                say("", *trace_lines(timing, figures, settings))
            say("", *([f"{name}:"] if len(engines) > 1 else []), *summary_lines(figures))
            if batch > 1:
                say(f"Images: {figures['images_per_second']:g} images/s in batches of {batch}")
            if args.dumpProfile or args.exportProfile:
                layers = engine.profile(feed, max(settings.iterations, _MEASURED_LAYERS))
                figures["profile"] = exported_profile(layers)
                if args.dumpProfile:
                    say("", *profile_lines(layers))
            shapes = {key: list(value.shape) for key, value in feed.items()}
            reports.append({"name": name, **engine.describe(), "shapes": shapes, **figures})
        report: dict[str, Any] = {
            "edgejpeg": __version__,
            "machine": machine,
            "settings": _described(settings),
            "engines": reports,
            "board": board.report(sum(entry["queries"] + entry["warmup_queries"] for entry in reports)),
        }
        if len(engines) == 2:
            report["cost"] = cost(timings[0], timings[1])
            say("", _cost_line(report["cost"], *paths))
        say(_board_line(report["board"]))
        if args.exportTimes:
            _write_json(args.exportTimes, exported_times(timings[0].traces))
        if args.exportProfile:
            _write_json(args.exportProfile, reports[0]["profile"])
        return report


def _check(args: argparse.Namespace) -> None:
    from edgejpeg.errors import InvalidInputError

    named = named_engines(args)
    if len(named) > 1:
        raise InvalidInputError(
            f"one thing is timed at a time; got {' and '.join(named)}: --compare takes a second one"
        )
    for option in ("size", "source", "effort"):
        if getattr(args, option) is not None:
            raise InvalidInputError(f"--{option} is of --encoder; leave it out")
    if args.color != "bgr":
        raise InvalidInputError("--color is of --encoder; leave it out")
    if args.model is None:
        for option in ("fp16", "profile", "quality", "subsampling", "num_classes"):
            if getattr(args, option) not in (None, False):
                name = option.replace("_", "-")
                raise InvalidInputError(f"--{name} is of --model, and a file has it inside; leave it out")
    elif args.compare is not None:
        raise InvalidInputError("--model is timed with and without the JPEG layer; --compare has no place there")
    if args.loadEngine is not None and (args.saveEngine is not None or args.builder is not None):
        raise InvalidInputError("--loadEngine is built already; leave out --saveEngine and --builder")
    if args.model is not None and args.saveEngine is not None:
        raise InvalidInputError("--model makes two engines; use --builder, or edgejpeg export to keep them")
    if args.infStreams > 1 and (args.model is not None or args.compare is not None):
        raise InvalidInputError("two engines are timed in turn, in one stream; leave out --infStreams")


def _files(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """What to time, by the name that reports give it: the first, and perhaps its base."""
    if args.model is not None:
        files = _exported(args, folder)
    else:
        first = next(path for path in (args.file, args.onnx, args.loadEngine) if path is not None)
        files = {first.name: first}
        if args.compare is not None:
            same = args.compare.name == first.name
            files[str(args.compare) if same else args.compare.name] = args.compare
    if args.builder is None and args.saveEngine is None:
        return files
    return {name: _built(args, path, folder) for name, path in files.items()}


def _exported(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    from edgejpeg.export import export_onnx, layer_from_profile, layer_from_quality
    from edgejpeg.models import create_model
    from edgejpeg.profile import load_profile

    if args.profile is not None:
        layer = layer_from_profile(load_profile(args.profile), args.subsampling)
    else:
        layer = layer_from_quality(75 if args.quality is None else args.quality, args.subsampling or "420")
    model = create_model(args.model, weights=args.weights, num_classes=args.num_classes)
    precision = "fp16" if args.fp16 else "fp32"
    files = {}
    for name, chosen in (("with the JPEG layer", layer), ("without", None)):
        result = export_onnx(model, folder, layer=chosen, precision=precision, images=4)
        files[name] = result.onnx_path
    return files


def _built(args: argparse.Namespace, path: Path, folder: Path) -> Path:
    """An engine of an .onnx file, in the temporary folder or where ``--saveEngine`` says."""
    from edgejpeg.errors import DataError, InvalidInputError
    from edgejpeg.export import EngineOptions, export_engine
    from edgejpeg.export.shapes import shape_ranges
    from edgejpeg.runtime.engine_info import info_path

    if path.suffix != ".onnx":
        raise InvalidInputError(f"{path.name} is no .onnx file, so there is nothing to build")
    if not path.is_file():
        raise DataError(f"no ONNX file at {path}; make one with: edgejpeg export --model NAME -o DIR")
    source = folder / path.name
    if source != path:
        shutil.copyfile(path, source)
    options = EngineOptions(ranges=shape_ranges(args.shapes))
    result = export_engine(source, args.builder or "tensorrt", options=options, command=args.command)
    if args.saveEngine is None:
        return result.engine_path
    try:
        shutil.copyfile(result.engine_path, args.saveEngine)
        shutil.copyfile(result.info_path, info_path(args.saveEngine))
    except OSError as error:
        raise DataError(
            f"cannot write {args.saveEngine}: {error.strerror or error}; give another --saveEngine"
        ) from error
    return Path(args.saveEngine)


def _open(args: argparse.Namespace, path: Path) -> Engine:
    from edgejpeg.runtime.engines import open_engine

    providers = [name.strip() for name in args.providers.split(",") if name.strip()]
    backend = None if path.suffix == ".onnx" else "tensorrt"
    return open_engine(path, backend=backend, providers=providers, threads=args.threads, device=args.device)


def _feeds(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    from edgejpeg.export.shapes import parse_shapes
    from edgejpeg.runtime.engines import input_shapes, random_feeds

    given = parse_shapes(args.shapes) if args.shapes else None
    return dict(random_feeds(engine, input_shapes(engine, given)))


def _settings(args: argparse.Namespace, engine: Engine) -> InferenceSettings:
    from edgejpeg.runtime.engine_bench import TRTEXEC_DEFAULTS, InferenceSettings

    version = args.trtexec
    if version is None:
        installed = str(engine.describe()["version"]).partition(".")[0]
        version = 11 if engine.backend == "tensorrt" and installed >= "11" else 10
    defaults = TRTEXEC_DEFAULTS[version]
    chosen = {"transfers": args.includeDataTransfers, "graph": args.useCudaGraph, "spin": args.useSpinWait}
    return InferenceSettings(
        warm_up_ms=args.warm_up,
        duration_s=args.duration,
        iterations=args.iterations,
        avg_runs=args.avgRuns,
        percentiles=args.percentile,
        streams=args.infStreams,
        trtexec=version,
        **{key: defaults[key] if value is None else value for key, value in chosen.items()},
    )


def _gpu(args: argparse.Namespace, engine: Engine) -> int | None:
    return args.device if str(engine.describe()["device"]).startswith("GPU") else None


def _described(settings: InferenceSettings) -> dict[str, Any]:
    return {
        "trtexec": settings.trtexec,
        "warmUp": settings.warm_up_ms,
        "duration": settings.duration_s,
        "iterations": settings.iterations,
        "avgRuns": settings.avg_runs,
        "percentile": list(settings.percentiles),
        "infStreams": settings.streams,
        "dataTransfers": settings.transfers,
        "cudaGraph": settings.graph,
        "spinWait": settings.spin,
    }


def _title(name: str, engine: Engine, feeds: dict[str, Any]) -> str:
    facts = engine.describe()
    runs = ", ".join(facts["providers"]) if "providers" in facts else facts["driver"]
    shapes = ", ".join(f"{key} {'x'.join(map(str, value.shape))} {value.dtype}" for key, value in feeds.items())
    return f"{name}: {facts['backend']} {facts['version']} ({runs}) on {facts['device']}; {shapes}"


def _settings_line(settings: InferenceSettings, engine: Engine) -> str:
    def switch(on: bool) -> str:
        return "on" if on else "off"

    line = (
        f"defaults of trtexec {settings.trtexec}: data transfers {switch(settings.transfers)}, CUDA graph "
        f"{switch(settings.graph)}, spin wait {switch(settings.spin)}; {settings.streams} stream"
        f"{'s' if settings.streams > 1 else ''}"
    )
    if _gpu_is_absent(engine):
        line += "\non the CPU there are no transfers and no queue (both 0), and GPU Compute Time is the CPU's"
    return line


def _gpu_is_absent(engine: Engine) -> bool:
    return str(engine.describe()["device"]) == "CPU"


def _cost_line(cost: dict[str, float], first: str, base: str) -> str:
    return (
        f"cost: {first} takes {100 * (cost['ratio'] - 1):+.1f} % over {base} (95 %: "
        f"{100 * (cost['low'] - 1):+.1f} to {100 * (cost['high'] - 1):+.1f}), {cost['median_ms']:+.3g} ms, interleaved"
    )


def _board_line(board: dict[str, Any]) -> str:
    if not board["available"]:
        return f"power and clocks: not available ({board['why']})"
    units = {"power_w": "W", "gpu_clock_mhz": "MHz GPU", "memory_clock_mhz": "MHz memory", "temperature_c": "C"}
    parts = [f"{board[key]:.4g} {unit}" for key, unit in units.items() if key in board]
    if "joules_per_query" in board:
        parts.append(f"{board['joules_per_query']:.4g} J a query")
    if board.get("power_mode"):
        parts.append(f"power mode {board['power_mode']}")
    return f"power and clocks ({board['source']}): {', '.join(parts)}"


def _write_json(path: Path, document: Any) -> None:
    from edgejpeg.errors import DataError

    try:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; give another file") from error
