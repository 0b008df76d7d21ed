"""The fuzzers, for a bounded number of inputs: the encoder's C interface under sanitizers, the parser, the loader."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"
SANITIZE = "-fsanitize=address,undefined,float-cast-overflow"
NATIVE_RUNS = 800


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory) -> str:
    found = os.environ.get("CXX") or shutil.which("c++")
    if found is None:
        pytest.skip("no C++ compiler to build the fuzzer with")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cpp").write_text("int main() { return 0; }\n")
    probe = _run([found, SANITIZE, "probe.cpp", "-o", "probe"], folder)
    if probe.returncode != 0 or _run([str(folder / "probe")], folder).returncode != 0:
        pytest.skip("the C++ compiler has no address and undefined behaviour sanitizer")
    return found


@pytest.fixture(scope="module")
def encode_fuzzer(compiler, repository, tmp_path_factory) -> Path:
    beside = Path(sys.executable).parent
    cmake = shutil.which("cmake", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if cmake is None:
        pytest.skip("no CMake to build the fuzzer with")
    build = tmp_path_factory.mktemp("fuzz")
    configure = ["-S", str(repository / "runtime" / "native"), "-B", str(build), "-DEDGEJPEG_FUZZ=ON"]
    for step in ([cmake, *configure, "-DCMAKE_BUILD_TYPE=Release"], [cmake, "--build", str(build), "--parallel", "2"]):
        done = _run(step, build)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return build / "fuzz" / "encode_fuzzer"


@pytest.mark.slow
def test_encoder_keeps_its_promises(encode_fuzzer, tmp_path):
    corpus = str(FUZZ / "corpus" / "encode")
    done = _run([str(encode_fuzzer), f"-runs={NATIVE_RUNS}", "-seed=20261122", corpus], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.search(r"Done (\d+) runs", done.stdout + done.stderr).group(1)) >= NATIVE_RUNS
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("fuzzer", "runs"), [("fuzz_markers", 20000), ("fuzz_profile", 3000)])
def test_nothing_but_the_one_error_leaves(fuzzer, runs, tmp_path):
    options = ["--engine", "mutation", "--runs", str(runs), "--seed", "20261122"]
    done = _run([sys.executable, str(FUZZ / f"{fuzzer}.py"), *options], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stdout
    assert not list(tmp_path.iterdir())


# A target with each kind of end that the driver must see: a check of its own, a bad access, undefined behaviour.
BROKEN = """
#include <cstddef>
#include <cstdint>
#include <cstdlib>
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  volatile int most = 0x7FFFFFFF;
  volatile uint8_t sink = 0;
  if (size == 1 && data[0] == 'a') std::abort();
  if (size == 1 && data[0] == 'b') sink = data[size];
  if (size == 1 && data[0] == 'c') most = most + 1;
  return sink & 0;
}
"""


@pytest.fixture(scope="module")
def broken_fuzzer(compiler, repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken.cpp").write_text(BROKEN)
    driver = str(repository / "runtime" / "native" / "fuzz" / "standalone_main.cpp")
    options = ["-std=c++17", "-O1", SANITIZE, "-fno-sanitize-recover=all", "-o", "broken"]
    done = _run([compiler, *options, "broken.cpp", driver], folder)
    assert done.returncode == 0, done.stderr
    return folder / "broken"


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_native_driver_keeps_the_input_that_ends_it(letter, broken_fuzzer, tmp_path):
    for name in (letter, "x"):
        (tmp_path / f"seed-{name}").write_text(name)
    seeds = [str(path) for path in sorted(tmp_path.glob("seed-*"))]
    prefix = f"-artifact_prefix={tmp_path}/"
    done = _run([str(broken_fuzzer), prefix, *seeds], tmp_path)
    assert done.returncode != 0
    (kept,) = tmp_path.glob("crash-*")
    assert kept.read_text() == letter
    assert kept.name in done.stderr
    # Without it, and with mutations of a seed, which are the same for the same seed.
    assert _run([str(broken_fuzzer), seeds[1]], tmp_path).stdout.startswith("Done 1 runs")
    options = [prefix, "-runs=100000", "-seed=4", "-max_len=1"]
    found = []
    for _ in range(2):
        kept.unlink()
        assert _run([str(broken_fuzzer), *options, seeds[1]], tmp_path).returncode != 0
        (kept,) = tmp_path.glob("crash-*")
        found.append((kept.name, kept.read_bytes()))
    assert found[0] == found[1]
    assert found[0][1] in (b"a", b"b", b"c")


def test_an_input_that_fails_is_kept_and_named(tmp_path):
    (tmp_path / "broken.py").write_text(
        f"""
import sys
sys.path.insert(0, {str(FUZZ)!r})
import harness
def one_input(data):
    assert not data.startswith(b"\\x00"), "a zero"
sys.exit(harness.main(lambda: one_input, "markers", [b"\\x00"]))
"""
    )
    done = _run([sys.executable, "broken.py", "--engine", "mutation", "--runs", "3000"], tmp_path)
    assert done.returncode == 1
    kept = list(tmp_path.glob("crash-*"))
    assert kept and all(path.read_bytes().startswith(b"\x00") and path.name in done.stderr for path in kept)
    again = _run([sys.executable, "broken.py", str(kept[0]), "--keep", str(tmp_path)], tmp_path)
    assert again.returncode == 1
    assert "a zero" in again.stderr


def test_seeds_are_small():
    files = [path for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"encode", "markers", "profile"}
    assert sum(path.stat().st_size for path in files) < 100_000
