"""Back ends: the same bytes from scalar, AVX2 and NEON code, and the environment variable that chooses one."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

import edgejpeg
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.library import FORMAT_CODES, SUBSAMPLING_CODES, NativeEncoder
from edgejpeg.runtime.pixels import COLORS, picture_of
from edgejpeg.runtime.raw import raw_shape

VARIABLE = "EDGEJPEG_BACKEND"
SENSITIVITY = (
    2.5e-4 * np.exp(-np.add.outer(np.arange(8.0), np.arange(8.0)) / 6) * np.array([1, 0.7, 0.5])[:, None, None]
)


MORE = (
    "standard_huffman",
    "exact_huffman",
    "sampled_statistics",
    "container",
    "progressive",
    "restart_rows",
    "orientation",
)
MODES: list[dict[str, int]] = [
    {},
    {"progressive": 1},
    {"restart_rows": 1},
    {"standard_huffman": 1, "container": 1},
    {"progressive": 1, "container": 1, "orientation": 3},
    {"sampled_statistics": 1, "restart_rows": 2, "orientation": 8},
]


@dataclass
class Job:
    """One frame and what to do with it. quality None: tables designed for the frame."""

    frame: np.ndarray
    subsampling: str
    quality: int | None
    effort: int = 0
    threads: int = 1
    color: str = "bgr"
    level: float = field(default=2e-4)
    more: dict[str, int] = field(default_factory=dict)  # of MORE
    full_range: bool = False

    def encode(self) -> bytes:
        """By the library of this machine, with the back end that the environment chooses."""
        encoder = NativeEncoder(self.subsampling, self.effort, self.threads, **self.more)
        try:
            assert encoder.backend == os.environ[VARIABLE]
            if self.quality is None:
                encoder.set_design(SENSITIVITY, self.level, 2 * self.level, 90)
            else:
                encoder.set_tables(*(table.array for table in ijg_tables(self.quality)))
            encoder.set_full_range(self.full_range)
            return encoder.encode(*picture_of(self.frame, self.color))
        finally:
            encoder.close()

    def pack(self) -> bytes:
        """For the C program below."""
        picture = picture_of(self.frame, self.color)
        height, width = picture.planes[0].shape[:2]
        codes = SUBSAMPLING_CODES[self.subsampling], self.effort, self.threads, FORMAT_CODES[picture.format]
        step = picture.planes[0].strides[1]
        more = (self.more.get(name, 0) for name in MORE)
        head = struct.pack("<16i", width, height, *codes, self.quality is None, step, self.full_range, *more)
        tables = b"".join(table.array.tobytes() for table in ijg_tables(self.quality or 50))
        return head + struct.pack("<d", self.level) + tables + SENSITIVITY.tobytes() + self.frame.tobytes()


def jobs(photo, seed: int, sizes) -> Iterator[Job]:
    """Every size in every subsampling; noise, two values, gray noise and photos; options of all kinds by chance."""
    rng = np.random.default_rng(seed)
    for index, ((height, width), subsampling) in enumerate(itertools.product(sizes, ("444", "422", "420", "gray"))):
        color = COLORS[rng.integers(len(COLORS))]
        kind = rng.integers(5)
        is_packed = color in ("bgr", "rgb", "bgrx", "rgbx")
        if not is_packed:  # chroma is coarser
            height, width = height + height % 2, width + width % 2
        if kind == 0:
            frame = rng.integers(0, 256, raw_shape(width, height, color), dtype=np.uint8)
        elif kind == 1:
            frame = rng.choice(np.array([0, 255], np.uint8), raw_shape(width, height, color))
        elif kind == 2 and is_packed:
            frame = rng.integers(0, 256, (height, width), dtype=np.uint8)
        else:
            # Any other layout shows the photo's bytes as it will.
            shape = raw_shape(width, height, color)
            top, left = rng.integers(100, size=2)
            frame = photo(height + top, width + left)[top:, left:]
            frame = np.ascontiguousarray(frame) if len(color) == 3 else np.resize(frame, shape)
        quality = (4, 60, 90, 92, 100, None, None)[rng.integers(7)]
        mode = MODES[rng.integers(len(MODES))]
        level = 10 ** rng.uniform(-5, -2)
        effort, threads, full_range = int(rng.integers(2)), 1 + 2 * (index % 2), bool(rng.integers(2))
        yield Job(frame, subsampling, quality, effort, threads, color, level, mode, full_range)


SMALL = list(itertools.product(range(1, 41), repeat=2))
LARGE = [(64, 512), (203, 301), (480, 640), (31, 1030), (515, 17), (723, 1281)]


@pytest.fixture
def choose(monkeypatch):
    """Sets the back end for encoders made from now on, or skips where this machine has none of the name."""

    def set_backend(name: str) -> None:
        monkeypatch.setenv(VARIABLE, name)
        try:
            NativeEncoder("420", 0, 1).close()
        except InvalidInputError:
            pytest.skip(f"this machine's processor has no {name} back end")

    return set_backend


@pytest.mark.parametrize("name", ["avx2", "neon"])
@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
def test_the_same_bytes_as_scalar(name, sizes, choose, photo, monkeypatch):
    choose(name)
    files = [job.encode() for job in jobs(photo, 1, sizes)]
    monkeypatch.setenv(VARIABLE, "scalar")
    for job, data in zip(jobs(photo, 1, sizes), files, strict=True):
        assert job.encode() == data, (job.frame.shape, job.subsampling, job.quality, job.effort, job.color, job.more)


def test_the_best_back_end_is_the_default(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    default = NativeEncoder("420", 0, 1).backend
    assert default in ("scalar", "avx2", "neon")
    monkeypatch.setenv(VARIABLE, "")
    assert NativeEncoder("420", 0, 1).backend == default
    monkeypatch.setenv(VARIABLE, "scalar")
    assert NativeEncoder("420", 0, 1).backend == "scalar"


@pytest.mark.parametrize("name", ["AVX2", "sse2", "scalar ", "x" * 300])
def test_unknown_back_ends(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(
        InvalidInputError, match=f'EDGEJPEG_BACKEND is "{name[:32]}"; it is scalar, reference, avx2 or neon'
    ):
        Encoder("efficientnet_lite0")


def test_a_back_end_of_another_processor(monkeypatch):
    foreign = [name for name in ("avx2", "neon") if name != NativeEncoder("420", 0, 1).backend]
    monkeypatch.setenv(VARIABLE, foreign[-1])
    with pytest.raises(InvalidInputError, match="EDGEJPEG_BACKEND is"):
        NativeEncoder("420", 0, 1)


# --- NEON, built by the cross compiler and run by an emulator ---

PROGRAM = r"""
#include <edgejpeg.h>
#include <stdio.h>
#include <stdlib.h>

