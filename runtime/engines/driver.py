"""The CUDA driver behind one class, by ctypes, cuda-python or pycuda; the primary context, and no CUDA runtime library.

Handles are integers, so that what one library makes another can use. The primary context is the one that PyTorch,
CuPy and TensorRT use as well: memory of theirs is memory here.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgejpeg.errors import DeviceError, InvalidInputError

Api = Callable[..., tuple[Any, ...]]
"""``api(name, *inputs)`` gives the outputs of a function of the driver, or raises :class:`DeviceError`."""

DRIVERS = ("pycuda", "cuda-python", "ctypes")
"""What :func:`open_driver` tries, in this order."""

_INT, _UINT, _SIZE, _POINTER, _U64 = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint64

# Name without its version, symbol in libcuda, inputs, outputs. Outputs come first in C, but where marked.
_FUNCTIONS: dict[str, tuple[str, tuple[Any, ...], tuple[Any, ...]]] = {
    "cuInit": ("cuInit", (_UINT,), ()),
    "cuDriverGetVersion": ("cuDriverGetVersion", (), (_INT,)),
    "cuDeviceGetCount": ("cuDeviceGetCount", (), (_INT,)),
    "cuDeviceGet": ("cuDeviceGet", (_INT,), (_INT,)),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", (_INT, _INT), (_INT,)),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", (_INT,), (_POINTER,)),
    "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", (_INT,), ()),
    "cuCtxSetCurrent": ("cuCtxSetCurrent", (_POINTER,), ()),
    "cuMemGetInfo": ("cuMemGetInfo_v2", (), (_SIZE, _SIZE)),
    "cuMemAlloc": ("cuMemAlloc_v2", (_SIZE,), (_U64,)),
    "cuMemFree": ("cuMemFree_v2", (_U64,), ()),
    "cuMemHostAlloc": ("cuMemHostAlloc", (_SIZE, _UINT), (_POINTER,)),
    "cuMemFreeHost": ("cuMemFreeHost", (_POINTER,), ()),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", (_U64, _POINTER, _SIZE, _POINTER), ()),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", (_POINTER, _U64, _SIZE, _POINTER), ()),
    "cuStreamCreate": ("cuStreamCreate", (_UINT,), (_POINTER,)),
    "cuStreamSynchronize": ("cuStreamSynchronize", (_POINTER,), ()),
    "cuStreamDestroy": ("cuStreamDestroy_v2", (_POINTER,), ()),
    "cuEventCreate": ("cuEventCreate", (_UINT,), (_POINTER,)),
    "cuEventRecord": ("cuEventRecord", (_POINTER, _POINTER), ()),
    "cuEventSynchronize": ("cuEventSynchronize", (_POINTER,), ()),
    "cuEventElapsedTime": ("cuEventElapsedTime", (_POINTER, _POINTER), (ctypes.c_float,)),
    "cuEventDestroy": ("cuEventDestroy_v2", (_POINTER,), ()),
    "cuModuleLoadData": ("cuModuleLoadData", (_POINTER,), (_POINTER,)),
    "cuModuleGetFunction": ("cuModuleGetFunction", (_POINTER, ctypes.c_char_p), (_POINTER,)),
    "cuModuleUnload": ("cuModuleUnload", (_POINTER,), ()),
    "cuLaunchKernel": ("cuLaunchKernel", (_POINTER, *(_UINT,) * 7, _POINTER, _POINTER, _POINTER), ()),
    "cuStreamBeginCapture": ("cuStreamBeginCapture_v2", (_POINTER, _INT), ()),
    "cuStreamEndCapture": ("cuStreamEndCapture", (_POINTER,), (_POINTER,)),
    "cuGraphInstantiate": ("cuGraphInstantiateWithFlags", (_POINTER, _U64), (_POINTER,)),
    "cuGraphLaunch": ("cuGraphLaunch", (_POINTER, _POINTER), ()),
    "cuGraphDestroy": ("cuGraphDestroy", (_POINTER,), ()),
    "cuGraphExecDestroy": ("cuGraphExecDestroy", (_POINTER,), ()),
}
_OUTPUT_LAST = {"cuStreamEndCapture"}

OUT_OF_MEMORY = 2

_REASONS = {
    1: "CUDA_ERROR_INVALID_VALUE: an argument is outside what the driver takes",
    OUT_OF_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY: the GPU's memory is full; take a smaller batch, or end other programs",
    3: "CUDA_ERROR_NOT_INITIALIZED: the driver was shut down",
    100: "CUDA_ERROR_NO_DEVICE: the driver sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    101: "CUDA_ERROR_INVALID_DEVICE: there is no GPU of this number",
    200: "CUDA_ERROR_INVALID_IMAGE: neither PTX nor a cubin for this GPU",
    201: "CUDA_ERROR_INVALID_CONTEXT: the primary context was reset by another library",
    209: "CUDA_ERROR_NO_BINARY_FOR_GPU: compiled for GPUs of another compute capability; compile it for this one",
    218: "CUDA_ERROR_INVALID_PTX: the PTX does not assemble",
    222: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the PTX is newer than the driver; update the driver or compile for an "
    "older ISA",
    500: "CUDA_ERROR_NOT_FOUND: there is no function of this name",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS: a kernel reached outside its memory; the process has to be started again",
    701: "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many threads or registers in a block",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: the driver's parts have different versions; restart the machine",
    901: "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: this work cannot be recorded into a CUDA graph; use --noCudaGraph",
    900: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: this work cannot be recorded into a CUDA graph; use --noCudaGraph",
    999: "CUDA_ERROR_UNKNOWN: the driver gives no reason; look at dmesg",
}


def reason(code: int) -> str:
    """What a driver's error number says, in one line."""
    return _REASONS.get(code, f"CUDA error {code}")


