"""The walk of docs/hardening.md on scikit-learn's digits, as typed: train -> harden -> export -> serve -> send.

What the server answers over HTTP is compared with PyTorch on the same files, decoded by Pillow.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from serve_command import serving

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, whose digits are trained on, is not installed")
image_module = pytest.importorskip("PIL.Image")
for needed in ("tqdm", "safetensors", "cv2", "onnx", "onnxscript", "onnxruntime", "uvicorn", "starlette", "httpx"):
    pytest.importorskip(needed)

from edgejpeg.jpeg.markers import parse_jpeg  # noqa: E402
from edgejpeg.learn.training_run import load_run  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402

TARGET, SIZE, TESTED = 10.0, 16, 200
SETTINGS = (
    "data.size=16", "data.pad=2", "data.flip=0", "schedule.epochs=4", "schedule.kind=cosine", "run.workers=0",
    "layer.rate.weight=none", f"layer.rate.target_bpp={TARGET:g}", "run.log_every=5",
)  # fmt: skip


def edgejpeg(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "edgejpeg", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, cwd=cwd, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,000 digits to train on and 200 others, as 16x16 PNGs in class folders."""
    root = tmp_path_factory.mktemp("digits")
    digits = datasets.load_digits()
    for index in range(1000 + TESTED):
        part = "train" if index < 1000 else "test"
        place = root / part / f"digit {digits.target[index]}"
        place.mkdir(parents=True, exist_ok=True)
        gray = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        whole = image_module.fromarray(gray).resize((SIZE, SIZE), image_module.Resampling.BICUBIC)
        whole.convert("RGB").save(place / f"{index:04}.png")
    return root


@pytest.mark.slow
def test_train_harden_export_serve_send(folder):
    said = edgejpeg(
        "train", "--model", "cifar_resnet20", "--data", "train", "--test", "test", "--recipe", "cifar100", "--recipe",
        "edgejpeg", "--set", *SETTINGS, "-o", "run", cwd=folder,
    )  # fmt: skip
    assert "edgejpeg harden run --data test -o profile.toml" in said

    hardened = json.loads(edgejpeg("harden", "run", "--data", "test", "-o", "p.toml", "--json", cwd=folder))
    rungs = {rung["rung"]: rung for rung in hardened["rungs"]}
    assert sorted(rungs) == [0, 1, 2, 3, 4] and hardened["images"] == TESTED
    assert rungs[4]["accuracy"]["value"] > 0.85
    assert abs(rungs[4]["difference"]["value"]) <= 0.02
    assert rungs[4]["bpp"]["value"] == pytest.approx(TARGET, rel=0.05)
    profile, run = load_profile(folder / "p.toml"), load_run(folder / "run")
    assert (profile.luma, profile.chroma) == run.layer.tables()
    assert profile.provenance["weights_sha256"] == run.report["weights_sha256"]
    assert profile.provenance["target_bpp"] == TARGET

    edgejpeg("export", "--model", "cifar_resnet20", "--weights", "run", "--form", "pixels", "-o", "served", cwd=folder)
    with serving("served/cifar_resnet20.onnx", folder) as url:
        edgejpeg("send", "test/digit 3", "--to", url, "-p", "p.toml", "--size", SIZE, "--json", "sent.json", cwd=folder)
    sent = json.loads((folder / "sent.json").read_text())
    files = sorted((folder / "test" / "digit 3").iterdir())
    assert sent["frames"] == len(files) and sent["failed"] == 0

    encoder, names = Encoder(profile, color="rgb"), run.model.class_names
    assert names == [f"digit {number}" for number in range(10)]
    for file, answered in zip(files, sent["results"], strict=True):
        data = encoder.encode(np.asarray(image_module.open(file).convert("RGB")))
        assert np.array_equal(parse_jpeg(data).tables[0], profile.luma)
        pixels = np.asarray(image_module.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
        with torch.no_grad():
            logits = run.model.module(run.model.normalise(torch.from_numpy(pixels.copy())[None]))
        assert answered["name"] == file.name and answered["bytes"] == len(data)
        assert answered["classes"][0][2] == names[int(logits.argmax())]
