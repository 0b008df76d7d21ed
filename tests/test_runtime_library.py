"""The compiled library: finding it, its version, its C interface on bad arguments, and its use from C."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from ctypes import byref, c_double, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import pytest

import edgejpeg
from edgejpeg.errors import InvalidInputError, NativeLibraryError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.runtime import encode_jpeg, library
from edgejpeg.runtime.library import NativeEncoder, find_library, library_version, load_library, open_library

INVALID, NOT_READY = 1, 3
HEADER_FOLDER = find_library().parent.parent / "include"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def test_version_is_the_packages_and_loading_happens_once():
    assert library_version() == edgejpeg.__version__
    assert load_library() is load_library()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(edgejpeg, "__version__", "99.0.0")
    with pytest.raises(NativeLibraryError, match=r"the package is 99\.0\.0; rebuild with: pip install \."):
        open_library(find_library())


def test_missing_library(monkeypatch, tmp_path):
    monkeypatch.setattr(edgejpeg, "__path__", [str(tmp_path)])
    with pytest.raises(NativeLibraryError, match=r"is not in lib/ of any of .*; rebuild with: pip install \."):
        find_library()


def test_a_file_that_is_no_library(tmp_path):
    path = tmp_path / "libedgejpeg.so"
    path.write_bytes(b"not ELF")
    with pytest.raises(NativeLibraryError, match=r"cannot load .*pip install"):
        open_library(path)


@needs_gcc
def test_a_foreign_library(tmp_path):
    source, path = tmp_path / "a.c", tmp_path / "libedgejpeg.so"
    source.write_text('const char* edgejpeg_version(void) { return "0.0.0"; }\n')
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
    with pytest.raises(NativeLibraryError, match=r"cannot load .*undefined symbol.*pip install"):
        open_library(path)


def _last_error() -> str:
    return load_library().edgejpeg_last_error().decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((4, 0, 1), "subsampling is 4; it is an integer from 0 to 3"),
        ((-1, 0, 1), "subsampling is -1"),
        ((0, 2, 1), "effort is 2; it is an integer from 0 to 1"),
        ((0, 0, 0), "threads is 0; it is an integer from 1 to 256"),
        ((0, 0, 257), "threads is 257"),
        ((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3), "quantization is 3; it is an integer from 0 to 2"),
        ((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, -1.0), "trellis_weight is -1; it is finite and not negative"),
        ((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, float("nan")), "trellis_weight is"),
        ((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2), "keep_statistics is 2; it is an integer from 0 to 1"),
        ((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1), "timing is -1"),
        ((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7), "comment_control is 7"),
    ],
)
def test_create_checks_its_options(options, message):
    handle = c_void_p(1)
    raw = library._Options(*options)
    assert load_library().edgejpeg_encoder_create(byref(raw), byref(handle)) == INVALID
    assert handle.value is None
    assert message in _last_error()


def test_null_pointers_are_refused():
    lib = load_library()
    options, handle = library._Options(0, 0, 1), c_void_p()
    assert lib.edgejpeg_encoder_create(None, byref(handle)) == INVALID
    assert lib.edgejpeg_encoder_create(byref(options), None) == INVALID
    lib.edgejpeg_encoder_destroy(None)
    assert lib.edgejpeg_encoder_create(byref(options), byref(handle)) == 0
    table, image = np.ones(64, np.uint8), library._Image(None, 8, 8, 24, 3, 0)
    data, size = c_void_p(), c_size_t()
    calls = {
        "luma is NULL": lambda: lib.edgejpeg_encoder_set_tables(handle, None, table.ctypes.data),
        "sensitivity is NULL": lambda: lib.edgejpeg_encoder_set_design(handle, None, 1.0, 1.0, 100),
        "text is NULL": lambda: lib.edgejpeg_encoder_set_comment(handle, None, 3),
        "image is NULL": lambda: lib.edgejpeg_encoder_encode(handle, None, byref(data), byref(size)),
        "data is NULL": lambda: lib.edgejpeg_encoder_encode(handle, byref(image), None, byref(size)),
        "size is NULL": lambda: lib.edgejpeg_encoder_encode(handle, byref(image), byref(data), None),
        "image->pixels is NULL": lambda: lib.edgejpeg_encoder_encode(handle, byref(image), byref(data), byref(size)),
        "statistics is NULL": lambda: lib.edgejpeg_encoder_statistics(handle, None),
        "result is NULL": lambda: lib.edgejpeg_encoder_result(handle, None),
        "swe is NULL": lambda: lib.edgejpeg_encoder_swe(handle, None),
        "levels is NULL": lambda: lib.edgejpeg_encoder_set_ladder(handle, None, 1, 0),
        "luma of a level is NULL": lambda: lib.edgejpeg_encoder_set_ladder(handle, byref(library._Level()), 1, 0),
        "set_budget: encoder is NULL": lambda: lib.edgejpeg_encoder_set_budget(None, 1, 0.0),
        "set_dead_zone: encoder is NULL": lambda: lib.edgejpeg_encoder_set_dead_zone(None, None, None),
        "set_level: encoder is NULL": lambda: lib.edgejpeg_encoder_set_level(None, 0),
        "set_slope: encoder is NULL": lambda: lib.edgejpeg_encoder_set_slope(None, 0.0),
        "chroma is NULL": lambda: lib.edgejpeg_encoder_tables(handle, table.ctypes.data, None),
        "set_tables: encoder is NULL": lambda: lib.edgejpeg_encoder_set_tables(None, table.ctypes.data, None),
        "encode: encoder is NULL": lambda: lib.edgejpeg_encoder_encode(None, byref(image), byref(data), byref(size)),
    }
    for message, call in calls.items():
        assert call() == INVALID, message
        assert message in _last_error()
    lib.edgejpeg_encoder_destroy(handle)


@pytest.fixture
def native():
    encoder = NativeEncoder("420", 0, 1)
    yield encoder
    encoder.close()


def test_values_are_checked_in_c_as_well(native):
    good = np.ones((3, 8, 8))
    bad_table = np.ones((8, 8), np.uint8)
    bad_table[2, 5] = 0
    with pytest.raises(InvalidInputError, match="the luma table has 0 at row 2, column 5"):
        native.set_tables(bad_table, None)
    with pytest.raises(InvalidInputError, match="the chroma table has 0"):
        native.set_tables(np.ones((8, 8), np.uint8), bad_table)
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="luma_water_level is"):
            native.set_design(good, value, 1.0, 100)
        with pytest.raises(InvalidInputError, match="chroma_water_level is"):
            native.set_design(good, 1.0, value, 100)
        if value:
            wrong = good.copy()
            wrong[1, 0, 3] = value
            with pytest.raises(InvalidInputError, match=r"sensitivity\[67\] is"):
                native.set_design(wrong, 1.0, 1.0, 100)
    for q_max in (0, 256, -5):
        with pytest.raises(InvalidInputError, match=f"q_max is {q_max}; it is an integer from 1 to 255"):
            native.set_design(good, 1.0, 1.0, q_max)
    with pytest.raises(InvalidInputError, match="a comment of 65534 bytes"):
        native.set_comment(b"x" * 65534)


def test_ladders_thresholds_and_budgets_are_checked_in_c_as_well(native):
    table, zones = np.ones((8, 8), np.uint8), [np.full((8, 8), 0.5) for _ in range(4)]
    zones[0][3, 2], zones[1][7, 7], zones[2][1, 0], zones[3][0, 0] = 0.499, 1.001, np.nan, 0.6
    for zone, message in zip(
        zones, ("row 3, column 2 is 0.499", "row 7, column 7", "row 1", "of DC is 0.6"), strict=True
    ):
        with pytest.raises(InvalidInputError, match=f"the luma threshold.*{message}"):
            native.set_dead_zone(zone, None)
        with pytest.raises(InvalidInputError, match=f"the chroma threshold.*{message}"):
            native.set_dead_zone(None, zone)
        with pytest.raises(InvalidInputError, match=f"the chroma threshold.*{message}"):
            native.set_ladder([(1.0, (table, table, None, zone))], 0)
    plain = (table, None, None, None)
    for rates in ((0.0,), (-1.0,), (np.nan,), (np.inf,), (1.0, 1.0), (1.0, 2.0, 1.5)):
        with pytest.raises(InvalidInputError, match="a level's rate is"):
            native.set_ladder([(rate, plain) for rate in rates], 0)
    levels = [(1.0 + i, plain) for i in range(17)]
    with pytest.raises(InvalidInputError, match="count is 17; it is an integer from 1 to 16"):
        native.set_ladder(levels, 0)
    with pytest.raises(InvalidInputError, match="count is 0"):
        native.set_ladder([], 0)
    with pytest.raises(InvalidInputError, match="level is 16; it is an integer from 0 to 15"):
        native.set_ladder(levels[:16], 16)
    for call in (lambda: native.set_level(0), lambda: native.set_slope(1.0)):
        with pytest.raises(NativeLibraryError, match="no ladder yet"):
            call()
    native.set_ladder(levels[:16], 3)
    with pytest.raises(NativeLibraryError, match="a colour frame needs a chroma table"):
        native.encode(np.zeros((8, 8, 3), np.uint8), "rgb")
    assert native.encode(np.zeros((8, 8), np.uint8), "gray")
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="slope is"):
            native.set_slope(value)
        with pytest.raises(InvalidInputError, match="max_bits_per_pixel is"):
            native.set_budget(0, value)
    with pytest.raises(InvalidInputError, match="level is -1"):
        native.set_level(-1)


def test_a_budget_that_cannot_be_met_says_the_smallest_size():
    lib, handle, data, size = load_library(), c_void_p(), c_void_p(1), c_size_t()
    options, table = library._Options(0, 0, 1), np.full(64, 50, np.uint8)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    image = library._Image(pixels.ctypes.data, 64, 64, 64, 1, 2)
    assert lib.edgejpeg_encoder_create(byref(options), byref(handle)) == 0
    assert lib.edgejpeg_encoder_set_tables(handle, table.ctypes.data, None) == 0
    assert lib.edgejpeg_encoder_set_budget(handle, 400, 0.0) == 0
    assert lib.edgejpeg_encoder_encode(handle, byref(image), byref(data), byref(size)) == 5
    smallest = size.value
    assert data.value is None
    assert f"the smallest file of this frame has {smallest} bytes" in _last_error()
    assert lib.edgejpeg_encoder_result(handle, byref(library._Result())) == 3
    assert lib.edgejpeg_encoder_swe(handle, (c_double * 3)()) == 3
    assert lib.edgejpeg_encoder_set_budget(handle, smallest, 0.0) == 0
    assert lib.edgejpeg_encoder_encode(handle, byref(image), byref(data), byref(size)) == 0
    assert size.value <= smallest
    lib.edgejpeg_encoder_destroy(handle)


def test_order_of_calls(native):
    frame = np.zeros((8, 8, 3), np.uint8)
    assert native.tables() is None
    assert native.statistics() is None
    assert native.result() is None
    assert native.swe() is None
    with pytest.raises(NativeLibraryError, match="no tables yet"):
        native.encode(frame, "rgb")
    native.set_tables(np.ones((8, 8), np.uint8), None)
    with pytest.raises(NativeLibraryError, match="needs a chroma table"):
        native.encode(frame, "rgb")
    assert native.encode(frame[..., 0], "gray").startswith(b"\xff\xd8")
    assert native.statistics() is None


@pytest.mark.parametrize(("width", "height", "fmt"), [(0, 8, 0), (8, 0, 0), (65536, 1, 0), (1, -1, 0), (8, 8, 7)])
def test_image_fields_are_checked_in_c(native, width, height, fmt):
    native.set_tables(np.ones((8, 8), np.uint8), np.ones((8, 8), np.uint8))
    pixels = np.zeros((8, 8, 3), np.uint8)
    image = library._Image(pixels.ctypes.data, width, height, 24, 3, fmt)
    data, size = c_void_p(1), c_size_t(1)
    status = load_library().edgejpeg_encoder_encode(native._handle, byref(image), byref(data), byref(size))
    assert (status, data.value, size.value) == (INVALID, None, 0)
    assert re.search("image (width|height|format) is", _last_error())
    assert native.encode(pixels, "rgb").endswith(b"\xff\xd9")  # a refusal does no harm


def test_longest_comment(native):
    from edgejpeg.jpeg.markers import parse_jpeg

    native.set_tables(np.ones((8, 8), np.uint8), np.ones((8, 8), np.uint8))
    native.set_comment(b"c" * 65533)
    assert parse_jpeg(native.encode(np.zeros((1, 1), np.uint8), "gray")).comments == [b"c" * 65533]
    native.set_comment(b"")
    assert parse_jpeg(native.encode(np.zeros((1, 1), np.uint8), "gray")).comments == []


SHORT_OF_MEMORY = """
import resource
import numpy as np
from edgejpeg.errors import NativeLibraryError
from edgejpeg.runtime.encoder import Encoder
from edgejpeg.profile import Profile