/* Jobs from the standard input, files with their sizes before them to the standard output. */
int main(void) {
  int32_t head[16]; /* width, height, subsampling, effort, threads, format, designed, pixel stride, range, MORE */
  while (fread(head, sizeof(head), 1, stdin) == 1) {
    double level;
    uint8_t tables[128];
    double sensitivity[192];
    const size_t count = (size_t)head[0] * (size_t)head[1];
    const int planes = head[5] == EDGEJPEG_I420 ? 3 : head[5] == EDGEJPEG_NV12 || head[5] == EDGEJPEG_NV21 ? 2 : 1;
    const size_t bytes = planes > 1 ? count + count / 2 : count * (size_t)head[7];
    uint8_t* const pixels = malloc(bytes);
    const ptrdiff_t chroma_stride = planes == 3 ? head[0] / 2 : head[0];
    const edgejpeg_options options = {.subsampling = head[2], .effort = head[3], .threads = head[4],
                                      .standard_huffman = head[9], .exact_huffman = head[10],
                                      .sampled_statistics = head[11], .container = head[12], .progressive = head[13],
                                      .restart_rows = head[14], .orientation = head[15]};
    const edgejpeg_image image = {.pixels = pixels, .width = head[0], .height = head[1],
                                  .row_stride = (ptrdiff_t)head[0] * head[7], .pixel_stride = head[7],
                                  .format = head[5],
                                  .chroma = {planes > 1 ? pixels + count : NULL,
                                             planes > 2 ? pixels + count + count / 4 : NULL},
                                  .chroma_stride = {chroma_stride, chroma_stride}, .range = head[8]};
    edgejpeg_encoder* encoder;
    const uint8_t* data;
    size_t size;
    if (!pixels || fread(&level, sizeof(level), 1, stdin) != 1 || fread(tables, sizeof(tables), 1, stdin) != 1 ||
        fread(sensitivity, sizeof(sensitivity), 1, stdin) != 1 || fread(pixels, bytes, 1, stdin) != 1) {
      return 1;
    }
    if (edgejpeg_encoder_create(&options, &encoder) ||
        (head[6] ? edgejpeg_encoder_set_design(encoder, sensitivity, level, 2 * level, 90)
                 : edgejpeg_encoder_set_tables(encoder, tables, tables + 64)) ||
        edgejpeg_encoder_encode(encoder, &image, &data, &size)) {
      fprintf(stderr, "%s\n", edgejpeg_last_error());
      return 2;
    }
    fwrite(&size, sizeof(size), 1, stdout);
    fwrite(data, size, 1, stdout);
    edgejpeg_encoder_destroy(encoder);
    free(pixels);
  }
  return 0;
}
"""

CROSS = "aarch64-linux-gnu-"
EMULATOR = "qemu-aarch64"


@pytest.fixture(scope="module")
def neon_program(repository, tmp_path_factory):
    missing = [tool for tool in (CROSS + "gcc", CROSS + "g++", EMULATOR) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: g++-aarch64-linux-gnu, qemu-user)")
    folder = tmp_path_factory.mktemp("neon")
    native = repository / "runtime" / "native"
    (folder / "main.c").write_text(PROGRAM)
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-I", native]
    subprocess.run([CROSS + "gcc", "-std=c99", *strict, "-c", folder / "main.c", "-o", folder / "main.o"], check=True)
    sources = [path for path in sorted(native.glob("*.cpp")) if not path.name.startswith("avx2")]
    flags = ["-std=c++17", "-Wconversion", "-Wshadow", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-static"]
    version = f'-DEDGEJPEG_VERSION="{edgejpeg.__version__}"'
    command = [CROSS + "g++", *strict, *flags, version, *sources, folder / "main.o", "-o", folder / "program"]
    subprocess.run([*command, "-lpthread"], check=True)
    return folder / "program"


def run_program(program, name: str, work: list[Job]) -> list[bytes]:
    environment = os.environ | {VARIABLE: name}
    packed = b"".join(job.pack() for job in work)
    run = subprocess.run([EMULATOR, program], input=packed, capture_output=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    files, at = [], 0
    while at < len(run.stdout):
        (size,) = struct.unpack_from("<Q", run.stdout, at)
        files.append(run.stdout[at + 8 : at + 8 + size])
        at += 8 + size
    return files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["neon", "scalar"])
def test_arm_gives_the_same_bytes(name, neon_program, photo, monkeypatch):
    monkeypatch.setenv(VARIABLE, "scalar")
    work = list(jobs(photo, 2, (SMALL if name == "neon" else SMALL[::4]) + LARGE))
    assert run_program(neon_program, name, work) == [job.encode() for job in work]


@pytest.mark.slow
def test_arm_has_no_avx2(neon_program, photo):
    run = subprocess.run(
        [EMULATOR, neon_program],
        input=Job(photo(8, 8), "420", 50).pack(),
        capture_output=True,
        env=os.environ | {VARIABLE: "avx2"},
        check=False,
    )
    assert run.returncode == 2
    assert b'EDGEJPEG_BACKEND is "avx2"' in run.stderr
