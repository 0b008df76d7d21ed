"""``edgejpeg bench`` of files and networks: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest

from edgejpeg import cli

QUICK = ["--warmUp", "0", "--duration", "0", "--iterations", "3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small network, exported with and without the JPEG layer."""
    torch = pytest.importorskip("torch")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from edgejpeg.export import export_onnx, layer_from_quality
    from edgejpeg.models import LoadedModel

    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    ).eval()  # fmt: skip
    model = LoadedModel(
        name="small", module=body, input_size=(32, 48), mean=(127.0,) * 3, std=(64.0,) * 3, class_names=None,
        num_classes=10, weights="random", weights_sha256=None, pretrained=False, resize=32, interpolation="bilinear",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("small")
    return {
        "layer": export_onnx(model, folder, layer=layer_from_quality(75)).onnx_path,
        "pixels": export_onnx(model, folder).onnx_path,
    }


def _bench(*options: object) -> int:
    return cli.main(["bench", *map(str, options), *QUICK])


def test_one_file(files, tmp_path, capsys):
    times, profile, report = (tmp_path / f"{name}.json" for name in ("times", "profile", "report"))
    assert _bench(files["layer"], "--shapes", "image:2x3x32x48", "--exportTimes", times, "--dumpProfile",
                  "--exportProfile", profile, "--json", report, "--percentile", "50,99") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "small-jpeg.onnx: onnxruntime" in out and "image 2x3x32x48 float32" in out
    assert "defaults of trtexec 10: data transfers on, CUDA graph off, spin wait off; 1 stream" in out
    assert "=== Performance summary ===" in out and "percentile(50%) = " in out and "images/s in batches of 2" in out
    assert "=== Profile (10 iterations ) ===" in out
    assert "power and clocks: not available (measured on the CPU)" in out
    document = json.loads(report.read_text())
    (engine,) = document["engines"]
    assert engine["queries"] == len(json.loads(times.read_text())) >= 3
    assert engine["images_per_second"] == pytest.approx(2 * engine["throughput_qps"])
    assert document["settings"]["percentile"] == [50, 99] and not document["board"]["available"]
    names = [entry["name"] for entry in json.loads(profile.read_text())[1:]]
    assert any("Conv" in name for name in names)


@pytest.mark.parametrize("alias", ["--onnx", "--loadEngine"])
def test_trtexecs_names_for_the_file(files, alias, capsys):
    assert _bench(alias, files["pixels"], "--json", "-") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["engines"][0]["name"] == "small.onnx"


def test_two_files_in_turn(files, capsys, tmp_path):
    report = tmp_path / "r.json"
    assert _bench(files["layer"], "--compare", files["pixels"], "--json", report) == 0
    out = capsys.readouterr().out
    assert "cost: small-jpeg.onnx takes " in out and "% over small.onnx" in out
    document = json.loads(report.read_text())
    first, base = document["engines"]
    assert first["queries"] == base["queries"]
    assert document["cost"]["low"] <= document["cost"]["ratio"] <= document["cost"]["high"]
    # Each one's throughput is over its own time.
    assert base["throughput_qps"] == pytest.approx(1e3 / base["latency"]["mean"], rel=1e-6)


@pytest.mark.slow
def test_a_network_with_and_without_the_layer(files, capsys):
    assert _bench("--model", "squeezenet1_1", "--weights", "none", "--quality", "50", "--subsampling", "444") == 0
    out = capsys.readouterr().out
    assert "cost: with the JPEG layer takes " in out and "% over without" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to time was named"),
        (["FILE", "--encoder"], "one thing is timed at a time: --encoder and .* are two"),
        (["FILE", "--onnx", "x.onnx"], "got .* and --onnx"),
        (["FILE", "--quality", "50"], "--quality is of --model"),
        (["FILE", "--fp16"], "--fp16 is of --model"),
        (["FILE", "--size", "8x8"], "--size is of --encoder"),
        (["FILE", "--color", "nv12"], "--color is of --encoder"),
        (["--model", "resnet18", "--compare", "x.onnx"], "--compare has no place there"),
        (["--model", "resnet18", "--infStreams", "2"], "leave out --infStreams"),
        (["--model", "resnet18", "--saveEngine", "x"], "--model makes two engines"),
        (["--loadEngine", "x.engine", "--builder", "tensorrt"], "is built already"),
        (["FILE", "--shapes", "image:1x3x32"], "Invalid rank|rank"),
        (["FILE", "--shapes", "data:1x3x32x48"], "no input 'data'"),
        (["FILE", "--shapes", "x"], "--shapes is NAME"),
        (["none.onnx"], "no ONNX file at none.onnx"),
        (["none.engine"], "no engine at none.engine"),
        (["none.txt"], "no engine at none.txt"),
        (["FILE", "--providers", "cuda"], "CUDAExecutionProvider is not in this onnxruntime"),
        (["FILE", "--exportTimes", "/none/t.json"], "cannot write /none/t.json"),
    ],
)
def test_refusals(files, options, message, capsys):
    options = [str(files["layer"]) if option == "FILE" else option for option in options]
    assert _bench(*options) in (1, 2)
    import re

    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("edgejpeg bench: error: ")
    assert re.search(message, error), error


