"""``edgejpeg bench``: its figures, its sources, its errors. What is fast is not asked here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.cli.bench_source import as_color
from edgejpeg.cli.encode_raw import COLORS
from edgejpeg.errors import MissingDependencyError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime.encoder import Encoder
from edgejpeg.runtime.raw import raw_shape
from edgejpeg.runtime.turbojpeg import find_turbojpeg

QUICK = ["--warmUp", "0", "--duration", "0", "--iterations", "1"]


@pytest.fixture
def folder(photo, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, which reads the images, is not installed")
    images = tmp_path / "images"
    images.mkdir()
    for index in range(5):
        cv2.imwrite(str(images / f"{index}.png"), np.roll(photo(60 + index, 100), 7 * index, axis=1))
    return images


def _report(tmp_path, *options: str) -> dict:
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--encoder", *QUICK, "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


def _images(folder) -> list[np.ndarray]:
    cv2 = pytest.importorskip("cv2")
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


def _without_libjpeg_turbo(monkeypatch) -> None:
    monkeypatch.setattr("edgejpeg.runtime.turbojpeg.find_turbojpeg", lambda: None)


def test_figures_of_a_folder(folder, tmp_path, capsys):
    report = _report(tmp_path, "--source", str(folder), "--percentile", "50,99.5")
    assert set(report) == {"edgejpeg", "machine", "settings", "source", "encoder", "libjpeg_turbo", "ratio"}
    images = _images(folder)
    sizes = [len(Encoder("efficientnet_lite0").encode(image)) for image in images]
    figures = report["encoder"]
    assert set(figures) == {
        *("encodes", "frames_per_second", "megapixels_per_second", "latency_ms", "bytes_per_frame", "bits_per_pixel"),
        "stages_ms",
    }
    stages = figures["stages_ms"]
    assert list(stages) == ["colour", "transform", "design", "quantise", "entropy"]
    assert min(stages.values()) > 0
    assert figures["encodes"] == 5
    assert figures["bytes_per_frame"] == pytest.approx(np.mean(sizes))
    assert figures["bits_per_pixel"] == pytest.approx(8 * sum(sizes) / sum(i.shape[0] * i.shape[1] for i in images))
    latency = figures["latency_ms"]
    assert set(latency) == {"min", "max", "mean", "median", "percentiles"}
    assert list(latency["percentiles"]) == ["50", "99.5"]
    assert 0 < latency["min"] <= latency["percentiles"]["50"] <= latency["percentiles"]["99.5"] == latency["max"]
    assert report["source"]["sizes"] == [[100, 60 + index] for index in range(5)]
    profile = load_profile("efficientnet_lite0")
    assert report["settings"] == {
        "profile": f"{profile.name}@{profile.profile_id}",
        "quality": None,
        "subsampling": "420",
        "color": "bgr",
        "effort": 0,
        "threads": 1,
        "warmUp": 0,
        "duration": 0,
        "iterations": 1,
        "percentile": [50, 99.5],
    }
    out = capsys.readouterr().out
    assert "frames: 5 of 5 sizes from 100x60 to 100x64" in out
    assert "percentile(99.5%) = " in out
    assert f"{figures['bytes_per_frame']:.0f} bytes/frame" in out


def test_libjpeg_turbo_has_the_quality_nearest_in_bytes(folder, tmp_path, capsys):
    turbo = find_turbojpeg()
    if turbo is None:
        pytest.skip("no libturbojpeg.so.0 on this machine")
    report = _report(tmp_path, "--source", str(folder))
    target = report["encoder"]["bytes_per_frame"]
    with turbo:
        sizes = [np.mean([len(turbo.encode(i, q, "420")) for i in _images(folder)]) for q in range(1, 101)]
    peer = report["libjpeg_turbo"]
    assert abs(sizes[peer["quality"] - 1] - target) == min(abs(size - target) for size in sizes)
    assert peer["bytes_per_frame"] == sizes[peer["quality"] - 1]
    assert (peer["quality_by"], peer["huffman"], peer["threads"]) == ("nearest bytes", "standard", 1)
    assert peer["encodes"] == report["encoder"]["encodes"]
    assert report["ratio"]["bytes"] == pytest.approx(target / peer["bytes_per_frame"])
    assert report["ratio"]["time"] > 0
    out = capsys.readouterr().out
    assert f"quality {peer['quality']} (nearest bytes), standard Huffman" in out
    assert f"libjpeg-turbo {turbo.version}" in out


def test_same_quality_gives_libjpeg_turbo_the_same_tables(folder, tmp_path):
    if find_turbojpeg() is None:
        pytest.skip("no libturbojpeg.so.0 on this machine")
    options = ["--source", str(folder), "--quality", "60", "--subsampling", "444", "--threads", "2"]
    report = _report(tmp_path, *options)
    luma, chroma = ijg_tables(60)
    with Encoder(Profile.fixed(name="q", luma=luma, chroma=chroma, subsampling="444")) as encoder:
        ours = np.mean([len(encoder.encode(image)) for image in _images(folder)])
    assert report["encoder"]["bytes_per_frame"] == ours
    assert (report["libjpeg_turbo"]["quality"], report["libjpeg_turbo"]["quality_by"]) == (60, "the same quality")
    # Stored Huffman tables against the standard ones.
    assert 0.8 < report["ratio"]["bytes"] < 1
    assert (report["settings"]["profile"], report["settings"]["threads"]) == (None, 2)


def test_without_libjpeg_turbo_it_says_so(folder, tmp_path, capsys, monkeypatch):
    _without_libjpeg_turbo(monkeypatch)
    report = _report(tmp_path, "--source", str(folder), "--effort", "1")
    assert report["libjpeg_turbo"] is None and report["ratio"] is None
    assert report["settings"]["effort"] == 1
    assert "libjpeg-turbo: not found" in capsys.readouterr().out


def test_size_scales_and_crops(folder, tmp_path, capsys, monkeypatch):
    _without_libjpeg_turbo(monkeypatch)
    report = _report(tmp_path, "--source", str(folder / "1.png"), "--size", "48x32")
    assert (report["source"]["sizes"], report["source"]["frames"]) == ([[48, 32]], 1)
    assert "1 of 48x32, of 1 in" in capsys.readouterr().out


@pytest.mark.parametrize("color", COLORS)
def test_frames_of_every_color(color, folder, tmp_path, capsys):
    """What the encoder gets says the same picture as OpenCV's own conversion does."""
    cv2 = pytest.importorskip("cv2")
    report = _report(tmp_path, "--source", str(folder / "2.png"), "--size", "98x62", "--color", color)
    assert report["settings"]["color"] == color
    assert f"as {color}, in rotation" in capsys.readouterr().out
    assert report["encoder"]["bits_per_pixel"] == pytest.approx(8 * report["encoder"]["bytes_per_frame"] / (98 * 62))
    image = cv2.imread(str(folder / "2.png"))[:62, :98]
    frame = as_color(image, color)
    assert frame.shape == raw_shape(98, 62, color)
    codes = {"rgb": "RGB2BGR", "bgrx": "BGRA2BGR", "rgbx": "RGBA2BGR", "gray": "GRAY2BGR", "yuyv": "YUV2BGR_YUY2"}
    codes |= {name: f"YUV2BGR_{name.upper()}" for name in ("nv12", "nv21", "i420")}
    back = image if color == "bgr" else cv2.cvtColor(frame, getattr(cv2, f"COLOR_{codes[color]}"))
    if color == "gray":
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert np.abs(back.astype(int) - image).mean() <= (0 if len(color) < 4 or color.endswith("x") else 4) + 0.1


