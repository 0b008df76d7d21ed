"""The served network: an ONNX file, what it wants as input, and the names of its classes.

A file made by ``edgejpeg export`` tells everything in ``metadata_props["edgejpeg"]``. A foreign file has to be
described: size (when its graph leaves it open), resize, range, mean and std.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg._optional import require
from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.runtime.engines import OnnxRuntimeEngine, TensorSpec
from edgejpeg.runtime.server.decode import InputSpec

METADATA_KEY = "edgejpeg"
SCORES = ("logits", "probabilities")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_log = logging.getLogger("edgejpeg.server")


@dataclass(frozen=True)
class ForeignInput:
    """How a foreign ONNX file wants its pixels; None where the user said nothing. Units as in :class:`InputSpec`."""

    size: tuple[int, int] | None = None
    resize: int | None = None
    value_range: tuple[float, float] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None

    def given(self) -> list[str]:
        """The command line's names of what was said."""
        return [f"--{_FLAGS.get(key, key)}" for key, value in vars(self).items() if value is not None]


_FLAGS = {"value_range": "range"}
_NEEDED = ("resize", "value_range", "mean", "std")


@dataclass(frozen=True)
class ServedModel:
    """A network that is ready to classify.

    Attributes:
        name: its name in the protocol's addresses.
        engine: the loaded graph.
        spec: its input.
        num_classes: the width of its output.
        class_names: one name a class, or None.
        scores: "logits", or "probabilities" when the graph ends in its own softmax.
        description: the weights' description, for people.
    """

    name: str
    engine: OnnxRuntimeEngine
    spec: InputSpec
    num_classes: int
    class_names: tuple[str, ...] | None = None
    scores: str = "logits"
    description: str = ""
    version: str = field(default="1", init=False)

    def predict(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The network's output (n, classes) for a batch (n, 3, height, width).

        Raises:
            ModelError: the engine failed, or its output is not finite or has another shape than it says.
        """
        source = self.engine.inputs[0]
        # A graph of a fixed batch of one is run image by image.
        parts = [batch] if source.shape[0] is None else [batch[i : i + 1] for i in range(len(batch))]
        outputs = [self.engine.run({source.name: part}, [self.engine.outputs[0].name])[0] for part in parts]
        scores = np.concatenate(outputs).astype(np.float32, copy=False)
        if scores.shape != (len(batch), self.num_classes):
            raise ModelError(
                f"{self.name} answered with the shape {scores.shape}, not {(len(batch), self.num_classes)}"
            )
        if not np.isfinite(scores).all():
            raise ModelError(f"{self.name} answered with NaN or infinity")
        return scores

    def probabilities(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Softmax over the classes in float64, or the scores themselves when they are probabilities."""
        wide = scores.astype(np.float64)
        if self.scores == "probabilities":
            return wide
        power = np.exp(wide - wide.max(axis=1, keepdims=True))
        result: npt.NDArray[np.float64] = power / power.sum(axis=1, keepdims=True)
        return result


def load_model(
    path: str | Path,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    foreign: ForeignInput | None = None,
    scores: str = "logits",
    threads: int = 1,
) -> ServedModel:
    """Load an ONNX classifier of images to serve it.

    Args:
        path: the .onnx file.
        name: name in the protocol's addresses; the file's name without ending by default.
        labels: class names instead of those in the file's metadata.
        foreign: how a file without edgejpeg's metadata wants its pixels.
        scores: "logits" or "probabilities": what the output holds.
        threads: cores for one run of the network.

    A file with a JPEG layer in front, which codes once more what comes as JPEG, is served with a warning on the log.

    Raises:
        ModelError: the file cannot be loaded, has inputs or outputs that cannot be served, or lacks a description.
        InvalidInputError: an option is outside what is allowed, or contradicts the file.
        MissingDependencyError: onnxruntime or Pillow is not installed.
    """
    if scores not in SCORES:
        raise InvalidInputError(f"scores must be one of {', '.join(SCORES)}, got {scores!r}")
    require("PIL.Image", extra="serve", purpose="the inference server")  # at the start, not at the first image
    path = Path(path)
    name = path.stem if name is None else name
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot be a model's name in an address: letters, digits, '_', '-', '.'; say another with --name"
        )
    engine = OnnxRuntimeEngine(path, threads=threads)
    source = _image_input(engine)
    classes = _classes_of(engine)
    document = _read_metadata(engine)
    foreign = foreign or ForeignInput()
    if document is None:
        spec = _foreign_spec(engine.path, source, foreign)
        names, description = None, "weights unknown: the file has no edgejpeg metadata"
    else:
        if foreign.given():
            raise InvalidInputError(
                f"{', '.join(foreign.given())} cannot be given for {path.name}: its metadata describes its input"
            )
        spec, names, description = _described_spec(engine.path, source, document)
        if document.get("jpeg_layer") is not None:
            _log.warning(
                "%s has a JPEG layer in front of its network: frames, which come as JPEG, are coded twice; "
                "for a server export it with --form pixels",
                path.name,
            )
    if labels is not None:
        names = tuple(labels)
    if names is not None and len(names) != classes:
        raise ModelError(f"{path.name} has {classes} classes, but {len(names)} class names were given")
    return ServedModel(name, engine, spec, classes, names, scores, description)


