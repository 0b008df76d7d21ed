"""Counts the encoder's instructions per pixel, which do not depend on the machine: method and results in README.md.

    python benchmarks/instructions.py [--size 128] [--output FILE]

AVX2 by valgrind's callgrind; NEON by a cross compiler (aarch64-linux-gnu-g++) and qemu-aarch64's trace. What is not
installed is left out. The count of one encoding is half the difference between a run of three and a run of one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from encoder import SAMPLING, default_sources, find_water_level, make_frames, read_pictures

from edgejpeg import __version__
from edgejpeg.design.opts import raw_water_level
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.library import SUBSAMPLING_CODES, find_library

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "runtime" / "native"
CROSS, EMULATOR = "aarch64-linux-gnu-", "qemu-aarch64"
MODES = {"fixed": (0, False), "adaptive": (0, True), "adaptive, optimal Huffman": (1, True)}

Count = Callable[[Path, int], int]


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def callgrind(folder: Path) -> Count | None:
    """Instructions of the AVX2 back end, or of NEON: valgrind need not know AVX-512."""
    if shutil.which("valgrind") is None or shutil.which("gcc") is None:
        return None
    library = find_library()
    program = folder / "program"
    environment = os.environ | {"EDGEJPEG_BACKEND": "avx2" if platform.machine() == "x86_64" else "neon"}
    run("gcc", "-O2", "-I", NATIVE, HERE / "instructions.c", library, f"-Wl,-rpath,{library.parent}", "-o", program)

    def count(job: Path, repeats: int) -> int:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}", program, job, str(repeats)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found = re.search(r"Collected : (\d+)", done.stderr)
        if found is None:
            sys.exit(f"valgrind printed no count:\n{done.stderr}")
        return int(found[1])

    return count


def emulator_trace(folder: Path) -> Count | None:
    """Instructions of the NEON back end: the emulator executes them one by one, and says so."""
    if any(shutil.which(tool) is None for tool in (CROSS + "g++", CROSS + "gcc", EMULATOR)):
        return None
    program, part = folder / "arm", folder / "arm.o"
    run(CROSS + "gcc", "-O2", "-I", NATIVE, "-c", HERE / "instructions.c", "-o", part)
    sources = [path for path in sorted(NATIVE.glob("*.cpp")) if "avx" not in path.name]
    flags = ["-std=c++17", "-O3", "-DNDEBUG", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-static"]
    run(CROSS + "g++", *flags, f'-DEDGEJPEG_VERSION="{__version__}"', *sources, part, "-o", program, "-lpthread")
    usage = subprocess.run([EMULATOR, "-help"], check=False, capture_output=True, text=True).stdout
    single = "-one-insn-per-tb" if "one-insn-per-tb" in usage else "-singlestep"

    def count(job: Path, repeats: int) -> int:
        command = [EMULATOR, single, "-d", "exec,nochain", "-D", "/dev/stderr", program, job, str(repeats)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            traced = sum(line.startswith(b"Trace") for line in process.stderr)
        if process.returncode != 0:
            sys.exit(f"{EMULATOR} ended with {process.returncode}")
        return traced

    return count


def write_job(path: Path, frame: np.ndarray, profile: Profile, level: float, mode: str) -> None:
    effort, designed = MODES[mode]
    with Encoder(profile, water_level=level) as encoder:
        encoder.encode(frame)
        tables = encoder.tables
    assert profile.sensitivity is not None and tables is not None and tables[1] is not None
    height, width = frame.shape[:2]
    head = struct.pack("<6i", width, height, SUBSAMPLING_CODES[profile.subsampling], effort, designed, profile.q_max)
    raw = raw_water_level(level, profile.sensitivity)
    path.write_bytes(
        head
        + struct.pack("<2d", raw, raw)
        + b"".join(table.array.tobytes() for table in tables if table is not None)
        + np.ascontiguousarray(profile.sensitivity).tobytes()
        + np.ascontiguousarray(frame).tobytes()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="the frame's width and height")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "instructions.json")
    arguments = parser.parse_args()
    frame = np.ascontiguousarray(make_frames(read_pictures(default_sources()), "720p")[1])
    frame = np.ascontiguousarray(frame[: arguments.size, : arguments.size])
    base = load_profile("efficientnet_lite0")
    assert base.sensitivity is not None and base.water_level is not None
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counters = {"avx2" if platform.machine() == "x86_64" else "neon": callgrind(folder)}
        counters.setdefault("neon", emulator_trace(folder))
        for subsampling in SAMPLING:
            profile = Profile.adaptive(
                name="instructions", sensitivity=base.sensitivity, water_level=1.0, q_max=90, subsampling=subsampling
            )
            for quality in (75, 90):
                luma, chroma = ijg_tables(quality)
                fixed = Profile.fixed(name="ijg", luma=luma, chroma=chroma, subsampling=subsampling)
                with Encoder(fixed) as encoder:
                    target = len(encoder.encode(frame))
                level = find_water_level(profile, [frame], target)
                for mode in MODES:
                    write_job(folder / "job", frame, profile, level, mode)
                    row = {"subsampling": subsampling, "bits_per_pixel": 8 * target / frame[..., 0].size, "mode": mode}
                    for backend, count in counters.items():
                        if count is not None:
                            extra = (count(folder / "job", 3) - count(folder / "job", 1)) / 2
                            row[backend] = extra / frame[..., 0].size
                    rows.append(row)
                    found = "  ".join(f"{b} {row[b]:5.1f}" for b in counters if b in row)
                    print(f"{subsampling} {row['bits_per_pixel']:.2f} bpp  {mode:26} {found}", flush=True)
    report = {"edgejpeg": __version__, "size": arguments.size, "instructions_per_pixel": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
