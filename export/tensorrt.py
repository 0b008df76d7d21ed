"""TensorRT 10.3 to 11: one strongly typed way for all of them; and 8.5, weakly typed, for engines that are measured.

Strongly typed, the builder computes every layer in the type that the graph gives it: FP16 and INT8 are in the graph,
and no flag asks for them. TF32 is cleared: with its ten bits of mantissa quantized coefficients flip.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgejpeg.errors import ExportError
from edgejpeg.export.engine_build import (
    JPEG_LAYER_NODES,
    BuildLog,
    BuildRequest,
    check_version,
    logger,
    member,
)

LOWEST, BELOW = (10, 3), (12, 0)

_INSTALL = (
    "install one with: pip install 'edgejpeg[trt]' (on Jetson: apt install python3-libnvinfer), or give the ONNX file "
    "to your trtexec"
)


class TensorRt:
    """TensorRT 10.3 to 11."""

    name = "TensorRT"

    def load(self) -> Any:
        """The module ``tensorrt``, of a version that is supported."""
        trt = importlib.import_module("tensorrt")
        check_version(self.name, str(trt.__version__), LOWEST, BELOW, _INSTALL)
        return trt

    def network_flags(self, trt: Any, request: BuildRequest) -> int:
        """Strongly typed; the explicit batch where it can still be asked for."""
        flags = trt.NetworkDefinitionCreationFlag
        bits = 1 << int(flags.STRONGLY_TYPED)
        if hasattr(flags, "EXPLICIT_BATCH"):
            bits |= 1 << int(flags.EXPLICIT_BATCH)
        if request.jpeg_layer == "plugin" and hasattr(flags, "PREFER_AOT_PYTHON_PLUGINS"):
            bits |= 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)
        return bits

    def configure(self, trt: Any, config: Any, network: Any, request: BuildRequest) -> None:
        """No TF32, details for the inspector, and what the request says."""
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if request.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
        if request.optimization_level is not None:
            config.builder_optimization_level = request.optimization_level
        if request.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if request.hardware_compatibility != "none":
            config.hardware_compatibility_level = member(
                trt, "HardwareCompatibilityLevel", request.hardware_compatibility.upper()
            )
        if request.timing_cache is not None:
            _read_timing_cache(config, Path(request.timing_cache))

    def after_build(self, config: Any, request: BuildRequest) -> None:
        """Write the timing cache back."""
        if request.timing_cache is not None:
            path = Path(request.timing_cache)
            written = path.with_name(f".{path.name}.writing")
            written.write_bytes(bytes(config.get_timing_cache().serialize()))
            written.replace(path)

    def read_back(self, trt: Any, engine: bytes, log: BuildLog, request: BuildRequest) -> dict[str, Any]:
        """Load the engine and ask TensorRT's inspector for its layers."""
        runtime = trt.Runtime(logger(trt, log))
        if request.version_compatible:
            runtime.engine_host_code_allowed = True  # such an engine brings its own lean runtime
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise ExportError(f"TensorRT built an engine that it cannot load: {log.last_error()}")
        for name, shapes in request.profile.items():
            if -1 not in tuple(loaded.get_tensor_shape(name)):
                continue
            found = [[int(size) for size in shape] for shape in loaded.get_tensor_profile_shape(name, 0)]
            if found != shapes:
                raise ExportError(f"the engine's profile of {name!r} is {found}, and {shapes} was asked for")
        text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        facts = inspector_facts(text)
        judge_engine(facts, request)
        capability, device = current_device()
        return {"facts": facts, "compute_capability": capability, "device": device}


