"""Engines from exported ONNX files: rewritten, built in a process of their own, checked, written with JSON."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx

from edgejpeg._version import __version__
from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.engine_build import PRECISIONS, BuildRequest
from edgejpeg.export.engine_child import run_child
from edgejpeg.export.files import writing
from edgejpeg.export.flavours import MODULES, not_installed
from edgejpeg.export.metadata import read_metadata
from edgejpeg.export.rewrite import check_model, rewrite_for
from edgejpeg.export.shapes import ShapeRange, profile_for
from edgejpeg.runtime.engine_info import FLAVOURS, EngineInfo, TensorInfo, file_sha256, info_path, write_engine_info

SUFFIXES = {"tensorrt": ".engine", "tensorrt-rtx": ".rtx", "tensorrt-8.5": ".trt85.engine"}
"""How the engines' files end."""

FORMS = ("layer", "pixels", "coefficients")
"""What an exported file can be."""

HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        ranges: shapes by input, from :func:`edgejpeg.export.shapes.shape_ranges`; None takes batches of 1 to 8, tuned
            for 1.
        workspace_mib: bound of the builder's scratch memory on the GPU.
        optimization_level: the builder's, 0 (fast build) to 5.
        version_compatible: TensorRT: later versions of the same major number can load the engine.
        hardware_compatibility: TensorRT: ``"none"``, ``"ampere_plus"`` or ``"same_compute_capability"``.
        timing_cache: TensorRT: a file with measured kernels, read and written, that makes the next build fast.
    """

    ranges: dict[str, ShapeRange] | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    timing_cache: Path | None = None

    def check(self, flavour: str) -> None:
        """Refuse what a flavour does not have, with :class:`InvalidInputError`."""
        if flavour not in FLAVOURS:
            raise InvalidInputError(f"an engine is for one of {', '.join(FLAVOURS)}; got {flavour!r}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InvalidInputError(f"the optimization level is 0 to 5; got {self.optimization_level}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InvalidInputError(f"the workspace is at least 1 MiB; got {self.workspace_mib}")
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise InvalidInputError(
                f"hardware compatibility is one of {', '.join(HARDWARE_COMPATIBILITY)}; got "
                f"{self.hardware_compatibility!r}"
            )
        if flavour == "tensorrt":
            return
        given = {
            "version compatibility": self.version_compatible,
            "hardware compatibility": self.hardware_compatibility != "none",
            "a timing cache": self.timing_cache is not None,
        }
        for what, asked in given.items():
            if asked:
                raise InvalidInputError(f"{what} is TensorRT's; {FLAVOURS[flavour]} has none: leave it out")

    def without_tensorrt_only(self) -> EngineOptions:
        """These options for the other engines of the same export, without what TensorRT alone has."""
        return replace(self, version_compatible=False, hardware_compatibility="none", timing_cache=None)

    def to_document(self) -> dict[str, Any]:
        """What was given, as plain values."""
        return {
            "workspace_mib": self.workspace_mib,
            "optimization_level": self.optimization_level,
            "version_compatible": self.version_compatible,
            "hardware_compatibility": self.hardware_compatibility,
            "timing_cache": None if self.timing_cache is None else self.timing_cache.name,
            "tf32": False,
        }


@dataclass(frozen=True)
class EngineResult:
    """What :func:`export_engine` wrote.

    Attributes:
        engine_path, info_path: the two files.
        info: what the JSON says.
        seconds: of the build.
        warnings: of the vendor's library, one line each.
    """

    engine_path: Path
    info_path: Path
    info: EngineInfo
    seconds: float
    warnings: list[str]


def export_engine(
    onnx_path: str | Path,
    flavour: str,
    *,
    options: EngineOptions | None = None,
    plugin_modules: Sequence[str] = (),
    command: str | None = None,
) -> EngineResult:
    """Build an engine from an ONNX file of :func:`~edgejpeg.export.export_onnx`, and write it beside that file.

    The engine must have the precision and the JPEG layer that the ONNX file has; what is missing is an error, and
    nothing is written. The vendor's library works in a process of its own and cannot take this one down.

    Args:
        onnx_path: the exported file.
        flavour: ``"tensorrt"``, ``"tensorrt-rtx"`` or ``"tensorrt-8.5"``.
        options: how to build.
        plugin_modules: build with the JPEG layer as a plugin; ``register(trt)`` of these modules makes it known.
        command: what builds the engine again, for messages; by default a call of this function.

    Raises:
        InvalidInputError: an option that the flavour does not have, or shapes that do not fit the graph.
        ExportError: the file is not one of edgejpeg's, the library is not installed or of a version that is not
            supported, it cannot parse or build the model, the result is not what was asked for or cannot be written.
    """
    options = options or EngineOptions()
    options.check(flavour)
    path = Path(onnx_path)
    document = read_metadata(path)
    _check_document(document, path)
    model = onnx.load(str(path))
    check_model(model)
    profile = profile_for(graph_inputs(model), options.ranges)
    if importlib.util.find_spec(MODULES[flavour]) is None:
        raise ExportError(not_installed(flavour))
    layer = None if document.get("jpeg_layer") is None else "plugin" if plugin_modules else "operators"
    rewritten = rewrite_for(model, flavour, plugin=bool(plugin_modules))
    target = path.with_name(path.stem + SUFFIXES[flavour])
    targets = (target, info_path(target), path.with_name(f"{target.name}.onnx"))
    with writing(*targets) as (engine, described, rewritten_file):
        rewritten_file.write_bytes(rewritten.SerializeToString())
        request = BuildRequest(
            flavour=flavour,
            onnx=str(rewritten_file),
            engine=str(engine),
            precision=document["precision"],
            jpeg_layer=layer,
            profile={name: [list(r.minimum), list(r.optimum), list(r.maximum)] for name, r in profile.items()},
            plugin_modules=list(plugin_modules),
            workspace_mib=options.workspace_mib,
            optimization_level=options.optimization_level,
            version_compatible=options.version_compatible,
            hardware_compatibility=options.hardware_compatibility,
            timing_cache=None if options.timing_cache is None else str(options.timing_cache),
        )
        built = run_child(request)
        _check_types(built, model)
        info = _describe(built, document, request, path, options, command)
        write_engine_info(info, described)
        rewritten_file.unlink()
    return EngineResult(target, info_path(target), info, built["seconds"], built["warnings"])


def graph_inputs(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes of a graph's inputs by name, None where an axis is dynamic."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
        if value.name not in constants
    }


def _check_document(document: dict[str, Any], path: Path) -> None:
    for key, allowed in (("precision", tuple(PRECISIONS)), ("form", FORMS)):
        if document.get(key) not in allowed:
            raise ExportError(
                f"{path}: its metadata says {key} {document.get(key)!r}, not one of {', '.join(allowed)}; export it "
                "again with this edgejpeg"
            )
    for key in ("jpeg_layer", "front_end"):
        if not isinstance(document.get(key) or {}, dict):
            raise ExportError(f"{path}: its metadata has a damaged {key!r}; export it again with this edgejpeg")


def _check_types(built: dict[str, Any], model: onnx.ModelProto) -> None:
    """A parser narrows types that the library lacks, float64 for one; a caller's buffers would then be misread."""
    wanted = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*model.graph.input, *model.graph.output)
    }
    for entry in (*built["inputs"], *built["outputs"]):
        if entry["dtype"] != wanted.get(entry["name"]):
            raise ExportError(
                f"{entry['name']!r} is {wanted.get(entry['name'])} in the graph and {entry['dtype']} in the engine"
            )


