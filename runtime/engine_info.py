"""The JSON beside an engine: what it was built by and for, checked before the engine is loaded. Needs no package.

An engine is an opaque file that works with one version of TensorRT and on one kind of GPU, and says neither.
``MODEL.engine.json`` does, and :func:`check_engine` compares it with the machine before the runtime sees the bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edgejpeg.errors import InvalidInputError, ModelError

FORMAT, FORMAT_VERSION = "edgejpeg-engine", 1

FLAVOURS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX", "tensorrt-8.5": "TensorRT 8.5"}
"""What an engine can be for, with the names for people."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine.

    Attributes:
        name: in the engine, as in the ONNX file.
        dtype: NumPy's name, ``"float32"`` or ``"uint8"`` for example.
        shape: -1 where it is dynamic.
        minimum, optimum, maximum: of an input with dynamic axes, the shapes of the engine's profile; else None.
    """

    name: str
    dtype: str
    shape: Shape
    minimum: Shape | None = None
    optimum: Shape | None = None
    maximum: Shape | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is.

    Attributes:
        flavour: a key of :data:`FLAVOURS`.
        tensorrt_version: that built it, for example ``"10.3.0.30"``.
        compute_capability: of the GPU it was built on and for, for example ``"8.7"``; None where it is for every GPU
            that the flavour supports.
        device: name of that GPU, for people; None without one.
        version_compatible: later versions of the same major number can load it.
        hardware_compatibility: ``"none"``, ``"ampere_plus"`` or ``"same_compute_capability"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``: of the network; the JPEG layer is float32 in all of them.
        form: ``"layer"``, ``"pixels"`` or ``"coefficients"``.
        inputs, outputs: with the profile's shapes.
        engine_bytes, engine_sha256: of the engine's file.
        onnx_sha256: of the ONNX file that it was built from.
        weights_sha256: of the network's trained weights; None when they were random, or no network is inside.
        profile_id: of the profile whose tables are inside or are an input; None for others.
        options: the builder's options as they were given.
        facts: what was read back from the built engine or network, and which of the two was read.
        command: that builds it again.
        tool_version, date: of the build.
    """

    flavour: str
    tensorrt_version: str
    compute_capability: str | None
    device: str | None
    version_compatible: bool
    hardware_compatibility: str
    precision: str
    form: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    engine_bytes: int
    engine_sha256: str
    onnx_sha256: str
    weights_sha256: str | None
    profile_id: str | None
    command: str
    tool_version: str
    date: str
    options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse input shapes that the engine's profile does not hold.

        Args:
            shapes: of every input, by name.

        Raises:
            InvalidInputError: a missing or unknown input, or a shape outside the profile.
        """
        known = {tensor.name: tensor for tensor in self.inputs}
        if set(shapes) != set(known):
            raise InvalidInputError(f"the engine's inputs are {', '.join(known)}; got {', '.join(shapes) or 'none'}")
        for name, given in shapes.items():
            tensor, shape = known[name], tuple(int(size) for size in given)
            low, high = tensor.minimum or tensor.shape, tensor.maximum or tensor.shape
            inside = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
            if not inside:
                allowed = format_shape(low) if low == high else f"{format_shape(low)} to {format_shape(high)}"
                raise InvalidInputError(
                    f"input {name!r} of shape {format_shape(shape)} is outside the engine's profile, {allowed}; "
                    f"{_rebuild(self.command)} with other --minShapes, --optShapes and --maxShapes"
                )


def format_shape(shape: Sequence[int]) -> str:
    """``1x3x224x224``, as trtexec writes it."""
    return "x".join(str(size) for size in shape) or "a scalar"


def info_path(engine: str | Path) -> Path:
    """Where the JSON of an engine is: its name with ``.json`` behind it."""
    return Path(f"{engine}.json")


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_engine_info(info: EngineInfo, path: str | Path) -> None:
    """Write the JSON to a path, usually :func:`info_path` of the engine."""
    Path(path).write_text(json.dumps(info.to_document(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_engine_info(engine: str | Path) -> EngineInfo:
    """The JSON beside an engine, without a look at the engine itself.

    Raises:
        ModelError: it is missing, is no JSON, is of another format or version, or has a field that is missing,
            unknown or of another type.
    """
    path = info_path(engine)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}; every engine of edgejpeg has this file beside it: keep "
            "them together, or build again with: edgejpeg export --format tensorrt"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}; build the engine again with: edgejpeg export") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ModelError(f"{path} does not describe an engine of edgejpeg; build it with: edgejpeg export")
    if document.get("version") != FORMAT_VERSION:
        raise ModelError(
            f"{path} has version {document.get('version')!r}; this edgejpeg reads version {FORMAT_VERSION}: "
            "build the engine again with: edgejpeg export"
        )
    return _parse(document, path)


def check_engine(
    engine: str | Path,
    *,
    flavour: str | None = None,
    tensorrt_version: str | None = None,
    compute_capability: str | None = None,
) -> EngineInfo:
    """Read the JSON beside an engine and compare it with the file and the machine, before anything loads the engine.

    Args:
        engine: the engine's file.
        flavour: of the runtime that will load it; None is not compared.
        tensorrt_version: of that runtime; None is not compared.
        compute_capability: of the GPU that will run it, for example ``"8.7"``; None is not compared.

    Raises:
        ModelError: the file or its JSON is missing or damaged, or they do not fit the runtime or the GPU; the message
            has the command that builds the engine again.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise ModelError(f"no engine at {engine}; build one with: edgejpeg export --model NAME --format tensorrt")
    info = read_engine_info(engine)
    again = _rebuild(info.command)
    size = engine.stat().st_size
    if size != info.engine_bytes or file_sha256(engine) != info.engine_sha256:
        raise ModelError(
            f"{engine} ({size} bytes) is not the file that {info_path(engine).name} describes "
            f"({info.engine_bytes} bytes): damaged, or from another build; {again}"
        )
    if flavour is not None and flavour != info.flavour:
        raise ModelError(
            f"{engine} is an engine for {FLAVOURS[info.flavour]}, and {FLAVOURS.get(flavour, flavour)} is to run it; "
            f"{again} with --format {flavour}"
        )
    if tensorrt_version is not None and not _version_fits(info, tensorrt_version):
        compatible = " (version-compatible)" if info.version_compatible else ""
        raise ModelError(
            f"{engine} was built{compatible} by {FLAVOURS[info.flavour]} {info.tensorrt_version}, and this is "
            f"{tensorrt_version}; {again} on this machine"
        )
    if compute_capability is not None and not _capability_fits(info, compute_capability):
        raise ModelError(
            f"{engine} was built for a GPU of compute capability {info.compute_capability}"
            f"{f' ({info.device})' if info.device else ''}, and this one has {compute_capability}; {again} on this "
            "machine, or with --hardware-compatible for Ampere and later"
        )
    return info


