"""The benchmark of training runs what it says, and compares in pairs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgejpeg import cli
from edgejpeg.learn.recipe import load_recipe


@pytest.fixture(scope="module")
def benchmark(repository):
    path = repository / "benchmarks" / "training.py"
    spec = importlib.util.spec_from_file_location("benchmark_training", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def arguments(tmp_path, **changes):
    values = {
        "set_up": "cifar10", "shared": tmp_path, "runs": tmp_path / "runs", "epochs": 3, "target_bpp": None,
        "set": ["run.batch_size=50"], "weights": "none", "mean": ["1", "2", "3"], "std": None, "device": None,
        "seeds": [0, 1], "images": None, "quick": False, "json": tmp_path / "results.json",
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def test_every_arm_differs_in_the_layer_alone(benchmark, tmp_path):
    for set_up in benchmark.SET_UPS:
        recipes = {}
        for arm in benchmark.ARMS:
            command = benchmark.train_command(arguments(tmp_path, set_up=set_up), arm, 7)
            args = cli.build_parser().parse_args(command)
            recipes[arm] = load_recipe(*args.recipe, settings=args.set).to_dict()
            assert recipes[arm]["run"]["seed"] == 7 and recipes[arm]["schedule"]["epochs"] == 3
            assert recipes[arm]["run"]["batch_size"] == 50
            assert args.mean == [1, 2, 3] and args.std is None
            assert args.resume and args.output.parent == tmp_path / "runs"
        layers = {arm: recipe.pop("layer") for arm, recipe in recipes.items()}
        for recipe in recipes.values():
            recipe.pop("description")
        assert all(recipe == recipes["baseline"] for recipe in recipes.values())
        assert [arm for arm, layer in layers.items() if not layer["enabled"]] == ["baseline"]
        authors = layers["authors"]
        assert (authors["window"], authors["bits"], authors["q_min"], authors["clip"]) == ("5", 8, 1e-5, True)
        assert layers["authors, no clip"] == {**authors, "clip": False}
        assert layers["exact"] == {**authors, "window": "exact"}
        assert layers["exact, no clip"] == {**authors, "window": "exact", "clip": False}
        ours = layers["ours"]
        assert ours["q_min"] == 1 and ours["schedule"]["finish"] > 0 and ours["rate"]["weight"] is None
        assert ours["rate"]["target_bpp"] == benchmark.SET_UPS[set_up].target_bpp
        assert len({str(benchmark.run_folder(arguments(tmp_path), arm, 0)) for arm in layers}) == len(layers)


def test_finished_runs_are_left_alone(benchmark, tmp_path, monkeypatch):
    args = arguments(tmp_path, arms=["baseline", "ours"])
    done = benchmark.run_folder(args, "baseline", 1)
    done.mkdir(parents=True)
    (done / "run.json").write_text("{}")
    called = []
    monkeypatch.setattr(benchmark.subprocess, "run", lambda command, check: called.append((command, check)))
    benchmark.train_all(args)
    outputs = [Path(command[command.index("-o") + 1]).name for command, check in called if check]
    assert outputs == ["baseline-0", "ours-0", "ours-1"]


def made_up(rng, gain, seeds=2, images=400):
    """Runs whose rung 1 is right on the easiest part of the images; rung 4 loses the last image of these."""
    found = {}
    for seed in range(seeds):
        right = np.arange(images) < 300 + gain + seed
        last = right.copy()
        last[300 + gain + seed - 1] = False
        found[seed] = {
            "correct1": right, "correct2": right, "correct3": last, "correct4": last,
            "bpp": np.full(images, 2.0 + seed), "identical": images,
            "below_one": 3, "clipped_dc": [0.5, 0.0], "clipped_ac": [0.0, 0.0], "tables": "",
            "last": 0.75, "last_mean": 0.74, "best_by_test": 0.77,
        }  # fmt: skip
    return found


def test_comparison_in_pairs(benchmark, rng):
    arms = benchmark.compare({"baseline": made_up(rng, 0), "ours": made_up(rng, 8)})
    ours = arms["ours"]
    assert ours["rung1_minus_clean_baseline"]["value"] == pytest.approx(2.0)
    assert ours["rung4_minus_clean_baseline"]["value"] == pytest.approx(1.75)
    assert 0 < ours["rung1_minus_clean_baseline"]["low"] < 2 < ours["rung1_minus_clean_baseline"]["high"] < 4
    assert ours["rung4_minus_rung1"]["value"] == pytest.approx(-0.25)
    assert ours["top1_by_seed"]["1"] == [77.0, 77.25] and ours["top1"]["1"]["value"] == pytest.approx(77.125)
    assert ours["bpp"] == [2.0, 3.0] and ours["best_by_test_epoch_top1"] == [77.0, 77.0]
    assert "rung1_minus_clean_baseline" not in arms["baseline"]
    lines = benchmark.table(arms)
    assert len(lines) == 3 and "+2.00 (" in lines[2] and "2.500" in lines[2]
    json.dumps(arms)


def test_a_baseline_without_some_seeds_is_compared_on_the_others(benchmark, rng):
    arms = benchmark.compare({"baseline": made_up(rng, 0, seeds=1), "ours": made_up(rng, 4, seeds=2)})
    assert arms["ours"]["rung1_minus_clean_baseline"]["value"] == pytest.approx(1.0)
    alone = benchmark.compare({"ours": made_up(rng, 4)})
    assert "rung1_minus_clean_baseline" not in alone["ours"] and len(benchmark.table(alone)) == 2


def test_wrong_use(benchmark, tmp_path):
    with pytest.raises(ValueError, match="--shared DATA is missing"):
        benchmark.main(["train", "--runs", str(tmp_path / "runs")])
    with pytest.raises(ValueError, match="--json FILE is missing"):
        benchmark.main(["measure", "--shared", str(tmp_path), "--runs", str(tmp_path / "runs")])
    with pytest.raises(ValueError, match="no finished runs"):
        benchmark.main(
            ["measure", "--shared", str(tmp_path), "--runs", str(tmp_path / "runs"), "--json", str(tmp_path / "r.json")]
        )
