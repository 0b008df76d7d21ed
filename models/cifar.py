"""The networks for 32x32 images that JPEG-DL is measured with, as names and what is known of them.

The architectures: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", section 4.2 (ResNets, option A
shortcuts) and "Identity mappings in deep residual networks" (PreAct); Huang, Liu, van der Maaten, Weinberger, "Densely
connected convolutional networks" (DenseNet-BC); and for VGG, MobileNetV2 and ShuffleNetV2 the variants of Tian,
Krishnan, Isola, "Contrastive representation distillation" (RepDistiller), which the paper takes. Parameters carry the
names of the public implementations, so that checkpoints load.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgejpeg.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

CIFAR100_MEAN = (129.3105, 124.1085, 112.404)
"""Mean of R, G, B over CIFAR-100, in 0..255, as the papers' code rounds it: 255 (.5071, .4867, .4408)."""

CIFAR100_STD = (68.2125, 65.4075, 70.4055)
"""Standard deviation of R, G, B over CIFAR-100, in 0..255: 255 (.2675, .2565, .2761)."""

SIDE, CLASSES = 32, 100

RESNET_DEPTHS = (20, 32, 44, 56, 110)

_VGG = {8: (1, 1, 1, 1, 1), 13: (2, 2, 2, 2, 2)}  # convolutions in each of the five blocks


def cifar_names() -> tuple[str, ...]:
    """The names that :func:`cifar_spec` takes."""
    return (
        *(f"cifar_resnet{depth}" for depth in RESNET_DEPTHS),
        *(f"cifar_vgg{depth}" for depth in _VGG),
        "cifar_mobilenetv2",
        "cifar_shufflenetv2",
        "cifar_preact_resnet18",
        "cifar_densenet121",
    )


def cifar_spec(name: str) -> ModelSpec:
    """Input 32 x 32, CIFAR-100's mean, standard deviation and number of classes; random weights only."""
    return ModelSpec(
        name=name,
        build=partial(_build, name),
        input_size=(SIDE, SIDE),
        mean=CIFAR100_MEAN,
        std=CIFAR100_STD,
        num_classes=CLASSES,
        resize=SIDE,
    )


def _build(name: str, num_classes: int) -> torch.nn.Module:
    from edgejpeg.models import cifar_mobile, cifar_networks

    if name == "cifar_mobilenetv2":
        return cifar_mobile.MobileNetV2(num_classes)
    if name == "cifar_shufflenetv2":
        return cifar_mobile.ShuffleNetV2(num_classes)
    if name == "cifar_preact_resnet18":
        return cifar_networks.PreActResNet((2, 2, 2, 2), num_classes)
    if name == "cifar_densenet121":
        return cifar_networks.DenseNetBC((6, 12, 24, 16), 32, num_classes)
    if name.startswith("cifar_vgg"):
        return cifar_networks.VGG(_VGG[int(name.removeprefix("cifar_vgg"))], num_classes)
    return cifar_networks.ResNet(int(name.removeprefix("cifar_resnet")), num_classes)