profile = Profile.adaptive(name="a", sensitivity=np.full((3, 8, 8), 1e-4), water_level=0.1)
encoder = Encoder(profile)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
small = np.zeros((20, 20, 3), np.uint8)
shape = (65535, 65535, 3)
huge = np.lib.stride_tricks.as_strided(small, shape, (3 * 65535, 3, 1))  # refused before a sample is read
repeated = np.broadcast_to(small[:1, :1], shape)
for call in (lambda: encoder.encode(huge), lambda: encoder.encode(repeated), lambda: Encoder(profile, threads=256)):
    try:
        call()
    except NativeLibraryError as error:
        print(error)
    assert encoder.encode(small)[:2] == b"\\xff\\xd8"
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_short_memory_is_an_error_and_not_the_end():
    run = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=True, cwd="/")
    lines = run.stdout.splitlines()
    assert len(lines) == 3 and all("not enough memory" in line for line in lines)
    assert "65535 x 65535" in lines[0] and "65535 x 65535" in lines[1]
    assert "256 threads" in lines[2]


C_PROGRAM = r"""
#include <edgejpeg.h>
#include <stdio.h>
#include <stdlib.h>

/* Usage: program RAW WIDTH HEIGHT TABLES OUT. RAW: packed BGR. TABLES: 128 bytes, row-major. */
int main(int argc, char** argv) {
  edgejpeg_encoder* encoder = NULL;
  const edgejpeg_options options = {.subsampling = EDGEJPEG_420, .effort = 1, .threads = 2};
  edgejpeg_image image = {.pixel_stride = 3, .format = EDGEJPEG_BGR};
  edgejpeg_statistics statistics;
  uint8_t tables[128], luma[64], chroma[64];
  const uint8_t* data;
  size_t size, bytes;
  uint8_t* pixels;
  FILE* file;
  if (argc != 6) return 2;
  image.width = atoi(argv[2]);
  image.height = atoi(argv[3]);
  image.row_stride = 3 * (ptrdiff_t)image.width;
  bytes = (size_t)image.height * (size_t)image.row_stride;
  pixels = malloc(bytes);
  image.pixels = pixels;
  file = fopen(argv[1], "rb");
  if (!pixels || !file || fread(pixels, 1, bytes, file) != bytes) return 3;
  fclose(file);
  file = fopen(argv[4], "rb");
  if (!file || fread(tables, 1, 128, file) != 128) return 4;
  fclose(file);
  if (edgejpeg_encoder_create(&options, &encoder) || edgejpeg_encoder_set_tables(encoder, tables, tables + 64) ||
      edgejpeg_encoder_encode(encoder, &image, &data, &size) || edgejpeg_encoder_tables(encoder, luma, chroma)) {
    fprintf(stderr, "%s\n", edgejpeg_last_error());
    return 5;
  }
  if (edgejpeg_encoder_statistics(encoder, &statistics) != EDGEJPEG_NOT_READY) return 6;
  file = fopen(argv[5], "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file)) return 7;
  edgejpeg_encoder_destroy(encoder);
  free(pixels);
  printf("%s %d %d %d %d\n", edgejpeg_version(), luma[1] == tables[1], chroma[63] == tables[127],
         (int)sizeof(edgejpeg_image), (int)sizeof(edgejpeg_statistics));
  printf(" %d %d %d", (int)sizeof(edgejpeg_options), (int)sizeof(edgejpeg_level), (int)sizeof(edgejpeg_result));
  return 0;
}
"""


