"""What a network holds inside: the ends of its stages, to train one network to see what another one sees.

The answers of a network on an image are a thousand numbers, of which a few matter. The feature maps before them are a
hundred thousand, so that a few hundred images go further when a copy is held to these as well (Romero et al.,
"FitNets: hints for thin deep nets", ICLR 2015). Here the copy has the original's layout, so no regressor is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import TracebackType

import torch
from torch import Tensor, nn

from edgejpeg.errors import ModelError

MIN_SIDE = 2
"""Feature maps smaller than this on either side are no maps any more."""


def stage_names(module: nn.Module, example: Tensor) -> tuple[str, ...]:
    """The submodules that end a stage: the last ones to finish before the feature maps become smaller.

    Args:
        module: in evaluation mode; it is run once, without gradients.
        example: (N, C, H, W) input.

    Returns:
        names for ``module.get_submodule``, in the order in which they run, with the last one that gives a map of at
        least 2x2. Submodules that run several times are left out.

    Raises:
        ModelError: no submodule gives a (N, C, h, w) map of at least 2x2.
    """
    seen: list[tuple[str, int]] = []

    def watch(name: str, child: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) >= MIN_SIDE:
                seen.append((name, output.shape[2] * output.shape[3]))

        return child.register_forward_hook(note)

    handles = [watch(name, child) for name, child in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    runs = [name for name, _ in seen]
    ends = [name for (name, area), (_, following) in pairwise(seen) if following < area]
    taps = [name for name in dict.fromkeys([*ends, *runs[-1:]]) if runs.count(name) == 1]
    if not taps:
        raise ModelError("the network has no submodule that gives feature maps; use a feature weight of 0")
    return tuple(taps)


class Taps:
    """Keeps what the named submodules of a network gave in its last forward pass.

    A context manager: the hooks are there inside of the ``with`` block alone.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self._module, self._names = module, tuple(names)
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Taps:
        for name in self._names:
            self._handles.append(self._module.get_submodule(name).register_forward_hook(self._keeper(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()

    def take(self) -> list[Tensor]:
        """The feature maps of the last forward pass, in the order of the names; they are let go."""
        return [self._outputs.pop(name) for name in self._names]

    def _keeper(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            self._outputs[name] = output

        return keep


def feature_distance(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The mean over the maps of sum((f - g)^2) / sum(g^2), in float32: 0 for the same, 1 for nothing at all.

    Args:
        maps: of the network that learns.
        targets: of the other one, of the same shapes.
    """
    shares = []
    for found, wanted in zip(maps, targets, strict=True):
        target = wanted.detach().float()
        energy = target.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        shares.append((found.float() - target).square().sum() / energy)
    return torch.stack(shares).mean()
