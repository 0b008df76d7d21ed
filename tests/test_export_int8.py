"""INT8 by Q/DQ nodes: where they stand, what their scales are, and that the numbers are those of the definition."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from edgejpeg.cli import main  # noqa: E402
from edgejpeg.errors import ExportError  # noqa: E402
from edgejpeg.export import export_onnx, int8, layer_from_profile, layer_from_quality  # noqa: E402
from edgejpeg.export.int8 import int8_from_float32, split_calibration  # noqa: E402
from edgejpeg.models import LoadedModel, list_models, register_model  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402


def network():
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(),
        torch.nn.Linear(200, 4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return LoadedModel(
        name="tiny", module=network().eval(), input_size=(32, 32), mean=(120.0,) * 3, std=(60.0,) * 3, class_names=None,
        num_classes=4, weights="tiny 1.0", weights_sha256=None, pretrained=True, resize=36, interpolation="bicubic",
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    from edgejpeg.export.compare import check_images

    return check_images(16, (32, 32), seed=3)


@pytest.fixture(scope="module")
def graph(model, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    result = export_onnx(model, folder, layer=layer_from_quality(75), precision="int8", calibration=pictures)
    assert result.onnx_path.name == "tiny-jpeg-int8.onnx" and result.document["precision"] == "int8"
    assert result.report.images == 4 and result.report.top1_agreement >= 3
    return onnx.load(result.onnx_path)


def producers(graph):
    return {output: node for node in graph.graph.node for output in node.output}


def test_every_layer_with_weights_reads_dequantized_inputs(graph):
    made = producers(graph)
    weighted = [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(weighted) == 3
    for layer in weighted:
        assert [made[name].op_type for name in layer.input[:2]] == ["DequantizeLinear"] * 2
        assert layer.op_type == "MatMul" or layer.input[2] not in made  # the bias stays as it is


def test_jpeg_layer_stays_in_float32(graph):
    (layer,) = [n for n in graph.graph.node if n.domain == "edgejpeg"]
    made = producers(graph)
    assert all(name not in made or made[name].op_type != "DequantizeLinear" for name in layer.input)
    (function,) = graph.functions
    assert not any("Quantize" in node.op_type for node in function.node)


def test_scales_are_the_largest_magnitudes_over_127(graph, model):
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    made = producers(graph)
    weight = model.module[0].weight.detach().numpy()
    convolution = next(n for n in graph.graph.node if n.op_type == "Conv")
    quantize = made[made[convolution.input[1]].input[0]]
    scale, zero = constants[quantize.input[1]], constants[quantize.input[2]]
    # 127 or 127.5 levels on each side, as versions of the quantizer have it.
    largest = np.abs(weight).reshape(8, -1).max(axis=1)
    assert scale.shape == (8,) and (np.abs(largest / scale - 127.25) <= 0.3).all()
    assert zero.dtype == np.int8 and not zero.any()
    assert next(a.i for a in quantize.attribute if a.name == "axis") == 0
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            assert not constants[node.input[2]].any()


def test_tables_as_an_input_are_fed_in_the_calibration(model, pictures, tmp_path):
    layer = layer_from_profile(load_profile("efficientnet_lite0"))
    result = export_onnx(model, tmp_path, layer=layer, precision="int8", calibration=pictures, uint8=True)
    session = ort.InferenceSession(str(result.onnx_path), providers=["CPUExecutionProvider"])
    assert [i.type for i in session.get_inputs()] == ["tensor(uint8)", "tensor(float)"]


def test_broken_scales_fail_the_check(model, pictures, tmp_path, monkeypatch):
    from edgejpeg.export import bundle

    def broken(graph, feeds):
        quantized = int8_from_float32(graph, feeds)
        for tensor in quantized.graph.initializer:
            if tensor.name.endswith("weight_scale"):
                spoiled = 40 * onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(spoiled, tensor.name))
        return quantized

    monkeypatch.setattr(bundle, "int8_from_float32", broken)
    with pytest.raises(ExportError, match="standard deviations"):
        export_onnx(model, tmp_path, precision="int8", calibration=pictures)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_quantize_is_an_error():
    node = onnx.helper.make_node("Relu", ["image"], ["logits"], name="r")
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 4]) for n in ("image", "logits")]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ExportError, match="no layer of this network is quantized"):
        int8_from_float32(model, [{"image": np.ones((2, 4), np.float32)}])


@pytest.mark.parametrize("count, calibration, held_out", [(8, 4, 4), (16, 12, 4), (100, 75, 25), (500, 468, 32)])
def test_a_quarter_is_held_out(count, calibration, held_out):
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    first, last = split_calibration(images)
    assert (len(first), len(last)) == (calibration, held_out)
    np.testing.assert_array_equal(np.concatenate([first, last]), images)
    assert int8.MIN_IMAGES == 8


def test_verb_takes_a_folder(tmp_path, capsys, pictures):
    image_module = pytest.importorskip("PIL.Image")
    if "tiny_int8_test" not in list_models():
        register_model("tiny_int8_test", lambda _: network(), input_size=(32, 32), num_classes=4)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        image_module.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{index:02}.png")
    (folder / "broken.png").write_bytes(b"no image")
    command = ["export", "--model", "tiny_int8_test", "--int8", "--data", str(folder), "-o", str(tmp_path / "out")]
    assert main([*command, "--json", "--form", "pixels"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["precision"] == "int8" and json.loads(out)["input"]["dtype"] == "uint8"
    assert "broken.png" in err and err.count("skipped") == 1
    assert main([*command, "--on-error", "fail", "--calibration-images", "17"]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert main([*command, "--calibration-images", "5"]) == 2
    assert "at least 8 calibration images" in capsys.readouterr().err
