"""The benchmark of adaptation compares what it says."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace

import numpy as np
import pytest

from edgejpeg import ijg_tables, parse_jpeg
from edgejpeg.evaluate import bootstrap_weights


@pytest.fixture(scope="module")
def benchmark(repository):
    path = repository / "benchmarks" / "adaptation.py"
    spec = importlib.util.spec_from_file_location("benchmark_adaptation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def curves(rng):
    """200 images whose chance of a correct answer rises with log rate; ours needs 60 % of the reference's bytes."""
    bpp = np.geomspace(0.3, 3.0, 9)
    spread = rng.uniform(0.5, 1.5, 200)
    luck = rng.random(200)

    def curve(rates, shift):
        chance = 0.8 - 0.35 * np.exp(-1.5 * (np.log(rates) - shift + 1.2))
        return {"bpp": rates[:, None] * spread / spread.mean(), "correct": luck[None] < chance[:, None]}

    return curve(bpp, 0.0), curve(bpp * 0.6, np.log(0.6)), luck < 0.8


def test_bytes_at_equal_top1(benchmark, curves):
    reference, ours, clean = curves
    found = benchmark.equal_loss(reference, ours, clean, bootstrap_weights(200, resamples=200))
    assert found["mean"]["value"] == pytest.approx(-0.4, abs=0.01)
    assert found["mean"]["low"] <= -0.4 + 0.01 and found["mean"]["high"] >= -0.4 - 0.01
    assert [entry is None or abs(entry["value"] + 0.4) < 0.01 for entry in found["changes"]] == [True] * 7
    same = benchmark.equal_loss(reference, reference, clean, bootstrap_weights(200, resamples=50))
    assert same["mean"]["value"] == pytest.approx(0) and same["mean"]["low"] == pytest.approx(0)


def test_rates_are_read_off_a_rising_curve_and_never_beyond(benchmark):
    bpp, top1 = np.array([0.5, 1.0, 2.0, 4.0]), np.array([0.5, 0.7, 0.6, 0.8])
    rates = benchmark.rate_at(bpp, top1, np.array([0.5, 0.65, 0.8, 0.4, 0.9]))
    assert rates[:3] == pytest.approx([0.5, 2**0.5, 4.0])  # the two in the middle are pooled
    assert np.isnan(rates[3:]).all()


def test_a_loss_that_is_not_reached_is_none(benchmark, curves):
    reference, ours, clean = curves
    far = {"bpp": ours["bpp"], "correct": np.ones_like(ours["correct"])}
    found = benchmark.equal_loss(reference, far, clean, bootstrap_weights(200, resamples=20))
    assert found["mean"] is None and found["changes"] == [None] * 7


@pytest.mark.parametrize("size", [16, 17, 30, 31])
def test_same_padding_is_tensorflows(benchmark, size):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, padding=1), torch.nn.Conv2d(4, 4, 3, 1, padding=1))
    x = torch.randn(2, 3, size, size)
    out = -(-size // 2)  # TensorFlow: ceil(size / stride); what is missing is split, the larger part behind
    total = max((out - 1) * 2 + 3 - size, 0)
    padded = torch.nn.functional.pad(x, (total // 2, total - total // 2) * 2)
    expected = net[1](torch.nn.functional.conv2d(padded, net[0].weight, net[0].bias, stride=2))
    benchmark.same_padding(net)
    assert torch.allclose(net(x), expected, atol=1e-6)


def test_the_plot_is_drawn_from_the_json(benchmark, tmp_path):
    pytest.importorskip("matplotlib")
    curve = {
        "bpp": [0.5, 1.0],
        "top1": [{"value": 0.5, "low": 0.4, "high": 0.6, "level": 0.95}] * 2,
    }
    arms = {arm: {"curve": curve} for arm in benchmark.ARMS}
    document = {"networks": {"tiny": {"images": 8, "frozen": curve, "arms": arms, "clean_top1": {"value": 0.6}}}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    benchmark.run_plot(Namespace(json=tmp_path / "a.json", output=tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_reference_has_the_ijgs_tables(benchmark, photo):
    pytest.importorskip("PIL.Image")
    info = parse_jpeg(benchmark.ijg_encoder(50)(photo(32, 48)))
    assert (info.subsampling, info.quant_table(0), info.quant_table(1)) == ("420", *ijg_tables(50))
