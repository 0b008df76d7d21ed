"""Engines behind one small interface: ONNX Runtime, TensorRT and TensorRT-RTX; kernels of your own on the same GPU.

>>> engine = open_engine("resnet18-jpeg.onnx")
>>> (logits,) = engine.run({"image": batch})

Whatever runs is what was asked for: another execution provider, another GPU or another version is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.errors import InvalidInputError
from edgejpeg.runtime.engines.base import Engine as Engine
from edgejpeg.runtime.engines.base import TensorSpec as TensorSpec
from edgejpeg.runtime.engines.base import first_line as first_line
from edgejpeg.runtime.engines.base import input_shapes as input_shapes
from edgejpeg.runtime.engines.base import random_feeds as random_feeds
from edgejpeg.runtime.engines.onnxruntime import PROVIDERS as PROVIDERS
from edgejpeg.runtime.engines.onnxruntime import OnnxRuntimeEngine as OnnxRuntimeEngine

if TYPE_CHECKING:
    from edgejpeg.runtime.engines.cuda import CudaModule as CudaModule
    from edgejpeg.runtime.engines.cuda import DeviceArray as DeviceArray
    from edgejpeg.runtime.engines.driver import Driver as Driver
    from edgejpeg.runtime.engines.driver import open_driver as open_driver
    from edgejpeg.runtime.engines.tensorrt import TensorRtEngine as TensorRtEngine

_HOME = {
    "CudaModule": "cuda",
    "DeviceArray": "cuda",
    "Driver": "driver",
    "open_driver": "driver",
    "TensorRtEngine": "tensorrt",
}

BACKENDS = ("onnxruntime", "tensorrt")
ENGINE_SUFFIXES = (".engine", ".plan", ".rtx", ".trt")


def open_engine(
    path: str | Path,
    *,
    backend: str | None = None,
    providers: Sequence[str] = ("cpu",),
    threads: int = 1,
    device: int = 0,
    driver: str | None = None,
) -> Engine:
    """Open a network to run it.

    Args:
        path: an .onnx file, or an engine of TensorRT or TensorRT-RTX with its JSON beside it.
        backend: ``"onnxruntime"`` or ``"tensorrt"`` (for its engines of every kind); None looks at the ending.
        providers: of ONNX Runtime: ``"cpu"``, ``"cuda"``, ``"tensorrt"``, in order of preference; the first must run.
        threads: of ONNX Runtime on the CPU.
        device: number of the GPU.
        driver: of an engine's GPU: ``"pycuda"``, ``"cuda-python"`` or ``"ctypes"``; None takes the first there is.

    Raises:
        InvalidInputError: an unknown ending, back end or option.
        MissingDependencyError: the library is not installed.
        ModelError: the file is missing, damaged, or not for this machine.
        DeviceError: no GPU, or its memory is full.
    """
    path = Path(path)
    if backend is None:
        backend = "onnxruntime" if path.suffix == ".onnx" else "tensorrt" if path.suffix in ENGINE_SUFFIXES else ""
    if backend not in BACKENDS:
        if path.suffix in (".ptx", ".cubin"):
            raise InvalidInputError(f"{path.name} holds kernels and no network; load it with CudaModule")
        raise InvalidInputError(
            f"{path.name} is neither .onnx nor an engine ({', '.join(ENGINE_SUFFIXES)}); say its backend, one of "
            f"{', '.join(BACKENDS)}"
        )
    if backend == "onnxruntime":
        return OnnxRuntimeEngine(path, providers=providers, threads=threads, device=device)
    from edgejpeg.runtime.engines.tensorrt import TensorRtEngine

    if list(providers) != ["cpu"]:
        raise InvalidInputError(f"execution providers are ONNX Runtime's; {path.name} runs in TensorRT: leave them out")
    return TensorRtEngine(path, device=device, driver=driver)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"edgejpeg.runtime.engines.{_HOME[name]}"), name)


__all__ = [
    "BACKENDS",
    "ENGINE_SUFFIXES",
    "PROVIDERS",
    "CudaModule",
    "DeviceArray",
    "Driver",
    "Engine",
    "OnnxRuntimeEngine",
    "TensorRtEngine",
    "TensorSpec",
    "first_line",
    "input_shapes",
    "open_driver",
    "open_engine",
    "random_feeds",
]
