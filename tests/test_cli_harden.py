"""``edgejpeg harden`` on a run folder: the profile it writes, what it says, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")
for needed in ("tqdm", "safetensors", "cv2"):
    pytest.importorskip(needed)

import edgejpeg  # noqa: E402
from edgejpeg import cli  # noqa: E402
from edgejpeg.learn.recipe import load_recipe  # noqa: E402
from edgejpeg.learn.train import train  # noqa: E402
from edgejpeg.learn.training_data import ArrayImages  # noqa: E402
from edgejpeg.models import create_model, register_model, registry  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402

SIZE = 24


def tiny(num_classes):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(24, num_classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def images():
    """Stripes of three directions."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = [np.sin(x * 0.9), np.sin(y * 0.9), np.sin((x + y) * 0.7)]
    labels = np.arange(48) % 3
    pixels = np.stack([128 + 60 * waves[k][..., None] + rng.normal(0, 25, (SIZE, SIZE, 3)) for k in labels])
    return pixels.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def runs(tmp_path_factory, images):
    """A run of our recipe, one of the authors' dynamics, and the baseline, with a folder of the images."""
    root = tmp_path_factory.mktemp("runs")
    names = ("across", "down", "oblique")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_registered", dict(registry._registered))
        register_model("tiny", tiny, input_size=(SIZE, SIZE), num_classes=3)
        data = ArrayImages(*images, names, "stripes")
        common = ["schedule.epochs=4", "schedule.kind=cosine", "run.batch_size=12", "run.workers=0", "data.flip=0"]
        arms = {
            "ours": (["edgejpeg"], ["layer.rate.weight=none", "layer.rate.target_bpp=7"]),
            "authors": ([], ["layer.initial_images=48", "layer.optimizer.lr=.5"]),
            "baseline": ([], ["layer.enabled=false"]),
        }
        for name, (recipes, settings) in arms.items():
            recipe = load_recipe("cifar100", *recipes, settings=[*common, *settings])
            train(create_model("tiny", "none", 3), data, recipe, root / name)
    for number, (image, label) in enumerate(zip(*images, strict=True)):
        place = root / "images" / names[label]
        place.mkdir(parents=True, exist_ok=True)
        image_module.fromarray(image).save(place / f"{number:02}.png")
    return root


