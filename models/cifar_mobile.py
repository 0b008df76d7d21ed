"""MobileNetV2 and ShuffleNetV2 for 32x32 images; see :mod:`edgejpeg.models.cifar` for their sources."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.models.cifar_networks import conv1x1, he_normal, pooled

# Expansion, channels at full width, blocks, stride of the first: Sandler et al., table 2, with 32x32's strides.
_INVERTED = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
_WIDTH = 0.5
_LAST_CHANNELS = 1280

_SHUFFLE_STAGES = ((116, 3), (232, 7), (464, 3))  # channels, blocks after the one that halves the image
_SHUFFLE_LAST = 1024


def _conv_bn(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 for each of them, 1x1 to fewer, without a last activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.conv = nn.Sequential(
            *_conv_bn(inputs, middle, 1),
            nn.ReLU(inplace=True),
            *_conv_bn(middle, middle, 3, stride, groups=middle),
            nn.ReLU(inplace=True),
            *_conv_bn(middle, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out + x if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 at half width, ReLU instead of ReLU6, 32x32 to a last map of 2x2 [RepDistiller's ``mobile_half``].

    Args:
        num_classes: logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = int(32 * _WIDTH)
        self.conv1 = nn.Sequential(*_conv_bn(3, channels, 3, 2), nn.ReLU(inplace=True))
        stages = []
        for expansion, full, count, first_stride in _INVERTED:
            outputs, stage = int(full * _WIDTH), []
            for index in range(count):
                stage.append(InvertedResidual(channels, outputs, first_stride if index == 0 else 1, expansion))
                channels = outputs
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.ModuleList(stages)
        self.conv2 = nn.Sequential(*_conv_bn(channels, _LAST_CHANNELS, 1), nn.ReLU(inplace=True))
        last = nn.Linear(_LAST_CHANNELS, num_classes)
        self.classifier = nn.Sequential(last)
        he_normal(self)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in self.blocks:
            x = stage(x)
        logits: Tensor = self.classifier(pooled(self.conv2(x)))
        return logits


def _shuffled(x: Tensor) -> Tensor:
    """The two halves of the channels, one of each in turn."""
    count, channels, height, width = x.shape
    return x.reshape(count, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


class ShuffleBlock(nn.Module):
    """Half of the channels pass, the other half through 1x1, 3x3 for each channel, and 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kept = half = channels // 2
        self.conv1, self.bn1 = _conv_bn(half, half, 1)
        self.conv2, self.bn2 = _conv_bn(half, half, 3, groups=half)
        self.conv3, self.bn3 = _conv_bn(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x[:, self.kept :])))
        out = F.relu(self.bn3(self.conv3(self.bn2(self.conv2(out)))))
        return _shuffled(torch.cat([x[:, : self.kept], out], 1))


class ShuffleDown(nn.Module):
    """Half the pixels: both branches see all channels, each makes half of the new ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.bn1 = _conv_bn(inputs, inputs, 3, 2, groups=inputs)
        self.conv2, self.bn2 = _conv_bn(inputs, half, 1)
        self.conv3, self.bn3 = _conv_bn(inputs, half, 1)
        self.conv4, self.bn4 = _conv_bn(half, half, 3, 2, groups=half)
        self.conv5, self.bn5 = _conv_bn(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return _shuffled(torch.cat([left, right], 1))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 1x with a 1x1 stem and no pooling behind it, 32x32 to a last map of 4x4 [RepDistiller].

    Args:
        num_classes: logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = 24
        self.conv1, self.bn1 = conv1x1(3, channels), nn.BatchNorm2d(channels)
        for index, (outputs, count) in enumerate(_SHUFFLE_STAGES, start=1):
            blocks = [ShuffleBlock(outputs) for _ in range(count)]
            self.add_module(f"layer{index}", nn.Sequential(ShuffleDown(channels, outputs), *blocks))
            channels = outputs
        self.conv2, self.bn2 = conv1x1(channels, _SHUFFLE_LAST), nn.BatchNorm2d(_SHUFFLE_LAST)
        self.linear = nn.Linear(_SHUFFLE_LAST, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for index in range(1, len(_SHUFFLE_STAGES) + 1):
            x = self.get_submodule(f"layer{index}")(x)
        logits: Tensor = self.linear(pooled(F.relu(self.bn2(self.conv2(x)))))
        return logits
