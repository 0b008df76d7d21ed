"""Engines of TensorRT-RTX, which need no GPU to be built, and everything around a build that can go wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper  # noqa: E402

from edgejpeg._optional import require_onnxruntime  # noqa: E402
from edgejpeg.cli import main  # noqa: E402
from edgejpeg.errors import ExportError, InvalidInputError, MissingDependencyError  # noqa: E402
from edgejpeg.export import (  # noqa: E402
    EngineOptions,
    ShapeRange,
    engines,
    export_coefficients,
    export_engine,
    export_onnx,
    layer_from_profile,
    layer_from_quality,
    rewrite_for,
)
from edgejpeg.export.engine_build import BuildRequest, Layer, check_version, judge_network  # noqa: E402
from edgejpeg.export.engine_child import run_child  # noqa: E402
from edgejpeg.export.metadata import embed_metadata  # noqa: E402
from edgejpeg.export.tensorrt import inspector_facts, judge_engine  # noqa: E402
from edgejpeg.models import LoadedModel, list_models, register_model  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402
from edgejpeg.runtime.engine_info import check_engine, info_path  # noqa: E402

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed: pip install 'edgejpeg[rtx]'",
)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, stride=4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )
    return LoadedModel(
        name="tiny", module=net.eval(), input_size=(32, 32), mean=(120.0,) * 3, std=(60.0,) * 3, class_names=None,
        num_classes=4, weights="tiny 1.0", weights_sha256="cd" * 32, pretrained=True, resize=36,
        interpolation="bicubic",
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """An export of the tiny network, made once for each kind; copied into a folder."""
    made = {}

    def copy(folder, precision="fp32", subsampling=None):
        key = precision, subsampling
        if key not in made:
            pixels = np.random.default_rng(1).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
            made[key] = export_onnx(
                tiny,
                tmp_path_factory.mktemp("exported"),
                layer=None if subsampling is None else layer_from_quality(75, subsampling),
                precision=precision,
                calibration=pixels if precision == "int8" else None,
                images=4,
            )
        for path in (made[key].onnx_path, made[key].json_path):
            shutil.copy(path, folder)
        return folder / made[key].onnx_path.name

    return copy


@rtx
@pytest.mark.parametrize(
    "precision, kind, subsampling, operators",
    [
        ("fp32", "float32", "420", 5),
        ("fp16", "float16", "444", 2),
        ("int8", "int8", "420", 5),
        ("fp16", "float16", None, 0),
    ],
)
def test_engine_has_what_was_asked_for(exported, tmp_path, precision, kind, subsampling, operators):
    onnx_path = exported(tmp_path, precision, subsampling)
    result = export_engine(onnx_path, "tensorrt-rtx", command="edgejpeg export ...")
    info = check_engine(result.engine_path, flavour="tensorrt-rtx", tensorrt_version=result.info.tensorrt_version)
    assert info == result.info and info.precision == precision and info.weights_sha256 == "cd" * 32
    assert info.form == ("pixels" if subsampling is None else "layer")
    assert info.facts["layers_with_weights"] == {kind: 2}
    assert info.facts["jpeg_layer_operators"] == ({"float32": operators} if operators else {})
    assert info.inputs[0].maximum == (8, 3, 32, 32) and info.inputs[0].dtype == "float32"
    engine = result.engine_path
    files = {onnx_path.name, onnx_path.with_suffix(".json").name, engine.name, info_path(engine).name}
    assert {p.name for p in tmp_path.iterdir()} == files


@rtx
def test_tables_as_an_input_and_shapes(tiny, tmp_path):
    layer = layer_from_profile(load_profile("efficientnet_lite0"))
    onnx_path = export_onnx(tiny, tmp_path, layer=layer, uint8=True).onnx_path
    fixed = {"image": ShapeRange(*[(4, 3, 32, 32)] * 3), "tables": ShapeRange(*[(1, 2, 64)] * 3)}
    info = export_engine(onnx_path, "tensorrt-rtx", options=EngineOptions(ranges=fixed, optimization_level=1)).info
    assert [(t.name, t.dtype, t.minimum, t.maximum) for t in info.inputs] == [
        ("image", "uint8", (4, 3, 32, 32), (4, 3, 32, 32)),
        ("tables", "float32", (1, 2, 64), (1, 2, 64)),
    ]
    assert info.profile_id == layer.profile_id and info.options["optimization_level"] == 1
    with pytest.raises(InvalidInputError, match="outside the engine's profile"):
        info.check_shapes({"image": (5, 3, 32, 32), "tables": (1, 2, 64)})


@rtx
def test_front_end_engine(tmp_path):
    path = export_coefficients(tmp_path, size=(40, 56), tables=layer_from_quality(75)).onnx_path
    info = export_engine(path, "tensorrt-rtx").info
    assert info.form == "coefficients" and info.weights_sha256 is None
    assert [t.name for t in info.outputs] == ["statistics", "y", "cb", "cr"]
    assert [t.dtype for t in info.outputs] == ["float32", "int32", "int32", "int32"]


@rtx
def test_verb_builds_and_says_what(tmp_path, capsys):
    if "tiny_engine_test" not in list_models():
        register_model(
            "tiny_engine_test",
            lambda n: torch.nn.Sequential(torch.nn.Conv2d(3, n, 8, 8), torch.nn.Flatten(), torch.nn.Linear(16 * n, n)),
            input_size=(32, 32),
            num_classes=4,
        )  # fmt: skip
    command = ["export", "--model", "tiny_engine_test", "--format", "tensorrt-rtx", "--fp16", "-o", str(tmp_path)]
    assert main([*command, "--minShapes", "image:1x3x32x32", "--optShapes", "image:4x3x32x32",
                 "--maxShapes", "image:16x3x32x32"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "formats: onnx, tensorrt-rtx (TensorRT-RTX 1." in out and "as asked for" in out
    assert "1x3x32x32 to 16x3x32x32, tuned for 4x3x32x32" in out and "the default" not in out.split("formats:")[1]
    assert "layers with weights: 2 in float16; of the JPEG layer: 5 in float32" in out
    info = check_engine(tmp_path / "tiny_engine_test-jpeg-fp16.rtx")
    assert info.command.startswith("edgejpeg export --model tiny_engine_test --format tensorrt-rtx --fp16")
    assert main(["info", str(tmp_path / "tiny_engine_test-jpeg-fp16.rtx")]) == 0
    assert "flavour: tensorrt-rtx" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["engines"][0]["flavour"] == "tensorrt-rtx"
    for options, words in (
        (["--shapes", "image:1x3x32x33"], "does not fit input 'image', which is Nx3x32x32"),
        (["--shapes", "picture:1x3x32x32"], "no input 'picture'"),
        (["--timing-cache", "cache"], "TensorRT's; TensorRT-RTX has none"),
        (["--version-compatible"], "TensorRT's; TensorRT-RTX has none"),
        (["--optimization-level", "6"], "0 to 5"),
    ):
        before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
        assert main([*command, *options]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
        assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


@rtx
def test_engine_from_a_file_of_another_machine_needs_no_torch(exported, tmp_path):
    path = exported(tmp_path, "fp16", "444")
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnxscript", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from edgejpeg.cli import main
sys.exit(main(["export", "--onnx", sys.argv[1], "--format", "tensorrt-rtx"]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 in float16; of the JPEG layer: 2 in float32" in done.stdout
    assert check_engine(path.with_suffix(".rtx")).precision == "fp16"


def test_onnx_of_another_machine_refuses_what_it_has_already(tmp_path, capsys):
    for options, words in (
        (["--fp16"], "--fp16 has no meaning with --onnx"),
        (["-o", "out"], "-o has no meaning with --onnx"),
        (["--form", "pixels"], "--form has no meaning with --onnx"),
        ([], "none is built"),
    ):
        assert main(["export", "--onnx", str(tmp_path / "x.onnx"), "--format", "onnx", *options]) in (1, 2)
        assert words in capsys.readouterr().err
    assert main(["export", "--model", "resnet18"]) == 2
    assert "-o DIR is needed" in capsys.readouterr().err


def test_without_the_library_it_says_how_to_get_it(exported, tmp_path, monkeypatch, capsys):
    path = exported(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for flavour, words in (("tensorrt", r"edgejpeg\[trt\]"), ("tensorrt-rtx", r"edgejpeg\[rtx\]")):
        with pytest.raises(ExportError, match=words):
            export_engine(path, flavour)
    out = tmp_path / "out"
    assert main(["export", "--model", "resnet18", "--format", "tensorrt", "-o", str(out)]) == 1
    assert "TensorRT is not installed" in capsys.readouterr().err and not out.exists()


def test_default_formats_say_why(monkeypatch):
    import argparse

    from edgejpeg.cli import export_engines

    names = ("shapes", "minShapes", "optShapes", "maxShapes", "workspace", "optimization_level", "hardware_compatible")
    args = argparse.Namespace(format=None, version_compatible=False, timing_cache=None, **dict.fromkeys(names))
    for found, gpu, flavours, words in (
        (lambda _: None, "8.7", (), "TensorRT is not installed here"),
        (lambda _: "10.3.0", "8.7", ("tensorrt",), "because TensorRT 10.3.0 is installed"),
        (lambda _: "10.3.0", None, (), "there is no GPU that it could build for"),
        (lambda _: check_version("TensorRT", "9.2.0", (10, 3), (12, 0), "install"), "8.7", (), "9.2.0 is too old"),
    ):
        monkeypatch.setattr("edgejpeg.export.flavours.installed_version", found)
        monkeypatch.setattr("edgejpeg.export.tensorrt.current_device", lambda gpu=gpu: (gpu, "a GPU"))
        choice = export_engines.choose_engines(args)
        assert choice.flavours == flavours and words in choice.why


@pytest.mark.parametrize(
    "version, words",
    [
        ("8.6.1", "too old"), ("10.2.0.post1", "too old"), ("12.0.0", "too new"), ("13.1", "too new"),
        ("10.3.0", None), ("10.16.1.11", None), ("11.4.0.106", None),
    ],
)  # fmt: skip
def test_range_of_versions(version, words):
    if words is None:
        check_version("TensorRT", version, (10, 3), (12, 0), "do this")
        return
    with pytest.raises(ExportError, match=f"{version}.* is {words}.*10.3 up to, without, 12.0; do this"):
        check_version("TensorRT", version, (10, 3), (12, 0), "do this")


@pytest.mark.parametrize(
    "changes, flavour, words",
    [
        ({}, "tensorflow", "one of tensorrt, tensorrt-rtx"),
        ({"workspace_mib": 0}, "tensorrt", "at least 1 MiB"),
        ({"optimization_level": 6}, "tensorrt", "0 to 5"),
        ({"hardware_compatibility": "all"}, "tensorrt", "none, ampere_plus"),
        ({"hardware_compatibility": "ampere_plus"}, "tensorrt-rtx", "hardware compatibility is TensorRT's"),
    ],
)
def test_options_outside_what_is_allowed(changes, flavour, words):
    with pytest.raises(InvalidInputError, match=words):
        replace(EngineOptions(), **changes).check(flavour)


def broken(nodes, initializers=(), out=TensorProto.FLOAT):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", out, ["A", "B", "C", "D"])
    graph = helper.make_graph(nodes, "g", [image], [logits], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    embed_metadata(model, {"format": 1, "form": "pixels", "precision": "fp32", "jpeg_layer": None})
    return model


def node(kind, *inputs, name="body.0/X"):
    return helper.make_node(kind, list(inputs or ("image",)), ["logits"], name=name)


SHORT = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], [0.0] * 108)
SHORT.ClearField("float_data")
SHORT.raw_data = b"\0" * 40


@rtx
def test_types_that_the_parser_narrows_are_an_error(tmp_path):
    model = broken([node("Relu")], out=TensorProto.DOUBLE)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, tmp_path / "wide.onnx")
    with pytest.raises(ExportError, match="'image' is float64 in the graph and float32 in the engine"):
        export_engine(tmp_path / "wide.onnx", "tensorrt-rtx")


@pytest.mark.parametrize(
    "document, words",
    [
        ({}, "precision None"),
        ({"precision": "fp8", "form": "layer"}, "precision 'fp8', not one of fp32, fp16, int8"),
        ({"precision": "fp32"}, "form None"),
        ({"precision": "fp32", "form": "layer", "jpeg_layer": "yes"}, "damaged 'jpeg_layer'"),
    ],
)
def test_damaged_metadata_is_refused(tmp_path, document, words):
    model = broken([node("Relu")])
    embed_metadata(model, {"format": 1, **document})
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=words):
        export_engine(tmp_path / "odd.onnx", "tensorrt-rtx")


HOSTILE = {
    "unknown operator": broken([node("Frobnicate", name="body.0/Frobnicate")]),
    "unregistered input": broken([node("Relu", "nothing")]),
    "cycle": broken([helper.make_node("Add", ["logits", "image"], ["a"]), node("Add", "a", "a")]),
    "short weights": broken([node("Conv", "image", "w")], [SHORT]),
    "shapes that do not match": broken(
        [node("MatMul", "image", "w", name="head/MatMul")],
        [helper.make_tensor("w", TensorProto.FLOAT, [7, 3], [0.0] * 21)],
    ),
    "an operator that engines lack": broken([node("Unique", name="tail/Unique")]),
    "a sequence": broken([helper.make_node("SequenceConstruct", ["image"], ["logits"], name="s/Seq")]),
}  # fmt: skip


@rtx
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_models_are_refused_in_one_line(what, tmp_path):
    onnx.save(HOSTILE[what], tmp_path / "bad.onnx")
    with pytest.raises(ExportError) as error:
        export_engine(tmp_path / "bad.onnx", "tensorrt-rtx")
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]


@rtx
@pytest.mark.parametrize(
    "what, words",
    [
        ("unknown operator", "node 'body.0/Frobnicate', operator Frobnicate: there is neither such an operator"),
        ("an operator that engines lack", "node 'tail/Unique', operator Unique: not supported"),
        ("shapes that do not match", "node 'head/MatMul', operator MatMul"),
        ("short weights", "Failed to import initializer"),
        ("cycle", "Failed to sort the model"),
    ],
)
def test_the_parser_s_error_names_operator_and_place(what, words, tmp_path):
    """Past onnx's own checker, which refuses some of these before the parser sees them."""
    onnx.save(HOSTILE[what], tmp_path / "bad.onnx")
    shapes = {"image": [[1, 3, 8, 8]] * 3}
    request = BuildRequest("tensorrt-rtx", str(tmp_path / "bad.onnx"), str(tmp_path / "out"), profile=shapes)
    with pytest.raises(ExportError, match=words):
        run_child(request)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"\x0b\xff no ONNX", b"\x08", bytes(1000), "cut"])