def ctypes_api(library: str = "libcuda.so.1") -> Api:
    """The driver's functions by ctypes.

    Raises:
        DeviceError: the library is not on this machine.
    """
    try:
        loaded = ctypes.CDLL(library)
    except OSError as error:
        raise DeviceError(
            f"no CUDA driver on this machine ({library} cannot be loaded: {error}); a GPU of NVIDIA and its driver are "
            "needed, or use an .onnx file, which runs on the CPU"
        ) from error

    def call(name: str, *inputs: Any) -> tuple[Any, ...]:
        symbol, kinds, outputs = _FUNCTIONS[name]
        try:
            function = getattr(loaded, symbol)
        except AttributeError as error:
            raise DeviceError(
                f"the CUDA driver is too old: it has no {symbol}; it is to be of CUDA 12 or newer"
            ) from error
        values = [kind(value) for kind, value in zip(kinds, inputs, strict=True)]
        made = [kind() for kind in outputs]
        pointers = [ctypes.byref(value) for value in made]
        arguments = [*values, *pointers] if name in _OUTPUT_LAST else [*pointers, *values]
        code = function(*arguments)
        if code:
            raise _failed(name, code, inputs)
        return tuple(value.value or 0 for value in made)

    return call


def bindings_api() -> Api:
    """The driver's functions by cuda-python.

    Raises:
        ImportError: it is not installed.
        DeviceError: there is no driver.
    """
    try:
        driver = importlib.import_module("cuda.bindings.driver")
    except ModuleNotFoundError:
        driver = importlib.import_module("cuda.cuda")

    def call(name: str, *inputs: Any) -> tuple[Any, ...]:
        given: list[Any] = list(inputs)
        if name == "cuDeviceGetAttribute":
            given[0] = driver.CUdevice_attribute(given[0])
        elif name == "cuStreamBeginCapture":
            given[1] = driver.CUstreamCaptureMode(given[1])
        try:
            code, *made = getattr(driver, name)(*given)
        except (RuntimeError, OSError) as error:  # it loads libcuda at the first call
            why = " ".join(str(error).split())
            raise DeviceError(f"no CUDA driver on this machine (cuda-python: {why}); look at nvidia-smi") from error
        if int(code):
            raise _failed(name, int(code), inputs)
        return tuple(value if isinstance(value, float) else int(value) for value in made)

    return call


def _failed(name: str, code: int, inputs: Sequence[Any]) -> DeviceError:
    asked = f" of {inputs[0]} bytes" if name in ("cuMemAlloc", "cuMemHostAlloc") else ""
    error = DeviceError(f"{name}{asked} failed: {reason(code)}")
    error.code = code  # type: ignore[attr-defined]
    return error


