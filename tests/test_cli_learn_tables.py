"""``edgejpeg learn-tables`` from a folder to a profile."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from edgejpeg import cli  # noqa: E402
from edgejpeg.learn import open_data, tables  # noqa: E402
from edgejpeg.models import create_model  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402


@pytest.fixture(autouse=True)
def _tiny(register_tiny):
    register_tiny(64)


@pytest.fixture
def folder(tmp_path, photo):
    root = tmp_path / "photos"
    root.mkdir()
    base = photo(300, 500)
    for i in range(10):
        image_module.fromarray(base[20 * i : 20 * i + 80, 40 * i : 40 * i + 90]).save(root / f"{i}.png")
    return root


def learn(capsys, *arguments):
    capsys.readouterr()
    code = cli.main(["learn-tables", "--model", "tiny", "--batch-size", "4", "--steps", "4", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def mean_rate(encode, folder, seed=0, count=10):
    model = create_model("tiny")
    batches = open_data(folder).batches(
        count, size=model.input_size, resize=model.resize, interpolation=model.interpolation, seed=seed
    )
    batch = next(iter(batches))
    return sum(len(encode(np.ascontiguousarray(i.transpose(1, 2, 0)))) for i in batch.images) * 8 / (count * 64 * 64)


def test_a_fixed_profile_comes_out(folder, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    code, out, err = learn(
        capsys, "--data", folder, "-o", path, "--target-bpp", "3.0", "--images", 8, "--seed", 5,
        "--subsampling", "444", "--effort", "0", "--precision", "bf16", "--json",
    )  # fmt: skip
    assert code == 0, err
    summary, profile = json.loads(out), load_profile(path)
    assert (profile.kind, profile.name, profile.subsampling, profile.effort) == ("fixed", "mine", "444", 0)
    assert profile.dead_zone is not None
    real = mean_rate(Encoder(profile, color="rgb").encode, folder, seed=5, count=8)
    assert real == pytest.approx(3.0, rel=0.02)
    (level,) = summary["levels"]
    assert level["bpp"] == pytest.approx(real, rel=1e-9) and level["target_bpp"] == 3.0 and level["kl"] >= 0
    assert (summary["profile_id"], summary["images"], summary["skipped"]) == (profile.profile_id, 8, 0)
    source = profile.provenance
    assert (source["model"], source["weights"], source["data"]) == ("tiny", "random (seed 0)", "photos")
    assert (source["images"], source["seed"], source["steps"], source["target_bpp"]) == (8, 5, 4, [3.0])
    assert source["precision"] == "bf16"
    assert source["bpp"] == [round(real, 6)] and source["tool"].startswith("edgejpeg ")
    assert str(tmp_path) not in path.read_text()  # the folder's name, not its path
    assert "random weights" in err
    assert not list(tmp_path.glob("*.npz"))


def test_a_ladder_whose_rates_rise(folder, tmp_path, capsys):
    path = tmp_path / "ladder.toml"
    code, out, err = learn(capsys, "--data", folder, "-o", path, "--levels", 3, "--range", "2", "4.5")
    assert code == 0, err
    profile = load_profile(path)
    assert profile.kind == "ladder"
    assert [level.rate for level in profile.levels] == pytest.approx([2.0, 3.0, 4.5], rel=0.02)
    for number in range(3):
        real = mean_rate(Encoder(profile.at_level(number), color="rgb").encode, folder)
        assert profile.levels[number].rate == pytest.approx(real, rel=1e-9)
    assert "10 images, 0 skipped; ladder, 420, effort 1" in out and out.count("% of the target") == 3


def test_an_interrupted_run_is_resumed(folder, tmp_path, capsys, monkeypatch):
    arguments = ("--data", folder, "--target-bpp", "3.0")
    whole = tmp_path / "whole.toml"
    assert learn(capsys, *arguments, "-o", whole)[0] == 0
    monkeypatch.setattr(tables, "_SAVE_EVERY", 1)
    step, calls = tables.Walk.step, []

    def fails(self, *rest):
        calls.append(rest)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self, *rest)

    monkeypatch.setattr(tables.Walk, "step", fails)
    path = tmp_path / "resumed.toml"
    assert learn(capsys, *arguments, "-o", path)[0] == 130
    assert (tmp_path / "resumed.toml.partial.npz").is_file() and not path.exists()
    code, _, err = learn(capsys, *arguments, "-o", path, "--resume")
    assert code == 0, err
    assert len(calls) == 6 + 3  # five of eight steps were done
    assert load_profile(path).profile_id == load_profile(whole).profile_id
    assert not (tmp_path / "resumed.toml.partial.npz").exists()


def test_damaged_images_are_counted_and_named(folder, tmp_path, capsys):
    (folder / "3.png").write_bytes(b"no image")
    code, out, err = learn(capsys, "--data", folder, "-o", tmp_path / "p.toml", "--target-bpp", "3", "--json")
    assert code == 0 and json.loads(out)["skipped"] == 1 and json.loads(out)["images"] == 9
    assert "skipped: cannot read" in err
    code, _, err = learn(capsys, "--data", folder, "-o", tmp_path / "q.toml", "--target-bpp", "3", "--on-error", "fail")
    assert code == 1 and "--on-error skip" in err and not (tmp_path / "q.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --target-bpp, for one rate, and --levels"),
        (("--target-bpp", "1", "--levels", "3"), "give one of --target-bpp"),
        (("--target-bpp", "1", "--range", "1", "2"), "--range belongs to --levels"),
        (("--levels", "17"), "--levels is 2 to 16, what a ladder holds; got 17"),
        (("--levels", "1"), "--levels is 2 to 16"),
        (("--levels", "3", "--range", "2", "1"), "LOW below HIGH; got 2 1"),
        (("--target-bpp", "0.05"), "0.05 bpp is out of reach"),
        (("--target-bpp", "90"), "90 bpp is out of reach"),
        (("--target-bpp", "3", "--seed", "-1"), "--seed is at least 0"),
    ],
)
def test_wrong_usage_is_one_line(folder, tmp_path, capsys, arguments, message):
    code, out, err = learn(capsys, "--data", folder, "-o", tmp_path / "p.toml", *arguments)
    lines = [line for line in err.splitlines() if "error:" in line]
    assert (code, out, len(lines)) == (2, "", 1)
    assert message in lines[0]
    assert not (tmp_path / "p.toml").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "x"])
def test_rates_that_are_no_rates(folder, tmp_path, capsys, value):
    with pytest.raises(SystemExit) as stopped:
        learn(capsys, "--data", folder, "-o", tmp_path / "p.toml", "--target-bpp", value)
    assert stopped.value.code == 2


def test_folders_and_outputs_that_are_none(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, _, err = learn(capsys, "--data", tmp_path / "empty", "-o", tmp_path / "p.toml", "--target-bpp", "3")
    assert code == 1 and "no images in" in err
    code, _, err = learn(capsys, "--data", folder, "-o", tmp_path / "p.json", "--target-bpp", "3")
    assert code == 2 and "ends in .toml" in err
    code, _, err = learn(capsys, "--data", folder, "-o", tmp_path / "no" / "p.toml", "--target-bpp", "3")
    assert code == 2 and "make it first" in err
