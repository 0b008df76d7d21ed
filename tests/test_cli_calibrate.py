"""``edgejpeg calibrate`` from a folder to a profile, alone, resumed, and in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from edgejpeg import cli  # noqa: E402
from edgejpeg.learn import sensitivity  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402


@pytest.fixture(autouse=True)
def _tiny(register_tiny):
    register_tiny(32)


@pytest.fixture
def folder(tmp_path, rng):
    root = tmp_path / "photos"
    for index, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for i in range(4 + index):
            pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            image_module.fromarray(pixels).resize((48, 40)).save(root / name / f"{i}.png")
    return root


def calibrate(capsys, *arguments):
    capsys.readouterr()
    code = cli.main(["calibrate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_profile_comes_out(folder, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    code, out, err = calibrate(
        capsys, "--model", "tiny", "--data", folder, "-o", path, "--images", 12, "--subsampling", "422",
        "--water-level", "0.2", "--q-max", "200", "--batch-size", "5", "--seed", "4", "--json",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads(out)
    profile = load_profile(path)
    assert (profile.kind, profile.name, profile.subsampling) == ("adaptive", "mine", "422")
    assert (profile.water_level, profile.q_max) == (0.2, 200)
    source = profile.provenance
    assert source["model"] == "tiny" and source["weights"] == "random (seed 0)" and "weights_sha256" not in source
    assert (source["data"], source["images"], source["skipped"], source["labels"]) == ("photos", 12, 0, "true")
    assert (source["input_size"], source["seed"]) == ([32, 32], 4)
    assert source["tool"].startswith("edgejpeg ") and len(source["date"]) == 10
    assert str(tmp_path) not in path.read_text()  # the folder's name, not its path
    assert summary["profile_id"] == profile.profile_id and summary["images"] == 12
    assert "random weights" in err
    assert not list(tmp_path.glob("*.npz"))
    error, estimate = profile.standard_error, profile.sensitivity
    matters = estimate >= 0.01 * estimate.max()
    largest = (error / np.where(estimate > 0, estimate, 1))[matters].max()
    assert summary["largest_relative_standard_error"] == pytest.approx(largest)
    assert summary["max_luma_sensitivity"] == estimate[0].max()


def test_the_numbers_are_those_of_estimate_sensitivity(folder, tmp_path, capsys):
    from edgejpeg.learn.data import open_data
    from edgejpeg.models import create_model

    path = tmp_path / "mine.toml"
    assert calibrate(capsys, "--model", "tiny", "--data", folder, "-o", path)[0] == 0
    model = create_model("tiny")
    batches = open_data(folder).batches(3, size=(32, 32), resize=32)  # another order and batch size
    expected = sensitivity.estimate_sensitivity(model.module, batches, mean=model.mean, std=model.std)
    np.testing.assert_allclose(load_profile(path).sensitivity, expected.sensitivity, rtol=1e-4)
    np.testing.assert_allclose(load_profile(path).standard_error, expected.standard_error, rtol=1e-3)


def test_labels_auto_says_why_it_takes_its_own(folder, tmp_path, capsys):
    code, out, err = calibrate(
        capsys, "--model", "tiny", "--num-classes", 5, "--data", folder, "-o", tmp_path / "p.toml"
    )
    assert code == 0 and "3 class folders, tiny 5 classes" in err and "labels self" in out
    assert "top-1" not in out  # labels of other classes measure nothing
    assert load_profile(tmp_path / "p.toml").provenance["labels"] == "self"
    code, _, err = calibrate(capsys, "--model", "tiny", "--data", folder / "ant", "-o", tmp_path / "p.toml")
    assert code == 0 and "has no labels" in err
    code, out, _ = calibrate(
        capsys, "--model", "tiny", "--data", folder / "ant", "-o", tmp_path / "p.toml", "--labels", "fisher",
        "--fisher-samples", 3,
    )  # fmt: skip
    assert code == 0 and load_profile(tmp_path / "p.toml").provenance["fisher_samples"] == 3


def test_stopping_by_the_target(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sensitivity, "MIN_IMAGES_TO_STOP", 6)
    code, out, _ = calibrate(
        capsys, "--model", "tiny", "--data", folder, "-o", tmp_path / "p.toml", "--batch-size", 3, "--target-error", 50
    )
    assert code == 0 and out.startswith("6 images (stopped by --target-error)")


def test_an_interrupted_run_is_resumed(folder, tmp_path, capsys, monkeypatch):
    whole, path = tmp_path / "whole.toml", tmp_path / "resumed.toml"
    arguments = ["--model", "tiny", "--data", folder, "--batch-size", 2, "--labels", "fisher"]
    assert calibrate(capsys, *arguments, "-o", whole)[0] == 0
    original, calls = sensitivity._Run.accumulate, []

    def interrupted(self, batch):
        calls.append(batch.span)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(sensitivity._Run, "accumulate", interrupted)
    monkeypatch.setattr(sensitivity.estimate_sensitivity, "__kwdefaults__", {
        **sensitivity.estimate_sensitivity.__kwdefaults__, "checkpoint_every": 2,
    })  # fmt: skip
    assert calibrate(capsys, *arguments, "-o", path)[0] != 0
    assert not path.exists() and (tmp_path / "resumed.toml.partial.npz").exists()
    code, _, err = calibrate(capsys, *arguments[:-2], "-o", path, "--resume", "--labels", "self")
    assert code != 0 and "labels was 'fisher', is 'self'" in err
    calls[:] = [None] * 10
    assert calibrate(capsys, *arguments, "-o", path, "--resume")[0] == 0
    assert calls[10] == (8, 10)  # what the checkpoint had was not done again
    assert np.array_equal(load_profile(path).sensitivity, load_profile(whole).sensitivity)
    assert np.array_equal(load_profile(path).standard_error, load_profile(whole).standard_error)
    assert not (tmp_path / "resumed.toml.partial.npz").exists()


def test_damaged_images(folder, tmp_path, capsys):
    (folder / "ant" / "0.png").write_bytes(b"broken")
    arguments = ["--model", "tiny", "--data", folder, "-o", tmp_path / "p.toml"]
    code, out, err = calibrate(capsys, *arguments)
    assert code == 0 and "14 images, 1 skipped" in out and "0.png" in err
    assert load_profile(tmp_path / "p.toml").provenance["skipped"] == 1
    code, _, err = calibrate(capsys, *arguments, "--on-error", "fail")
    assert code == 1 and "0.png" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "tinny"}, "did you mean tiny"),
        ({"--data": "absent"}, "no folder 'absent'"),
        ({"-o": "absent/p.toml"}, "no folder absent"),
        ({"-o": "profile.json"}, "ends in .toml"),
        ({"--q-max": "256"}, "at most 255"),
        ({"--seed": "-1"}, "at least 0"),
        ({"--weights": "absent.pth"}, "no file 'absent.pth'"),
        ({"--device": "warp"}, "cpu always works"),
        ({"--labels": "true", "--num-classes": "5"}, "--labels self"),
        ({"--images": "1"}, "at least 2 images"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, change, message):
    options = {"--model": "tiny", "--data": str(folder), "-o": str(tmp_path / "p.toml"), **change}
    code, out, err = calibrate(capsys, *(part for option in options.items() for part in option))
    lines = [line for line in err.splitlines() if "random weights" not in line]
    assert code != 0 and not out
    assert len(lines) == 1 and lines[0].startswith("edgejpeg calibrate: error: ") and message in lines[0]
    assert not (tmp_path / "p.toml").exists()


@pytest.mark.parametrize("arguments", [[], ["--images", "0"], ["--subsampling", "gray"], ["--water-level", "nan"]])
def test_wrong_usage(folder, tmp_path, arguments):
    needed = ["--model", "tiny", "--data", str(folder), "-o", str(tmp_path / "p.toml")] if arguments else []
    with pytest.raises(SystemExit) as caught:
        cli.main(["calibrate", *needed, *arguments])
    assert caught.value.code == 2


@pytest.mark.slow
def test_torchrun_with_two_processes_writes_the_profile_of_one(folder, tmp_path):
    pytest.importorskip("torchvision")
    arguments = [
        "-m", "edgejpeg", "calibrate", "--model", "squeezenet1_1", "--weights", "none", "--data", str(folder),
        "--batch-size", "4", "--labels", "self", "--device", "cpu",
    ]  # fmt: skip
    (folder / "ant" / "1.png").write_bytes(b"broken")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for prefix, name in (([], "one"), (launcher, "two")):
        done = subprocess.run(
            [sys.executable, *prefix, *arguments, "-o", str(tmp_path / f"{name}.toml")],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("14 images, 1 skipped") == 1
    one, two = (load_profile(tmp_path / f"{name}.toml") for name in ("one", "two"))
    np.testing.assert_allclose(two.sensitivity, one.sensitivity, rtol=1e-3)
    assert {**two.provenance, "largest_relative_standard_error": 0} == {
        **one.provenance, "largest_relative_standard_error": 0,
    }  # fmt: skip
