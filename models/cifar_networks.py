"""ResNet, PreAct ResNet, VGG and DenseNet-BC for 32x32 images; see :mod:`edgejpeg.models.cifar` for their sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3x3, padded, no bias: a batch norm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """1x1, no bias."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def pooled(features: Tensor) -> Tensor:
    """(N, C, H, W) to the means (N, C)."""
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


def he_normal(module: nn.Module) -> None:
    """He's initialisation of all convolutions."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an option A shortcut: every other pixel, and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new:
            x = F.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return F.relu(out + x)


class ResNet(nn.Module):
    """ResNet-(6 n + 2) [He et al., 4.2]: 16, 32, 64 channels at 32, 16, 8 pixels, n blocks each.

    Args:
        depth: 6 n + 2.
        num_classes: logits.
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        self.layer1 = _stage(ResidualBlock, 16, 16, blocks, 1)
        self.layer2 = _stage(ResidualBlock, 16, 32, blocks, 2)
        self.layer3 = _stage(ResidualBlock, 32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(pooled(x))
        return logits


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each convolution.

    The shortcut passes what came in, and where the shape changes a 1x1 convolution of it, normalised and activated.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        new_shape = stride > 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride)) if new_shape else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(nn.Module):
    """PreAct ResNet with 64, 128, 256, 512 channels at 32, 16, 8, 4 pixels [He et al., "Identity mappings"].

    As in the paper, the last block is followed by a batch norm and a ReLU, which some public versions leave out.

    Args:
        blocks: in each of the four stages: 2, 2, 2, 2 for ResNet-18.
        num_classes: logits.
    """

    def __init__(self, blocks: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 64)
        self.layer1 = _stage(PreActBlock, 64, 64, blocks[0], 1)
        self.layer2 = _stage(PreActBlock, 64, 128, blocks[1], 2)
        self.layer3 = _stage(PreActBlock, 128, 256, blocks[2], 2)
        self.layer4 = _stage(PreActBlock, 256, 512, blocks[3], 2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        logits: Tensor = self.linear(pooled(F.relu(self.bn(x))))
        return logits


class VGG(nn.Module):
    """VGG with batch norm, global pooling and one linear layer [RepDistiller]; 64, 128, 256, 512, 512 channels.

    A maximum is pooled after each of the first three blocks, so that the last two see 4x4 pixels.

    Args:
        convolutions: in each of the five blocks.
        num_classes: logits.
    """

    def __init__(self, convolutions: Sequence[int], num_classes: int) -> None:
        super().__init__()
        inputs = 3
        for index, (count, outputs) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True)):
            parts: list[nn.Module] = []
            for _ in range(count):
                parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            self.add_module(f"block{index}", nn.Sequential(*parts))
        self.classifier = nn.Linear(512, num_classes)
        he_normal(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(5):
            x = self.get_submodule(f"block{index}")(x)
            if index < 3:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.classifier(pooled(x))
        return logits


class DenseLayer(nn.Module):
    """Bottleneck of DenseNet-B: 1x1 to 4 growth channels, 3x3 to growth channels, in front of what came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv1x1(inputs, 4 * growth)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), conv3x3(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([out, x], 1)


class Transition(nn.Module):
    """1x1 convolution to half the channels (the C of BC), and 2x2 means."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv1x1(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNetBC(nn.Module):
    """DenseNet-BC with a 3x3 stem of 2 growth channels.

    Args:
        layers: in each of the four dense blocks: 6, 12, 24, 16 for DenseNet-121.
        growth: channels that a layer adds.
        num_classes: logits.
    """

    def __init__(self, layers: Sequence[int], growth: int, num_classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = conv3x3(3, channels)
        self._blocks = len(layers)
        for index, count in enumerate(layers, start=1):
            dense = [DenseLayer(channels + i * growth, growth) for i in range(count)]
            self.add_module(f"dense{index}", nn.Sequential(*dense))
            channels += count * growth
            if index < self._blocks:
                self.add_module(f"trans{index}", Transition(channels, channels // 2))
                channels //= 2
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for index in range(1, self._blocks + 1):
            x = self.get_submodule(f"dense{index}")(x)
            if index < self._blocks:
                x = self.get_submodule(f"trans{index}")(x)
        logits: Tensor = self.linear(pooled(F.relu(self.bn(x))))
        return logits


def _stage(
    block: type[ResidualBlock] | type[PreActBlock], inputs: int, outputs: int, count: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(
        *(block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count))
    )
