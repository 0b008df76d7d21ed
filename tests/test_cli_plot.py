"""``edgejpeg plot``: every figure from what a user has, and one-line refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("cv2")

from PIL import Image  # noqa: E402

from edgejpeg.cli import main  # noqa: E402
from edgejpeg.cli.plot import _steps_of  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.models import list_models, register_model  # noqa: E402
from edgejpeg.profile import Profile  # noqa: E402

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def _network():
    def build(classes):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=2),
            torch.nn.ReLU(inplace=True),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, classes),
        )

    if "tiny_plot_test" not in list_models():
        register_model("tiny_plot_test", build, input_size=(SIDE, SIDE), num_classes=3, class_names=["a", "b", "c"])


@pytest.fixture
def image(tmp_path, photo):
    Image.fromarray(photo(48, 40)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def plot(*arguments, code=0):
    return main(["plot", *map(str, arguments)]) == code


def test_quantizer_tables_and_sensitivity(tmp_path, capsys, write_run):
    assert plot("quantizer", "-o", tmp_path / "q.svg", "--q", 2, "--hardness", 1, 9, "--panels", "shape", "z")
    assert "<svg" in (tmp_path / "q.svg").read_text()[:2000]
    steps = np.full((8, 8), 10.0), np.full((8, 8), 20.0)
    run = write_run(tmp_path / "run", "tiny_plot_test", JpegLayer(*steps))
    assert plot("tables", "ijg:75", run, "-o", tmp_path / "t.png")
    luma = ijg_tables(75)[0].array
    coarser, finer = int((luma < 10).sum()), int((luma > 10).sum())
    assert f"luma: {coarser} of 64 steps coarser, {finer} finer" in capsys.readouterr().out
    assert plot("sensitivity", "efficientnet_lite0", "-o", tmp_path / "s.png")
    assert "Y peaks at zigzag" in capsys.readouterr().out
    for name in ("t.png", "s.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()


def test_sources_of_tables(tmp_path, write_run):
    luma, chroma = ijg_tables(60)
    Profile.fixed(name="f", luma=luma, chroma=chroma, subsampling="444").save(tmp_path / "f.toml")
    expected = np.stack([luma.array, chroma.array])
    np.testing.assert_array_equal(_steps_of(str(tmp_path / "f.toml")).steps, expected)
    np.testing.assert_array_equal(_steps_of("ijg:60").steps, expected)
    learned = np.linspace(1.2, 90.7, 64).reshape(8, 8)
    run = write_run(tmp_path / "run", "tiny_plot_test", JpegLayer(learned, learned + 1))
    np.testing.assert_allclose(_steps_of(str(run)).steps, [learned, learned + 1], rtol=1e-6)


def test_features_and_gradcam_by_quality_profile_and_run(tmp_path, image, capsys, write_run):
    network = ("--model", "tiny_plot_test", "--weights", "none")
    assert plot("features", image, *network, "--quality", 10, "--channels", 3, "-o", tmp_path / "f.png")
    assert "layer 0, 8 channels; drawn: " in capsys.readouterr().out
    assert plot("gradcam", image, *network, "-p", "efficientnet_lite0", "--class", 2, "-o", tmp_path / "g.svg")
    out = capsys.readouterr().out
    assert "before: c (2), probability 0." in out and "after JPEG: c (2)" in out
    run = write_run(tmp_path / "run", "tiny_plot_test", JpegLayer(*ijg_tables(20)))
    assert plot("gradcam", image, "--run", run, "--layer", "0", "-o", tmp_path / "r.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("f.png", "g.svg", "r.png"))


def test_refusals_are_one_line(tmp_path, image, capsys, write_run):
    out = ("-o", tmp_path / "x.png")
    network = ("--model", "tiny_plot_test", "--weights", "none")
    baseline = write_run(tmp_path / "baseline", "tiny_plot_test", None)
    for arguments, message, code in (
        (("quantizer", "-o", tmp_path / "x.gif"), "ends in .png, .svg, .pdf", 2),
        (("quantizer", "-o", tmp_path / "none" / "x.png"), "cannot be written", 1),
        (("quantizer", "--hardness", *range(1, 9), *out), "at most 6 curves", 2),
        (("quantizer", "--bits", 40, *out), "3 to 16 bits", 2),
        (("tables", "ijg:75", "efficientnet_lite0", *out), "no pair of tables of its own", 2),
        (("tables", "ijg:x", "ijg:5", *out), "ijg:1 to ijg:100", 2),
        (("tables", "ijg:500", "ijg:5", *out), "500", 2),
        (("tables", baseline, "ijg:5", *out), "no JPEG layer", 2),
        (("sensitivity", *["efficientnet_lite0"] * 5, *out), "1 to 4", 2),
        (("features", image, "--quality", 50, *out), "give --model NAME, or --run RUN", 2),
        (("features", image, "--run", baseline, *out), "no JPEG layer", 2),
        (("features", image, *network, "--quality", 50, "--layer", "9", *out), "no layer '9'", 1),
        (("features", tmp_path / "none.png", *network, "--quality", 50, *out), "no such file", 1),
        (("gradcam", image, *network, "--quality", 50, "--class", 7, *out), "classes 0..2; got 7", 1),
        (("gradcam", image, *network, "--quality", 50, "--layer", "4", *out), "maps (N, C, h, w) are needed", 1),
    ):
        assert plot(*arguments, code=code), arguments
        err = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(err) == 1 and message in err[0], err
    assert not (tmp_path / "x.png").exists()
    with pytest.raises(SystemExit):
        main(["plot"])
