"""What every engine has, whichever library runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgejpeg.errors import InvalidInputError


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of a graph's input or output.

    Attributes:
        name: the tensor's name in the graph.
        shape: one entry per dimension, None where it is dynamic.
        dtype: the NumPy type, or None for a type that has none here (strings, sequences).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any] | None


@dataclass(frozen=True)
class Trace:
    """When the parts of one inference began and ended, in milliseconds since the engine's :meth:`Engine.start_clock`.

    ``enqueue`` is the host's time to hand the work over, ``h2d`` and ``d2h`` the transfers, ``compute`` the network. A
    synchronous engine has no queue: its enqueue time is 0.
    """

    enqueue_start: float
    enqueue_end: float
    h2d_start: float
    h2d_end: float
    compute_start: float
    compute_end: float
    d2h_start: float
    d2h_end: float


@dataclass
class LayerTimes:
    """Milliseconds of one layer, once per inference."""

    name: str
    milliseconds: list[float]


class Query(Protocol):
    """An inference with buffers of its own, to be run again and again on the same input."""

    def enqueue(self) -> None:
        """Hand the work over; a synchronous engine does it."""

    def wait(self) -> Trace:
        """Wait until it is done."""

    def outputs(self) -> list[npt.NDArray[Any]]:
        """The outputs of the last inference; of an engine without transfers they are fetched now."""

    def close(self) -> None:
        """Free the buffers."""


class Engine(Protocol):
    """A network that is ready to run.

    Attributes:
        path: of the file.
        backend: ``"onnxruntime"``, ``"tensorrt"``, ``"tensorrt-rtx"`` or ``"tensorrt-8.5"``.
        synchronous: an inference is done when it has been handed over, and several threads may run at once.
        inputs, outputs: of the graph.
    """

    path: Path
    backend: str
    synchronous: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself, by key."""

    def describe(self) -> dict[str, Any]:
        """What really runs: library, version, provider or GPU, as plain values."""

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """Run once. ``feeds`` by input name: NumPy arrays, or arrays of PyTorch or CuPy on the engine's GPU."""

    def start_clock(self) -> None:
        """The zero of every :class:`Trace` from now on."""

    def queries(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        *,
        streams: int = 1,
        depth: int = 1,
        transfers: bool = True,
        graph: bool = False,
        spin: bool = True,
    ) -> list[list[Query]]:
        """For each stream ``depth`` queries that may be in flight at once."""

    def profile(self, feeds: Mapping[str, npt.NDArray[Any]], iterations: int) -> list[LayerTimes]:
        """The time of each layer in runs of their own."""

    def close(self) -> None:
        """Free what the engine holds."""


def input_shapes(engine: Engine, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes of an engine's inputs: those given, else the graph's own with 1 where the batch is dynamic.

    Raises:
        InvalidInputError: an unknown input, or a dynamic axis beside the batch without a shape.
    """
    given = dict(shapes or {})
    for name in given:
        if name not in [source.name for source in engine.inputs]:
            known = ", ".join(source.name for source in engine.inputs)
            raise InvalidInputError(f"{engine.path.name} has no input {name!r}; its inputs are {known}")
    chosen = {}
    for source in engine.inputs:
        if source.name in given:
            chosen[source.name] = tuple(int(size) for size in given[source.name])
            continue
        if None in source.shape[1:]:
            raise InvalidInputError(
                f"input {source.name!r} of {engine.path.name} has dynamic axes beside the batch; give its shape, such "
                f"as {source.name}:1x3x224x224"
            )
        chosen[source.name] = tuple(1 if size is None else size for size in source.shape)
    return chosen


def random_feeds(
    engine: Engine, shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, npt.NDArray[np.generic]]:
    """Random values for each input: 0..255 for uint8, 0..1 for floats; tables of ordinary JPEG for ``tables``.

    Raises:
        InvalidInputError: an input of a type that has no random values here.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for source in engine.inputs:
        shape = tuple(shapes[source.name])
        if source.name == "tables" and shape[-2:] == (2, 64) and source.dtype == np.float32:
            from edgejpeg.jpeg.tables import ijg_tables

            pair = np.stack([table.array.reshape(64) for table in ijg_tables(75)])
            feeds[source.name] = np.ascontiguousarray(np.broadcast_to(pair, shape), dtype=np.float32)
        elif source.dtype is not None and source.dtype.kind == "f":
            feeds[source.name] = rng.random(shape, dtype=np.float32).astype(source.dtype)
        elif source.dtype is not None and source.dtype.kind in "iu":
            feeds[source.name] = rng.integers(0, 256 if source.dtype == np.uint8 else 2, shape).astype(source.dtype)
        else:
            raise InvalidInputError(f"input {source.name!r} of {engine.path.name} has a type without random values")
    return feeds


def check_inputs(engine: Engine, feeds: Mapping[str, Any]) -> None:
    """Refuse feeds that are not those of the graph, by name.

    Raises:
        InvalidInputError: an input is missing or unknown.
    """
    names = [source.name for source in engine.inputs]
    if set(names) != set(feeds):
        raise InvalidInputError(
            f"{engine.path.name} has the inputs {', '.join(names)}; got {', '.join(map(str, feeds)) or 'none'}"
        )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 300 characters, for a one-line message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
