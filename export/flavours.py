"""Which of the libraries that build engines are installed; each answers from a process of its own."""

from __future__ import annotations

import importlib.util

from edgejpeg.export.engine_child import flavour_of, library_version

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "tensorrt-8.5": "tensorrt"}
"""The module that a flavour imports."""


def installed_version(flavour: str) -> str | None:
    """The version of a flavour's library, None when it is not installed.

    Raises:
        ExportError: it is installed and cannot be used.
    """
    return library_version(flavour) if importlib.util.find_spec(MODULES[flavour]) is not None else None


def not_installed(flavour: str) -> str:
    """What to do about a library that is not installed."""
    if flavour == "tensorrt-rtx":
        return "TensorRT-RTX is not installed; install it with: pip install 'edgejpeg[rtx]'"
    return (
        f"{flavour_of(flavour).name} is not installed; install it with: pip install 'edgejpeg[trt]' (on Jetson: apt "
        "install python3-libnvinfer), or give the ONNX file to the trtexec of the machine that has it"
    )
