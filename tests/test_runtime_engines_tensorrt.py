"""TensorRT's engines on a TensorRT and a libcuda for tests: values, lifetimes, errors; and the true bindings' names."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.errors import DeviceError, InvalidInputError, MissingDependencyError, ModelError
from edgejpeg.runtime.engine_bench import InferenceSettings, measure_engine, summarise
from edgejpeg.runtime.engine_info import EngineInfo, TensorInfo, file_sha256, info_path, write_engine_info
from edgejpeg.runtime.engines import DeviceArray, TensorRtEngine, open_engine
from edgejpeg.runtime.engines.cuda import PinnedArray

VERSION = "10.3.0"


@pytest.fixture
def trt(stub_trt, monkeypatch):
    stub_trt.problems.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", stub_trt.module(VERSION))
    return stub_trt


@pytest.fixture
def write(tmp_path):
    """Write an engine and its JSON, with any of its fields changed."""

    def written(name="net.engine", content=None, **changed):
        path = tmp_path / name
        path.write_bytes(json.dumps({"scale": 2.0}).encode() if content is None else content)
        fields = {
            "flavour": "tensorrt", "tensorrt_version": VERSION, "compute_capability": "8.7", "device": "Stub GPU",
            "version_compatible": False, "hardware_compatibility": "none", "precision": "fp16", "form": "pixels",
            "inputs": (TensorInfo("image", "float32", (-1, 3, 4, 4), (1, 3, 4, 4), (1, 3, 4, 4), (8, 3, 4, 4)),),
            "outputs": (TensorInfo("logits", "float32", (-1, 5)),), "engine_bytes": path.stat().st_size,
            "engine_sha256": file_sha256(path), "onnx_sha256": "0" * 64, "weights_sha256": None, "profile_id": None,
            "command": "edgejpeg export --model x", "tool_version": "0", "date": "today",
        }  # fmt: skip
        write_engine_info(EngineInfo(**{**fields, **changed}), info_path(path))
        return path

    return written


@pytest.fixture
def engine(trt, use_stub_cuda, write):
    opened = open_engine(write())
    yield opened
    opened.close()
    opened.close()
    gc.collect()
    assert use_stub_cuda() == {}
    assert (trt.ICudaEngine.alive, trt.IExecutionContext.alive) == (0, 0)


def _images(rng, count=2):
    return rng.random((count, 3, 4, 4), dtype=np.float32)


def _expected(images, scale=2.0):
    return images.reshape(len(images), -1)[:, :5] * np.float32(scale)


def test_values_names_and_facts(engine, rng):
    images = _images(rng)
    (logits,) = engine.run({"image": images})
    np.testing.assert_array_equal(logits, _expected(images))
    assert [(x.name, x.shape, x.dtype) for x in engine.inputs] == [("image", (None, 3, 4, 4), np.float32)]
    assert engine.describe() | {"driver": 0} == {
        "backend": "tensorrt", "version": VERSION, "precision": "fp16", "form": "pixels", "cuda": "12.6", "driver": 0,
        "device": "GPU 0, compute capability 8.7",
    }  # fmt: skip
    with pytest.raises(InvalidInputError, match="no output 'boxes'; it has logits"):
        engine.run({"image": images}, ["boxes"])


def test_results_are_the_callers_own_and_shapes_may_change(engine, rng):
    first = engine.run({"image": (one := _images(rng, 3))})[0]
    second = engine.run({"image": (two := _images(rng, 8))})[0]
    third = engine.run({"image": (three := _images(rng, 3))})[0]
    for found, images in ((first, one), (second, two), (third, three)):
        np.testing.assert_array_equal(found, _expected(images))


def test_threads_take_turns(engine, rng):
    batches = [_images(rng, 1 + index % 4) for index in range(24)]
    found = [None] * len(batches)

    def work(start):
        for index in range(start, len(batches), 4):
            found[index] = engine.run({"image": batches[index]})[0]

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for logits, images in zip(found, batches, strict=True):
        np.testing.assert_array_equal(logits, _expected(images))


def test_arrays_on_the_gpu_are_used_where_they_are(engine, rng, monkeypatch, tmp_path):
    images = _images(rng)
    with DeviceArray(engine.driver, images.shape, np.float32) as array:
        pinned = PinnedArray(engine.driver, images.shape, np.float32)
        pinned.array[...] = images
        engine.driver.to_device(array.pointer, pinned.pointer, pinned.nbytes, 0)
        pinned.close()
        engine.run({"image": images})
        log = tmp_path / "calls"
        monkeypatch.setenv("STUB_CUDA_LOG", str(log))
        (logits,) = engine.run({"image": array})
        monkeypatch.delenv("STUB_CUDA_LOG")
    np.testing.assert_array_equal(logits, _expected(images))
    calls = log.read_text().split()
    assert calls.count("cuMemcpyHtoDAsync") == 0 and calls.count("cuMemcpyDtoHAsync") == 1
    # And NumPy's again: the address of the array that has gone is not used any more.
    np.testing.assert_array_equal(engine.run({"image": images})[0], _expected(images))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (9, 3, 4, 4),
            np.float32,
            r"of shape 9x3x4x4 is outside .* of net\.engine, 1x3x4x4 to 8x3x4x4; build it",
        ),
        ((1, 3, 4, 5), np.float32, "outside the profile"),
        ((3, 4, 4), np.float32, "outside the profile"),
        ((1, 3, 4, 4), np.uint8, r"is float32 of shape \(1, 3, 4, 4\); got uint8"),
    ],
)
def test_inputs_that_do_not_fit(engine, shape, dtype, message):
    with pytest.raises(InvalidInputError, match=message):
        engine.run({"image": np.zeros(shape, dtype)})
    assert engine.run({"image": np.ones((1, 3, 4, 4), np.float32)})[0].tolist() == [[2.0] * 5]


def test_inputs_of_other_names(engine):
    with pytest.raises(InvalidInputError, match=r"has the inputs image; got data"):
        engine.run({"data": np.zeros((1, 3, 4, 4), np.float32)})


def test_failures_of_the_library_and_the_gpu(engine, trt, monkeypatch, rng):
    trt.problems["execute"] = "Cuda failure: 700"
    with pytest.raises(ModelError, match=r"net\.engine: TensorRT failed to run: Cuda failure: 700"):
        engine.run({"image": _images(rng)})
    trt.problems.clear()
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuMemHostAlloc=2")
    with pytest.raises(DeviceError, match="OUT_OF_MEMORY"):
        engine.run({"image": _images(rng, 5)})
    monkeypatch.delenv("STUB_CUDA_FAIL")
    trt.problems["context"] = "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
    with pytest.raises(DeviceError, match=r"OutOfMemory .*512 of 1024 MiB are free: take a smaller batch"):
        engine.queries({"image": _images(rng)})
    trt.problems.clear()
    images = _images(rng, 5)
    np.testing.assert_array_equal(engine.run({"image": images})[0], _expected(images))


def test_closed(engine, rng):
    engine.close()
    with pytest.raises(ModelError, match=r"net\.engine was closed; open it again"):
        engine.run({"image": _images(rng)})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"tensorrt_version": "10.7.0"},
            ModelError,
            "was built by TensorRT 10.7.0, and this is 10.3.0; build",
        ),
        ({"compute_capability": "8.9"}, ModelError, "capability 8.9 .*and this one has 8.7"),
        ({"engine_sha256": "0" * 64}, ModelError, "damaged, or from another build"),
        ({"flavour": "tensorrt-8.5"}, ModelError, "needs TensorRT 8.5 8.5 to below 8.6, and 10.3.0 is installed"),
        ({"flavour": "tensorrt-rtx"}, MissingDependencyError, r"edgejpeg\[rtx\]"),
    ],
)
def test_engines_for_something_else(trt, use_stub_cuda, write, changed, error, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(error, match=message):
        open_engine(write(**changed))
    gc.collect()
    assert use_stub_cuda() == {}


def test_files_that_are_no_engine(trt, use_stub_cuda, write, tmp_path):
    with pytest.raises(ModelError, match="no engine at"):
        open_engine(tmp_path / "none.engine")
    with pytest.raises(ModelError, match=r"TensorRT cannot load the engine: magicTag does not match magicTag: 0"):
        open_engine(write(content=b"garbage"))
    bare = tmp_path / "bare.engine"
    bare.write_bytes(b"{}")
    with pytest.raises(ModelError, match="keep them together"):
        open_engine(bare)
    with pytest.raises(ModelError, match=r"is of type BF16, which NumPy does not have"):
        open_engine(write(content=b'{"scale": 1, "dtype": "BF16"}'))
    with pytest.raises(InvalidInputError, match="execution providers are ONNX Runtime's"):
        open_engine(bare, providers=["cuda"])
    gc.collect()
    assert use_stub_cuda() == {} and trt.ICudaEngine.alive == 0


def test_output_whose_shape_is_not_known(trt, use_stub_cuda, write):
    opened = open_engine(write(content=b'{"scale": 1, "outputs": -1}'))
    with pytest.raises(ModelError, match="depends on the input's values"):
        opened.run({"image": np.zeros((1, 3, 4, 4), np.float32)})
    opened.close()


@pytest.mark.parametrize("version", ["10.2.0", "12.0.1", "8.5.3"])
def test_versions_outside_the_range(stub_trt, use_stub_cuda, write, monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", stub_trt.module(version))
    with pytest.raises(ModelError, match=rf"needs TensorRT 10\.3 to below 12, and {version} is installed"):
        open_engine(write())


def test_no_gpu_and_no_tensorrt(trt, write, monkeypatch, use_stub_cuda):
    monkeypatch.setenv("STUB_CUDA_DEVICES", "0")
    with pytest.raises(DeviceError, match="the driver sees no GPU"):
        open_engine(write(), driver="ctypes")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgejpeg\[trt\]'"):
        open_engine(write())


@pytest.mark.parametrize("transfers", [True, False])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("streams", [1, 2])
def test_measurement(engine, rng, transfers, graph, streams, tmp_path, monkeypatch):
    log = tmp_path / "calls"
    monkeypatch.setenv("STUB_CUDA_LOG", str(log))
    settings = InferenceSettings(0, 0, 6, streams=streams, transfers=transfers, graph=graph)
    timing = measure_engine(engine, {"image": _images(rng)}, settings)
    monkeypatch.delenv("STUB_CUDA_LOG")
    figures = summarise(timing, settings)
    assert figures["queries"] >= 6 * streams
    calls = log.read_text().split()
    ran = figures["queries"] + figures["warmup_queries"]
    launches = calls.count("cuGraphLaunch")
    assert launches == (ran if graph else 0)
    warm_up = 2 * streams
    assert calls.count("cuMemcpyHtoDAsync") == (ran + warm_up if transfers else warm_up)
    # The stub's clock goes on by one at every event: compute lies between two of them.
    assert figures["compute"]["min"] == figures["compute"]["max"] == 1
    assert figures["h2d"]["max"] == (1 if transfers else 0)
    assert figures["latency"]["median"] == (3 if transfers else 1)


def test_both_queries_of_a_stream_keep_their_own_buffers(engine, rng):
    images = _images(rng)
    (row,) = engine.queries({"image": images}, depth=2)
    other = _images(rng)
    row[1].bind({"image": other})
    for query in (row[0], row[1], row[0]):
        query.enqueue()
        query.wait()
    np.testing.assert_array_equal(row[0].outputs()[0], _expected(images))
    np.testing.assert_array_equal(row[1].outputs()[0], _expected(other))


def test_layers(engine, rng):
    layers = engine.profile({"image": _images(rng)}, 4)
    assert [(layer.name, layer.milliseconds) for layer in layers] == [
        ("JpegLayer/levels", [0.25] * 4),
        ("fc", [0.5] * 4),
    ]


def test_an_engine_that_is_let_go_frees_all(trt, use_stub_cuda, write, rng):
    opened = open_engine(write())
    opened.run({"image": _images(rng)})
    opened.queries({"image": _images(rng)}, streams=2, depth=2, graph=True)
    assert use_stub_cuda()["streams"] == 3
    del opened
    assert use_stub_cuda() == {}
    assert (trt.ICudaEngine.alive, trt.IExecutionContext.alive) == (0, 0)


def test_version_compatible_engines_may_bring_code(trt, use_stub_cuda, write):
    opened = open_engine(write(version_compatible=True, tensorrt_version="10.3.0"))
    assert opened._runtime.engine_host_code_allowed
    opened.close()


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as true
missing = []
for name in json.loads(sys.argv[2]):
    owner, attribute = name.split(".")
    if not hasattr(getattr(true, owner), attribute):
        missing.append(name)
enums = {"TensorIOMode": ["INPUT", "OUTPUT"], "DataType": ["FLOAT", "HALF", "INT8", "INT32", "BOOL"]}
for owner, names in enums.items():
    missing += [f"{owner}.{name}" for name in names if not hasattr(getattr(true, owner), name)]
assert issubclass(type("L", (true.ILogger,), {}), true.ILogger) and isinstance(true.IProfiler, type)
print(json.dumps(missing))
"""


def _bindings():
    path = Path(__file__).with_name("test_export_tensorrt.py")
    spec = importlib.util.spec_from_file_location("export_tensorrt_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="the stub libraries are made for Linux")
@pytest.mark.parametrize("place", range(3))
def test_true_bindings_have_every_name(trt, use_stub_cuda, write, rng, place, tmp_path):
    tests = _bindings()
    opened = TensorRtEngine(write(version_compatible=True))
    opened.run({"image": _images(rng)})
    opened.profile({"image": _images(rng)}, 1)
    opened.close()
    folder = tests.installed(tests.BINDINGS[place])
    libraries = tmp_path / "stubs"
    libraries.mkdir()
    (libraries / "stub.c").write_text(tests.STUB)
    for major in (10, 11):
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            target = libraries / f"lib{library}.so.{major}"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", target, libraries / "stub.c"], check=True)
    names = sorted(
        name for name in trt.touched if name.split(".")[0] in ("Runtime", "ICudaEngine", "IExecutionContext")
    )
    assert len(names) >= 13, names
    env = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    command = [sys.executable, "-c", CHILD, str(folder), json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []
