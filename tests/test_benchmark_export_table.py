"""The table of exported networks: each family of the papers' networks becomes ONNX, FP16 and an engine."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgejpeg.models import list_models, register_model  # noqa: E402

PAPERS = sorted(
    {f"cifar_{kind}" for kind in ("resnet20", "preact_resnet18", "vgg8", "mobilenetv2", "shufflenetv2")}
    & set(list_models("cifar_*"))
)
"""One of each family of the papers' networks, as far as registered; the script itself takes them all."""


@pytest.fixture(scope="module")
def script(repository):
    path = repository / "benchmarks" / "export_table.py"
    spec = importlib.util.spec_from_file_location("export_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["export_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def tiny():
    if "tiny_table_test" not in list_models():
        register_model(
            "tiny_table_test",
            lambda n: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Flatten(), torch.nn.Linear(128, n)),
            input_size=(32, 32),
            num_classes=4,
        )
        register_model("loud_table_test", loud, input_size=(32, 32), num_classes=4)
        register_model(
            "bad_table_test",
            lambda n: torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), Eigenvalues()),
            input_size=(32, 32),
            num_classes=4,
        )


def loud(classes):
    """Activations that half precision cannot hold, weights that it can."""
    first = torch.nn.Conv2d(3, 8, 8, 8)
    with torch.no_grad():
        first.weight.mul_(1e5)
    return torch.nn.Sequential(first, torch.nn.Flatten(), torch.nn.Linear(128, classes))


class Eigenvalues(torch.nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x):
        return torch.linalg.eigvals(x).real.flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_table_test", *PAPERS])
def test_row(script, name):
    row = script.measure(name)
    assert row.error is None and row.weights == "random"
    assert row.onnx_difference < 1e-4 and row.fp16_difference < 0.1 and row.flipped < 1e-3
    assert row.fp16_bytes < row.onnx_bytes
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        assert row.rtx["fp16"]["layers_with_weights"].keys() == {"float16"}
        assert row.rtx["fp32"]["layers_with_weights"].keys() == {"float32"}
    text = script.table([row])
    assert f"| {name} | " in text and "failed" not in text


def test_network_that_half_precision_cannot_hold_keeps_its_other_columns(script):
    row = script.measure("loud_table_test")
    assert row.error is None and row.onnx_difference < 1e-4
    assert "half precision ends at" in row.fp16_error
    assert set(row.rtx) <= {"fp32"}
    line = script.table([row]).splitlines()[2]
    assert "| refused: an activation of 0 reaches " in line and line.count("|") == 8


def test_network_that_cannot_be_lowered_is_a_row_with_its_reason(script):
    row = script.measure("bad_table_test")
    assert "aten.linalg_eig.default in backbone.1" in row.error
    assert "| bad_table_test | failed: PyTorch cannot export" in script.table([row])


def test_committed_table_says_what_the_page_says(repository):
    """The goals that docs/export.md calls met are met by the figures, and the one that it calls missed is."""
    document = json.loads((repository / "benchmarks" / "results" / "export_table.json").read_text())
    rows = {row["network"]: row for row in document["rows"]}
    assert set(rows) >= {"resnet18", "squeezenet1_1", "mobilenet_v2", "efficientnet_lite0"}
    for row in rows.values():
        assert row["error"] is None and row["onnx_difference"] < 1e-4 and set(row["rtx"]) == {"fp32", "fp16"}
        assert all(engine["seconds"] < 10 for engine in row["rtx"].values())
    page = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    for name, met in (("squeezenet1_1", True), ("mobilenet_v2", False), ("efficientnet_lite0", True)):
        real = rows[name]["real_images"]
        assert real["images"] == 800 and real["wrong"] == 0
        assert real["flipped"] < 1e-4 and real["fp32_difference"] < 1e-4
        assert (real["fp16_agreement"] >= 0.995) == met and f"{100 * real['fp16_agreement']:.2f}" in page
