"""From an ONNX file to a serialized engine: the steps that TensorRT and TensorRT-RTX share.

This part runs in a process of its own (:mod:`edgejpeg.export.engine_child`) and needs the vendor's bindings alone:
neither PyTorch nor onnx. What differs between the vendors' libraries is in :mod:`edgejpeg.export.tensorrt` and
:mod:`edgejpeg.export.rtx`, each a :class:`Flavour`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgejpeg.errors import ExportError, InvalidInputError

JPEG_LAYER_NODES = "JpegLayer/"
"""How the names of the layer's inlined nodes begin."""

PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}

NUMPY_NAMES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool", "FP8": "float8", "INT4": "int4",
}  # fmt: skip


@dataclass(frozen=True)
class BuildRequest:
    """What to build, as plain values that travel to the child process.

    Attributes:
        flavour: ``"tensorrt"``, ``"tensorrt-rtx"`` or ``"tensorrt-8.5"``.
        onnx: the model as :func:`edgejpeg.export.rewrite.rewrite_for` left it.
        engine: where to write the engine.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``, which the graph already has and the engine must keep.
        jpeg_layer: ``"operators"`` or ``"plugin"``, which the engine must have; None for a graph without the layer.
        profile: for each input min, opt and max shape.
        plugin_modules: modules whose ``register(trt)`` is called before the parser runs.
        workspace_mib: bound of the builder's scratch memory; None leaves it to the builder.
        optimization_level: 0 to 5; None leaves it to the builder.
        version_compatible: later versions of the same major number shall load it.
        hardware_compatibility: ``"none"``, ``"ampere_plus"`` or ``"same_compute_capability"``.
        timing_cache: a file that is read where it exists, and written.
        without_libraries: TensorRT 8.5 without cuBLAS and cuDNN as sources of kernels.
    """

    flavour: str
    onnx: str
    engine: str
    precision: str = "fp32"
    jpeg_layer: str | None = None
    profile: dict[str, list[list[int]]] = field(default_factory=dict)
    plugin_modules: list[str] = field(default_factory=list)
    workspace_mib: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    timing_cache: str | None = None
    without_libraries: bool = False


class Flavour(Protocol):
    """What a vendor's library needs done in its own way."""

    name: str

    def network_flags(self, trt: Any, request: BuildRequest) -> int:
        """Bits for ``create_network``."""

    def configure(self, trt: Any, config: Any, network: Any, request: BuildRequest) -> None:
        """Set the builder's options on its configuration."""

    def after_build(self, config: Any, request: BuildRequest) -> None:
        """What is to be kept of the build besides the engine."""

    def read_back(self, trt: Any, engine: bytes, log: BuildLog, request: BuildRequest) -> dict[str, Any]:
        """What the built engine says of itself: ``facts``, ``compute_capability``, ``device``."""


@dataclass
class BuildLog:
    """What the library logged: errors and warnings, and the lines in which the builder describes its engine."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    report: list[str] = field(default_factory=list)

    def add(self, severity: str, message: str) -> None:
        """Keep a message, or not."""
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)
        elif re.search(r"Total Weights Memory|^ForeignNode .* metadata", message):
            self.report.append(message)

    def last_error(self) -> str:
        """The last error in one line."""
        return one_line(self.errors[-1]) if self.errors else "it gave no reason"


def logger(trt: Any, log: BuildLog) -> Any:
    """An ``ILogger`` of a library that fills a log and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return Logger()


