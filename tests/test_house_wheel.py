"""The wheel: what it may contain, and that its light part works on every CPython that this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgejpeg

VERSIONS = ("3.10", "3.11", "3.12", "3.13")

MAY_CONTAIN = [
    r"edgejpeg/[a-z_]+\.py",
    r"edgejpeg/py\.typed",
    r"edgejpeg/(jpeg|design|learn|evaluate|demo|cli|export|runtime|models)/[a-z0-9_]+\.py",
    r"edgejpeg/runtime/(server|uplink)/[a-z0-9_]+\.py",
    r"edgejpeg/models/profiles/[a-z0-9_.-]+\.toml",
    r"edgejpeg/learn/recipes/[a-z0-9_.-]+\.toml",
    r"edgejpeg/lib/libedgejpeg\.so",
    r"edgejpeg/include/edgejpeg\.h",
    r"edgejpeg-[0-9.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)",
]

MUST_CONTAIN = [
    "edgejpeg/__init__.py",
    "edgejpeg/py.typed",
    "edgejpeg/lib/libedgejpeg.so",
    "edgejpeg/include/edgejpeg.h",
    "edgejpeg/export/onnx.py",
    "edgejpeg/runtime/encoder.py",
    "edgejpeg/runtime/server/app.py",
    "edgejpeg/models/registry.py",
    "edgejpeg/models/profiles/efficientnet_lite0.toml",
    "edgejpeg/learn/recipes/cifar100.toml",
]

LIGHT = """
import pathlib, sys, numpy as np
import edgejpeg, edgejpeg.runtime
assert "site-packages" in edgejpeg.__file__, edgejpeg.__file__
rng = np.random.default_rng(0)
frame = rng.integers(0, 256, (37, 50, 3), dtype=np.uint8)
from edgejpeg.jpeg.reference import encode_reference
tables = edgejpeg.ijg_tables(98)  # so fine that the encoder takes the reference's arithmetic
for subsampling in ("444", "422", "420"):
    ours = edgejpeg.encode_jpeg(frame, tables=tables, subsampling=subsampling, color="rgb")
    chosen = edgejpeg.parse_jpeg(ours).huffman
    assert ours == encode_reference(frame, tables, subsampling, huffman_tables=chosen)
jpeg = edgejpeg.Encoder("efficientnet_lite0").encode(frame)
assert edgejpeg.parse_jpeg(jpeg).complete
print("light part works on", sys.version.split()[0], "with numpy", np.__version__)
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    for need in ("build", "scikit_build_core"):
        pytest.importorskip(need, reason=f"{need}, which builds the wheel, is not installed")
    source = tmp_path_factory.mktemp("source") / "edgejpeg"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "demo-out", "__pycache__", "*.so", ".*_cache")
    shutil.copytree(repository, source, ignore=ignored)
    out = source / "dist"
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
        env=env,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


def test_wheel_serves_every_python_3(wheel):
    assert re.fullmatch(rf"edgejpeg-{re.escape(edgejpeg.__version__)}-py3-none-[a-z0-9_]+\.whl", wheel.name)


def test_wheel_contains_what_it_may_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [n for n in names if not any(re.fullmatch(pattern, n) for pattern in MAY_CONTAIN)]
    assert not strangers
    assert not set(MUST_CONTAIN) - set(names)
    assert wheel.stat().st_size < 2_000_000


def test_wheel_metadata_asks_for_numpy_alone(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
    requires = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    needed = [r for r in requires if "extra ==" not in r]
    assert sorted(re.match(r"[a-z]+", r).group() for r in needed) == ["numpy", "tomli"]
    assert all("python_version < " in r for r in needed if r.startswith("tomli"))
    assert any(r.startswith("tensorrt") and "<12" in r and ">=10.3" in r for r in requires)


def _interpreters() -> dict[str, str]:
    """CPythons 3.10 to 3.13 on the path, or installed by pyenv, that really run."""
    found = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        candidates = [
            shutil.which(f"python{version}"),
            *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}"))),
        ]
        for candidate in filter(None, candidates):
            probe = subprocess.run(
                [candidate, "-c", "import sys, venv, ensurepip; print(sys.implementation.name, sys.version_info[:2])"],
                capture_output=True,
                text=True,
            )
            if probe.returncode == 0 and probe.stdout.split()[0] == "cpython":
                found[version] = candidate
                break
    return found


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_light_part_on(version, wheel, tmp_path, repository, record_property):
    interpreter = _interpreters().get(version)
    if interpreter is None:
        pytest.skip(f"CPython {version} is not on this machine")
    subprocess.run([interpreter, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--only-binary",
        "numpy",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0 and re.search("connection|resolve|network|timed out", done.stderr, re.IGNORECASE):
        pytest.skip("no package index within reach to install NumPy from")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True).stdout
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert names - {"pip", "setuptools", "wheel"} == {"edgejpeg", "numpy"} | ({"tomli"} if version == "3.10" else set())
    for cwd in ("/", str(repository / "tests")):
        done = subprocess.run([python, "-c", LIGHT], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "light part works on" in done.stdout
    record_property("light part on", done.stdout.split("light part works on ")[1].split()[0])
    script = subprocess.run([str(Path(python).parent / "edgejpeg"), "info", "efficientnet_lite0"], capture_output=True)
    assert script.returncode == 0, script.stderr
    assert b"adaptive" in script.stdout
