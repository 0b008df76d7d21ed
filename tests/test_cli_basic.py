"""The command itself: help, errors in one line, encode and info."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Level, Profile, load_profile

Image = pytest.importorskip("PIL.Image", reason="Pillow, which writes the images, is not installed")
cv2 = pytest.importorskip("cv2", reason="OpenCV, which reads the images, is not installed")


@pytest.fixture
def folder(photo, tmp_path):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    Image.fromarray(photo(40, 50)).save(images / "a.png")
    Image.fromarray(photo(33, 21)).save(images / "deep" / "b.jpg", quality=95)
    return images


def _fails(capsys, *argv: str, code: int | None = None) -> str:
    status = cli.main(list(argv))
    assert status != 0
    if code is not None:
        assert status == code
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if ": error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"edgejpeg {argv[0]}: error: ")
    assert "Traceback" not in captured.err
    return errors[0]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([verb, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert f"edgejpeg {verb}" in out
    assert "--verbose" in out


def test_usage_errors_exit_2():
    for argv in ([], ["fly"], ["encode", "a.png"], ["encode", "a.png", "-o", "b", "--quality", "5", "-p", "x"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(argv)
        assert exit_.value.code == 2


def test_encode_one_file_with_a_profile(folder, tmp_path, capsys):
    out = tmp_path / "out.jpg"
    assert cli.main(["encode", str(folder / "a.png"), "-p", "efficientnet_lite0", "-o", str(out)]) == 0
    info = parse_jpeg(out.read_bytes())
    assert (info.width, info.height, info.subsampling) == (50, 40, "420")
    assert f"{len(out.read_bytes())} bytes" in capsys.readouterr().out


def test_encode_a_folder_with_a_quality(folder, tmp_path, capsys):
    options = ["--quality", "60", "--subsampling", "444", "--effort", "1", "--json"]
    assert cli.main(["encode", str(folder), "-o", str(tmp_path / "out"), *options]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(r["output"] for r in records) == [str(tmp_path / "out/a.jpg"), str(tmp_path / "out/deep/b.jpg")]
    for record in records:
        data = Path(record["output"]).read_bytes()
        info = parse_jpeg(data)
        assert (record["bytes"], record["width"], record["height"]) == (len(data), info.width, info.height)
        assert (info.quant_table(0), info.quant_table(1)) == ijg_tables(60)
        source = np.asarray(Image.open(record["input"]).convert("RGB")).astype(int)
        assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - source).mean() < 6  # colours not swapped


def test_water_level_moves_the_bytes(folder, tmp_path):
    sizes = []
    for level in ("0.005", "0.5"):
        out = tmp_path / f"{level}.jpg"
        argv = ["encode", str(folder / "a.png"), "-p", "efficientnet_lite0", "-o", str(out), "--water-level", level]
        assert cli.main(argv) == 0
        sizes.append(out.stat().st_size)
    assert sizes[0] > sizes[1]


def test_a_budget_and_what_was_chosen_for_it(folder, tmp_path, capsys):
    out = tmp_path / "out.jpg"
    argv = ["encode", str(folder / "a.png"), "-o", str(out), "--json"]
    assert cli.main([*argv, "-p", "efficientnet_lite0", "--max-bytes", "1200", "--comment", "--trellis", "full"]) == 0
    record = json.loads(capsys.readouterr().out)
    data = out.read_bytes()
    assert record["bytes"] == len(data) <= 1200
    assert record["encodes"] >= 1
    assert parse_jpeg(data).comments[0].endswith(f" d={record['water_level']:.6g}".encode())
    levels = [Level(0.5 + i, *ijg_tables(quality)) for i, quality in enumerate((20, 50, 80))]
    Profile.ladder(name="steps", levels=levels).save(tmp_path / "steps.toml")
    for options, level in ((["--level", "1"], 1), (["--slope", "0"], 0), (["--target-bpp", "90"], 2)):
        assert cli.main([*argv, "-p", str(tmp_path / "steps.toml"), *options]) == 0
        assert json.loads(capsys.readouterr().out)["level"] == level
        assert parse_jpeg(out.read_bytes()).quant_table(0) == levels[level].luma


def test_damaged_images_are_counted_named_and_skipped_or_fatal(folder, tmp_path, capsys):
    whole = (folder / "deep" / "b.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:40])
    (folder / "text.png").write_text("no image")
    argv = ["encode", str(folder), str(folder / "missing.png"), "--quality", "50", "-o", str(tmp_path / "out")]
    assert cli.main(argv) == 1
    captured = capsys.readouterr()
    for name in ("cut.jpg", "text.png", "missing.png"):
        assert sum(name in line for line in captured.err.splitlines()) == 1
    assert "3 of 5 images skipped" in captured.err
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 2
    assert _fails(capsys, *argv, "--on-error", "fail", code=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "eficientnet"], "efficientnet_lite0"),
        (["-p", "none.toml"], "No such file"),
        (["-p", "efficientnet_lite0", "--subsampling", "444"], "for subsampling 420, not 444"),
        (["--quality", "101"], "from 1 to 100"),
        (["--quality", "50", "--water-level", "0.1"], "--water-level"),
        (["--quality", "50", "--max-bytes", "999"], "--max-bytes belongs to a profile"),
        (["--quality", "50", "--trellis", "trim"], "--trellis belongs to a profile"),
        (["-p", "efficientnet_lite0", "--max-bytes", "20"], "the smallest file of this frame has"),
        (["-p", "efficientnet_lite0", "--level", "0"], "which has no levels"),
    ],
)
def test_encode_errors(options, message, folder, tmp_path, capsys):
    assert message in _fails(capsys, "encode", str(folder / "a.png"), "-o", str(tmp_path / "x.jpg"), *options)
    assert not (tmp_path / "x.jpg").exists()


def test_encode_never_overwrites_its_source_or_another_result(folder, tmp_path, capsys):
    source = folder / "deep" / "b.jpg"
    before = source.read_bytes()
    assert "overwritten" in _fails(capsys, "encode", str(source), "--quality", "5", "-o", str(source.parent))
    assert source.read_bytes() == before
    Image.new("RGB", (8, 8)).save(folder / "a.bmp")
    assert "both" in _fails(capsys, "encode", str(folder), "--quality", "5", "-o", str(tmp_path / "out"))
    assert "one file" in _fails(capsys, "encode", str(folder), "--quality", "5", "-o", str(tmp_path / "o.jpg"))
    (tmp_path / "empty").mkdir()
    assert "no images" in _fails(capsys, "encode", str(tmp_path / "empty"), "--quality", "5", "-o", str(tmp_path / "o"))


def test_fixed_profile_refuses_a_water_level(folder, tmp_path, capsys):
    luma, chroma = ijg_tables(50)
    Profile.fixed(name="f", luma=luma, chroma=chroma).save(tmp_path / "f.toml")
    argv = ["encode", str(folder / "a.png"), "-p", str(tmp_path / "f.toml"), "-o", str(tmp_path / "x.jpg")]
    assert "fixed" in _fails(capsys, *argv, "--water-level", "0.1")
    assert cli.main(argv) == 0
    assert parse_jpeg((tmp_path / "x.jpg").read_bytes()).quant_table(0) == luma


def test_info_on_a_jpeg(folder, capsys):
    assert cli.main(["info", str(folder / "deep" / "b.jpg"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["type"], document["width"], document["height"]) == ("JPEG", 21, 33)
    assert document["tables"]["0"] == ijg_tables(95)[0].array.tolist()
    assert cli.main(["info", str(folder / "deep" / "b.jpg")]) == 0
    assert "subsampling: 420" in capsys.readouterr().out


def test_info_on_a_profile(capsys):
    assert cli.main(["info", "efficientnet_lite0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    profile = load_profile("efficientnet_lite0")
    assert document["profile_id"] == profile.profile_id
    assert np.array_equal([document["sensitivity"][c] for c in ("y", "cb", "cr")], profile.sensitivity)
    assert cli.main(["info", "efficientnet_lite0"]) == 0
    assert profile.profile_id in capsys.readouterr().out


def test_info_on_an_onnx_file(tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    h = onnx.helper
    value = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 3]) for n in "xy"]
    model = h.make_model(h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:]))
    h.set_model_props(model, {"edgejpeg": json.dumps({"model": "tiny"})})
    onnx.save(model, tmp_path / "m.onnx")
    assert cli.main(["info", str(tmp_path / "m.onnx"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["inputs"] == ["x: float[N, 3]"]
    assert document["edgejpeg"] == {"model": "tiny"}


def test_info_errors(tmp_path, capsys):
    assert "No such file" in _fails(capsys, "info", str(tmp_path / "none.jpg"), code=1)
    (tmp_path / "a.jpg").write_bytes(b"\x89PNG")
    assert "not a JPEG" in _fails(capsys, "info", str(tmp_path / "a.jpg"), code=1)
    (tmp_path / "a.onnx").write_bytes(b"\x89PNG")
    pytest.importorskip("onnx", reason="onnx is not installed")
    assert "no ONNX file" in _fails(capsys, "info", str(tmp_path / "a.onnx"), code=1)


def test_verbose_shows_the_traceback(tmp_path, capsys):
    assert cli.main(["info", "-v", str(tmp_path / "none.jpg")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_and_broken_pipe(monkeypatch, capsys):
    monkeypatch.setattr("edgejpeg.cli.info.run", lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["info", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err
    done = subprocess.run(
        f"{sys.executable} -m edgejpeg info efficientnet_lite0 | head -c 1", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
