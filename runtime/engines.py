"""Inference engines behind one small interface: today ONNX Runtime, on whichever execution provider it really uses.

The wrapper never pretends: a provider that was asked for and is not among those the session reports is an error, not a
warning and a slow run on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg._optional import require
from edgejpeg.errors import InvalidInputError, ModelError

_NUMPY_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}


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


class OnnxRuntimeEngine:
    """An ONNX graph loaded into ONNX Runtime.

    Args:
        path: the .onnx file.
        providers: execution providers in order of preference, by ONNX Runtime's names.
        threads: cores one run may use (intra-op threads), at least 1.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        InvalidInputError: ``threads`` is below 1, or no provider is given.
        ModelError: the file is missing or cannot be loaded, or the session does not run on the first provider.

    ``run`` may be called from several threads at once, as ONNX Runtime allows it.
    """

    def __init__(
        self, path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 1
    ) -> None:
        ort = require("onnxruntime", extra="ort", purpose="running an ONNX model")
        if threads < 1:
            raise InvalidInputError(f"threads must be at least 1, got {threads}")
        if not providers:
            raise InvalidInputError("providers is empty; give at least one, for example CPUExecutionProvider")
        self.path = Path(path)
        if not self.path.is_file():
            raise ModelError(f"no ONNX file at {self.path}; make one with: edgejpeg export --model NAME -o DIR")
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise ModelError(
                f"execution provider {missing[0]} is not in this onnxruntime {ort.__version__}; "
                f"available: {', '.join(ort.get_available_providers())}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(self.path), options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise ModelError(f"{self.path} cannot be loaded by onnxruntime: {first_line(error)}") from error
        if self.providers[0] != providers[0]:
            raise ModelError(
                f"{self.path} was to run on {providers[0]}, but onnxruntime chose {self.providers[0]}; "
                f"install what {providers[0]} needs, or ask for {self.providers[0]}"
            )
        self.inputs = tuple(_tensor_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor_spec(value) for value in self._session.get_outputs())

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the session reports, not those that were asked for."""
        return tuple(self._session.get_providers())

    @property
    def metadata(self) -> dict[str, str]:
        """The file's ``metadata_props``."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None) -> list[Any]:
        """Run the graph once.

        Args:
            feeds: an array per input name, of the type and shape in ``inputs``.
            outputs: names of the wanted outputs, in order; None for all.

        Raises:
            ModelError: ONNX Runtime refused the inputs or failed in a node.
        """
        try:
            result: list[Any] = self._session.run(None if outputs is None else list(outputs), dict(feeds))
        except Exception as error:
            raise ModelError(f"{self.path.name} failed in onnxruntime: {first_line(error)}") from error
        return result


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 300 characters, for a one-line message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _tensor_spec(value: Any) -> TensorSpec:
    kind = _NUMPY_TYPES.get(value.type)
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, None if kind is None else np.dtype(kind))
