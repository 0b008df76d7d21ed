"""Writing an exported network: files, metadata, and nothing at all when something is wrong."""

from __future__ import annotations

import functools
import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from edgejpeg.errors import EdgeJpegError, ExportError, InvalidInputError  # noqa: E402
from edgejpeg.export import bundle, export_onnx, layer_from_profile, layer_from_quality, read_metadata  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.models import LoadedModel  # noqa: E402
from edgejpeg.profile import Profile  # noqa: E402


@functools.cache
def tiny(name="tiny", pretrained=True, size=(32, 32)):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return LoadedModel(
        name=name,
        module=net.eval(),
        input_size=size,
        mean=(120.0, 121.0, 122.0),
        std=(60.0, 61.0, 62.0),
        class_names=["cat", "dog", "élan"],
        num_classes=3,
        weights="tiny 1.0" if pretrained else "random (seed 1)",
        weights_sha256="ab" * 32 if pretrained else None,
        pretrained=pretrained,
        resize=36,
        interpolation="bicubic",
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_and_metadata(tmp_path):
    result = export_onnx(tiny(), tmp_path / "new" / "folder", layer=layer_from_quality(60, "422"), uint8=True)
    assert names(tmp_path / "new" / "folder") == ["tiny-jpeg.json", "tiny-jpeg.onnx"]
    document = json.loads(result.json_path.read_text(encoding="utf-8"))
    assert document == result.document == read_metadata(result.onnx_path)
    session = ort.InferenceSession(str(result.onnx_path), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["edgejpeg"]) == document
    assert document["format"] == 1
    assert document["model"] == "tiny" and document["weights"] == "tiny 1.0"
    assert document["weights_sha256"] == "ab" * 32 and document["pretrained"] is True and document["notice"] is None
    assert document["input"] == {
        "name": "image",
        "dtype": "uint8",
        "layout": "NCHW",
        "color": "RGB",
        "range": [0, 255],
        "size": [32, 32],
        "resize": 36,
        "interpolation": "bicubic",
    }
    assert document["output"] == {"name": "logits", "dtype": "float32", "classes": 3}
    assert document["class_names"] == ["cat", "dog", "élan"]
    luma, chroma = ijg_tables(60)
    assert document["jpeg_layer"]["subsampling"] == "422"
    assert document["jpeg_layer"]["tables"] == {"luma": luma.array.tolist(), "chroma": chroma.array.tolist()}
    assert document["precision"] == "fp32" and document["opset"] == 18
    assert document["check"]["passed"] is True and document["check"]["providers"] == session.get_providers()


def test_written_file_is_the_network(tmp_path, rng):
    model = tiny()
    result = export_onnx(model, tmp_path)
    session = ort.InferenceSession(str(result.onnx_path), providers=["CPUExecutionProvider"])
    rgb = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    normalised = (rgb - np.array(model.mean)[:, None, None]) / np.array(model.std)[:, None, None]
    with torch.no_grad():
        expected = model.module(torch.from_numpy(normalised.astype(np.float32))).numpy()
    found = session.run(["logits"], {"image": rgb.astype(np.float32) / 255})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert result.document["jpeg_layer"] is None
    assert result.document["input"]["range"] == [0, 1]


def test_names_tell_layer_and_precision(tmp_path):
    export_onnx(tiny("timm:tiny/x"), tmp_path, layer=layer_from_quality(75), precision="fp16")
    assert names(tmp_path) == ["timm_tiny_x-jpeg-fp16.json", "timm_tiny_x-jpeg-fp16.onnx"]


def test_random_weights_are_told(tmp_path):
    result = export_onnx(tiny(pretrained=False), tmp_path)
    assert "mean nothing" in result.document["notice"]
    assert "random (seed 1)" in result.document["notice"]
    assert result.document["pretrained"] is False and result.document["weights_sha256"] is None


def test_fixed_profile_gives_constants():
    luma, chroma = ijg_tables(33)
    layer = layer_from_profile(Profile.fixed(name="mine", luma=luma, chroma=chroma, subsampling="422"))
    assert layer.subsampling == "422" and layer.tables == (luma, chroma)
    assert "mine" in layer.source
    np.testing.assert_array_equal(layer.array()[0, 1], chroma.array.reshape(64))


def test_fixed_gray_profile_needs_no_chroma(tmp_path):
    layer = layer_from_profile(Profile.fixed(name="grey", luma=ijg_tables(33)[0], subsampling="gray"))
    assert export_onnx(tiny(), tmp_path, layer=layer).report.passed


def test_adaptive_profile_gives_an_input(tmp_path):
    profile = Profile.adaptive(name="sharp", sensitivity=np.ones((3, 8, 8)), water_level=0.5, subsampling="444")
    result = export_onnx(tiny(), tmp_path, layer=layer_from_profile(profile))
    assert result.document["jpeg_layer"]["tables"] == "input"
    assert "adaptive profile sharp" in result.document["jpeg_layer"]["source"]
    session = ort.InferenceSession(str(result.onnx_path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("image", [3, 32, 32]), ("tables", [2, 64])]


def test_profile_for_another_subsampling_is_refused():
    profile = Profile.adaptive(name="sharp", sensitivity=np.ones((3, 8, 8)), water_level=0.5, subsampling="444")
    with pytest.raises(InvalidInputError, match="444, not 420"):
        layer_from_profile(profile, "420")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_failed_check_writes_nothing_and_leaves_what_was_there(tmp_path, monkeypatch, precision):
    export_onnx(tiny(), tmp_path, precision=precision)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def sabotaged(*args, **kwargs):
        graph = lower(*args, **kwargs)
        tensor = next(t for t in graph.graph.initializer if t.name == "backbone.4.weight")
        spoiled = 1.5 * onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(spoiled, tensor.name))
        return graph

    lower = bundle.onnx_from_module
    monkeypatch.setattr(bundle, "onnx_from_module", sabotaged)
    with pytest.raises(ExportError, match="nothing was written: logits differ"):
        export_onnx(tiny(), tmp_path, precision=precision)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folder_that_is_a_file_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("x")
    monkeypatch.setattr(bundle, "onnx_from_module", lambda *_, **__: pytest.fail("the work was begun"))
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ExportError, match="cannot write into"):
            export_onnx(tiny(), folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(ExportError, match="cannot write into"):
        export_onnx(tiny(), tmp_path / "closed")


def test_target_that_is_a_folder_leaves_no_litter(tmp_path):
    (tmp_path / "tiny.onnx").mkdir()
    with pytest.raises(ExportError, match="cannot write into"):
        export_onnx(tiny(), tmp_path)
    assert names(tmp_path) == ["tiny.onnx"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"precision": "int4"}, "fp32, fp16, int8"),
        ({"precision": "int8"}, "needs calibration images"),
        ({"calibration": np.zeros((9, 3, 32, 32), np.uint8)}, "only int8 takes them"),
        ({"precision": "int8", "calibration": np.zeros((7, 3, 32, 32), np.uint8)}, "at least 8 calibration images"),
        ({"precision": "int8", "calibration": np.zeros((9, 32, 32, 3), np.uint8)}, r"\(count, 3, 32, 32\) uint8"),
        ({"opset": 17}, "18 to 23"),
        ({"images": 2}, "at least 4"),
    ],
)
def test_options_outside_what_is_allowed(tmp_path, options, words):
    with pytest.raises(InvalidInputError, match=words):
        export_onnx(tiny(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quality, subsampling", [(0, "420"), (101, "420"), (75, "411")])
def test_layer_outside_what_is_allowed(quality, subsampling):
    with pytest.raises(InvalidInputError):
        layer_from_quality(quality, subsampling)


def test_metadata_of_foreign_files(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"\x0b\xff not ONNX")
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.save(empty, tmp_path / "foreign.onnx")
    for value, file in (("[1]", "list.onnx"), ("{", "broken.onnx"), ('{"format": 2}', "newer.onnx")):
        onnx.helper.set_model_props(empty, {"edgejpeg": value})
        onnx.save(empty, tmp_path / file)
    for file, words in (
        ("missing.onnx", "cannot read"),
        ("noise.onnx", "cannot read"),
        ("foreign.onnx", "no 'edgejpeg' metadata"),
        ("list.onnx", "reads format 1"),
        ("broken.onnx", "no JSON"),
        ("newer.onnx", "format 2"),
    ):
        with pytest.raises(EdgeJpegError, match=words):
            read_metadata(tmp_path / file)
