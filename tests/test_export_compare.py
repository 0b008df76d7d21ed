"""The check at the end of an export: it passes a good graph and fails each sabotaged one."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from onnx import numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from edgejpeg.errors import ExportError, InvalidInputError  # noqa: E402
from edgejpeg.export.compare import check_export, check_images, ijg_array  # noqa: E402
from edgejpeg.export.layer import ExportModule  # noqa: E402
from edgejpeg.export.onnx import onnx_from_module  # noqa: E402
from edgejpeg.export.precision import float16_from_float32  # noqa: E402

SIZE = (48, 64)


def build(subsampling="420", gain=1.0, tables_are_input=False):
    """The module, a graph to spoil, and the names of its inputs."""
    module, graph, names = build_once(subsampling, gain, tables_are_input)
    return module, copy.deepcopy(graph), names


@functools.cache
def build_once(subsampling, gain, tables_are_input):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    )
    with torch.no_grad():
        net[0].weight.mul_(gain)
        net[4].weight.div_(gain)
    layered = subsampling is not None
    module = ExportModule(
        net,
        size=SIZE,
        mean=(120, 120, 120),
        std=(60, 60, 60),
        subsampling=subsampling,
        tables=ijg_array(75)[None] if layered and not tables_are_input else None,
    ).eval()
    inputs = {"image": torch.zeros((2, 3, *SIZE))}
    if tables_are_input:
        inputs["tables"] = torch.ones((2, 2, 64))
    graph = onnx_from_module(
        module, inputs, batch_axes={"image": "N", "tables": "T"}, output_name="logits", subsampling=subsampling
    )
    return module, graph, list(inputs)


def check(module, graph, names, precision="fp32", count=7):
    return check_export(graph, module, check_images(count, SIZE), input_names=names, precision=precision)


def scale(graph, name, factor):
    tensor = next(t for t in graph.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), name))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray", None])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_good_graph_passes(subsampling, precision):
    module, graph, names = build(subsampling)
    if precision == "fp16":
        graph = float16_from_float32(graph)
    report = check(module, graph, names, precision)
    assert report.passed, report.failures
    assert report.batches == [1, 3, 3] and report.images == 7
    assert report.top1_agreement >= 6
    assert report.providers == ["CPUExecutionProvider"]
    assert 0 < report.logit_error <= (1e-4 if precision == "fp32" else 0.02)
    blocks = {"444": 3 * 48, "422": 2 * 48, "420": 48 + 2 * 12, "gray": 48, None: 0}[subsampling]
    assert report.coefficients == 7 * 64 * blocks


def test_tables_as_input_pass():
    report = check(*build(tables_are_input=True))
    assert report.passed, report.failures
    assert report.coefficients


def test_a_changed_weight_fails():
    module, graph, names = build()
    scale(graph, "backbone.4.weight", 1.001)
    report = check(module, graph, names)
    assert not report.passed
    assert any("logits differ" in failure for failure in report.failures)


def test_changed_tables_fail():
    module, graph, names = build()
    scale(graph, "tables", 1.1)
    assert any("off any rounding tie" in failure for failure in check(module, graph, names).failures)


@pytest.mark.parametrize("operator, replacement", [("Round", "Floor"), ("Round", "Identity"), ("Div", "Mul")])
def test_another_quantizer_fails(operator, replacement):
    module, graph, names = build()
    for node in graph.functions[0].node:
        if node.op_type == operator:
            node.op_type = replacement
    assert any("off any rounding tie" in failure for failure in check(module, graph, names).failures)


def test_another_interpolation_fails():
    module, graph, names = build("420")
    resize = next(node for node in graph.functions[0].node if node.op_type == "Resize")
    next(a for a in resize.attribute if a.name == "mode").s = b"nearest"
    report = check(module, graph, names)
    assert any("decoded pixels differ" in failure for failure in report.failures)


def test_nan_fails():
    module, graph, names = build(None)
    scale(graph, "backbone.4.bias", np.nan)
    assert not check(module, graph, names).passed


def test_an_overflow_of_half_precision_fails_and_names_the_module():
    module, graph, names = build(gain=1e6)
    with torch.no_grad():
        report = check(module, graph, names, "fp16")
    assert report.largest_activation > 65504
    assert any("an activation of 0 reaches" in failure for failure in report.failures)
    assert not any("an activation" in failure for failure in check(module, graph, names).failures)


def test_a_graph_that_cannot_run_is_an_error():
    module, graph, names = build()
    graph.functions[0].node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match="ONNX Runtime cannot load"):
        check(module, graph, names)


def test_the_document_has_figures_and_tolerances():
    document = check(*build()).to_document()
    assert document["passed"] is True
    assert document["logit_error_in_std"] <= document["logit_tolerance_in_std"]
    layer = document["jpeg_layer"]
    assert layer["flipped"] <= layer["flipped_tolerance"] * layer["coefficients"]


def test_check_images_are_repeatable_and_like_photographs():
    images = check_images(4, (96, 128))
    np.testing.assert_array_equal(images, check_images(4, (96, 128)))
    assert images.shape == (4, 3, 96, 128) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 4
    grey = images.mean(axis=1)
    # Neighbours are alike, pixels far apart are not, as in a photograph and unlike noise.
    near = np.abs(np.diff(grey, axis=2)).mean()
    assert near < 0.35 * np.abs(grey[:, :, 64:] - grey[:, :, :64]).mean()
    assert grey.std() > 25


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_images_are_refused(count):
    with pytest.raises(InvalidInputError, match="at least 4"):
        check_images(count, (32, 32))