def _describe(
    built: dict[str, Any],
    document: dict[str, Any],
    request: BuildRequest,
    path: Path,
    options: EngineOptions,
    command: str | None,
) -> EngineInfo:
    def tensor(entry: dict[str, Any]) -> TensorInfo:
        shapes = [tuple(shape) for shape in request.profile.get(entry["name"], [])]
        dynamic = shapes if -1 in entry["shape"] and shapes else [None, None, None]
        return TensorInfo(entry["name"], entry["dtype"], tuple(entry["shape"]), *dynamic)

    engine = Path(request.engine)
    layer = document.get("jpeg_layer") or document.get("front_end") or {}
    script = f"import edgejpeg.export as e; e.export_engine({str(path)!r}, {request.flavour!r})"
    return EngineInfo(
        flavour=request.flavour,
        tensorrt_version=built["tensorrt_version"],
        compute_capability=built["compute_capability"],
        device=built["device"],
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
        precision=request.precision,
        form=document["form"],
        inputs=tuple(tensor(entry) for entry in built["inputs"]),
        outputs=tuple(tensor(entry) for entry in built["outputs"]),
        engine_bytes=engine.stat().st_size,
        engine_sha256=file_sha256(engine),
        onnx_sha256=file_sha256(path),
        weights_sha256=document.get("weights_sha256"),
        profile_id=layer.get("profile_id"),
        command=command or f"python -c {shlex.quote(script)}",
        tool_version=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        options=options.to_document(),
        facts=built["facts"],
    )
