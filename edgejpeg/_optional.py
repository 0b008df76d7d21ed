"""Lazy imports of optional packages, with the pip command in the message when one is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from edgejpeg.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Args:
        module: dotted import name, for example ``"onnxruntime"``.
        extra: the extra of edgejpeg that brings it, for example ``"ort"``.
        purpose: what needs it, for the message, for example ``"edgejpeg serve"``.

    Raises:
        MissingDependencyError: the module, or its top-level package, is not installed. An error
            inside an installed module passes through unchanged, since installing it again would not help.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise MissingDependencyError(
            f"{purpose} needs the package {error.name!r}, which is not installed; "
            f"install it with: pip install 'edgejpeg[{extra}]'"
        ) from error


_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def require_onnxruntime(*, purpose: str) -> ModuleType:
    """Import ONNX Runtime, or say how to install it.

    Its distributions share the folder ``onnxruntime``: the last one installed has overwritten parts of the others, and
    what then runs is neither.

    Raises:
        MissingDependencyError: no distribution of it is installed, or more than one is.
    """
    found = {}
    for name in _ONNXRUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(found) > 1:
        both = " and ".join(f"{name} {version}" for name, version in found.items())
        raise MissingDependencyError(
            f"{purpose} found {both}, which overwrite each other's files; keep one: pip uninstall {' '.join(found)}, "
            "then pip install 'edgejpeg[ort]', or 'edgejpeg[ort-gpu]' for CUDA"
        )
    return require("onnxruntime", extra="ort", purpose=purpose)
