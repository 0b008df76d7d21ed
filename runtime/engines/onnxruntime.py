"""ONNX files in ONNX Runtime, on whichever execution provider it really uses.

The wrapper never pretends: a provider that was asked for and is not among those the session reports is an error, not a
warning and a slow run on the CPU.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg._optional import require_onnxruntime
from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.runtime.engines.base import LayerTimes, Query, TensorSpec, Trace, first_line
from edgejpeg.runtime.engines.cuda import is_device_array

_NUMPY_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short names of execution providers; ONNX Runtime's own are taken as well."""

_ON_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


class OnnxRuntimeEngine:
    """An ONNX graph loaded into ONNX Runtime.

    Args:
        path: the .onnx file.
        providers: execution providers in order of preference: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ONNX Runtime's
            names.
        threads: cores one run may use (intra-op threads), at least 1.
        device: number of the GPU, for providers that use one.

    Raises:
        MissingDependencyError: onnxruntime is not installed, or two of its distributions are.
        InvalidInputError: ``threads`` is below 1, or no provider is given.
        ModelError: the file is missing or cannot be loaded, or the session does not run on the first provider.

    ``run`` may be called from several threads at once, as ONNX Runtime allows it.
    """

    backend = "onnxruntime"
    synchronous = True

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 1,
        device: int = 0,
    ) -> None:
        ort = require_onnxruntime(purpose="running an ONNX model")
        if threads < 1:
            raise InvalidInputError(f"threads must be at least 1, got {threads}")
        if device < 0:
            raise InvalidInputError(f"the device is the number of a GPU, 0 or more; got {device}")
        if not providers:
            raise InvalidInputError("providers is empty; give at least one, for example CPUExecutionProvider")
        self.path = Path(path)
        if not self.path.is_file():
            raise ModelError(f"no ONNX file at {self.path}; make one with: edgejpeg export --model NAME -o DIR")
        providers = [PROVIDERS.get(name.lower(), name) for name in providers]
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise ModelError(
                f"execution provider {missing[0]} is not in this onnxruntime {ort.__version__}; "
                f"available: {', '.join(ort.get_available_providers())}"
            )
        self._ort, self._threads, self._device = ort, threads, device
        self._options = [{"device_id": str(device)} if name in _ON_GPU else {} for name in providers]
        self._asked = providers
        self._session = self._open(None)
        if self.providers[0] != providers[0]:
            raise ModelError(
                f"{self.path} was to run on {providers[0]}, but onnxruntime chose {self.providers[0]}; "
                f"install what {providers[0]} needs, or ask for {self.providers[0]}"
            )
        self.inputs = tuple(_tensor_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor_spec(value) for value in self._session.get_outputs())
        self._zero = time.perf_counter()

    def _open(self, profile_prefix: str | None) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        try:
            return self._ort.InferenceSession(
                str(self.path), options, providers=self._asked, provider_options=self._options
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise ModelError(f"{self.path} cannot be loaded by onnxruntime: {first_line(error)}") from error

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the session reports, not those that were asked for."""
        return tuple(self._session.get_providers())

    @property
    def metadata(self) -> dict[str, str]:
        """The file's ``metadata_props``."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def on_gpu(self) -> bool:
        """Whether the session's first provider runs on a GPU."""
        return self.providers[0] in _ON_GPU

    def describe(self) -> dict[str, Any]:
        """Library, version, providers as the session reports them, and threads."""
        return {
            "backend": self.backend,
            "version": self._ort.__version__,
            "providers": list(self.providers),
            "threads": self._threads,
            "device": f"GPU {self._device}" if self.on_gpu else "CPU",
        }

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """Run the graph once.

        Args:
            feeds: an array per input name, of the type and shape in ``inputs``; on a GPU's provider also arrays of
                PyTorch or CuPy on that GPU, which are not copied.
            outputs: names of the wanted outputs, in order; None for all.

        Raises:
            InvalidInputError: an array on a GPU for a session that runs on the CPU.
            ModelError: ONNX Runtime refused the inputs or failed in a node.
        """
        wanted = [value.name for value in self.outputs] if outputs is None else list(outputs)
        try:
            if any(is_device_array(value) for value in feeds.values()):
                return self._run_on_device(feeds, wanted)
            result: list[Any] = self._session.run(wanted, dict(feeds))
        except InvalidInputError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return result

    def _run_on_device(self, feeds: Mapping[str, Any], wanted: list[str]) -> list[Any]:
        if not self.on_gpu:
            raise InvalidInputError(
                f"{self.path.name} runs on {self.providers[0]}, and an input is an array on a GPU; give NumPy's, or "
                "open it with providers=['cuda']"
            )
        from edgejpeg.runtime.engines.cuda import device_view
        from edgejpeg.runtime.engines.driver import open_driver

        driver = open_driver(self._device, using="ctypes")
        binding, held = self._session.io_binding(), []
        try:
            for name, value in feeds.items():
                if not is_device_array(value):
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
                    continue
                view = device_view(value, driver)
                held.append(view)
                binding.bind_input(name, "cuda", self._device, view.dtype.type, list(view.shape), view.pointer)
            for name in wanted:
                binding.bind_output(name)
            self._session.run_with_iobinding(binding)
            return list(binding.copy_outputs_to_cpu())
        finally:
            driver.close()

    def _failure(self, error: BaseException) -> ModelError:
        return ModelError(f"{self.path.name} failed in onnxruntime: {first_line(error)}")

    def start_clock(self) -> None:
        """The zero of every trace from now on."""
        self._zero = time.perf_counter()

    def milliseconds(self) -> float:
        """Since :meth:`start_clock`."""
        return 1e3 * (time.perf_counter() - self._zero)

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
        """One query for each stream: ONNX Runtime has no queue. ``graph`` and ``spin`` have no meaning here."""
        made: list[list[Query]] = []
        for _ in range(streams):
            made.append([_GpuQuery(self, feeds, transfers) if self.on_gpu else _CpuQuery(self, feeds)])
        return made

    def profile(self, feeds: Mapping[str, npt.NDArray[Any]], iterations: int) -> list[LayerTimes]:
        """The time of each node in a session of its own, by ONNX Runtime's profiler, one warm-up left out."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(str(Path(folder) / "profile"))
            try:
                for _ in range(iterations + 1):
                    session.run(None, dict(feeds))
            except Exception as error:
                raise self._failure(error) from error
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        layers: dict[str, LayerTimes] = {}
        for event in events:
            if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
                name = str(event["name"]).removesuffix("_kernel_time")
                label = f"{name} ({event['args'].get('op_name', '?')})"
                layers.setdefault(label, LayerTimes(label, [])).milliseconds.append(float(event["dur"]) / 1e3)
        for layer in layers.values():
            del layer.milliseconds[: max(len(layer.milliseconds) // (iterations + 1), 1)]
        return list(layers.values())

    def close(self) -> None:
        """Nothing: the session ends with the object."""


class _CpuQuery:
    """A run on the CPU: all of it is compute."""

    def __init__(self, engine: OnnxRuntimeEngine, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        self._engine, self._feeds = engine, feeds
        self._names = [value.name for value in engine.outputs]
        self._results: list[Any] = []
        self._span = (0.0, 0.0)

    def enqueue(self) -> None:
        """Run."""
        engine = self._engine
        start = engine.milliseconds()
        try:
            self._results = engine._session.run(self._names, self._feeds)
        except Exception as error:
            raise engine._failure(error) from error
        self._span = start, engine.milliseconds()

    def wait(self) -> Trace:
        """The run's times."""
        start, end = self._span
        return Trace(start, start, start, start, start, end, end, end)

    def outputs(self) -> list[npt.NDArray[Any]]:
        """Of the last run."""
        return list(self._results)

    def close(self) -> None:
        """Nothing to free."""


class _GpuQuery:
    """A run by a GPU's provider with inputs and outputs bound there, so that transfers are timed by themselves."""

    def __init__(self, engine: OnnxRuntimeEngine, feeds: Mapping[str, npt.NDArray[Any]], transfers: bool) -> None:
        self._engine, self._feeds, self._transfers = engine, feeds, transfers
        self._binding = engine._session.io_binding()
        self._values = {
            name: engine._ort.OrtValue.ortvalue_from_numpy(value, "cuda", engine._device)
            for name, value in feeds.items()
        }
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in engine.outputs:
            self._binding.bind_output(output.name, "cuda", engine._device)
        self._results: list[Any] = []
        self._trace = Trace(0, 0, 0, 0, 0, 0, 0, 0)

    def enqueue(self) -> None:
        """Copy, run, wait, and copy back."""
        engine, now = self._engine, self._engine.milliseconds
        try:
            start = now()
            if self._transfers:
                for name, value in self._values.items():
                    value.update_inplace(self._feeds[name])
            copied = now()
            engine._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            computed = now()
            if self._transfers:
                self._results = list(self._binding.copy_outputs_to_cpu())
        except Exception as error:
            raise engine._failure(error) from error
        self._trace = Trace(copied, copied, start, copied, copied, computed, computed, now())

    def wait(self) -> Trace:
        """The run's times."""
        return self._trace

    def outputs(self) -> list[npt.NDArray[Any]]:
        """Of the last run."""
        return self._results or list(self._binding.copy_outputs_to_cpu())

    def close(self) -> None:
        """Let the GPU's memory go."""
        self._values.clear()


def _tensor_spec(value: Any) -> TensorSpec:
    kind = _NUMPY_TYPES.get(value.type)
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, None if kind is None else np.dtype(kind))