def build(trt: Any, flavour: Flavour, request: BuildRequest) -> dict[str, Any]:
    """Parse, build, read back, judge, and write the engine.

    Args:
        trt: the vendor's module.
        flavour: how to treat it.
        request: what to build.

    Returns:
        ``tensorrt_version``, ``compute_capability``, ``device``, ``inputs`` and ``outputs`` (name, dtype, shape),
        ``facts``, ``warnings`` and ``seconds``.

    Raises:
        ExportError: the parser or the builder refuses the model, or the engine is not what was asked for.
    """
    start = time.perf_counter()
    log = BuildLog()
    report = logger(trt, log)
    for module in request.plugin_modules:
        __import__(module, fromlist=["register"]).register(trt)
    try:
        builder = trt.Builder(report)
    except (TypeError, RuntimeError) as error:  # pybind11's word for a null pointer
        reason = log.last_error() if log.errors else one_line(str(error))
        raise ExportError(f"{flavour.name} cannot start; is there a GPU, with a driver new enough? {reason}") from error
    network = builder.create_network(flavour.network_flags(trt, request))
    parser = trt.OnnxParser(network, report)
    if not parser.parse(Path(request.onnx).read_bytes()):
        raise ExportError(f"{flavour.name} cannot parse this model: {_parser_errors(parser, log)}")
    config = builder.create_builder_config()
    flavour.configure(trt, config, network, request)
    _add_profile(builder, config, network, request)
    layers = network_layers(trt, network)
    facts = network_facts(layers, int(network.num_layers))
    judge_network(layers, request)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError(f"{flavour.name} cannot build this engine: {log.last_error()}{_hint(log)}")
    engine = bytes(serialized)
    flavour.after_build(config, request)
    read = flavour.read_back(trt, engine, log, request)
    result = {
        "tensorrt_version": str(trt.__version__),
        "compute_capability": read["compute_capability"],
        "device": read["device"],
        "inputs": [_tensor(network.get_input(index)) for index in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(index)) for index in range(network.num_outputs)],
        "facts": {**facts, **read["facts"]},
        "warnings": [one_line(message) for message in dict.fromkeys(log.warnings)][:20],
    }
    Path(request.engine).write_bytes(engine)
    result["seconds"] = round(time.perf_counter() - start, 3)
    return result


@dataclass(frozen=True)
class Layer:
    """A layer of a parsed network that has weights, or a plugin."""

    name: str
    kind: str
    precision: str

    @property
    def of_jpeg_layer(self) -> bool:
        """Whether it is a part of the inlined JPEG layer."""
        return self.name.startswith(JPEG_LAYER_NODES)


def network_layers(trt: Any, network: Any) -> list[Layer]:
    """The layers with weights and the plugins of a parsed network, with the types they compute in."""
    weighted = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}
    plugins = {
        getattr(trt.LayerType, kind) for kind in ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3") if hasattr(trt.LayerType, kind)
    }
    dequantized: set[str] = set()
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.DEQUANTIZE:
            dequantized.add(layer.get_output(0).name)
        elif layer.type in weighted:
            first = layer.get_input(0)
            precision = "int8" if first.name in dequantized else _dtype(first.dtype)
            layers.append(Layer(layer.name, "weighted", precision))
        elif layer.type in plugins:
            layers.append(Layer(layer.name, "plugin", _dtype(layer.get_output(0).dtype)))
    return layers


def network_facts(layers: list[Layer], count: int) -> dict[str, Any]:
    """Counts of a parsed network: its layers, those with weights by type, those of the JPEG layer, plugins."""

    def by_precision(of_jpeg_layer: bool) -> dict[str, int]:
        found = [x.precision for x in layers if x.kind == "weighted" and x.of_jpeg_layer == of_jpeg_layer]
        return {precision: found.count(precision) for precision in sorted(set(found))}

    return {
        "network_layers": count,
        "layers_with_weights": by_precision(of_jpeg_layer=False),
        "jpeg_layer_operators": by_precision(of_jpeg_layer=True),
        "plugins": [layer.name for layer in layers if layer.kind == "plugin"],
    }