def read_labels(path: str | Path) -> list[str]:
    """Class names from a text file, one a line, in the order of the network's outputs.

    Raises:
        InvalidInputError: the file cannot be read, or has an empty line between names.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"labels cannot be read from {path}: {error}") from error
    names = [line.strip() for line in text.strip().splitlines()]
    if not all(names) or not names:
        line = names.index("") + 1 if names else 1
        raise InvalidInputError(f"labels in {path}: one class name a line, none empty; line {line} is")
    return names


def _image_input(engine: OnnxRuntimeEngine) -> TensorSpec:
    names = [value.name for value in engine.inputs]
    if "tables" in names:
        raise ModelError(
            f"{engine.path.name} has a second input 'tables' (its JPEG layer was exported for an adaptive profile); "
            "serve needs a graph of one image: export it with --form pixels or with a fixed profile"
        )
    if len(names) != 1:
        raise ModelError(f"{engine.path.name} has the inputs {', '.join(names)}; serve needs a graph of one image")
    source = engine.inputs[0]
    if len(source.shape) != 4 or source.shape[1] not in (3, None) or source.shape[0] not in (1, None):
        raise ModelError(
            f"{engine.path.name} has an input of shape {_shape_text(source)}; serve needs (N or 1, 3, H, W), RGB"
        )
    if source.dtype is None or source.dtype.name not in ("float32", "float16", "uint8"):
        raise ModelError(f"{engine.path.name} has an input of another type than float32, float16 or uint8")
    return source


def _classes_of(engine: OnnxRuntimeEngine) -> int:
    if len(engine.outputs) != 1:
        raise ModelError(
            f"{engine.path.name} has {len(engine.outputs)} outputs ({', '.join(x.name for x in engine.outputs)}); "
            "serve needs a classifier with one"
        )
    output = engine.outputs[0]
    if len(output.shape) != 2 or output.shape[1] is None or output.dtype is None or output.dtype.kind != "f":
        raise ModelError(f"{engine.path.name} has an output of shape {_shape_text(output)}; serve needs (N, classes)")
    return output.shape[1]


def _read_metadata(engine: OnnxRuntimeEngine) -> dict[str, Any] | None:
    text = engine.metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{engine.path.name}: its edgejpeg metadata is no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != 1:
        found = document.get("format") if isinstance(document, dict) else document
        raise ModelError(f"{engine.path.name}: its edgejpeg metadata has the format {found!r}; this version reads 1")
    return document


def _described_spec(
    path: Path, source: TensorSpec, document: Mapping[str, Any]
) -> tuple[InputSpec, tuple[str, ...] | None, str]:
    try:
        entry = document["input"]
        height, width = (int(value) for value in entry["size"])
        low, high = (float(value) for value in entry["range"])
        spec = InputSpec(
            height, width, int(entry["resize"]), str(entry["interpolation"]), str(entry["dtype"]), (low, high)
        )
        names = document.get("class_names")
        class_names = None if names is None else tuple(str(value) for value in names)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{path.name}: its edgejpeg metadata is unusable: {reason}; export it again") from None
    if source.dtype is None or spec.dtype != source.dtype.name:
        raise ModelError(f"{path.name}: its metadata says input {spec.dtype}, its graph has {source.dtype}")
    _check_size(path, source, (height, width))
    return spec, class_names, str(document.get("weights", ""))


def _foreign_spec(path: Path, source: TensorSpec, foreign: ForeignInput) -> InputSpec:
    missing = [f"--{_FLAGS.get(key, key)}" for key in _NEEDED if getattr(foreign, key) is None]
    height, width = source.shape[2:]
    if foreign.size is None and (height is None or width is None):
        missing.insert(0, "--size")
    if missing:
        raise ModelError(
            f"{path.name} has no edgejpeg metadata, so its input must be described: {', '.join(missing)} missing; "
            "for example --resize 256 --range 0,1 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
        )
    size = foreign.size or (height or 0, width or 0)
    _check_size(path, source, size)
    assert foreign.resize is not None and foreign.value_range and foreign.mean and foreign.std and source.dtype
    return InputSpec(
        *size,
        resize=foreign.resize,
        interpolation=foreign.interpolation or "bilinear",
        dtype=source.dtype.name,
        value_range=foreign.value_range,
        mean=foreign.mean,
        std=foreign.std,
    )


def _check_size(path: Path, source: TensorSpec, size: tuple[int, int]) -> None:
    for asked, fixed in zip(size, source.shape[2:], strict=True):
        if fixed is not None and fixed != asked:
            raise ModelError(f"{path.name} takes images of {_shape_text(source)}, not {size[0]} x {size[1]}")


def _shape_text(value: TensorSpec) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in value.shape) + ")"