class Driver:
    """One GPU by its driver, in the primary context.

    Args:
        api: from :func:`ctypes_api` or :func:`bindings_api`.
        device: number of the GPU, from 0.
        name: of the way, for people.

    Raises:
        InvalidInputError: a negative number.
        DeviceError: no GPU, or none of this number.
    """

    def __init__(self, api: Api, device: int = 0, name: str = "ctypes") -> None:
        if device < 0:
            raise InvalidInputError(f"the device is the number of a GPU, 0 or more; got {device}")
        self.name, self.device, self.call = name, device, api
        self._context = 0
        api("cuInit", 0)
        (count,) = api("cuDeviceGetCount")
        if device >= count:
            raise DeviceError(f"there is no GPU {device}: the driver sees {count}; look at nvidia-smi")
        (self._ordinal,) = api("cuDeviceGet", device)
        major, minor = (api("cuDeviceGetAttribute", which, self._ordinal)[0] for which in (75, 76))
        self.compute_capability = f"{major}.{minor}"
        (version,) = api("cuDriverGetVersion")
        self.cuda_version = f"{version // 1000}.{version % 1000 // 10}"
        self._retain()
        self.activate()

    def _retain(self) -> None:
        (self._context,) = self.call("cuDevicePrimaryCtxRetain", self._ordinal)

    def activate(self) -> None:
        """Make the primary context this thread's. Every thread that uses the driver calls it first."""
        if not self._context:
            raise DeviceError("the GPU was closed; open the engine again")
        self.call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Give the primary context back; it lives on while others use it. Closing twice does nothing."""
        if self._context:
            self._context = 0
            self.call("cuDevicePrimaryCtxRelease", self._ordinal)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """Device memory; free it with :meth:`free`."""
        try:
            return int(self._allocate(size))
        except DeviceError as error:
            if getattr(error, "code", None) != OUT_OF_MEMORY:
                raise
            free, total = self.memory()
            raise DeviceError(
                f"the GPU's memory is full: {size / 2**20:.1f} MiB were asked for, {free / 2**20:.0f} of "
                f"{total / 2**20:.0f} MiB are free; take a smaller batch, or end other programs"
            ) from error

    def _allocate(self, size: int) -> int:
        return int(self.call("cuMemAlloc", max(size, 1))[0])

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self.call("cuMemFree", pointer)

    def allocate_pinned(self, size: int) -> int:
        """Page-locked host memory, which transfers need to run beside other work."""
        return int(self.call("cuMemHostAlloc", max(size, 1), 0)[0])

    def free_pinned(self, pointer: int) -> None:
        """Free page-locked memory."""
        self.call("cuMemFreeHost", pointer)

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy from host memory; done when the stream comes to it."""
        self.call("cuMemcpyHtoDAsync", target, source, size, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy to host memory; done when the stream comes to it."""
        self.call("cuMemcpyDtoHAsync", target, source, size, stream)

    def new_stream(self) -> int:
        """A stream that waits for the default stream, so that what PyTorch queued there is done first."""
        return int(self.call("cuStreamCreate", 0)[0])

    def wait_stream(self, stream: int) -> None:
        """Wait for all work of a stream."""
        self.call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self.call("cuStreamDestroy", stream)

    def new_event(self, *, spin: bool = True) -> int:
        """An event with a time; a thread that waits for it spins, or sleeps."""
        return int(self.call("cuEventCreate", 0 if spin else 1)[0])

    def record(self, event: int, stream: int) -> None:
        """Set an event when the stream comes to it."""
        self.call("cuEventRecord", event, stream)

    def wait_event(self, event: int) -> None:
        """Wait until an event is set."""
        self.call("cuEventSynchronize", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events."""
        return float(self.call("cuEventElapsedTime", start, end)[0])

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self.call("cuEventDestroy", event)

    def load_module(self, image: bytes) -> int:
        """Load PTX or a cubin."""
        held = ctypes.create_string_buffer(image)  # with the zero that ends PTX
        return int(self.call("cuModuleLoadData", ctypes.addressof(held))[0])

    def unload_module(self, module: int) -> None:
        """Unload a module; its functions end with it."""
        self.call("cuModuleUnload", module)

    def function(self, module: int, name: str) -> int:
        """A kernel of a module."""
        return int(self.call("cuModuleGetFunction", module, name.encode())[0])

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        stream: int,
        values: Sequence[np.generic],
    ) -> None:
        """Queue a kernel.

        Args:
            function: from :meth:`function`.
            grid, block: sizes.
            shared: bytes of dynamic shared memory.
            stream: to queue it on.
            values: the kernel's arguments, pointers as uint64.
        """
        cells = [np.array([value]) for value in values]
        addresses = (ctypes.c_void_p * max(len(cells), 1))(*[cell.ctypes.data for cell in cells])
        self.call("cuLaunchKernel", function, *grid, *block, shared, stream, ctypes.addressof(addresses), 0)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what ``work`` queues on a stream into a CUDA graph; give its executable form."""
        self.call("cuStreamBeginCapture", stream, 1)
        try:
            work()
        except BaseException:
            (graph,) = self.call("cuStreamEndCapture", stream)
            self.call("cuGraphDestroy", graph)
            raise
        (graph,) = self.call("cuStreamEndCapture", stream)
        try:
            (executable,) = self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)
        return int(executable)

    def launch_graph(self, executable: int, stream: int) -> None:
        """Queue a CUDA graph."""
        self.call("cuGraphLaunch", executable, stream)

    def destroy_graph(self, executable: int) -> None:
        """Destroy the executable form of a CUDA graph."""
        self.call("cuGraphExecDestroy", executable)


def open_driver(device: int = 0, *, using: str | None = None) -> Driver:
    """A GPU, by pycuda where it is installed, else by cuda-python, else by ctypes.

    Args:
        device: number of the GPU, from 0.
        using: one of :data:`DRIVERS` and no other.

    Raises:
        InvalidInputError: another ``using``, or a negative device.
        MissingDependencyError: what ``using`` names is not installed.
        DeviceError: no driver, or no GPU of this number.
    """
    if using is not None and using not in DRIVERS:
        raise InvalidInputError(f"the driver is used by one of {', '.join(DRIVERS)}; got {using!r}")
    for way in (using,) if using else DRIVERS:
        if way == "ctypes":
            break
        try:
            if way == "pycuda":
                from edgejpeg.runtime.engines.driver_pycuda import PycudaDriver

                return PycudaDriver(device)
            return Driver(bindings_api(), device, "cuda-python")
        except ImportError as error:
            if using:
                from edgejpeg.errors import MissingDependencyError

                package = {"pycuda": "edgejpeg[cuda]", "cuda-python": "cuda-bindings"}[way]
                raise MissingDependencyError(
                    f"{way} cannot be imported ({str(error).splitlines()[0]}); install it with: pip install '{package}'"
                ) from error
    return Driver(ctypes_api(), device)
