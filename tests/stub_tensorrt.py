"""A TensorRT for tests, with the names and signatures of the true bindings, on the stub libcuda's memory.

An engine is JSON: {"scale": 2.0, "max": 8}. Its network takes image (-1, 3, 4, 4) float32 and gives logits (-1, 5), the
first five values of each image times the scale. ``touched`` collects every name that is used, by its class.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types

import numpy as np

touched: set[str] = set()
problems: dict[str, object] = {}


class _Recorded:
    def __getattribute__(self, name):
        if not name.startswith("_"):
            touched.add(f"{type(self).__name__}.{name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name, value):
        if not name.startswith("_"):
            touched.add(f"{type(self).__name__}.{name}")
        object.__setattr__(self, name, value)


class DataType(enum.Enum):
    FLOAT = 0
    BF16 = 7


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    pass


class IProfiler:
    pass


class IExecutionContext(_Recorded):
    alive = 0

    def __init__(self, engine):
        self._engine, self._shape, self._addresses = engine, None, {}
        IExecutionContext.alive += 1

    def __del__(self):
        IExecutionContext.alive -= 1

    profiler = None

    def set_input_shape(self, name, shape):
        assert name == "image" and all(isinstance(size, int) for size in shape)
        self._shape = tuple(shape)
        return self._shape[0] <= self._engine._document.get("max", 8)

    def get_tensor_shape(self, name):
        return self._shape if name == "image" else (self._shape[0], self._engine._document.get("outputs", 5))

    def set_tensor_address(self, name, memory):
        assert isinstance(memory, int)
        self._addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle):
        assert isinstance(stream_handle, int)
        if problems.get("execute"):
            self._engine._logger.log(Severity.ERROR, str(problems["execute"]))
            return False
        size = self._shape[0]
        image = _at(self._addresses["image"], (size, 48))
        _at(self._addresses["logits"], (size, 5))[...] = image[:, :5] * self._engine._document["scale"]
        if self.profiler is not None:
            for name, ms in (("JpegLayer/levels", 0.25), ("fc", 0.5)):
                self.profiler.report_layer_time(name, ms)
        return True


class ICudaEngine(_Recorded):
    alive = 0

    def __init__(self, document, logger):
        self._document, self._logger = document, logger
        ICudaEngine.alive += 1

    def __del__(self):
        ICudaEngine.alive -= 1

    num_io_tensors = 2

    def get_tensor_name(self, index):
        return ("image", "logits")[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return (-1, 3, 4, 4) if name == "image" else (-1, 5)

    def get_tensor_dtype(self, name):
        return DataType[self._document.get("dtype", "FLOAT")]

    def get_tensor_profile_shape(self, name, profile_index):
        return [(1, 3, 4, 4), (1, 3, 4, 4), (self._document.get("max", 8), 3, 4, 4)]

    def create_execution_context(self):
        if problems.get("context"):
            self._logger.log(Severity.ERROR, str(problems["context"]))
            return None
        return IExecutionContext(self)


class Runtime(_Recorded):
    def __init__(self, logger):
        self._logger = logger

    engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            return ICudaEngine(json.loads(serialized_engine), self._logger)
        except ValueError:
            self._logger.log(Severity.ERROR, "magicTag does not match\nmagicTag: 0")
            return None


def _at(pointer, shape):
    cells = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
    return np.ctypeslib.as_array(cells).reshape(shape)


def module(version: str) -> types.ModuleType:
    """The module, said to be of a version."""
    made = types.ModuleType("tensorrt")
    made.__version__ = version
    for part in (DataType, TensorIOMode, ILogger, IProfiler, Runtime):
        setattr(made, part.__name__, part)
    return made
