"""Every name of TensorRT's that a build touches, in the true bindings of several versions.

TensorRT itself cannot be had from the package index; its Python bindings can. With three stub libraries that export the
symbols they link to, they import, and their classes have the true attributes. A build then runs on stand-in objects
that know only what the true classes have, so that a name that a version lacks is found here and not on a user's board.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BINDINGS = [
    "tensorrt-cu12-bindings==10.3.0",
    "tensorrt-cu12-bindings==10.16.1.11",
    "tensorrt-cu13-bindings==11.4.0.106",
]

STUB = r"""
#include <stddef.h>
void* createInferBuilder_INTERNAL(void* a, int b) { return NULL; }
void* createInferRefitter_INTERNAL(void* a, void* b, int c) { return NULL; }
void* createInferRuntime_INTERNAL(void* a, int b) { return NULL; }
void* createNvOnnxParser_INTERNAL(void* a, void* b, int c) { return NULL; }
void* createNvOnnxParserRefitter_INTERNAL(void* a, void* b, int c) { return NULL; }
void* getBuilderPluginRegistry(int c) { return NULL; }
void* getPluginRegistry(void) { return NULL; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void* a, const char* b) { return 1; }
"""

CHILD = r'''
import json, re, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as true

touched = set()

class Strict:
    """An object with the attributes of a true class; what it gives is set by the test."""

    def __init__(self, cls, **given):
        object.__setattr__(self, "_cls", cls)
        object.__setattr__(self, "_given", given)

    def __getattr__(self, name):
        touched.add(f"{self._cls.__name__}.{name}")
        attribute = getattr(self._cls, name)  # AttributeError where this version has no such name
        value = self._given.get(name)
        if not callable(attribute):
            return value
        signature = re.search(r"\((.*?)\) ->", (attribute.__doc__ or "").replace("\n", " "))
        parameters = signature[1].split(", ")[1:] if signature else None

        def call(*arguments):
            if parameters is not None and "Overloaded" not in attribute.__doc__:
                needed = [p for p in parameters if "=" not in p]
                assert len(needed) <= len(arguments) <= len(parameters), (name, signature[0], arguments)
            return value(*arguments) if callable(value) else value

        return call

    def __setattr__(self, name, value):
        touched.add(f"{self._cls.__name__}.{name}")
        assert isinstance(getattr(self._cls, name), property), name

float32, half = true.DataType.FLOAT, true.DataType.HALF

def tensor(name, dtype, shape):
    return Strict(true.ITensor, name=name, dtype=dtype, shape=shape)

def layer(kind, name, dtype, source="image"):
    return Strict(true.ILayer, type=kind, name=name,
                  get_input=lambda i: tensor(source, dtype, (1, 3)), get_output=lambda i: tensor("t", dtype, (1, 3)))

types = true.LayerType
layers = [layer(types.CONVOLUTION, "JpegLayer/levels__1", float32), layer(types.CONVOLUTION, "body/Conv", half),
          layer(types.QUANTIZE, "q", half), layer(types.DEQUANTIZE, "dq", half), layer(types.PLUGIN_V3, "p", float32)]
SHAPES = [[1, 3, 8, 8], [1, 3, 8, 8], [8, 3, 8, 8]]
inspected = json.dumps({"Layers": [{"Name": "body/Conv", "LayerType": "Convolution",
                                    "Metadata": "[ONNX Layer: JpegLayer/x]", "Outputs": [{"Format/Datatype": "Half"}]},
                                   {"Name": "p", "LayerType": "PluginV3", "Outputs": []}]})
network = Strict(true.INetworkDefinition, num_inputs=1, num_outputs=1, num_layers=len(layers),
                 get_input=lambda i: tensor("image", float32, (-1, 3, 8, 8)),
                 get_output=lambda i: tensor("logits", float32, (-1, 4)), get_layer=layers.__getitem__)
cache = Strict(true.ITimingCache, serialize=lambda: b"cache")
config = Strict(true.IBuilderConfig, create_timing_cache=lambda data: cache, set_timing_cache=True,
                get_timing_cache=lambda: cache, add_optimization_profile=0)
builder = Strict(true.Builder, create_network=lambda flags: network, create_builder_config=config and (lambda: config),
                 create_optimization_profile=lambda: Strict(true.IOptimizationProfile),
                 build_serialized_network=lambda n, c: b"engine")
error = Strict(true.ParserError, node_name=lambda: "body/Frob", node_operator=lambda: "Frob", desc=lambda: "no",
               node=lambda: 3)
parses = [True]
parser = Strict(true.OnnxParser, parse=lambda data: parses[0], num_errors=1, get_error=lambda i: error)
inspector = Strict(true.EngineInspector, get_engine_information=lambda f: inspected)
engine = Strict(true.ICudaEngine, get_tensor_shape=lambda n: (-1, 3, 8, 8), create_engine_inspector=lambda: inspector,
                get_tensor_profile_shape=lambda n, p: SHAPES)
runtime = Strict(true.Runtime, deserialize_cuda_engine=lambda e: engine)

class Module:
    Builder = staticmethod(lambda log: builder)
    OnnxParser = staticmethod(lambda network, log: parser)
    Runtime = staticmethod(lambda log: runtime)

    def __getattr__(self, name):
        return getattr(true, name)

import edgejpeg.export.tensorrt as ours
from dataclasses import replace
from edgejpeg.export.engine_build import BuildRequest, build
from edgejpeg.errors import ExportError
sys.modules["tensorrt"] = true
flavour = ours.TensorRt()
assert flavour.load() is true
folder = sys.argv[2]
open(folder + "/m.onnx", "wb").write(b"onnx")
request = BuildRequest("tensorrt", folder + "/m.onnx", folder + "/e.engine", "fp16", "operators", {"image": SHAPES})
results = []
for changed in (request,
                replace(request, jpeg_layer="plugin", workspace_mib=64, optimization_level=3, version_compatible=True,
                        hardware_compatibility="ampere_plus", timing_cache=folder + "/cache")):
    result = build(Module(), flavour, changed)
    assert result["tensorrt_version"] == true.__version__ and open(folder + "/e.engine", "rb").read() == b"engine"
    assert result["facts"]["layers_with_weights"] == {"float16": 1}
    assert open(folder + "/cache", "rb").read() == b"cache" if changed.timing_cache else True
parses[0] = False
try:
    build(Module(), flavour, request)
    raise SystemExit("a parser's error was not raised")
except ExportError as raised:
    assert "node 'body/Frob', operator Frob: no" in str(raised), raised
for name in ("int8", "fp32"):
    try:
        parses[0] = True
        build(Module(), flavour, replace(request, precision=name))
        raise SystemExit(f"{name} was not missed")
    except ExportError as raised:
        assert name in str(raised)
class WithoutGpu(Module):
    Builder = true.Builder  # the stub library gives a null pointer, as TensorRT does where CUDA does not start

try:
    build(WithoutGpu(), flavour, request)
    raise SystemExit("a builder that cannot start was not noticed")
except ExportError as raised:
    assert "cannot start; is there a GPU" in str(raised), raised
flags = flavour.network_flags(true, request)
assert flags >> int(true.NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1
print(json.dumps({"version": true.__version__, "touched": sorted(touched)}))
'''


@pytest.fixture(scope="session")
def stub(tmp_path_factory) -> Path:
    compiler = next(filter(None, (shutil.which(name) for name in ("cc", "gcc", "g++"))), None)
    if compiler is None:
        pytest.skip("no C compiler, which makes the stub libraries, on this machine")
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub.c").write_text(STUB)
    for major in (10, 11):
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            target = folder / f"lib{library}.so.{major}"
            subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", "-o", target, folder / "stub.c"], check=True)
    return folder


def installed(requirement: str) -> Path:
    """The folder of a bindings wheel, from EDGEJPEG_BINDINGS, a cache of earlier runs, or the package index."""
    root = Path(os.environ.get("EDGEJPEG_BINDINGS", Path.home() / ".cache" / "edgejpeg" / "bindings"))
    tag = f"{requirement.replace('==', '-')}-cp{sys.version_info.major}{sys.version_info.minor}"
    folder = root / tag
    if not (folder / "tensorrt_bindings" / "__init__.py").is_file():
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--target", str(folder), requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"cannot get {requirement}: {error}")
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            pytest.skip(f"no wheel of {requirement} for this Python from the package index: {reason}")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="the stub libraries are made for Linux")
@pytest.mark.parametrize("requirement", BINDINGS)
def test_a_build_touches_only_what_the_true_bindings_have(requirement, stub, tmp_path):
    folder = installed(requirement)
    env = {**os.environ, "LD_LIBRARY_PATH": f"{stub}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"}
    command = [sys.executable, "-c", CHILD, str(folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    assert requirement.partition("==")[2] in done.stdout
    # What the test exists for is really reached.
    for name in ("IBuilderConfig.clear_flag", "OnnxParser.parse", "ICudaEngine.create_engine_inspector"):
        assert f'"{name}"' in done.stdout


def test_missing_name_would_be_found(stub, tmp_path):
    """The harness itself: a name that no version has fails it."""
    folder = installed(BINDINGS[0])
    env = {**os.environ, "LD_LIBRARY_PATH": str(stub)}
    spoiled = CHILD.replace(
        "request = BuildRequest(",
        "ours.TensorRt.after_build = lambda s, c, r: c.build_faster()\nrequest = BuildRequest(",
        1,
    )
    command = [sys.executable, "-c", spoiled, str(folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, cwd="/")
    assert done.returncode != 0 and "build_faster" in done.stderr
