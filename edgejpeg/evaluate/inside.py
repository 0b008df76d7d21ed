"""Inside a network: what a layer answers to an image, and where the evidence for a class is (Grad-CAM++).

Grad-CAM++ is Chattopadhay, Sarkar, Howlader, Balasubramanian, "Grad-CAM++: improved visual explanations for deep
convolutional networks", WACV 2018. It is written out here: the package grad-cam, published as source only, imports
torchvision, OpenCV, SciPy, scikit-learn and ttach for these ten lines, and captum does not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import ModelError
from edgejpeg.learn.frozen import frozen

_EPS = 1e-12


def first_convolution(network: nn.Module, x: Tensor) -> str:
    """The name of the convolution that runs first.

    Raises:
        ModelError: there is none.
    """
    for name, module, _ in _ran(network, x):
        if isinstance(module, nn.Conv2d):
            return name
    raise ModelError(f"{type(network).__name__} has no convolution; name a layer")


def last_maps(network: nn.Module, x: Tensor) -> str:
    """The name of the module that ends last with maps (N, C, H, W) of more than one pixel.

    Raises:
        ModelError: there is none.
    """
    found = [name for name, _, shape in _ran(network, x) if name and len(shape) == 4 and shape[2] * shape[3] > 1]
    if not found:
        raise ModelError(f"{type(network).__name__} has no layer with maps; Grad-CAM++ needs one")
    return found[-1]


def activations(network: nn.Module, x: Tensor, layer: str) -> Tensor:
    """What a layer answers to a batch.

    Args:
        network: normalised RGB to logits.
        x: (N, 3, H, W), normalised.
        layer: a name in ``network.named_modules()``.

    Raises:
        ModelError: no such layer, one that does not run, or one without maps (N, C, h, w).
    """
    with frozen(network), torch.no_grad(), _watched(network, layer) as watched:
        network(x)
    return _maps(watched, layer)


@dataclass(frozen=True)
class ClassMap:
    """Where the evidence for a class is.

    Attributes:
        map: (H, W) float32 of the image's size, 0..1; all 0 where nothing speaks for the class.
        target: the class.
        probability: its softmax.
        top1: the most likely class.
    """

    map: Tensor
    target: int
    probability: float
    top1: int


def grad_cam_plus_plus(network: nn.Module, x: Tensor, layer: str, target: int | None = None) -> ClassMap:
    """Grad-CAM++ of one image.

    With S the class's logit, Y = exp(S), A^k the layer's maps and g = dS/dA, the network being linear in A beyond its
    ReLUs, the weights [eq. 17, 19] and the map [eq. 18] are

        alpha = g^2 / (2 g^2 + g^3 sum A^k),   w_k = sum alpha relu(g),   L = relu(sum_k w_k A^k)

    up to a factor, as the largest value becomes 1.

    Args:
        network: normalised RGB to logits.
        x: (1, 3, H, W), normalised.
        layer: a name in ``network.named_modules()``, with maps; :func:`last_maps` has the usual choice.
        target: the class; the most likely one when None.

    Raises:
        ModelError: as in :func:`activations`; a class that the network does not have; more than one image.
    """
    if x.ndim != 4 or x.shape[0] != 1:
        raise ModelError(f"Grad-CAM++ is made of one image (1, 3, H, W); got {tuple(x.shape)}")
    with frozen(network), torch.enable_grad(), _watched(network, layer) as watched:
        # The image asks for a gradient, since the weights do not.
        logits: Tensor = network(x.detach().requires_grad_())
        maps = _maps(watched, layer)
        classes = logits.shape[1]
        chosen = int(logits.argmax()) if target is None else target
        if not 0 <= chosen < classes:
            raise ModelError(f"the network has the classes 0..{classes - 1}; got {target}")
        (gradient,) = torch.autograd.grad(logits[0, chosen], maps, allow_unused=True)
    probability = float(logits.detach().softmax(1)[0, chosen])
    if gradient is None:
        raise ModelError(f"the logits do not depend on the layer {layer!r}; name another")
    heat = class_map(maps.detach()[0], gradient[0])
    heat = F.interpolate(heat[None, None], x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    largest = float(heat.max())
    return ClassMap(heat / largest if largest > 0 else heat, chosen, probability, int(logits.detach().argmax()))


def class_map(maps: Tensor, gradient: Tensor) -> Tensor:
    """L of Grad-CAM++, (h, w), from A and dS/dA, both (K, h, w)."""
    square = gradient * gradient
    below = 2 * square + square * gradient * maps.sum((1, 2), keepdim=True)
    # Where the maps sum to something negative the denominator has a zero; there is no evidence to weigh then.
    alpha = torch.where(below.abs() > _EPS * square.max().clamp(min=_EPS), square / below, 0.0)
    weights = (alpha * gradient.relu()).sum((1, 2))
    return (weights[:, None, None] * maps).sum(0).relu()


def _ran(network: nn.Module, x: Tensor) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, module and shape of the answer of all modules, in the order in which they ended."""
    seen: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.append((name, module, tuple(output.shape)))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules()]
    try:
        with frozen(network), torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def _watched(network: nn.Module, layer: str) -> Iterator[list[Any]]:
    """A list that gets the layer's answers."""
    modules = dict(network.named_modules())
    if layer not in modules or not layer:
        some = ", ".join([name for name in modules if name][:6])
        raise ModelError(f"{type(network).__name__} has no layer {layer!r}; it has {some}, ...")
    outputs: list[Any] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        outputs.append(output)
        # What follows may write in place: into a copy.
        return output.clone() if isinstance(output, Tensor) else output

    handle = modules[layer].register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()


def _maps(outputs: list[Any], layer: str) -> Tensor:
    if not outputs or not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
        kind = "does not run" if not outputs else f"answers {_kind(outputs[0])}"
        raise ModelError(f"the layer {layer!r} {kind}; maps (N, C, h, w) are needed: name another")
    maps: Tensor = outputs[0]
    return maps


def _kind(output: Any) -> str:
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