class TensorRt85(TensorRt):
    """TensorRT 8.5: opset 17, weakly typed, so that FP16 is a flag and the JPEG layer is held in float32."""

    name = "TensorRT 8.5"

    def load(self) -> Any:
        """The module ``tensorrt``, of version 8.5."""
        trt = importlib.import_module("tensorrt")
        check_version(self.name, str(trt.__version__), (8, 5), (8, 6), "install it with: pip install tensorrt==8.5.3.1")
        return trt

    def network_flags(self, trt: Any, request: BuildRequest) -> int:
        """The explicit batch alone."""
        return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    def configure(self, trt: Any, config: Any, network: Any, request: BuildRequest) -> None:
        """As of later versions, and FP16 by its flag."""
        super().configure(trt, config, network, request)
        if request.without_libraries:
            config.set_tactic_sources(0)
        if request.precision != "fp16":
            return
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.name.startswith(JPEG_LAYER_NODES) and layer.get_output(0).dtype == trt.DataType.FLOAT:
                layer.precision = trt.DataType.FLOAT
                layer.set_output_type(0, trt.DataType.FLOAT)


def inspector_facts(text: str) -> dict[str, Any]:
    """What the inspector's JSON says of a built engine.

    Returns:
        ``engine_layers``, ``engine_types`` (outputs of layers by type), ``engine_plugins``, ``engine_has_jpeg_layer``
        (None where the engine names no ONNX nodes), ``engine_opaque`` (a part was compiled as one block, whose inner
        types the inspector does not show) and ``read_from``.

    Raises:
        ExportError: the text is not the inspector's JSON.
    """
    try:
        layers = json.loads(text)["Layers"]
        detailed = [layer for layer in layers if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"TensorRT's inspector gave no list of layers: {text[:80]!r}") from error
    types: dict[str, int] = {}
    for layer in detailed:
        for output in layer.get("Outputs", []):
            kind = _format_type(str(output.get("Format/Datatype", output.get("Format", ""))))
            types[kind] = types.get(kind, 0) + 1
    whole = json.dumps(layers)
    names_nodes = "[ONNX Layer: " in whole or JPEG_LAYER_NODES in whole
    return {
        "read_from": "the built engine, by TensorRT's inspector, and the parsed network",
        "engine_layers": len(layers),
        "engine_types": dict(sorted(types.items())),
        "engine_plugins": [str(x.get("Name")) for x in detailed if "plugin" in str(x.get("LayerType", "")).lower()],
        "engine_has_jpeg_layer": JPEG_LAYER_NODES in whole if names_nodes else None,
        "engine_opaque": "ForeignNode" in whole or len(detailed) < len(layers),
    }


def judge_engine(facts: dict[str, Any], request: BuildRequest) -> None:
    """Refuse a built engine without what was asked for, with :class:`ExportError`."""
    wanted = {"fp16": "float16", "int8": "int8"}.get(request.precision)
    if wanted and not facts["engine_opaque"] and not facts["engine_types"].get(wanted):
        raise ExportError(
            f"{request.precision} was asked for, and no layer of the built engine is {wanted}: {facts['engine_types']}"
        )
    if request.jpeg_layer == "operators" and facts["engine_has_jpeg_layer"] is False:
        raise ExportError("the JPEG layer was asked for, and the built engine names no node of it")
    if request.jpeg_layer == "plugin" and not facts["engine_plugins"] and not facts["engine_opaque"]:
        raise ExportError("the JPEG layer was to be a plugin, and the built engine has none")


def current_device() -> tuple[str | None, str | None]:
    """Compute capability and name of the first GPU that the driver shows this process; None, None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    calls: tuple[Callable[[], int], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, 256, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
    )
    if any(call() for call in calls):
        return None, None
    return f"{major.value}.{minor.value}", name.value.decode("utf-8", "replace")


def _read_timing_cache(config: Any, path: Path) -> None:
    data = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise ExportError(
            f"TensorRT cannot use the timing cache {path}: damaged, or of another version or GPU; delete it"
        )


def _format_type(text: str) -> str:
    for pattern, name in (
        (r"\b(FP16|Half)\b", "float16"),
        (r"\b(INT8)\b", "int8"),
        (r"\b(FP32|Float)\b", "float32"),
        (r"\b(INT32)\b", "int32"),
        (r"\b(INT64)\b", "int64"),
        (r"\b(UINT8)\b", "uint8"),
    ):
        if re.search(pattern, text, re.IGNORECASE):
            return name
    return text or "unknown"
