"""Engines of TensorRT and TensorRT-RTX: checked against their JSON, deserialised, run with buffers of their own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg._optional import require
from edgejpeg.errors import DeviceError, EdgeJpegError, InvalidInputError, ModelError
from edgejpeg.runtime.engine_info import FLAVOURS, check_engine, format_shape, read_engine_info
from edgejpeg.runtime.engines.base import LayerTimes, Query, TensorSpec, check_inputs
from edgejpeg.runtime.engines.driver import open_driver
from edgejpeg.runtime.engines.tensorrt_query import Lane, TensorRtQuery

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "tensorrt-8.5": "tensorrt"}
_EXTRAS = {"tensorrt": "trt", "tensorrt-rtx": "rtx", "tensorrt-8.5": "trt"}

SUPPORTED = {
    "tensorrt": ((10, 3), (12,)),
    "tensorrt-rtx": ((1, 2), (2,)),
    "tensorrt-8.5": ((8, 5), (8, 6)),
}
"""Versions from the first one on and below the second."""

_NUMPY_TYPES: dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


class TensorRtEngine:
    """An engine on a GPU.

    Args:
        path: the engine; its JSON (:mod:`edgejpeg.runtime.engine_info`) is beside it and says what it is for.
        device: number of the GPU.
        driver: ``"pycuda"``, ``"cuda-python"`` or ``"ctypes"``; None takes the first there is.

    Raises:
        MissingDependencyError: the vendor's library is not installed.
        ModelError: the file is missing or damaged, or not for this version, GPU or library.
        DeviceError: no GPU, or its memory is full.

    ``run`` may be called from several threads; they take turns. Close it, or let it go, to free the GPU's memory.
    """

    synchronous = False

    def __init__(self, path: str | Path, *, device: int = 0, driver: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ModelError(f"no engine at {path}; build one with: edgejpeg export --model NAME --format tensorrt")
        self.backend = read_engine_info(self.path).flavour
        trt = _load(self.backend)
        self._driver = open_driver(device, using=driver)
        try:
            self.info = check_engine(
                self.path,
                flavour=self.backend,
                tensorrt_version=str(trt.__version__),
                compute_capability=self._driver.compute_capability,
            )
            self._trt, self._errors = trt, _Log()
            self._runtime = trt.Runtime(self._errors.logger(trt))
            if self.info.version_compatible:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(self.path.read_bytes())
            if self._engine is None:
                raise self._failure("cannot load the engine")
            self.inputs, self.outputs = self._tensors()
            self._clock_event = self._driver.new_event()
        except BaseException:
            self._engine = self._runtime = None
            self._driver.close()
            raise
        self._lock = threading.Lock()
        self._lane: Lane | None = None
        self._query: TensorRtQuery | None = None
        self._made: list[TensorRtQuery] = []
        self._lanes: list[Lane] = []
        self.start_clock()

    def _tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind = _NUMPY_TYPES.get(self._engine.get_tensor_dtype(name).name)
            if kind is None:
                raise ModelError(
                    f"{self.path.name}: tensor {name!r} is of type {self._engine.get_tensor_dtype(name).name}, which "
                    "NumPy does not have; export with float32 inputs and outputs"
                )
            shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
            mode = self._engine.get_tensor_mode(name)
            (inputs if mode == self._trt.TensorIOMode.INPUT else outputs).append(
                TensorSpec(name, shape, np.dtype(kind))
            )
        return tuple(inputs), tuple(outputs)

    def _failure(self, what: str) -> ModelError | DeviceError:
        text = self._errors.last()
        message = f"{self.path.name}: {FLAVOURS[self.backend]} {what}: {text}"
        if re.search(r"out of memory|outofmemory", text, re.IGNORECASE):
            free, total = self._driver.memory()
            return DeviceError(
                f"{message}; {free / 2**20:.0f} of {total / 2**20:.0f} MiB are free: take a smaller batch, or end "
                "other programs"
            )
        return ModelError(message)

    @property
    def metadata(self) -> dict[str, str]:
        """Form, precision and hashes from the JSON beside the engine."""
        keys = ("form", "precision", "onnx_sha256", "weights_sha256", "profile_id")
        return {key: str(getattr(self.info, key)) for key in keys if getattr(self.info, key) is not None}

    def describe(self) -> dict[str, Any]:
        """Library, version, GPU, and by what its memory is managed."""
        return {
            "backend": self.backend,
            "version": str(self._trt.__version__),
            "precision": self.info.precision,
            "form": self.info.form,
            "device": f"GPU {self._driver.device}, compute capability {self._driver.compute_capability}",
            "cuda": self._driver.cuda_version,
            "driver": self._driver.name,
        }

    def shape_range(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest shape of an input that the engine's profile holds."""
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(int(size) for size in low), tuple(int(size) for size in high)

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse shapes outside the engine's profile.

        Raises:
            InvalidInputError: naming the range.
        """
        for source in self.inputs:
            shape = tuple(shapes[source.name])
            if None in source.shape:
                low, high = self.shape_range(source.name)
            else:
                low = high = tuple(size or 0 for size in source.shape)
            if len(shape) != len(low) or any(not a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                allowed = format_shape(low) if low == high else f"{format_shape(low)} to {format_shape(high)}"
                raise InvalidInputError(
                    f"input {source.name!r} of shape {format_shape(shape)} is outside the profile of {self.path.name}, "
                    f"{allowed}; build it again with other shapes: {self.info.command}"
                )

    def _new_lane(self) -> Lane:
        self._activate()
        context = self._engine.create_execution_context()
        if context is None:
            raise self._failure("cannot create an execution context")
        return Lane(self._driver, context, self._failure)

    def _activate(self) -> None:
        if self._engine is None:
            raise ModelError(f"{self.path.name} was closed; open it again")
        self._driver.activate()

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """Run once and wait.

        Args:
            feeds: by input name: arrays of NumPy, or of PyTorch or CuPy on this GPU, which are not copied.
            outputs: names of the wanted outputs, in order; None for all.

        Raises:
            InvalidInputError: an input is missing, unknown, of another type, or of a shape outside the profile.
            ModelError: TensorRT failed, or the engine was closed.
            DeviceError: the GPU failed, or its memory is full.
        """
        check_inputs(self, feeds)
        shapes = {name: tuple(np.shape(value)) for name, value in feeds.items()}
        with self._lock:
            self._activate()
            if self._lane is None:
                self._lane = self._new_lane()
            if self._query is None or self._query.shapes != shapes:
                if self._query is not None:
                    self._query.close()
                    self._query = None
                self.check_shapes(shapes)
                self._query = TensorRtQuery(self, self._lane, shapes)
            self._query.bind(feeds)
            self._query.enqueue()
            self._query.wait()
            results = {spec.name: value.copy() for spec, value in zip(self.outputs, self._query.outputs(), strict=True)}
        wanted = list(results) if outputs is None else list(outputs)
        unknown = [name for name in wanted if name not in results]
        if unknown:
            raise InvalidInputError(f"{self.path.name} has no output {unknown[0]!r}; it has {', '.join(results)}")
        return [results[name] for name in wanted]

    def start_clock(self) -> None:
        """The zero of every trace from now on."""
        self._activate()
        self._driver.record(self._clock_event, 0)
        self._driver.wait_event(self._clock_event)
        self._zero = time.perf_counter()

    def milliseconds(self) -> float:
        """Of the host, since :meth:`start_clock`."""
        return 1e3 * (time.perf_counter() - self._zero)

    def event_milliseconds(self, event: int) -> float:
        """Of an event, since :meth:`start_clock`."""
        return self._driver.elapsed_ms(self._clock_event, event)

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
        """Queries with streams, execution contexts and buffers of their own, run once each to warm up.

        Raises:
            InvalidInputError, ModelError, DeviceError: as :meth:`run`; DeviceError also where a CUDA graph was asked
                for and the engine's work cannot be recorded into one.
        """
        check_inputs(self, feeds)
        shapes = {name: tuple(value.shape) for name, value in feeds.items()}
        self.check_shapes(shapes)
        self.start_clock()
        made: list[list[Query]] = []
        for _ in range(streams):
            lane = self._new_lane()
            self._lanes.append(lane)
            row: list[Query] = []
            for _ in range(depth):
                query = TensorRtQuery(self, lane, shapes, transfers=transfers, spin=spin)
                self._made.append(query)
                query.bind(feeds)
                query.warm_up(graph=graph)
                row.append(query)
            made.append(row)
        return made

    def profile(self, feeds: Mapping[str, npt.NDArray[Any]], iterations: int) -> list[LayerTimes]:
        """The time of each layer by TensorRT's profiler, in an execution context of its own, one warm-up left out."""
        check_inputs(self, feeds)
        shapes = {name: tuple(value.shape) for name, value in feeds.items()}
        self.check_shapes(shapes)
        layers: dict[str, LayerTimes] = {}
        lane = self._new_lane()
        try:
            query = TensorRtQuery(self, lane, shapes)
            try:
                query.bind(feeds)
                query.enqueue()
                query.wait()
                lane.context.profiler = _profiler(self._trt, layers)
                for _ in range(iterations):
                    query.enqueue()
                    query.wait()
            finally:
                query.close()
        finally:
            lane.close()
        return list(layers.values())

    @property
    def driver(self) -> Any:
        """Of the GPU, for memory and kernels beside the engine."""
        return self._driver

    def close(self) -> None:
        """Free contexts, buffers, the engine and the GPU, in this order. Closing twice does nothing."""
        if self._engine is None:
            return
        self._driver.activate()
        for query in [*self._made, *([self._query] if self._query else [])]:
            query.close()
        for lane in [*self._lanes, *([self._lane] if self._lane else [])]:
            lane.close()
        self._made, self._query, self._lanes, self._lane = [], None, [], None
        self._driver.destroy_event(self._clock_event)
        self._engine = self._runtime = None
        self._driver.close()

    def __del__(self) -> None:
        # An engine that could not be opened lacks what close() looks at, and at the interpreter's end all may be gone.
        with suppress(Exception):
            self.close()

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Log:
    """Errors of the library, kept for messages."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def logger(self, trt: Any) -> Any:
        """An ``ILogger`` that keeps errors and prints nothing."""
        messages = self._messages

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity.name in ("ERROR", "INTERNAL_ERROR"):
                    messages.append(" ".join(msg.split()))

        self._logger = Logger()  # the runtime does not keep it alive
        return self._logger

    def last(self) -> str:
        """The last error."""
        return self._messages[-1] if self._messages else "it gave no reason"


def _profiler(trt: Any, layers: dict[str, LayerTimes]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            layers.setdefault(layer_name, LayerTimes(layer_name, [])).milliseconds.append(float(ms))

    return Profiler()


def _load(flavour: str) -> Any:
    name = _MODULES[flavour]
    purpose = f"an engine of {FLAVOURS[flavour]}"
    try:
        module: Any = require(name, extra=_EXTRAS[flavour], purpose=purpose)
    except (EdgeJpegError, ModuleNotFoundError):
        raise
    except (OSError, ImportError) as error:  # the bindings are there, the libraries are not
        raise ModelError(
            f"{FLAVOURS[flavour]} is installed and cannot be loaded: {str(error).splitlines()[0]}; its libraries have "
            "to be where the loader finds them (LD_LIBRARY_PATH)"
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", str(module.__version__))[:3])
    low, below = SUPPORTED[flavour]
    if not low <= version < below:
        span = f"{'.'.join(map(str, low))} to below {'.'.join(map(str, below))}"
        raise ModelError(
            f"{purpose} needs {FLAVOURS[flavour]} {span}, and {module.__version__} is installed; install another, or "
            "build the engine again for this one with: edgejpeg export"
        )
    return module
