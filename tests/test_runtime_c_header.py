"""Profiles as C headers: the example, built with the installed header and library, gives the bytes of Encoder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import DeadZone, Level, Profile, load_profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.c_header import profile_header
from edgejpeg.runtime.library import find_library
from edgejpeg.runtime.raw import raw_shape

LIBRARY = find_library()
HEADER_FOLDER = LIBRARY.parent.parent / "include"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
FORMATS = ("rgb", "bgr", "rgbx", "bgrx", "gray", "nv12", "nv21", "i420", "yuyv")

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc, which builds the example, is not installed")

LUMA, CHROMA = ijg_tables(70)
SENSITIVITY = np.random.default_rng(3).lognormal(-9, 1, (3, 8, 8))
ZONE = DeadZone(np.linspace(0.5, 0.9, 64).reshape(8, 8), np.linspace(0.5, 0.8, 64).reshape(8, 8))
PROFILES = {
    "shipped": lambda: load_profile("efficientnet_lite0"),
    "adaptive": lambda: Profile.adaptive(
        name='"a"\\ ??/ caméra */',
        sensitivity=SENSITIVITY,
        water_level=0.03,
        chroma_water_level=0.07,
        q_max=90,
        subsampling="444",
        effort=1,
    ),
    "fixed": lambda: Profile.fixed(name="f", luma=LUMA, chroma=CHROMA, subsampling="422"),
    "gray": lambda: Profile.fixed(name="g", luma=QuantTable(np.full((8, 8), 9)), subsampling="gray"),
}
ZONED = {
    "adaptive": lambda: Profile.adaptive(name="a", sensitivity=SENSITIVITY, water_level=0.03, dead_zone=ZONE),
    "fixed": lambda: Profile.fixed(name="f", luma=LUMA, chroma=CHROMA, dead_zone=ZONE),
    "ladder": lambda: Profile.ladder(
        name="l",
        levels=[
            Level(0.4, *ijg_tables(30)),
            Level(0.8, *ijg_tables(60), ZONE),
            Level(1.6, *ijg_tables(90)),
        ],
        level=1,
    ),
}


def build(profile: Profile, source: Path, folder: Path) -> Path:
    (folder / "profile.h").write_text(profile_header(profile))
    command = ["gcc", *STRICT, "-I", HEADER_FOLDER, "-I", folder, source, LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}"]
    subprocess.run([*command, "-o", folder / "encode_raw"], check=True)
    return folder / "encode_raw"


@pytest.fixture
def example(repository) -> Path:
    return repository / "runtime" / "native" / "examples" / "encode_raw.c"


@needs_gcc
@pytest.mark.parametrize("name", PROFILES)
def test_the_example_gives_the_bytes_of_encoder(name, example, tmp_path, rng):
    profile = PROFILES[name]()
    program = build(profile, example, tmp_path)
    for fmt in (*FORMATS, "nv12-full", "yuyv-full"):
        color = fmt.partition("-")[0]
        frames = rng.integers(0, 256, (3, *raw_shape(46, 34, color)), dtype=np.uint8)
        prefix = tmp_path / f"{fmt}-"
        run = subprocess.run(
            [program, "46", "34", fmt, prefix], input=frames.tobytes(), capture_output=True, check=True, timeout=60
        )
        assert run.stdout.decode() == f"3 frames with profile {profile.name}\n"
        yuv_range = "full" if fmt.endswith("-full") else "limited"
        encoder = Encoder(profile, "bgr" if color == "gray" else color, yuv_range=yuv_range)
        for index, frame in enumerate(frames):
            assert Path(f"{prefix}{index:06}.jpg").read_bytes() == encoder.encode(frame), (fmt, index)
        assert not Path(f"{prefix}000003.jpg").exists()


@needs_gcc
@pytest.mark.parametrize("name", ZONED)
def test_ladders_and_dead_zones(name, example, tmp_path, photo):
    profile = ZONED[name]()
    program = build(profile, example, tmp_path)
    frame = photo(64, 96)
    subprocess.run([program, "96", "64", "rgb", tmp_path / "a-"], input=frame.tobytes(), check=True, timeout=60)
    assert (tmp_path / "a-000000.jpg").read_bytes() == Encoder(profile, "rgb").encode(frame)


@needs_gcc
def test_what_the_example_refuses(example, tmp_path):
    program = build(load_profile("efficientnet_lite0"), example, tmp_path)

    def fails(*arguments: str, data: bytes = b"") -> tuple[int, str]:
        run = subprocess.run([program, *arguments], input=data, capture_output=True, timeout=60)
        return run.returncode, run.stderr.decode()

    for arguments in ([], ["8", "8", "nv12"], ["0", "8", "rgb", "x"], ["8", "65536", "rgb", "x"], ["8", "8", "x", "x"]):
        code, message = fails(*arguments)
        assert code == 2 and message.startswith("usage: encode_raw WIDTH HEIGHT FORMAT PREFIX")
    prefix = str(tmp_path / "a-")
    assert fails("8", "8", "rgb", prefix, data=bytes(200)) == (
        1,
        "encode_raw: frame 1 has 8 of 192 bytes\n",
    )
    assert fails("7", "8", "nv12", prefix, data=bytes(84)) == (
        1,
        "encode_raw: frame 0: image width is 7; that of NV12 is even\n",
    )
    code, message = fails("8", "8", "rgb", str(tmp_path / "no" / "folder"), data=bytes(192))
    assert code == 1 and "cannot write" in message


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_header_is_cxx_as_well(tmp_path):
    (tmp_path / "profile.h").write_text(profile_header(PROFILES["adaptive"]()))
    source = tmp_path / "a.cpp"
    source.write_text(
        '#include "profile.h"\nint main() { edgejpeg_encoder* e; return (int)edgejpeg_profile_create(1, &e); }\n'
    )
    command = ["g++", "-std=c++17", *STRICT[1:], "-fsyntax-only", "-I", HEADER_FOLDER, "-I", tmp_path]
    subprocess.run([*command, source], check=True)


@pytest.mark.slow
def test_cmake_builds_the_example(repository, tmp_path, rng):
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if cmake is None:
        pytest.skip("cmake is not installed")
    header = tmp_path / "any_name.h"
    assert cli.main(["info", "efficientnet_lite0", "--c-header", str(header)]) == 0
    configure = [cmake, "-S", repository / "runtime" / "native", "-B", tmp_path / "build", "-DEDGEJPEG_EXAMPLES=ON"]
    missing = subprocess.run(
        [*configure, f"-DEDGEJPEG_PROFILE_HEADER={tmp_path}/none.h"], capture_output=True, text=True
    )
    assert missing.returncode != 0 and "edgejpeg info efficientnet_lite0 --c-header" in missing.stderr
    for step in (
        [*configure, f"-DEDGEJPEG_PROFILE_HEADER={header}"],
        [cmake, "--build", tmp_path / "build", "--parallel", "2"],
    ):
        done = subprocess.run(step, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    frame = rng.integers(0, 256, (48, 32), dtype=np.uint8)
    program = tmp_path / "build" / "examples" / "encode_raw"
    subprocess.run([program, "32", "32", "i420", tmp_path / "x"], input=frame.tobytes(), check=True, timeout=60)
    assert (tmp_path / "x000000.jpg").read_bytes() == Encoder("efficientnet_lite0", "i420").encode(frame)


# --- the verb ---


def test_info_writes_the_header(tmp_path, capsys):
    target = tmp_path / "p.h"
    assert cli.main(["info", "efficientnet_lite0", "--c-header", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert target.read_text() == profile_header(load_profile("efficientnet_lite0"))
    assert cli.main(["info", "efficientnet_lite0", "--c-header", str(tmp_path / "no" / "p.h")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert cli.main(["info", str(tmp_path / "none.toml"), "--c-header", str(target)]) == 1
