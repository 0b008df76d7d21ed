"""Arrays and kernels on a GPU over :mod:`edgejpeg.runtime.engines.driver`.

>>> driver = open_driver()
>>> module = CudaModule(driver, "kernels.ptx")
>>> frame = DeviceArray(driver, (1080, 1920, 3), np.uint8)
>>> module.function("scale")(frame, torch_tensor, np.float32(0.5), grid=(60, 34), block=(32, 32))
"""

from __future__ import annotations

import ctypes
import math
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg.errors import DeviceError, InvalidInputError
from edgejpeg.runtime.engines.driver import Driver

Shape = tuple[int, ...]

_DLPACK_CUDA = 2


class DeviceArray:
    """Memory of a GPU as a C-contiguous array; PyTorch and CuPy take it without a copy.

    Args:
        driver: of the GPU.
        shape, dtype: of the array. Its values are not set.

    Raises:
        DeviceError: the memory is full.
    """

    def __init__(self, driver: Driver, shape: Shape, dtype: npt.DTypeLike) -> None:
        self.shape, self.dtype, self._driver = tuple(shape), np.dtype(dtype), driver
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.pointer = driver.allocate(self.nbytes)
        self._free = weakref.finalize(self, _quietly, driver, driver.free, self.pointer)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }

    def close(self) -> None:
        """Free the memory. Closing twice does nothing."""
        self._free()

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PinnedArray:
    """Page-locked host memory as a NumPy array, in ``array``; transfers from it run beside other work."""

    def __init__(self, driver: Driver, shape: Shape, dtype: npt.DTypeLike) -> None:
        kind = np.dtype(dtype)
        self.nbytes = math.prod(shape) * kind.itemsize
        self.pointer = driver.allocate_pinned(self.nbytes)
        cells = (ctypes.c_uint8 * max(self.nbytes, 1)).from_address(self.pointer)
        self.array: npt.NDArray[Any] = np.ctypeslib.as_array(cells)[: self.nbytes].view(kind).reshape(shape)
        self._free = weakref.finalize(self, _quietly, driver, driver.free_pinned, self.pointer)

    def close(self) -> None:
        """Free the memory; ``array`` must not be used any more. Closing twice does nothing."""
        self._free()


def _quietly(driver: Driver, free: Any, pointer: int) -> None:
    # At the end of the interpreter the driver may be gone before the arrays are.
    try:
        driver.activate()
        free(pointer)
    except DeviceError:
        return


@dataclass(frozen=True)
class DeviceView:
    """Memory of a GPU that another library owns; ``owner`` keeps it alive."""

    pointer: int
    shape: Shape
    dtype: np.dtype[Any]
    owner: Any


def is_device_array(value: Any) -> bool:
    """Whether a value is an array on a GPU, by ``__cuda_array_interface__`` or DLPack."""
    if getattr(value, "__cuda_array_interface__", None) is not None:
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) == _DLPACK_CUDA


