"""Weights from a file into a module, with the keys named when they do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgejpeg._optional import require
from edgejpeg.errors import ModelError

_WRAPPERS = ("state_dict", "model")  # what training scripts put a state dict under
_SHOWN = 3


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a ``.safetensors`` file, or anything ``torch.save`` wrote that holds tensors alone.

    A dict under ``state_dict`` or ``model`` is taken out, a common ``module.`` prefix (DataParallel) removed, and
    half-precision weights widened to float32. Nothing of the file is executed (``weights_only=True``).

    Raises:
        ModelError: the file cannot be read, or holds no state dict.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{str(path)!r} holds no state dict but a {type(content).__name__}; save model.state_dict()")
    wrong = [key for key, value in content.items() if not isinstance(key, str) or not isinstance(value, torch.Tensor)]
    if wrong:
        raise ModelError(
            f"{str(path)!r} holds no state dict: {wrong[0]!r} is a {type(content[wrong[0]]).__name__}, not a tensor; "
            "save model.state_dict()"
        )
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {
        key[len(prefix) :]: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        for key, value in content.items()
    }


def load_into(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str, name: str) -> None:
    """Load a state dict that fits the module exactly.

    Only ``num_batches_tracked`` may be missing: it counts training steps, and old files do not have it.

    Raises:
        ModelError: keys are missing, unexpected or of another shape (the first few are named), or a weight is NaN or
            infinite.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if keys
    ]
    if problems:
        raise ModelError(f"the weights in {source!r} do not fit {name}; keys: {'; '.join(problems)}")
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"the weights in {source!r} are damaged: {key} holds NaN or infinity")
    module.load_state_dict(dict(state), strict=False)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    safetensors = require("safetensors", extra="train", purpose="reading a .safetensors file")
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"cannot read weights from {str(path)!r}: {_first_line(error)}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes run through a small interpreter, which fails in every way there is
        raise ModelError(f"cannot read weights from {str(path)!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
