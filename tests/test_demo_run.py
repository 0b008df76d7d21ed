"""The demo as a whole: refusals before any work, and one small run of everything."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.cli import main
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.jpeg.markers import parse_jpeg

_NEEDED = (
    "PIL", "cv2", "efficientnet_lite_pytorch", "httpx", "matplotlib", "onnx", "onnxruntime", "onnxscript", "skimage",
    "sklearn", "skvideo", "starlette", "torch", "tqdm", "uvicorn",
)  # fmt: skip


@pytest.fixture
def demo_packages() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the demo's packages are not all installed: {', '.join(missing)}")


@pytest.mark.usefixtures("demo_packages")
def test_wrong_options_are_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgejpeg.demo.run import run_demo

    with pytest.raises(InvalidInputError, match="--frames is 9"):
        run_demo(tmp_path / "a", frames=9)
    with pytest.raises(InvalidInputError, match="--seed is -1"):
        run_demo(tmp_path / "a", seed=-1)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another with -o"):
        run_demo(tmp_path / "file")
    assert main(["demo", "-o", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("edgejpeg demo: error:") and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("demo_packages")
def test_a_small_run_writes_everything_and_adds_up(tmp_path: Path) -> None:
    from edgejpeg.demo.run import run_demo
    from edgejpeg.demo.words import headline

    lines: list[str] = []
    results = run_demo(tmp_path, quick=True, frames=13, seed=3, say=lines.append)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    assert headline(results) in lines
    assert results["bootstrap"] == {
        "unit": "clips and photos, each drawn whole",
        "groups": 10,
        "frames": 13,
        "resamples": 1000,
        "seed": 3,
        "level": 0.95,
    }
    assert [source["frames"] for source in results["footage"]["sources"]] == [2] * 3 + [1] * 7
    assert results["uplink"]["submitted"] == results["uplink"]["delivered"] == 13
    for export in results["exports"]:
        assert (tmp_path / export["file"]).stat().st_size == export["bytes"] > 10_000_000
    clean = np.array(results["clean_top1"])
    for method in results["methods"].values():
        frames = {name: np.array(values) for name, values in method["frames"].items()}
        for i, point in enumerate(method["points"]):
            assert point["bpp"] == pytest.approx(frames["bytes"][i].mean() * 8 / 224**2)
            assert point["agreement"]["value"] == pytest.approx((frames["top1"][i] == clean).mean())
            assert point["kl"]["value"] == pytest.approx(frames["kl"][i].mean(), rel=1e-6)
        # More bits, less change, from one end to the other: true of any codec that works.
        assert method["points"][0]["bpp"] < 0.6 and method["points"][-1]["bpp"] > 1.6
        assert method["points"][0]["kl"]["value"] > 3 * method["points"][-1]["kl"]["value"]
    for row in results["strip"]:
        for shown in row["images"]:
            path = tmp_path / shown["file"]
            if shown["kind"] != "clean":
                info = parse_jpeg(path.read_bytes())
                assert (info.width, info.height, info.subsampling) == (224, 224, "420")
                assert path.stat().st_size == shown["bytes"]
        theirs, ours = row["images"][1:]
        assert abs(theirs["bytes"] - ours["bytes"]) < 0.1 * ours["bytes"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert headline(results).split(" (")[0].replace("'", "&#x27;") in page
    assert str(tmp_path) not in page and str(tmp_path) not in (tmp_path / "results.json").read_text()