def test_default_source_is_said(tmp_path, capsys, monkeypatch):
    _without_libjpeg_turbo(monkeypatch)
    report = _report(tmp_path, "--size", "64x48")
    assert report["source"]["sizes"] == [[64, 48]]
    assert report["source"]["description"] in capsys.readouterr().out

    def missing(source):
        raise MissingDependencyError("not installed")

    monkeypatch.setattr("edgejpeg.demo.footage.locate", missing)
    report = _report(tmp_path, "--size", "64x48")
    assert "generated scene" in report["source"]["description"]
    assert report["source"]["frames"] > 1
    assert report["encoder"]["bytes_per_frame"] > 100


def test_frames_are_evenly_spaced_when_there_are_too_many(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, which writes the images, is not installed")
    _without_libjpeg_turbo(monkeypatch)
    (tmp_path / "many").mkdir()
    for index in range(200):
        cv2.imwrite(str(tmp_path / "many" / f"{index:03}.png"), np.full((8, 8, 3), index, np.uint8))
    seen = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, frame: seen.append(int(frame[0, 0, 0])) or encode(self, frame))
    report = _report(tmp_path, "--source", str(tmp_path / "many"))
    assert report["source"]["frames"] == 64
    assert seen[1:65] == list(range(0, 192, 3))  # the first is the warm-up's, those behind are for the stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "1920"], "'1920' is no size; it is WIDTHxHEIGHT"),
        (["--size", "0x5"], "1 to 65535"),
        (["--size", "70000x5"], "1 to 65535"),
        (["--size", "1x-5"], "no size"),
        (["--percentile", "90,101"], "numbers 0..100"),
        (["--percentile", "a"], "numbers 0..100"),
        (["--iterations", "0"], "at least 1"),
        (["--quality", "50", "-p", "efficientnet_lite0"], "not allowed with"),
    ],
)
def test_usage_errors(options, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["bench", "--encoder", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "add --encoder"),
        (["--encoder", "--source", "none.mp4"], 1, "no source 'none.mp4'"),
        (["--encoder", "--quality", "0"], 2, "quality"),
        (["--encoder", "--quality", "101"], 2, "from 1 to 100"),
        (["--encoder", "--duration", "-1"], 2, "duration"),
        (["--encoder", "--warmUp", "inf"], 2, "warm_up"),
        (["--encoder", "--threads", "1000"], 2, "threads"),
        (["--encoder", "-p", "eficientnet"], 1, "efficientnet_lite0"),
        (["--encoder", "--subsampling", "444"], 2, "for subsampling 420, not 444"),
        (["--encoder", "--size", "8x8", *QUICK, "--json", "none/bench.json"], 1, "give another --json"),
    ],
)
def test_errors_in_one_line(options, code, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *options]) == code
    err = capsys.readouterr().err
    assert err.startswith("edgejpeg bench: error: ") and err.count("\n") == 1
    assert message in err