@needs_gcc
def test_a_c_program(tmp_path, photo):
    frame = photo(61, 83)
    tables = ijg_tables(85)
    (tmp_path / "main.c").write_text(C_PROGRAM)
    (tmp_path / "frame.raw").write_bytes(frame[..., ::-1].tobytes())
    (tmp_path / "tables").write_bytes(b"".join(table.array.tobytes() for table in tables))
    folder = find_library().parent
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", HEADER_FOLDER, "-L", folder]
    program = tmp_path / "program"
    subprocess.run(
        ["gcc", *flags, tmp_path / "main.c", "-o", program, "-ledgejpeg", f"-Wl,-rpath,{folder}"], check=True
    )
    arguments = [tmp_path / "frame.raw", "83", "61", tmp_path / "tables", tmp_path / "out.jpg"]
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    structures = library._Image, library._Statistics, library._Options, library._Level, library._Result
    sizes = map(ctypes.sizeof, structures)
    assert run.stdout.split() == [edgejpeg.__version__, "1", "1", *map(str, sizes)]
    assert (tmp_path / "out.jpg").read_bytes() == encode_jpeg(frame, tables=tables, effort=1)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_header_is_cxx_as_well(tmp_path):
    source = tmp_path / "a.cpp"
    source.write_text("#include <edgejpeg.h>\nint main() { return *edgejpeg_version() == 0; }\n")
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, "-I", HEADER_FOLDER, source], check=True)


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_only_the_interface_is_exported():
    listing = subprocess.run(["nm", "-D", "--defined-only", find_library()], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in listing.stdout.splitlines() if line.split()[-2] in "TDBRV"}
    assert exported == set(library._SIGNATURES)