@pytest.fixture(autouse=True)
def _here(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_model("tiny", tiny, input_size=(SIZE, SIZE), num_classes=3)
    monkeypatch.chdir(tmp_path)


def harden(capsys, *arguments):
    capsys.readouterr()
    code = cli.main(["harden", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_profile_is_the_layer_s_and_the_encoder_loads_it(runs, tmp_path, capsys, images):
    code, out, err = harden(capsys, runs / "ours", "--data", runs / "images", "-o", "p.toml", "--json")
    assert code == 0, err
    document, profile = json.loads(out), load_profile(tmp_path / "p.toml")
    assert (profile.kind, profile.subsampling, profile.effort) == ("fixed", "420", 1)
    assert document["profile"] == {"file": "p.toml", "profile_id": profile.profile_id}
    report = json.loads((runs / "ours" / "run.json").read_text())
    facts = profile.provenance
    assert (facts["model"], facts["run"], facts["images"]) == ("tiny", "ours", 48)
    assert facts["weights_sha256"] == report["weights_sha256"] and facts["layer_sha256"] == report["layer_sha256"]
    assert facts["tool"].startswith("edgejpeg ") and len(facts["date"]) == 10
    encoder = edgejpeg.Encoder(tmp_path / "p.toml", color="rgb")
    sizes = [len(encoder.encode(image)) for image in images[0]]
    bpp = document["rungs"][-1]["bpp"]["value"]
    assert bpp == pytest.approx(8 * np.mean(sizes) / SIZE**2) and facts["bpp"] == pytest.approx(bpp, abs=1e-6)
    assert document["target_bpp"] == 7 and document["bpp_off_target"] == pytest.approx(bpp / 7 - 1)
    assert abs(document["bpp_off_target"]) < 0.05
    assert [rung["rung"] for rung in document["rungs"]] == [0, 1, 2, 3, 4]
    assert str(tmp_path) not in out + (tmp_path / "p.toml").read_text()


def test_the_table_and_what_to_type_next(runs, capsys):
    code, out, err = harden(
        capsys, runs / "ours", "--data", runs / "images", "-o", "p.toml", "--images", 12, "--effort", 0
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == ("tiny, 12 images of images, 24x24, 420, effort 0; intervals: 95 %, paired with rung 1")
    assert [line[:3] for line in lines[2:7]] == ["-  ", "1  ", "2  ", "3  ", "4  "]
    assert "asked for 7 bpp: +" in out and "of 12 files to the bit" in out
    assert f"--weights {runs / 'ours'} --form pixels" in lines[-1] and "-p p.toml --size 24" in lines[-1]
    assert load_profile("./p.toml").effort == 0


def test_steps_below_one_are_told(runs, capsys):
    code, out, err = harden(capsys, runs / "authors", "--data", runs / "images", "-o", "p.toml")
    report = json.loads((runs / "authors" / "run.json").read_text())
    assert report["layer"]["q_min"] == 1e-5 and report["layer"]["bits"] == 8
    assert code == 0, err
    assert "which no file holds; they become 1 on rungs 3 and 4" in out
    assert "0  " not in out and "-  as trained" not in out


def test_a_baseline_takes_a_profile(runs, tmp_path, capsys):
    code, out, err = harden(capsys, runs / "ours", "--data", runs / "images", "-o", "p.toml")
    assert code == 0, err
    code, out, err = harden(capsys, runs / "baseline", "--data", runs / "images", "-p", "./p.toml", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [rung["rung"] for rung in document["rungs"]] == [1, 3, 4] and document["tables"] == {}
    assert "profile" not in document and document["target_bpp"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUNS/baseline", "-o", "p.toml"], "has no JPEG layer (it is the baseline arm)"),
        (["RUNS/baseline", "-o", "p.toml", "-p", "RUNS/p.toml"], "leave out -o"),
        (["RUNS/ours", "-o", "p.toml", "-p", "efficientnet_lite0"], "leave out --profile"),
        (["RUNS/baseline", "-p", "efficientnet_lite0"], "two fixed tables with plain rounding"),
        (["RUNS/ours"], "give -o FILE.toml"),
        (["RUNS/ours", "-o", "p.json"], "ends in .toml"),
        (["RUNS/ours", "-o", "none/p.toml"], "no folder none"),
        (["RUNS/none", "-o", "p.toml"], "no folder"),
        (["RUNS/images", "-o", "p.toml"], "no finished training"),
        (["RUNS/ours", "-o", "p.toml", "--device", "warp"], "cpu always works"),
        (["RUNS/ours", "-o", "p.toml", "--data", "none"], "no folder 'none'"),
        (["RUNS/ours", "-o", "p.toml", "--data", "other"], "the classes of other are across, up; the run"),
        (["RUNS/ours", "-o", "p.toml", "--data", "four"], "has 4 classes, and the network"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, capsys, arguments, message):
    (runs / "p.toml").write_text(
        edgejpeg.Profile.fixed(name="p", luma=np.full((8, 8), 9), chroma=np.full((8, 8), 9)).to_toml()
    )
    for folder, classes in (("other", ("across", "up")), ("four", "0123")):
        for name in classes:
            place = tmp_path / folder / name
            place.mkdir(parents=True)
            image_module.new("RGB", (SIZE, SIZE)).save(place / "a.png")
    (tmp_path / "four" / "labels.csv").write_text("file,class\n" + "".join(f"{k}/a.png,{k}\n" for k in range(4)))
    arguments = [argument.replace("RUNS", str(runs)) for argument in arguments]
    if "--data" not in arguments:
        arguments += ["--data", str(runs / "images")]
    code, out, err = harden(capsys, *arguments)
    assert code != 0 and not out
    assert len(err.splitlines()) == 1 and err.startswith("edgejpeg harden: error: ") and message in err
    assert not (tmp_path / "p.toml").exists()


def test_damaged_files_are_named_or_end_it(runs, tmp_path, capsys):
    import shutil

    shutil.copytree(runs / "images", tmp_path / "images")
    (tmp_path / "images" / "down" / "01.png").write_bytes(b"broken")
    code, out, err = harden(capsys, runs / "ours", "--data", "images", "-o", "p.toml", "--json")
    assert code == 0 and json.loads(out)["images"] == 47 and json.loads(out)["skipped"] == 1 and "01.png" in err
    code, _, err = harden(capsys, runs / "ours", "--data", "images", "-o", "q.toml", "--on-error", "fail")
    assert code == 1 and "01.png" in err and not (tmp_path / "q.toml").exists()