def test_files_that_are_no_export(exported, tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content == "cut":
        whole = exported(tmp_path).read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(ExportError):
        export_engine(path, "tensorrt-rtx")
    with pytest.raises(ExportError, match="cannot read"):
        export_engine(tmp_path / "none.onnx", "tensorrt-rtx")


@pytest.mark.parametrize(
    "script, words",
    [
        ("import os; os.abort()", "ended its process .SIGABRT. on this model"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "memory may have run out"),
        ("import sys; sys.exit('terminate called')", "exit code 1.: terminate called"),
        ("pass", "exit code 0.: it said nothing"),
    ],
)
def test_a_library_that_aborts_is_an_error_and_leaves_no_file(exported, tmp_path, monkeypatch, script, words):
    path = exported(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{script}"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ExportError, match=words):
        export_engine(path, "tensorrt-rtx")
    fake.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_precision_or_layer_that_went_missing_is_an_error():
    convolution = Layer("body/Conv", "weighted", "float32")
    part = Layer("JpegLayer/levels_coefficients__1", "weighted", "float32")
    request = BuildRequest("tensorrt", "", "")
    for layers, changes, words in (
        ([convolution], {"precision": "fp16"}, "1 of 1 layers with weights are not float16 .*: body/Conv"),
        ([convolution, part], {"precision": "fp16", "jpeg_layer": "operators"}, "1 of 1 layers"),
        ([convolution], {"precision": "int8"}, "none of 1 layers with weights is quantized"),
        ([convolution], {"jpeg_layer": "operators"}, "no layer of the parsed network belongs to it"),
        ([convolution, part], {"jpeg_layer": "plugin"}, "the parsed network has none"),
        ([replace(part, precision="float16")], {"jpeg_layer": "operators"}, "a part of it in another type"),
    ):
        with pytest.raises(ExportError, match=words):
            judge_network(layers, replace(request, **changes))
    judge_network([convolution, part], replace(request, jpeg_layer="operators"))
    judge_network([Layer("body/Conv", "weighted", "float16"), part], replace(request, precision="fp16"))


def inspected(*layers):
    return inspector_facts(json.dumps({"Layers": list(layers), "Bindings": ["image", "logits"]}))


def engine_layer(name, kind, layer_type="Convolution", metadata=""):
    outputs = [{"Name": "t", "Format/Datatype": kind}]
    return {"Name": name, "LayerType": layer_type, "Outputs": outputs, "Metadata": metadata}


def test_inspector_s_report():
    """The inspector's JSON as TensorRT 8.5 to 11 write it, in detail."""
    facts = inspected(
        engine_layer("a", "Channel major FP16 format where C % 8 == 0", metadata="[ONNX Layer: backbone.0/Conv]"),
        engine_layer("b", "Half"),
        engine_layer("c", "Row major linear FP32", metadata="[ONNX Layer: JpegLayer/levels__1]"),
        engine_layer("d", "Thirty-two wide channel vectorized row major Int8 format"),
        engine_layer("e", "Float", layer_type="PluginV3"),
    )
    assert facts["engine_types"] == {"float16": 2, "float32": 2, "int8": 1}
    assert facts["engine_plugins"] == ["e"] and facts["engine_has_jpeg_layer"] is True and not facts["engine_opaque"]
    request = BuildRequest("tensorrt", "", "", precision="fp16", jpeg_layer="operators")
    judge_engine(facts, request)
    single = inspected(engine_layer("a", "Row major linear FP32", metadata="[ONNX Layer: body/Conv]"))
    with pytest.raises(ExportError, match="no layer of the built engine is float16"):
        judge_engine(single, request)
    with pytest.raises(ExportError, match="names no node of it"):
        judge_engine(single, replace(request, precision="fp32"))
    with pytest.raises(ExportError, match="the built engine has none"):
        judge_engine(single, replace(request, precision="fp32", jpeg_layer="plugin"))
    # A graph compiled as one block shows no types inside, and proves nothing either way.
    block = inspected(engine_layer("{ForeignNode[JpegLayer/rgb__1...fc/Gemm]}", "Float", "Myelin"))
    assert block["engine_opaque"] and block["engine_has_jpeg_layer"] is True
    judge_engine(block, request)
    with pytest.raises(ExportError, match="gave no list"):
        inspector_facts("Layers:")


def test_rewriting_drops_or_inlines(exported, tmp_path):
    model = onnx.load(exported(tmp_path, "fp32", "420"))
    before = model.SerializeToString()
    plugin = rewrite_for(model, "tensorrt", plugin=True)
    (layer,) = [n for n in plugin.graph.node if n.domain == "edgejpeg"]
    assert not plugin.functions and {a.name for a in layer.attribute} >= {"plugin_namespace", "plugin_version"}
    for flavour in ("tensorrt", "tensorrt-rtx", "tensorrt-8.5"):
        inlined = rewrite_for(model, flavour)
        assert not inlined.functions and all(n.domain == "" for n in inlined.graph.node)
        assert sum(n.name.startswith("JpegLayer/") for n in inlined.graph.node) > 20
        onnx.checker.check_model(inlined, full_check=True)
    assert {e.version for e in inlined.opset_import if e.domain == ""} == {17}
    assert model.SerializeToString() == before
    for flavour in ("tensorrt-rtx", "tensorrt-8.5"):
        with pytest.raises(InvalidInputError, match="takes no plugin"):
            rewrite_for(model, flavour, plugin=True)
    alone = onnx.load(exported(tmp_path))
    with pytest.raises(InvalidInputError, match="no JPEG layer"):
        rewrite_for(alone, "tensorrt", plugin=True)


def test_lowered_to_opset_17_the_results_stay(exported, tmp_path, rng):
    model = onnx.load(exported(tmp_path, "fp32", "420"))
    image = rng.random((3, 3, 32, 32), dtype=np.float32)
    outputs = []
    for graph in (model, rewrite_for(model, "tensorrt-8.5")):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"image": image}))
    np.testing.assert_allclose(outputs[0][0], outputs[1][0], atol=1e-5)


def test_two_onnxruntimes_are_refused(monkeypatch, tiny, tmp_path):
    def version(name):
        if name in ("onnxruntime", "onnxruntime-gpu"):
            return "1.20.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime 1\.20\.0 and onnxruntime-gpu 1\.20\.0") as error:
        export_onnx(tiny, tmp_path / "out")
    assert "pip uninstall onnxruntime onnxruntime-gpu" in str(error.value)
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: version("onnxruntime" if name == "onnxruntime" else "")
    )
    assert require_onnxruntime(purpose="a test").__name__ == "onnxruntime"