def device_view(value: Any, driver: Driver) -> DeviceView:
    """An array of PyTorch, CuPy or another library, where it is; what is queued for it is waited for.

    Raises:
        InvalidInputError: it is not on this GPU, or not C-contiguous.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        view, strides = _from_interface(interface, value), interface.get("strides")
        stream = interface.get("stream")
        if stream is not None:  # 1 is the default stream, which streams of ours wait for
            driver.wait_stream(0 if stream == 1 else int(stream))
    elif is_device_array(value):
        view, strides = _from_dlpack(value, driver)
    else:
        raise InvalidInputError(f"{type(value).__name__} is no array on a GPU; PyTorch, CuPy and DeviceArray have them")
    if strides is not None and tuple(strides) != _contiguous(view.shape, view.dtype.itemsize):
        raise InvalidInputError("an array on a GPU has to be C-contiguous; call its contiguous() first")
    return view


def _from_interface(interface: dict[str, Any], owner: Any) -> DeviceView:
    pointer = int(interface["data"][0] or 0)
    return DeviceView(pointer, tuple(interface["shape"]), np.dtype(interface["typestr"]), owner)


def _contiguous(shape: Shape, itemsize: int) -> Shape:
    strides = [itemsize]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return tuple(strides) if shape else ()


class _DlTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any, driver: Driver) -> tuple[DeviceView, Shape | None]:
    # The capsule is left unconsumed: it owns the tensor, and frees it when it goes.
    if int(value.__dlpack_device__()[1]) != driver.device:
        raise InvalidInputError(
            f"the array is on GPU {value.__dlpack_device__()[1]}, the engine on GPU {driver.device}"
        )
    capsule = value.__dlpack__(stream=1)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = ctypes.cast(get(capsule, b"dltensor"), ctypes.POINTER(_DlTensor)).contents
    kind = {0: "i", 1: "u", 2: "f", 6: "b"}.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        raise InvalidInputError(f"an array of DLPack's type {tensor.code} with {tensor.lanes} lanes is not supported")
    dtype = np.dtype(bool) if kind == "b" else np.dtype(f"{kind}{tensor.bits // 8}")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim)) if tensor.strides else None
    return DeviceView((tensor.data or 0) + tensor.byte_offset, shape, dtype, (value, capsule)), strides


class CudaModule:
    """PTX or a cubin on a GPU.

    Args:
        driver: of the GPU.
        source: a .ptx or .cubin file, or its bytes.

    Raises:
        InvalidInputError: the file cannot be read.
        DeviceError: it is neither, or for another GPU or a newer driver.
    """

    def __init__(self, driver: Driver, source: str | Path | bytes) -> None:
        self._driver, self.name = driver, "the module" if isinstance(source, bytes) else Path(source).name
        image = source if isinstance(source, bytes) else _read(Path(source))
        driver.activate()
        try:
            self._module = driver.load_module(image)
        except DeviceError as error:
            raise DeviceError(
                f"{self.name} on a GPU of compute capability {driver.compute_capability}: {error}"
            ) from error
        self._unload = weakref.finalize(self, _quietly, driver, driver.unload_module, self._module)

    def function(self, name: str) -> Kernel:
        """A kernel by its name.

        Raises:
            DeviceError: the module has none of this name.
        """
        try:
            return Kernel(self, self._driver, self._driver.function(self._module, name))
        except DeviceError as error:
            raise DeviceError(f"{self.name} has no kernel {name!r}: {error}") from error

    def close(self) -> None:
        """Unload it; its kernels must not be launched any more. Closing twice does nothing."""
        self._unload()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read the CUDA module {path}: {error.strerror or error}") from error


class Kernel:
    """A function of a module, called with its arguments and a grid."""

    def __init__(self, module: CudaModule, driver: Driver, handle: int) -> None:
        self._module, self._driver, self._handle = module, driver, handle

    def __call__(self, *arguments: Any, grid: Shape, block: Shape, shared: int = 0, stream: int = 0) -> None:
        """Queue the kernel.

        Args:
            arguments: arrays on the GPU and NumPy scalars, in the kernel's order; a plain int or float has no size.
            grid, block: one to three sizes.
            shared: bytes of dynamic shared memory.
            stream: to queue it on; 0 is the default stream.

        Raises:
            InvalidInputError: an argument or a size that cannot be passed.
            DeviceError: the launch failed.
        """
        self._driver.activate()
        sizes = [tuple(size) + (1,) * (3 - len(size)) for size in (grid, block)]
        for size in sizes:
            if len(size) != 3 or min(size) < 1:
                raise InvalidInputError(f"a grid or block has one to three sizes from 1 on; got {size}")
        held, values = [], []
        for position, value in enumerate(arguments):
            if is_device_array(value):
                held.append(device_view(value, self._driver))
                values.append(np.uint64(held[-1].pointer))
            elif isinstance(value, np.generic):
                values.append(value)
            else:
                raise InvalidInputError(
                    f"argument {position} of the kernel is {value!r}; give an array on the GPU or a NumPy scalar of a "
                    "known size, such as np.int32(3)"
                )
        (gx, gy, gz), (bx, by, bz) = sizes
        self._driver.launch(self._handle, (gx, gy, gz), (bx, by, bz), shared, stream, values)
