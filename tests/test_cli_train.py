"""``edgejpeg train``: from class folders to a RUN that harden and export take, and what is said when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")
for needed in ("tqdm", "safetensors"):
    pytest.importorskip(needed)

from edgejpeg import cli  # noqa: E402
from edgejpeg.learn.recipe import RECIPES, load_recipe  # noqa: E402
from edgejpeg.learn.training_run import load_run  # noqa: E402
from edgejpeg.models import register_model, registry  # noqa: E402
from edgejpeg.profile import Profile  # noqa: E402

SMOKE = """
description = "smoke"
[data]
crop = "pad"
pad = 1
[optimizer]
lr = 0.1
[schedule]
epochs = 2
kind = "milestones"
milestones = [1]
[layer]
subsampling = 420
initial = "ones"
[run]
batch_size = 8
workers = 0
log_every = 1
"""

TINY = """
import torch
from edgejpeg.models import register_model

def tiny(classes):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(24, classes),
    )
"""
exec(TINY)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, one_thread):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_model("tiny", tiny, input_size=(16, 16), num_classes=7)  # noqa: F821


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, each in (("train", 12), ("test", 4)):
        for number, name in enumerate(("ant", "bee", "cow")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(each):
                pixels = (rng.normal(0, 30, (16, 16, 3)) + np.eye(3)[number] * 200).clip(0, 255).astype(np.uint8)
                image_module.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    (tmp_path / "smoke.toml").write_text(SMOKE)
    return tmp_path


def train(capsys, folder, *arguments, data="train"):
    capsys.readouterr()
    common = ["--model", "tiny", "--data", folder / data, "--recipe", folder / "smoke.toml", "-o", folder / "run"]
    code = cli.main(["train", *map(str, [*common, *arguments])])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_both_arms(folder, capsys):
    code, out, err = train(capsys, folder, "--test", folder / "test", "--set", "data.validation=0.2", "run.seed=3")
    assert code == 0, err
    run = folder / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt", "layer.safetensors", "metrics.jsonl", "run.json", "weights.safetensors",
    ]  # fmt: skip
    assert "last epoch, the result: loss" in out and "test" in out and "next: edgejpeg harden" in out
    report = json.loads((run / "run.json").read_text())
    assert report["class_names"] == ["ant", "bee", "cow"] and report["num_classes"] == 3
    assert report["recipe"]["layer"]["subsampling"] == "420" and report["seed"] == 3
    assert report["first_weights"] == "random (seed 3)"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert [line["learning_rate"] for line in lines if "loss" in line] == pytest.approx([0.1] * 3 + [0.01] * 3)
    assert load_run(run).layer is not None
    code, out, err = train(capsys, folder, "--no-jpeg-layer", "-o", folder / "base", "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((folder / "base" / "run.json").read_text())
    assert not (folder / "base" / "layer.safetensors").exists()
    assert json.loads(out)["recipe"]["layer"]["enabled"] is False


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_shipped_recipes_train(folder, capsys, name):
    """With all that they have, on a small set."""
    settings = ["data.size=16", "schedule.epochs=2", "schedule.warmup=0", "run.batch_size=12", "run.workers=0"]
    settings += ["layer.initial_images=12", "optimizer.lr=0.01"]
    code, _, err = train(capsys, folder, "--recipe", name, "--test", folder / "test", "--set", *settings)
    assert code == 0, err
    run = load_run(folder / "run")
    assert run.report["steps"] == 6 and run.model.input_size == (16, 16)
    shipped = load_recipe(name)
    assert run.recipe.layer.initial == shipped.layer.initial and run.recipe.description == shipped.description
    assert run.recipe.data.randaugment == shipped.data.randaugment and run.recipe.loss == shipped.loss
    assert np.isfinite(run.report["results"]["test"]["loss"])


def test_recipes_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--list-recipes"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    for name in ("cifar100", "finegrained", "imagenet-h0.7", "efficientformer", "edgejpeg"):
        assert load_recipe(name).description in out and f"{name} " in out


def test_tables_from_a_calibrated_profile(folder, capsys):
    values = np.random.default_rng(0).random((3, 8, 8)) + 0.1
    Profile.adaptive(name="s", sensitivity=values, water_level=0.1, q_max=100, subsampling="420", provenance={}).save(
        folder / "s.toml"
    )
    settings = ("--set", "layer.initial=sensitivity", "layer.optimizer.lr=1e-9", "--sensitivity", folder / "s.toml")
    code, _, err = train(capsys, folder, *settings)
    assert code == 0, err
    expected = (10 * values[0].min() / values[0]).clip(1, 255)
    assert load_run(folder / "run").layer.luma[0].detach().numpy() == pytest.approx(expected, rel=1e-4)
    Profile.fixed(
        name="f", luma=np.ones((8, 8), int), chroma=np.ones((8, 8), int), subsampling="420", provenance={}
    ).save(folder / "f.toml")
    code, _, err = train(capsys, folder, "-o", folder / "b", "--sensitivity", folder / "f.toml")
    assert code == 2 and "has no sensitivity" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "run.epochs=3"], 2, "unknown key run.epochs"),
        (["--recipe", "cifar10"], 2, "unknown recipe 'cifar10': did you mean cifar100?"),
        (["--num-classes", "10"], 2, "train has 3 classes, and tiny was made for 10; give --num-classes 3"),
        (["--set", "data.classes=10"], 2, "train has 3 classes, and the recipe's data.classes is 10"),
        (["--set", "optimizer.lr=100", "optimizer.weight_decay=10", "schedule.epochs=9"], 1, "at step "),
        (["--model", "tinny"], 1, "unknown model 'tinny': did you mean tiny?"),
        (["--data", "nowhere"], 1, "no folder 'nowhere'"),
        (["--test", "nowhere.zip"], 1, "cannot read 'nowhere.zip'"),
        (["-o", __file__], 2, "RUN is a folder; got the file"),
        (["--device", "cuda:99"], 2, "cannot compute on the device 'cuda:99'"),
    ],
)
def test_what_cannot_be_is_one_line(folder, capsys, arguments, code, message):
    got, out, err = train(capsys, folder, *arguments)
    assert (got, out) == (code, "")
    last = err.splitlines()[-1]
    assert message in last and last.startswith("edgejpeg train: error: ") and "Traceback" not in err


def test_an_empty_class_folder_is_named(folder, capsys):
    (folder / "train" / "dog").mkdir()
    code, _, err = train(capsys, folder)
    assert code == 1 and "train: the class folder 'dog' has no images; remove it" in err


def test_a_damaged_image_is_skipped_and_named_or_fails(folder, capsys):
    (folder / "train" / "ant" / "0.png").write_bytes(b"none")
    code, _, err = train(capsys, folder)
    assert code == 0 and "skipped: cannot read" in err
    assert len(json.loads((folder / "run" / "run.json").read_text())["data"]["skipped"]) == 1
    code, _, err = train(capsys, folder, "-o", folder / "b", "--on-error", "fail")
    assert code == 1 and "0.png" in err


def test_a_folder_in_use_and_another_architecture(folder, capsys):
    assert train(capsys, folder)[0] == 0
    code, _, err = train(capsys, folder)
    assert code == 2 and "has a run in it already" in err and "--resume continues it" in err
    register_model("other", lambda n: torch.nn.Sequential(*tiny(n), torch.nn.ReLU()), input_size=(16, 16))  # noqa: F821
    code, _, err = train(capsys, folder, "--model", "other", "--resume")
    assert code == 2 and "is of another run: model was 'tiny', is 'other'" in err
    assert train(capsys, folder, "--resume")[0] == 0
    code, _, err = train(capsys, folder, "--model", "other", "--weights", folder / "run", "-o", folder / "b")
    assert code == 2 and "has --model tiny; got other" in err
    code, _, err = train(capsys, folder, "--weights", folder / "run", "-o", folder / "c")
    assert code == 0, err


def test_ctrl_c_saves_and_says_how_to_go_on(folder, capsys):
    script = folder / "run.py"
    script.write_text(
        TINY
        + textwrap.dedent("""
        import os, signal, sys
        from edgejpeg import cli
        from edgejpeg.learn.training_log import TrainingLog
        torch.set_num_threads(1)
        register_model("tiny", tiny, input_size=(16, 16), num_classes=7)
        write = TrainingLog.write
        def noted(self, record):
            write(self, record)
            if record["step"] == 2 and "--resume" not in sys.argv:
                os.killpg(os.getpgid(0), signal.SIGINT)  # a terminal's Ctrl-C reaches the workers, too
        TrainingLog.write = noted
        sys.exit(cli.main(["train", *sys.argv[1:]]))
    """)
    )
    command = [
        sys.executable, script, "--model", "tiny", "--data", folder / "train", "--recipe", folder / "smoke.toml",
        "-o", folder / "run", "--set", "run.workers=1", "run.cache=off",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180, start_new_session=True)
    assert done.returncode == 130, done.stderr
    assert "edgejpeg train: interrupted; step 3 of 8 is saved in" in done.stderr
    assert "continue with the same command and --resume" in done.stderr and "Traceback" not in done.stderr
    code, _, err = train(capsys, folder, "--resume", "--set", "run.workers=0", "run.cache=on")
    assert code == 0, err
    assert train(capsys, folder, "-o", folder / "whole")[0] == 0
    for name in ("weights.safetensors", "layer.safetensors"):
        assert (folder / "run" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_tensorboard_missing_says_the_command(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, _, err = train(capsys, folder, "--tensorboard")
    assert code == 1 and "pip install 'edgejpeg[tensorboard]'" in err
