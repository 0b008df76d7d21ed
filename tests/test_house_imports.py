"""What importing costs and where it works: NumPy alone for the device's part, from every folder, in every way."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgejpeg

ALLOWED = {"numpy", "edgejpeg", "tomli"}

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by the test)", name=name)
sys.meta_path.insert(0, Blocker())
"""
HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "cv2", "PIL", "tqdm", "httpx", "starlette", "uvicorn", "timm"}


def _run(code: str, cwd: Path | str = "/", *options: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_part_works_with_everything_else_blocked():
    code = (
        BLOCKER.format(blocked=HEAVY | {"scipy", "matplotlib", "skimage", "sklearn", "safetensors"})
        + """
import numpy as np
import edgejpeg, edgejpeg.runtime, edgejpeg.design, edgejpeg.jpeg
from edgejpeg.runtime import Encoder, encode_jpeg
frame = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
jpeg = edgejpeg.Encoder("efficientnet_lite0").encode(frame)
info = edgejpeg.parse_jpeg(jpeg)
print(info.width, info.height, info.subsampling)
"""
    )
    assert _run(code).split() == ["64", "48", "420"]


def test_light_part_imports_numpy_and_the_standard_library_only():
    code = """
import sys, sysconfig, pathlib
before = set(sys.modules)
import edgejpeg, edgejpeg.runtime, edgejpeg.runtime.encoder, edgejpeg.profile, edgejpeg.design
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(t for t in tops if t not in sys.stdlib_module_names))
"""
    assert {t for t in _run(code).split() if not t.startswith("_")} <= ALLOWED


@pytest.mark.parametrize("heavy", ["torch", "onnxruntime", "cv2"])
def test_help_needs_no_heavy_import(heavy):
    code = (
        BLOCKER.format(blocked=HEAVY)
        + f"""
import edgejpeg.cli, sys
edgejpeg.cli.build_parser()
assert {heavy!r} not in sys.modules
"""
    )
    _run(code)


def test_public_names_equal_all():
    names = {name for name in dir(edgejpeg) if not name.startswith("_") or name == "__version__"}
    assert set(edgejpeg.__all__) <= set(dir(edgejpeg))
    assert len(edgejpeg.__all__) == len(set(edgejpeg.__all__))
    for name in edgejpeg.__all__:
        assert getattr(edgejpeg, name) is not None
    import ast

    source = Path(edgejpeg.__path__[0] if Path(edgejpeg.__path__[0], "__init__.py").exists() else edgejpeg.__path__[-1])
    tree = ast.parse(Path(edgejpeg.__file__).read_text())
    typed = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgejpeg.")
        for alias in node.names
    }
    assert typed == set(edgejpeg.__all__), source
    assert names >= set(edgejpeg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Encodr'"):
        edgejpeg.Encodr  # noqa: B018


@pytest.mark.parametrize("where", ["root", "folder", "/"])
def test_import_from_anywhere(where, repository):
    cwd = {"root": repository, "folder": repository / "runtime", "/": "/"}[where]
    code = "import edgejpeg.export, edgejpeg.runtime, edgejpeg.models; print(edgejpeg.ijg_tables(75)[0].array[0, 0])"
    assert _run(code, cwd).split() == ["8"]
    code = "import edgejpeg, numpy; print(len(edgejpeg.encode_jpeg(numpy.zeros((8, 8, 3), numpy.uint8))))"
    assert int(_run(code, cwd)) > 100


@pytest.mark.parametrize("package", ["export", "runtime", "models"])
def test_mapped_folders_say_their_name_when_imported_bare(package, repository):
    done = subprocess.run(
        [sys.executable, "-c", f"import {package}"], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert f"edgejpeg.{package}" in done.stderr.splitlines()[-1]


def test_python_dash_m(repository):
    for cwd in (repository, "/"):
        done = subprocess.run(
            [sys.executable, "-m", "edgejpeg", "--version"], cwd=cwd, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == f"edgejpeg {edgejpeg.__version__}"


def _encode_in_child(value: int) -> int:
    import numpy as np

    return len(edgejpeg.encode_jpeg(np.full((16, 16, 3), value, np.uint8)))


def test_spawned_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_encode_in_child, [0, 255])[0] > 100
