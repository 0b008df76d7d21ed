"""The JSON beside an engine: what it holds, what it refuses, and that the message says how to build again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.runtime.engine_info import (
    EngineInfo,
    TensorInfo,
    check_engine,
    file_sha256,
    info_path,
    read_engine_info,
    write_engine_info,
)

COMMAND = "edgejpeg export --model resnet18 --fp16 --format tensorrt -o out"
PLAN = bytes(range(256)) * 5000


def info(**changes):
    base = EngineInfo(
        flavour="tensorrt",
        tensorrt_version="10.3.0.30",
        compute_capability="8.7",
        device="Orin",
        version_compatible=False,
        hardware_compatibility="none",
        precision="fp16",
        form="layer",
        inputs=(
            TensorInfo("image", "float32", (-1, 3, 224, 224), (1, 3, 224, 224), (2, 3, 224, 224), (8, 3, 224, 224)),
            TensorInfo("tables", "float32", (1, 2, 64)),
        ),
        outputs=(TensorInfo("logits", "float32", (-1, 1000)),),
        engine_bytes=len(PLAN),
        engine_sha256=hashlib.sha256(PLAN).hexdigest(),
        onnx_sha256="ab" * 32,
        weights_sha256=None,
        profile_id=None,
        command=COMMAND,
        tool_version="0.1.0",
        date="2026-11-22T00:00:00+00:00",
        options={"tf32": False},
        facts={"plugins": []},
    )
    return replace(base, **changes)


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(PLAN)

    def write(**changes):
        write_engine_info(info(**changes), info_path(path))
        return path

    return write


def test_round_trip_is_the_same_info(engine):
    path = engine()
    assert info_path(path).name == "net.engine.json"
    assert read_engine_info(path) == info()
    assert check_engine(path, flavour="tensorrt", tensorrt_version="10.3.0.30", compute_capability="8.7") == info()


def test_sha256_is_the_library_s(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"flavour": "tensorrt-rtx"}, "engine for TensorRT, and TensorRT-RTX is to run it"),
        ({"tensorrt_version": "10.16.1"}, "built by TensorRT 10.3.0.30, and this is 10.16.1"),
        ({"compute_capability": "8.9"}, r"capability 8.7 \(Orin\), and this one has 8.9"),
    ],
)
def test_what_does_not_fit_says_how_to_build_again(engine, asked, words):
    with pytest.raises(ModelError, match=words) as error:
        check_engine(engine(), **asked)
    assert COMMAND in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, asked, fits",
    [
        ({"version_compatible": True}, {"tensorrt_version": "10.16.1"}, True),
        ({"version_compatible": True}, {"tensorrt_version": "10.2.0"}, False),
        ({"version_compatible": True}, {"tensorrt_version": "11.0.0"}, False),
        ({"hardware_compatibility": "ampere_plus"}, {"compute_capability": "9.0"}, True),
        ({"hardware_compatibility": "ampere_plus"}, {"compute_capability": "12.0"}, True),
        ({"hardware_compatibility": "ampere_plus"}, {"compute_capability": "7.5"}, False),
        ({"hardware_compatibility": "same_compute_capability"}, {"compute_capability": "8.9"}, False),
        ({"compute_capability": None, "flavour": "tensorrt-rtx"}, {"compute_capability": "12.0"}, True),
    ],
)
def test_compatibility_that_was_built_in(engine, changes, asked, fits):
    path = engine(**changes)
    if fits:
        check_engine(path, **asked)
    else:
        with pytest.raises(ModelError):
            check_engine(path, **asked)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\0", lambda b: b + b"\0", lambda b: b""])
def test_damaged_engine_is_refused(engine, damage):
    path = engine()
    path.write_bytes(damage(PLAN))
    with pytest.raises(ModelError, match=r"is not the file that net\.engine\.json describes"):
        check_engine(path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d.pop("precision"), "'precision' is missing"),
        (lambda d: d.update(extra=1), "'extra' is unknown"),
        (lambda d: d.update(version=2), "reads version 1"),
        (lambda d: d.update(format="other"), "does not describe an engine"),
        (lambda d: d.update(flavour="cudnn"), "flavour is 'cudnn'"),
        (lambda d: d.update(engine_bytes="12"), "'engine_bytes' is '12'"),
        (lambda d: d.update(command=None), "'command' is None"),
        (lambda d: d.update(inputs={}), "'inputs' is {}"),
        (lambda d: d["inputs"][0].pop("dtype"), "a tensor is"),
        (lambda d: d["inputs"][0].update(shape=None), "a tensor is"),
        (lambda d: d["inputs"][0].update(minimum=[1, "3"]), "a tensor is"),
        (lambda d: d["outputs"].append(7), "a tensor is"),
    ],
)
def test_damaged_json_is_refused(engine, change, words):
    path = engine()
    document = json.loads(info_path(path).read_text())
    change(document)
    info_path(path).write_text(json.dumps(document))
    with pytest.raises(ModelError, match=words):
        read_engine_info(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '"edgejpeg-engine"'])
def test_no_json_object_is_refused(engine, text):
    path = engine()
    info_path(path).write_text(text)
    with pytest.raises(ModelError, match=r"no JSON|does not describe"):
        read_engine_info(path)


def test_missing_files_are_told(tmp_path, engine):
    with pytest.raises(ModelError, match="no engine at"):
        check_engine(tmp_path / "other.engine")
    path = engine()
    info_path(path).unlink()
    with pytest.raises(ModelError, match="has this file beside it"):
        check_engine(path)


@pytest.mark.parametrize(
    "shapes, words",
    [
        ({"image": (9, 3, 224, 224), "tables": (1, 2, 64)}, "9x3x224x224 is outside .* 1x3x224x224 to 8x3x224x224"),
        ({"image": (0, 3, 224, 224), "tables": (1, 2, 64)}, "is outside"),
        ({"image": (1, 3, 224, 225), "tables": (1, 2, 64)}, "is outside"),
        ({"image": (3, 224, 224), "tables": (1, 2, 64)}, "is outside"),
        ({"image": (1, 3, 224, 224), "tables": (2, 2, 64)}, "profile, 1x2x64; "),
        ({"image": (1, 3, 224, 224)}, "inputs are image, tables; got image"),
        ({}, "got none"),
    ],
)
def test_shapes_outside_the_profile(shapes, words):
    with pytest.raises(InvalidInputError, match=words):
        info().check_shapes(shapes)
    info().check_shapes({"image": (8, 3, 224, 224), "tables": (1, 2, 64)})


def test_needs_no_optional_package():
    code = (
        "import sys, edgejpeg.runtime.engine_info\n"
        "print(*sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'onnx', 'onnxruntime', 'tensorrt'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
