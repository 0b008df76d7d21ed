"""Lowering to ONNX and to half precision, on a small network that has what larger ones have."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx_inliner = pytest.importorskip("onnx.inliner")

from onnx import TensorProto, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from edgejpeg.errors import ExportError, InvalidInputError  # noqa: E402
from edgejpeg.export.compare import ijg_array  # noqa: E402
from edgejpeg.export.layer import ExportModule  # noqa: E402
from edgejpeg.export.onnx import onnx_from_module  # noqa: E402
from edgejpeg.export.precision import float16_from_float32  # noqa: E402

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def backbone():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


def export(net=None, **options):
    """The module, and a graph to change."""
    module, graph = (export_once if net is None else export_once.__wrapped__)(net, **options)
    return module, copy.deepcopy(graph)


@functools.cache
def export_once(net, size=(32, 48), uint8=False, subsampling="420", quality=75, opset=18):
    module = ExportModule(
        net or backbone(),
        size=size,
        mean=MEAN,
        std=STD,
        uint8=uint8,
        subsampling=subsampling,
        tables=None if quality is None or subsampling is None else ijg_array(quality)[None],
    ).eval()
    inputs = {"image": torch.zeros((2, 3, *size), dtype=torch.uint8 if uint8 else torch.float32)}
    if subsampling and quality is None:
        inputs["tables"] = torch.ones((2, 2, 64))
    graph = onnx_from_module(
        module,
        inputs,
        batch_axes={"image": "N", "tables": "T"},
        output_name="logits",
        subsampling=subsampling,
        opset=opset,
    )
    return module, graph


def run(model, **feed):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def image_of(rng, count, size=(32, 48), uint8=False):
    pixels = rng.integers(0, 256, (count, 3, *size), dtype=np.uint8)
    return pixels if uint8 else pixels.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(
    "subsampling, uint8", [("444", False), ("422", True), ("420", False), ("gray", True), (None, False), (None, True)]
)
def test_graph_equals_pytorch_at_several_batch_sizes(subsampling, uint8, rng):
    module, graph = export(uint8=uint8, subsampling=subsampling)
    for count in (1, 2, 5):
        image = image_of(rng, count, uint8=uint8)
        expected = module(torch.from_numpy(image)).detach().numpy()
        np.testing.assert_allclose(run(graph, image=image), expected, atol=1e-3)


def test_node_and_function_are_as_documented():
    _, graph = export()
    nodes = [node for node in graph.graph.node if node.domain]
    assert [(node.domain, node.op_type) for node in nodes] == [("edgejpeg", "JpegLayer")]
    attributes = {a.name: onnx.helper.get_attribute_value(a).decode() for a in nodes[0].attribute}
    assert attributes == {"plugin_namespace": "edgejpeg", "plugin_version": "1", "subsampling": "420"}
    assert [(f.domain, f.name) for f in graph.functions] == [("edgejpeg", "JpegLayer")]
    assert {entry.domain: entry.version for entry in graph.opset_import} == {"": 18, "edgejpeg": 1}
    assert [i.name for i in graph.graph.input] == ["image"]
    batch = graph.graph.input[0].type.tensor_type.shape.dim
    assert batch[0].dim_param == "N" and [d.dim_value for d in batch[1:]] == [3, 32, 48]
    assert [o.name for o in graph.graph.output] == ["logits"]


def test_tables_as_input_are_shared_or_one_for_each_image(rng):
    module, graph = export(quality=None)
    image = image_of(rng, 3)
    each = np.stack([ijg_array(q) for q in (20, 60, 90)])
    for tables in (each, each[:1]):
        expected = module(torch.from_numpy(image), torch.from_numpy(tables)).detach().numpy()
        np.testing.assert_allclose(run(graph, image=image, tables=tables), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(30, 45), (17, 16)])
def test_sizes_that_are_no_whole_mcus(size, rng):
    module, graph = export(size=size)
    image = image_of(rng, 2, size)
    expected = module(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(run(graph, image=image), expected, atol=1e-3)


def test_inlined_graph_gives_the_same_logits(rng):
    _, graph = export()
    inlined = onnx_inliner.inline_local_functions(graph)
    assert not inlined.functions
    image = image_of(rng, 2)
    np.testing.assert_allclose(run(inlined, image=image), run(graph, image=image), atol=1e-5)


def test_no_trace_of_this_machine_in_the_file():
    _, graph = export()
    assert b"site-packages" not in graph.SerializeToString()
    assert b"stack_trace" not in graph.SerializeToString()


@pytest.mark.parametrize("opset", [17, 24, 0])
def test_unsupported_opset_is_refused(opset):
    with pytest.raises(InvalidInputError, match=f"opset {opset} .* 18 to 23"):
        export(opset=opset)


@pytest.mark.parametrize("opset", [23])
def test_newer_opset(opset, rng):
    module, graph = export(opset=opset)
    image = image_of(rng, 1)
    np.testing.assert_allclose(run(graph, image=image), module(torch.from_numpy(image)).detach().numpy(), atol=1e-3)


def test_network_that_cannot_be_lowered_is_one_line():
    class Stubborn(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if float(x.sum()) > 0 else x.sum((2, 3))

    with pytest.raises(ExportError, match="cannot export this network to ONNX opset 18") as caught:
        export(net=Stubborn())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "subsampling, quality, uint8", [("420", 75, False), ("420", 75, True), ("444", None, True), (None, None, True)]
)
def test_half_precision_is_in_the_backbone_alone(subsampling, quality, uint8, rng):
    module, graph = export(uint8=uint8, subsampling=subsampling, quality=quality)
    before = graph.SerializeToString(deterministic=True)
    half = float16_from_float32(graph)
    assert graph.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(half, full_check=True)
    session = ort.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == ("tensor(uint8)" if uint8 else "tensor(float)")
    assert session.get_outputs()[0].type == "tensor(float)"
    types = {t.name: t.data_type for t in half.graph.initializer}
    for node in half.graph.node:
        weights = {types[name] for name in node.input if name in types}
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            assert weights == {TensorProto.FLOAT16}
        if node.domain == "edgejpeg":
            assert weights <= {TensorProto.FLOAT}
    feed = {"image": image_of(rng, 3, uint8=uint8)}
    if subsampling and quality is None:
        feed["tables"] = ijg_array(50)[None]
        assert session.get_inputs()[1].type == "tensor(float)"
    expected = module(*(torch.from_numpy(v) for v in feed.values())).detach().numpy()
    np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=0.02 * expected.std())


def test_nothing_before_the_layer_is_rounded_to_half():
    """uint8 / 255 in half precision would flip coefficients: the path from input to layer has no float16."""
    _, graph = export(uint8=True, size=(30, 45))
    half = float16_from_float32(graph)
    producers = {output: node for node in half.graph.node for output in node.output}
    layer = next(node for node in half.graph.node if node.domain == "edgejpeg")
    pending, seen = list(layer.input), []
    while pending:
        node = producers.get(pending.pop())
        if node is not None:
            seen.append(node.op_type)
            assert not (node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16)
            pending += list(node.input)
    assert {"Cast", "Div", "Pad"} <= set(seen)


def test_weight_beyond_half_precision_is_refused():
    net = backbone()
    with torch.no_grad():
        net[5].weight[0, 0] = 7e4
    _, graph = export(net=net)
    with pytest.raises(ExportError, match=r"'backbone.5.weight' reaches 70000"):
        float16_from_float32(graph)


def test_network_without_weights_cannot_be_half():
    _, graph = export(net=nn.Flatten(), subsampling="420")
    for tensor in graph.graph.initializer:  # the normalisation's constants too
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    with pytest.raises(ExportError, match="half precision"):
        float16_from_float32(graph)
