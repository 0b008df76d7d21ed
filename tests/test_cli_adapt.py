"""``edgejpeg adapt``: from photos to weights and a profile that export, serve and send take."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from serve_command import serving

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")
for needed in ("tqdm", "safetensors", "cv2"):
    pytest.importorskip(needed)

from edgejpeg import cli  # noqa: E402
from edgejpeg.learn.data import read_image  # noqa: E402
from edgejpeg.models import create_model, register_model, registry  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402

SIZE = 48


def tiny(num_classes):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(24, num_classes),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_model("tiny", tiny, input_size=(SIZE, SIZE), num_classes=3)
    register_model(
        "other", lambda n: torch.nn.Sequential(*tiny(n), torch.nn.ReLU()), input_size=(48, 48), num_classes=3
    )


@pytest.fixture
def folder(tmp_path, photo):
    root = tmp_path / "photos"
    root.mkdir()
    whole = photo(200, 300)
    for index in range(24):
        y, x = 20 * (index % 6), 50 * (index // 6)
        image_module.fromarray(whole[y : y + 60, x : x + 70]).save(root / f"{index:02}.png")
    return root


def adapt(capsys, *arguments):
    capsys.readouterr()
    code = cli.main(["adapt", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def common(folder, run, *more):
    return ["--model", "tiny", "--data", folder, "-o", run, "--epochs", 2, "--batch-size", 8, *more]


def test_one_rate_is_met_by_real_bytes(folder, tmp_path, capsys):
    run = tmp_path / "run"
    code, out, err = adapt(capsys, *common(folder, run, "--target-bpp", 1.8, "--ema", 0.9, "--seed", 3))
    assert code == 0, err
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt", "metrics.jsonl", "profile.toml", "run.json", "weights.safetensors",
    ]  # fmt: skip
    profile = load_profile(run / "profile.toml")
    assert (profile.kind, profile.subsampling, profile.effort) == ("fixed", "420", 1)
    encoder = Encoder(profile, color="rgb")
    sizes = [
        len(encoder.encode(np.ascontiguousarray(read_image(f, size=(SIZE, SIZE)).transpose(1, 2, 0))))
        for f in sorted(folder.iterdir())
    ]
    assert np.mean(sizes) * 8 / SIZE**2 == pytest.approx(1.8, rel=0.1)  # of all images; two were measured
    report = json.loads((run / "run.json").read_text())
    assert profile.provenance["bpp"] == pytest.approx(1.8, rel=0.05)
    assert (
        report["profile_id"] == profile.profile_id and profile.provenance["weights_sha256"] == report["weights_sha256"]
    )
    assert report["weights_sha256"] == hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    assert (report["images"], report["steps"]) == ({"train": 22, "held_out": 2, "skipped": 0}, 4)
    assert report["options"]["seed"] == 3 and report["original_weights"] == "random (seed 0)"
    assert str(tmp_path) not in (run / "run.json").read_text()
    assert "22 images, 2 held out" in out and "next: edgejpeg export --model tiny --weights" in out
    assert "random weights" in err


def test_the_weights_load_and_the_statistics_are_the_original_s(folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert adapt(capsys, *common(folder, run, "--range", 1.2, 3))[0] == 0
    original, adapted = create_model("tiny").module, create_model("tiny", str(run / "weights.safetensors"))
    assert adapted.pretrained and adapted.weights == "weights.safetensors"
    assert torch.equal(adapted.module[1].running_mean, original[1].running_mean)
    assert not torch.equal(adapted.module[0].weight, original[0].weight)
    profile = load_profile(run / "profile.toml")
    assert profile.kind == "ladder" and profile.levels[0].rate == pytest.approx(1.2, rel=0.06)
    Encoder(profile)


def test_a_given_profile_is_set_to_the_rate(folder, tmp_path, capsys):
    run = tmp_path / "run"
    code, out, err = adapt(capsys, *common(folder, run, "--target-bpp", 4, "-p", "efficientnet_lite0", "--json"))
    assert code == 0, err
    profile = load_profile(run / "profile.toml")
    assert json.loads(out)["rates"] == {"low": 4.0, "high": 4.0, "tables": "efficientnet_lite0"}
    assert profile.kind == "adaptive"
    assert np.array_equal(profile.sensitivity, load_profile("efficientnet_lite0").sensitivity)


def test_an_interrupted_run_is_resumed(folder, tmp_path, capsys, monkeypatch):
    from edgejpeg.learn import adapt as module

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert adapt(capsys, *common(folder, whole, "--target-bpp", 2))[0] == 0
    original, calls = module._Run.train, []

    def interrupted(self, step, *arguments):
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, step, *arguments)

    monkeypatch.setattr(module._Run, "train", interrupted)
    assert adapt(capsys, *common(folder, parts, "--target-bpp", 2))[0] == 130
    assert not (parts / "weights.safetensors").exists()
    code, _, err = adapt(capsys, *common(folder, parts, "--target-bpp", 2))
    assert code == 2 and "--resume continues it" in err
    code, _, err = adapt(capsys, *common(folder, parts, "--target-bpp", 2, "--resume", "--model", "other"))
    assert code == 2 and "model was 'tiny', is 'other'" in err
    code, _, err = adapt(capsys, *common(folder, parts, "--target-bpp", 2.1, "--resume"))
    assert code == 2 and "rates was [2.0, None], is [2.1, None]" in err
    assert adapt(capsys, *common(folder, parts, "--target-bpp", 2, "--resume"))[0] == 0
    assert calls == [0, 1, 2, 3, 2, 3]
    assert (parts / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    before = json.loads((parts / "run.json").read_text())["candidates"]
    assert adapt(capsys, *common(folder, parts, "--target-bpp", 2, "--resume", "--clean-limit", 90))[0] == 0
    report = json.loads((parts / "run.json").read_text())  # a finished run only chooses anew
    assert len(calls) == 6 and report["candidates"] == before and report["options"]["clean_limit"] == 0.9


def test_what_is_lost_on_clean_images_is_said(folder, tmp_path, capsys):
    code, _, err = adapt(
        capsys, *common(folder, tmp_path / "run", "--target-bpp", 2, "--lr", 30, "--clean", 0, "--clean-limit", 0)
    )
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert code == 0 and report["clean_limit_met"] == (report["after"]["clean_loss"] == 0)
    assert ("no weights kept within the limit of 0 points" in err) is not report["clean_limit_met"]


def test_a_loss_that_is_nan_is_one_line(folder, tmp_path, capsys):
    code, _, err = adapt(capsys, *common(folder, tmp_path / "run", "--target-bpp", 2, "--lr", "1e30"))
    assert code == 1 and "Traceback" not in err
    assert "of 4; the last checkpoint, if any, is good: try a lower --lr" in err


def test_damaged_images(folder, tmp_path, capsys):
    (folder / "07.png").write_bytes(b"broken")
    code, out, err = adapt(capsys, *common(folder, tmp_path / "run", "--target-bpp", 2))
    assert code == 0 and "1 skipped" in out and "07.png" in err
    code, _, err = adapt(capsys, *common(folder, tmp_path / "again", "--target-bpp", 2, "--on-error", "fail"))
    assert code == 1 and "07.png" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "tinny"}, "did you mean tiny"),
        ({"--data": "absent"}, "no folder 'absent'"),
        ({"--data": "."}, "no images in"),
        ({"--images": "5"}, "gave 5 images, 0 skipped; adaptation needs at least 8"),
        ({"--target-bpp": ".01"}, "no setting of 0.01 bits per pixel: it reaches"),
        ({"--target-bpp": "30"}, "ask for that"),
        ({"--range": "3 1"}, "a range of rates rises; got 3 to 1"),
        ({"--range": "2 30"}, "no setting of 30"),
        ({"--clean": "1"}, "clean is at least 0 and below 1"),
        ({"--clean": "nan"}, "clean is at least 0"),
        ({"--clean-limit": "-1"}, "clean_limit is at least 0"),
        ({"--ema": "1"}, "ema is at least 0"),
        ({"--seed": "-1"}, "seed is at least 0"),
        ({"--device": "warp"}, "cpu always works"),
        ({"-p": "none.toml"}, "No such file"),
        ({"-p": "efficientnet_lite0", "--subsampling": "444"}, "give one of them"),
        ({"-o": "photos/00.png"}, "RUN is a folder"),
        ({"--weights": "absent.pth"}, "no file 'absent.pth'"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, monkeypatch, change, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty" if change.get("--data") == "." else tmp_path)
    options = {"--model": "tiny", "--data": str(folder), "-o": "run", "--epochs": "1", **change}
    if "--range" not in options:
        options.setdefault("--target-bpp", "2")
    code, out, err = adapt(capsys, *(part for name, value in options.items() for part in (name, *value.split())))
    lines = [line for line in err.splitlines() if "random weights" not in line]
    assert code != 0 and not out
    assert len(lines) == 1 and lines[0].startswith("edgejpeg adapt: error: ") and message in lines[0]
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["--target-bpp", "1", "--range", "1", "2"], ["--target-bpp", "nan"], ["--range", "1"]]
)
def test_wrong_usage(folder, tmp_path, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["adapt", *map(str, common(folder, tmp_path / "run")), *arguments])
    assert caught.value.code == 2


@pytest.mark.slow
def test_adapt_export_serve_send_is_one_walk(folder, tmp_path, capsys):
    for module in ("onnx", "onnxscript", "onnxruntime", "uvicorn", "starlette", "httpx"):
        pytest.importorskip(module)
    run, served = tmp_path / "run", tmp_path / "served"
    assert adapt(capsys, *common(folder, run, "--target-bpp", 1.8))[0] == 0
    weights = run / "weights.safetensors"
    assert (
        cli.main(["export", "--model", "tiny", "--weights", str(weights), "--form", "pixels", "-o", str(served)]) == 0
    )
    document = json.loads((served / "tiny.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in json.dumps(document)
    report = tmp_path / "sent.json"
    with serving(served / "tiny.onnx") as url:
        done = subprocess.run(
            [sys.executable, "-m", "edgejpeg", "send", str(folder), "--to", url, "-p", str(run / "profile.toml"),
             "--size", str(SIZE), "--json", str(report)],
            capture_output=True, text=True, timeout=120, cwd="/", check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sent = json.loads(report.read_text())
    assert sent["frames"] == 24 and sent["failed"] == 0, sent
