"""The CUDA driver by pycuda: its objects under the integers of their handles, graphs by the plain driver."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgejpeg.errors import DeviceError
from edgejpeg.runtime.engines.driver import OUT_OF_MEMORY, Driver, ctypes_api


class PycudaDriver(Driver):
    """As :class:`Driver`. pycuda's memory pool, profiler and error handling see what is done here.

    Raises:
        ImportError: pycuda is not installed, or there is no driver, which it is linked to.
    """

    def __init__(self, device: int = 0) -> None:
        self._cuda = importlib.import_module("pycuda.driver")
        self._objects: dict[int, Any] = {}
        self._pushed = threading.local()
        with self._errors("cuInit"):
            self._cuda.init()
        super().__init__(ctypes_api(), device, "pycuda")

    def _retain(self) -> None:
        with self._errors("cuDevicePrimaryCtxRetain"):
            self._primary = self._cuda.Device(self.device).retain_primary_context()
        self._context = 1
        atexit.register(self.close)  # pycuda aborts when a context is left on its stack

    def activate(self) -> None:
        """Push the primary context on this thread's stack of contexts, once."""
        if not self._context:
            raise DeviceError("the GPU was closed; open the engine again")
        if not getattr(self._pushed, "done", False):
            self._primary.push()
            self._pushed.done = True

    def close(self) -> None:
        """Pop the context from this thread's stack and let it go."""
        if self._context:
            self._context = 0
            atexit.unregister(self.close)
            self._objects.clear()
            if getattr(self._pushed, "done", False):
                self._primary.pop()
            self._primary.detach()

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """pycuda's exceptions as :class:`DeviceError`."""
        try:
            yield
        except self._cuda.Error as error:
            raised = DeviceError(f"{name} failed in pycuda: {str(error).splitlines()[0]}")
            if isinstance(error, self._cuda.MemoryError):
                raised.code = OUT_OF_MEMORY  # type: ignore[attr-defined]
            raise raised from error

    def _allocate(self, size: int) -> int:
        with self._errors("mem_alloc"):
            block = self._cuda.mem_alloc(max(size, 1))
        self._objects[int(block)] = block
        return int(block)

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._objects.pop(pointer).free()

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy from host memory; done when the stream comes to it."""
        with self._errors("memcpy_htod_async"):
            self._cuda.memcpy_htod_async(target, _bytes_at(source, size), self._objects.get(stream))

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy to host memory; done when the stream comes to it."""
        with self._errors("memcpy_dtoh_async"):
            self._cuda.memcpy_dtoh_async(_bytes_at(target, size), source, self._objects.get(stream))

    def new_stream(self) -> int:
        """A stream that waits for the default stream."""
        with self._errors("Stream"):
            stream = self._cuda.Stream()
        self._objects[int(stream.handle)] = stream
        return int(stream.handle)

    def wait_stream(self, stream: int) -> None:
        """Wait for all work of a stream."""
        with self._errors("Stream.synchronize"):
            if stream in self._objects:
                self._objects[stream].synchronize()
            else:
                super().wait_stream(stream)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream, which pycuda does with its object."""
        self._objects.pop(stream)

    def load_module(self, image: bytes) -> int:
        """Load PTX or a cubin."""
        with self._errors("module_from_buffer"):
            module = self._cuda.module_from_buffer(image)
        self._objects[id(module)] = module
        return id(module)

    def unload_module(self, module: int) -> None:
        """Unload a module, which pycuda does with its object."""
        self._objects.pop(module)

    def function(self, module: int, name: str) -> int:
        """A kernel of a module."""
        with self._errors("get_function"):
            function = self._objects[module].get_function(name)
        self._objects[id(function)] = function
        return id(function)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        stream: int,
        values: Sequence[np.generic],
    ) -> None:
        """Queue a kernel; see :meth:`Driver.launch`."""
        with self._errors("launch"):
            self._objects[function](*values, grid=grid, block=block, shared=shared, stream=self._objects.get(stream))


def _bytes_at(pointer: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))
