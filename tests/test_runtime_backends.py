"""Back ends: the same bytes from scalar, AVX2, AVX-512 and NEON code, and the environment variable that chooses one."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import edgejpeg
from edgejpeg.errors import BudgetError, InvalidInputError
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
    "quantization",
)
MODES: list[dict[str, int]] = [
    {},
    {"progressive": 1},
    {"restart_rows": 1},
    {"standard_huffman": 1, "container": 1},
    {"progressive": 1, "container": 1, "orientation": 3},
    {"sampled_statistics": 1, "restart_rows": 2, "orientation": 8},
]
TRIM, TRELLIS = {"quantization": 1}, {"quantization": 2}
ZONE = np.linspace(0.5, 0.9, 64).reshape(8, 8)
LADDER = [
    (0.2 + 0.1 * index**2, [table.array for table in ijg_tables(q)]) for index, q in enumerate((5, 25, 60, 80, 90))
]


@dataclass(frozen=True)
class Choice:
    """What chooses the tables, and what is done with them, besides MODES."""

    budget: float = 0  # bits per pixel
    slope: int = -1
    ladder: bool = False
    dead_zone: bool = False


CHOICES = [
    Choice(),
    Choice(budget=0.4),
    Choice(budget=2),
    Choice(budget=1.2, dead_zone=True),
    Choice(dead_zone=True),
    Choice(ladder=True),
    Choice(ladder=True, budget=1.2),
    Choice(ladder=True, slope=300, dead_zone=True),
    Choice(ladder=True, slope=20, budget=3),
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
    choice: Choice = Choice()

    @property
    def max_bytes(self) -> int:
        """Headers are more than half of a small file."""
        return (
            round(self.choice.budget / 8 * self.frame.shape[0] * self.frame.shape[1] + 500) if self.choice.budget else 0
        )

    def encode(self) -> bytes:
        """By the library of this machine, with the back end that the environment chooses; or the smallest size."""
        encoder = NativeEncoder(self.subsampling, self.effort, self.threads, **self.more)
        try:
            assert encoder.backend == os.environ[VARIABLE]
            if self.choice.ladder:
                zone = (ZONE, ZONE) if self.choice.dead_zone else (None, None)
                encoder.set_ladder([(rate, [*tables, *zone]) for rate, tables in LADDER], len(LADDER) - 2)
                if self.choice.slope >= 0:
                    encoder.set_slope(self.choice.slope)
            elif self.quality is None:
                encoder.set_design(SENSITIVITY, self.level, 2 * self.level, 90)
            else:
                encoder.set_tables(*(table.array for table in ijg_tables(self.quality)))
            if self.choice.dead_zone:
                encoder.set_dead_zone(ZONE, ZONE)
            encoder.set_budget(self.max_bytes, 0)
            encoder.set_full_range(self.full_range)
            return encoder.encode(*picture_of(self.frame, self.color))
        except BudgetError as error:
            return b"smallest %d" % error.smallest
        finally:
            encoder.close()

    def pack(self) -> bytes:
        """For the C program below."""
        picture = picture_of(self.frame, self.color)
        height, width = picture.planes[0].shape[:2]
        codes = SUBSAMPLING_CODES[self.subsampling], self.effort, self.threads, FORMAT_CODES[picture.format]
        step = picture.planes[0].strides[1]
        more = (self.more.get(name, 0) for name in MORE)
        choice = self.max_bytes, self.choice.slope, self.choice.dead_zone
        kind = 2 if self.choice.ladder else int(self.quality is None)
        head = struct.pack("<20i", width, height, *codes, kind, step, self.full_range, *more, *choice)
        tables = b"".join(table.array.tobytes() for table in ijg_tables(self.quality or 50))
        for rate, pair in LADDER:
            tables += struct.pack("<d", rate) + b"".join(table.tobytes() for table in pair)
        numbers = struct.pack("<d", self.level) + ZONE.tobytes() + SENSITIVITY.tobytes()
        return head + numbers + tables + self.frame.tobytes()


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
        mode = MODES[rng.integers(len(MODES))] | ({}, {}, {}, TRIM, TRELLIS)[rng.integers(5)]
        choice = CHOICES[rng.integers(len(CHOICES))]
        level = 10 ** rng.uniform(-5, -2)
        effort, threads, full_range = int(rng.integers(2)), 1 + 2 * (index % 2), bool(rng.integers(2))
        yield Job(frame, subsampling, quality, effort, threads, color, level, mode, full_range, choice)


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


@pytest.mark.parametrize("name", ["avx2", "avx512", "neon"])
@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
def test_the_same_bytes_as_scalar(name, sizes, choose, photo, monkeypatch):
    choose(name)
    files = [job.encode() for job in jobs(photo, 1, sizes)]
    monkeypatch.setenv(VARIABLE, "scalar")
    refused = 0
    for job, data in zip(jobs(photo, 1, sizes), files, strict=True):
        other = replace(job, threads=4 - job.threads)
        assert other.encode() == data, replace(job, frame=job.frame.shape)
        refused += data.startswith(b"smallest")
        assert data.startswith(b"smallest") or job.max_bytes == 0 or len(data) <= job.max_bytes
    assert 0 < refused < len(files) / 5 or len(files) < 100


def test_the_best_back_end_is_the_default(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    default = NativeEncoder("420", 0, 1).backend
    assert default in ("scalar", "avx2", "avx512", "neon")
    monkeypatch.setenv(VARIABLE, "")
    assert NativeEncoder("420", 0, 1).backend == default
    monkeypatch.setenv(VARIABLE, "scalar")
    assert NativeEncoder("420", 0, 1).backend == "scalar"


@pytest.mark.parametrize("name", ["AVX2", "sse2", "scalar ", "x" * 300])
def test_unknown_back_ends(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(
        InvalidInputError, match=f'EDGEJPEG_BACKEND is "{name[:32]}"; it is scalar, reference, avx2, avx512 or neon'
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

#define LEVELS 5

/* The settings of one job, as they come in. */
static struct {
  /* width, height, subsampling, effort, threads, format, kind, pixel stride, range, MORE, budget, slope, dead zone */
  int32_t head[20];
  double level, zone[64], sensitivity[192];
  uint8_t tables[128];
  struct {
    double rate;
    uint8_t tables[128];
  } ladder[LEVELS];
} job;

static edgejpeg_status set(edgejpeg_encoder* encoder) {
  const double* const zone = job.head[19] ? job.zone : NULL;
  edgejpeg_status status = edgejpeg_encoder_set_dead_zone(encoder, zone, zone);
  if (!status) status = edgejpeg_encoder_set_budget(encoder, (size_t)job.head[17], 0);
  if (status) return status;
  if (job.head[6] == 0) return edgejpeg_encoder_set_tables(encoder, job.tables, job.tables + 64);
  if (job.head[6] == 1) return edgejpeg_encoder_set_design(encoder, job.sensitivity, job.level, 2 * job.level, 90);
  edgejpeg_level levels[LEVELS];
  for (int i = 0; i < LEVELS; ++i) {
    const uint8_t* const tables = job.ladder[i].tables;
    const edgejpeg_level level = {tables, tables + 64, zone, zone, job.ladder[i].rate};
    levels[i] = level;
  }
  status = edgejpeg_encoder_set_ladder(encoder, levels, LEVELS, LEVELS - 2);
  return status || job.head[18] < 0 ? status : edgejpeg_encoder_set_slope(encoder, job.head[18]);
}

/* Jobs from the standard input, files with their sizes before them to the standard output. */
int main(void) {
  while (fread(&job, sizeof(job), 1, stdin) == 1) {
    const int32_t* const head = job.head;
    const size_t count = (size_t)head[0] * (size_t)head[1];
    const int planes = head[5] == EDGEJPEG_I420 ? 3 : head[5] == EDGEJPEG_NV12 || head[5] == EDGEJPEG_NV21 ? 2 : 1;
    const size_t bytes = planes > 1 ? count + count / 2 : count * (size_t)head[7];
    uint8_t* const pixels = malloc(bytes);
    const ptrdiff_t chroma_stride = planes == 3 ? head[0] / 2 : head[0];
    const edgejpeg_options options = {.subsampling = head[2], .effort = head[3], .threads = head[4],
                                      .standard_huffman = head[9], .exact_huffman = head[10],
                                      .sampled_statistics = head[11], .container = head[12], .progressive = head[13],
                                      .restart_rows = head[14], .orientation = head[15], .quantization = head[16]};
    const edgejpeg_image image = {.pixels = pixels, .width = head[0], .height = head[1],
                                  .row_stride = (ptrdiff_t)head[0] * head[7], .pixel_stride = head[7],
                                  .format = head[5],
                                  .chroma = {planes > 1 ? pixels + count : NULL,
                                             planes > 2 ? pixels + count + count / 4 : NULL},
                                  .chroma_stride = {chroma_stride, chroma_stride}, .range = head[8]};
    edgejpeg_encoder* encoder;
    const uint8_t* data;
    size_t size;
    char text[32];
    if (!pixels || fread(pixels, bytes, 1, stdin) != 1) return 1;
    edgejpeg_status status = edgejpeg_encoder_create(&options, &encoder);
    if (!status) status = set(encoder);
    if (!status) status = edgejpeg_encoder_encode(encoder, &image, &data, &size);
    if (status == EDGEJPEG_BUDGET_NOT_MET) {
      size = (size_t)sprintf(text, "smallest %lu", (unsigned long)size);
      data = (const uint8_t*)text;
    } else if (status) {
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
    sources = [path for path in sorted(native.glob("*.cpp")) if not path.name.startswith("avx")]
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