def test_no_gpu_is_clear_and_no_abort(files, tmp_path, monkeypatch, stub_trt, stub_cuda, use_stub_cuda, capsys):
    monkeypatch.setenv("STUB_CUDA_DEVICES", "0")
    monkeypatch.setitem(sys.modules, "tensorrt", stub_trt.module("10.3.0"))
    assert _bench(_engine(tmp_path)) == 1
    assert "the driver sees no GPU; look at nvidia-smi" in capsys.readouterr().err


def _engine(folder):
    from edgejpeg.runtime.engine_info import EngineInfo, TensorInfo, file_sha256, info_path, write_engine_info

    path = folder / "net.engine"
    path.write_text('{"scale": 2.0}')
    write_engine_info(
        EngineInfo(
            flavour="tensorrt", tensorrt_version="10.3.0", compute_capability="8.7", device=None,
            version_compatible=False, hardware_compatibility="none", precision="fp16", form="pixels",
            inputs=(TensorInfo("image", "float32", (-1, 3, 4, 4), (1, 3, 4, 4), (1, 3, 4, 4), (8, 3, 4, 4)),),
            outputs=(TensorInfo("logits", "float32", (-1, 5)),), engine_bytes=path.stat().st_size,
            engine_sha256=file_sha256(path), onnx_sha256="", weights_sha256=None, profile_id=None, command="x",
            tool_version="0", date="today",
        ),
        info_path(path),
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "defaults of trtexec 10: data transfers on, CUDA graph off, spin wait off"),
        (["--trtexec", "11"], "defaults of trtexec 11: data transfers off, CUDA graph on, spin wait on"),
        (["--trtexec", "11", "--noCudaGraph", "--includeDataTransfers", "--noSpinWait"],
         "defaults of trtexec 11: data transfers on, CUDA graph off, spin wait off"),
        (["--useCudaGraph", "--noDataTransfers"], "defaults of trtexec 10: data transfers off, CUDA graph on"),
    ],
)  # fmt: skip
def test_an_engine_with_the_defaults_of_both_versions(
    stub_trt, use_stub_cuda, tmp_path, monkeypatch, capsys, options, line
):
    stub_trt.problems.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", stub_trt.module("10.3.0"))
    assert _bench("--loadEngine", _engine(tmp_path), "--dumpProfile", "--infStreams", "2", *options) == 0
    out = capsys.readouterr().out
    assert line in out and "net.engine: tensorrt 10.3.0 (ctypes) on GPU 0" in out
    assert "JpegLayer/levels" in out and "Multiple inference streams" in out
    assert use_stub_cuda() == {}


def test_an_engine_is_built_kept_and_timed(files, stub_trt, use_stub_cuda, tmp_path, monkeypatch, capsys):
    """The builder is a stand-in; what happens to its files and options is not."""
    import types

    from edgejpeg.runtime.engine_info import info_path

    def build(path, flavour, *, options, command):
        assert path.is_file() and path.parent != files["layer"].parent and flavour == "tensorrt"
        assert options.ranges["image"].optimum == (2, 3, 4, 4) and command.startswith("edgejpeg bench")
        built = _engine(path.parent)
        return types.SimpleNamespace(engine_path=built, info_path=info_path(built))

    stub_trt.problems.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", stub_trt.module("10.3.0"))
    monkeypatch.setattr("edgejpeg.export.export_engine", build)
    kept = tmp_path / "kept.plan"
    options = ["--saveEngine", str(kept), "--shapes", "image:2x3x4x4"]
    assert _bench(files["layer"], *options) == 0
    assert "tensorrt 10.3.0" in capsys.readouterr().out
    assert kept.read_text() == '{"scale": 2.0}' and info_path(kept).is_file()
    assert _bench("--loadEngine", kept) == 0
