"""The sides of ``edgejpeg verify``: a file in an engine or a network in PyTorch, from images to logits and levels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.runtime.engines import Engine, open_engine

if TYPE_CHECKING:
    from edgejpeg.models import LoadedModel

Images = NDArray[np.uint8]

TORCH = "torch:"
"""How a side that is a network in PyTorch begins: ``torch:resnet18``."""


@dataclass
class Output:
    """What a side gives for a batch.

    Attributes:
        logits: (N, classes), or None of a coefficient front end.
        levels: quantized coefficients, arrays (N, ...), or None where the side does not show them.
    """

    logits: NDArray[Any] | None
    levels: list[NDArray[Any]] | None


@dataclass
class Side:
    """One of the two that are compared.

    Attributes:
        name: for people.
        form: ``"layer"``, ``"pixels"`` or ``"coefficients"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        size: H, W of the images.
        classify: uint8 (N, 3, H, W) RGB images to outputs.
        batch: images at once; None for any number.
        jpeg_layer: of a layer, what its metadata says.
        resize, interpolation: how the network wants images, None where the side does not say it.
        facts: what really runs.
    """

    name: str
    form: str
    precision: str
    size: tuple[int, int]
    classify: Callable[[Images], Output]
    batch: int | None = None
    jpeg_layer: dict[str, Any] | None = None
    resize: int | None = None
    interpolation: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def open_side(name: str, *, providers: Sequence[str] = ("cpu",), threads: int = 1, device: int = 0) -> Side:
    """A file as a side.

    Args:
        name: an .onnx file of edgejpeg's, or an engine with its JSON.
        providers, threads, device: as :func:`~edgejpeg.runtime.engines.open_engine` has them.

    Raises:
        EdgeJpegError: the file cannot be opened, or edgejpeg did not write it.
    """
    path = Path(name)
    if path.suffix != ".onnx":
        engine = open_engine(path, backend="tensorrt", device=device)
        return _file_side(engine, engine.metadata, None)
    if not path.is_file():
        raise ModelError(f"no file at {path}; make one with: edgejpeg export --model NAME -o DIR")
    import onnx

    from edgejpeg.export.functions import expose_levels
    from edgejpeg.export.metadata import read_metadata

    document = read_metadata(path)
    if document.get("jpeg_layer") is None:
        return _file_side(open_engine(path, providers=providers, threads=threads, device=device), document, None)
    probe, names = expose_levels(onnx.load(str(path)))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, path.name)
        written.write_bytes(probe.SerializeToString())
        engine = open_engine(written, providers=providers, threads=threads, device=device)
    engine.path = path
    return _file_side(engine, document, names[1:])


def _file_side(engine: Engine, document: dict[str, Any], levels: list[str] | None) -> Side:
    source = engine.inputs[0]
    form = str(document["form"])
    if source.dtype is None or len(source.shape) != 4 or None in source.shape[2:]:
        raise ModelError(f"{engine.path.name} takes {source.shape}; verify needs images of one size, (N, 3, H, W)")
    height, width = source.shape[2:]
    names = [output.name for output in engine.outputs]

    def classify(images: Images) -> Output:
        feeds: dict[str, Any] = {source.name: _as_input(images, source.dtype)}
        for other in engine.inputs[1:]:
            if other.name != "tables":
                raise ModelError(f"{engine.path.name} has an input {other.name!r} that verify cannot fill")
            feeds["tables"] = _tables(len(images) if other.shape[0] is None else other.shape[0])
        values = dict(zip(names, engine.run(feeds), strict=True))
        if form == "coefficients":
            packed = [values[component] for component in ("y", "cb", "cr") if component in values]
            return Output(None, [np.ascontiguousarray(value).view(np.int16) for value in packed])
        logits = values.get("logits", values[names[0]])
        return Output(logits, None if levels is None else [values[name] for name in levels])

    entry = document.get("input") if isinstance(document.get("input"), dict) else {}
    assert isinstance(entry, dict)
    return Side(
        engine.path.name,
        form,
        str(document["precision"]),
        (int(height or 0), int(width or 0)),
        classify,
        source.shape[0],
        document.get("jpeg_layer"),
        entry.get("resize"),
        entry.get("interpolation"),
        engine.describe(),
        engine.close,
    )


def _as_input(images: Images, dtype: Any) -> NDArray[Any]:
    if dtype == np.uint8:
        return images
    return (images.astype(np.float32) / 255).astype(dtype)


def _tables(count: int) -> NDArray[np.float32]:
    """For graphs whose tables are an input: the IJG's at quality 75."""
    pair = np.stack([table.array.reshape(64) for table in ijg_tables(75)]).astype(np.float32)
    return np.broadcast_to(pair, (count, 2, 64)).copy()


def torch_side(model: LoadedModel, like: Side) -> Side:
    """A network in PyTorch as a side, with the JPEG layer of the other side where that has one.

    Raises:
        InvalidInputError: the other side has no network, or one for images of another size.
    """
    import torch

    from edgejpeg.export.layer import ExportModule

    if like.form == "coefficients":
        raise InvalidInputError(
            f"{like.name} is a coefficient front end, with no network that PyTorch could be held to"
        )
    if model.input_size != like.size:
        raise InvalidInputError(f"{like.name} takes images of {like.size}, and {model.name} of {model.input_size}")
    if like.form == "layer" and like.jpeg_layer is None:
        raise InvalidInputError(
            f"{like.name} does not say its tables; verify its .onnx file against {TORCH}{model.name}"
        )
    layer = like.jpeg_layer or {}
    tables = layer.get("tables")
    constant = None
    if isinstance(tables, dict):
        constant = np.array([[np.ravel(tables["luma"]), np.ravel(tables["chroma"])]], dtype=np.float32)
    module = ExportModule(
        model.module,
        size=model.input_size,
        mean=model.mean,
        std=model.std,
        uint8=True,
        subsampling=layer.get("subsampling"),
        tables=_tables(1) if layer and constant is None else constant,
    ).eval()

    def classify(images: Images) -> Output:
        with torch.no_grad():
            batch = torch.from_numpy(images)
            levels = None
            if module.front_end is not None and module.tables is not None:
                levels = [level.numpy() for level in module.front_end.levels(module.unit_image(batch), module.tables)]
            return Output(module(batch).numpy(), levels)

    name = f"{TORCH}{model.name}"
    facts = {"backend": "torch", "version": torch.__version__, "weights": model.weights}
    return Side(
        name, like.form, "fp32", model.input_size, classify, None, None, model.resize, model.interpolation, facts
    )
