"""Where feature maps are tapped, and their distance, against what is known of small networks."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import ModelError  # noqa: E402
from edgejpeg.learn.features import Taps, feature_distance, stage_names  # noqa: E402


class Block(torch.nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, stride, 1)
        self.relu = torch.nn.ReLU(inplace=True)  # runs twice, as in a residual block

    def forward(self, x):
        return self.relu(self.relu(self.conv(x)) + 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2, 1), Block(1), Block(1), torch.nn.MaxPool2d(2), Block(1), Block(2), Block(1),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5),
    ).eval()  # fmt: skip


def test_the_last_of_each_size_is_tapped(network):
    # 16x16 until 2, 8x8 until 4, 4x4 until 6; the pooled 1x1 and the logits are no maps.
    assert stage_names(network, torch.zeros(1, 3, 32, 32)) == ("2", "4", "6")


def test_names_of_real_networks():
    from edgejpeg.models import create_model

    resnet = create_model("resnet18", weights="none").module
    assert stage_names(resnet, torch.zeros(1, 3, 64, 64)) == ("relu", "layer1", "layer2", "layer3", "layer4")


def test_taps_are_the_maps_and_leave_no_hook(network):
    x = torch.randn(2, 3, 32, 32)
    with Taps(network, ("2", "4")) as taps, torch.no_grad():
        network(x)
        first, second = taps.take()
        with pytest.raises(KeyError):
            taps.take()
    with torch.no_grad():
        assert torch.equal(first, network[:3](x)) and torch.equal(second, network[:5](x))
    assert not any(module._forward_hooks for module in network.modules())


def test_distance_is_the_relative_energy_of_the_difference():
    rng = np.random.default_rng(3)
    maps = [rng.normal(size=(2, 3, 5, 5)), rng.normal(size=(2, 4, 2, 2))]
    targets = [rng.normal(size=m.shape) for m in maps]
    wanted = np.mean([((m - t) ** 2).sum() / (t**2).sum() for m, t in zip(maps, targets, strict=True)])
    found = feature_distance([torch.tensor(m) for m in maps], [torch.tensor(t) for t in targets])
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    zeros = [torch.zeros(1, 1, 2, 2)]
    assert float(feature_distance([torch.tensor(targets[0])], [torch.tensor(targets[0])])) == 0
    assert float(feature_distance(zeros, zeros)) == 0  # dead units in both: no NaN


def test_gradients_go_to_the_learner_alone(network):
    ours, theirs = (torch.randn(1, 2, 4, 4, requires_grad=True) for _ in range(2))
    feature_distance([ours], [theirs]).backward()
    assert ours.grad is not None and ours.grad.abs().sum() > 0 and theirs.grad is None


def test_a_network_without_maps_is_refused():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    with pytest.raises(ModelError, match="feature weight of 0"):
        stage_names(network, torch.zeros(1, 3, 2, 2))