def _version_fits(info: EngineInfo, running: str) -> bool:
    if running == info.tensorrt_version:
        return True
    built, now = _numbers(info.tensorrt_version), _numbers(running)
    return info.version_compatible and built[:1] == now[:1] and now >= built


def _capability_fits(info: EngineInfo, running: str) -> bool:
    if info.compute_capability is None or running == info.compute_capability:
        return True
    return info.hardware_compatibility == "ampere_plus" and _numbers(running) >= (8, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _rebuild(command: str) -> str:
    return f"build it again with: {command}"


_STRINGS = {
    "flavour", "tensorrt_version", "hardware_compatibility", "precision", "form", "engine_sha256", "onnx_sha256",
    "command", "tool_version", "date",
}  # fmt: skip
_OPTIONAL_STRINGS = {"compute_capability", "device", "weights_sha256", "profile_id"}


def _parse(document: dict[str, Any], path: Path) -> EngineInfo:
    values = {key: value for key, value in document.items() if key not in ("format", "version")}
    names = {entry.name for entry in fields(EngineInfo)}
    if set(values) != names:
        odd = sorted(set(values) ^ names)
        raise _damaged(path, f"{odd[0]!r} is {'missing' if odd[0] in names else 'unknown'}")
    for key, value in values.items():
        good = (
            isinstance(value, str)
            if key in _STRINGS
            else value is None or isinstance(value, str)
            if key in _OPTIONAL_STRINGS
            else isinstance(value, bool)
            if key == "version_compatible"
            else isinstance(value, int) and not isinstance(value, bool)
            if key == "engine_bytes"
            else isinstance(value, list)
            if key in ("inputs", "outputs")
            else isinstance(value, dict)
        )
        if not good:
            raise _damaged(path, f"{key!r} is {value!r}")
    if values["flavour"] not in FLAVOURS:
        raise _damaged(path, f"the flavour is {values['flavour']!r}, not one of {', '.join(FLAVOURS)}")
    for key in ("inputs", "outputs"):
        values[key] = tuple(_tensor(entry, path) for entry in values[key])
    return EngineInfo(**values)


def _tensor(entry: Any, path: Path) -> TensorInfo:
    names = [f.name for f in fields(TensorInfo)]
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise _damaged(path, f"a tensor is {entry!r}")
    shapes = [entry[name] for name in names[2:]]
    texts = isinstance(entry["name"], str) and isinstance(entry["dtype"], str)
    if not texts or shapes[0] is None or not all(s is None or _is_shape(s) for s in shapes):
        raise _damaged(path, f"a tensor is {entry!r}")
    shape, *profile = (None if s is None else tuple(s) for s in shapes)
    return TensorInfo(entry["name"], entry["dtype"], shape or (), *profile)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in value)


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is damaged: {what}; build the engine again with: edgejpeg export")