def judge_network(layers: list[Layer], request: BuildRequest) -> None:
    """Refuse a network without the precision or the layer that was asked for, with :class:`ExportError`.

    A strongly typed network is built in the types that it has here, so a wrong one is found before the build.
    """
    weighted = [layer for layer in layers if layer.kind == "weighted" and not layer.of_jpeg_layer]
    wanted = PRECISIONS[request.precision]
    if request.flavour != "tensorrt-8.5" and request.precision != "int8":
        wrong = [layer.name for layer in weighted if layer.precision != wanted]
        if wrong:
            raise ExportError(
                f"{request.precision} was asked for, and {len(wrong)} of {len(weighted)} layers with weights are not "
                f"{wanted} in the parsed network: {', '.join(wrong[:3])}"
            )
    if request.precision == "int8" and not any(layer.precision == "int8" for layer in weighted):
        raise ExportError(f"int8 was asked for, and none of {len(weighted)} layers with weights is quantized")
    parts = [layer for layer in layers if layer.of_jpeg_layer]
    if request.jpeg_layer == "operators" and not parts:
        raise ExportError("the JPEG layer was asked for, and no layer of the parsed network belongs to it")
    if any(layer.precision != "float32" for layer in parts):
        raise ExportError("the JPEG layer is float32, and the parsed network has a part of it in another type")
    if request.jpeg_layer == "plugin" and not any(layer.kind == "plugin" for layer in layers):
        raise ExportError("the JPEG layer was to be a plugin, and the parsed network has none")


def check_version(
    name: str, version: str, lowest: tuple[int, int], below: tuple[int, int], install: str
) -> tuple[int, ...]:
    """The numbers of a version, or :class:`ExportError` when it is outside ``lowest <= version < below``."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:4])
    allowed = f"{lowest[0]}.{lowest[1]} up to, without, {below[0]}.{below[1]}"
    if numbers < lowest:
        raise ExportError(f"{name} {version} is too old: engines are built by {allowed}; {install}")
    if numbers >= below:
        raise ExportError(f"{name} {version} is too new: engines are built by {allowed}; {install}")
    return numbers


def member(trt: Any, enumeration: str, name: str) -> Any:
    """A member of an enumeration, or :class:`InvalidInputError` when this version has none of that name."""
    found = getattr(getattr(trt, enumeration), name, None)
    if found is None:
        raise InvalidInputError(f"this TensorRT ({trt.__version__}) has no {enumeration}.{name}")
    return found


def one_line(message: str) -> str:
    """A message without line breaks, at most 400 characters."""
    return " ".join(message.split())[:400]


def _add_profile(builder: Any, config: Any, network: Any, request: BuildRequest) -> None:
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    if set(inputs) != set(request.profile):
        raise ExportError(
            f"the parsed network has the inputs {', '.join(inputs)}; the profile is for {', '.join(request.profile)}"
        )
    if all(-1 not in tuple(tensor.shape) for tensor in inputs.values()):
        return
    profile = builder.create_optimization_profile()
    for name, shapes in request.profile.items():
        profile.set_shape(name, *(tuple(shape) for shape in shapes))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"the builder refuses the shapes {request.profile}; give others with --maxShapes")


def _parser_errors(parser: Any, log: BuildLog) -> str:
    messages = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        place = ""
        if hasattr(error, "node_name") and error.node_operator():
            place = f"node {error.node_name() or '(unnamed)'!r}, operator {error.node_operator()}: "
        elif error.node() >= 0:
            place = f"node {error.node()}: "
        messages.append(place + _reason(error.desc()))
    return "; ".join(dict.fromkeys(messages)) or log.last_error()


def _reason(text: str) -> str:
    """The parser's words, or plainer ones where it quotes an assertion."""
    if "Plugin not found" in text:
        return "there is neither such an operator nor a plugin of that name"
    return "not supported" if text.strip() == "false" else one_line(text)


def _hint(log: BuildLog) -> str:
    text = " ".join(log.errors).lower()
    if "outofmemory" in text or "out of memory" in text or "insufficient" in text or "could not find any impl" in text:
        return "; when memory is short, give a smaller --maxShapes or --workspace"
    return ""


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": _dtype(tensor.dtype), "shape": [int(size) for size in tensor.shape]}


def _dtype(dtype: Any) -> str:
    return NUMPY_NAMES.get(dtype.name, dtype.name.lower())
