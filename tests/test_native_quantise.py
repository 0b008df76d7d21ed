"""The quantisers of all back ends against the readable one, with and without a dead zone."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess

import numpy as np
import pytest

from edgejpeg.jpeg.dct import DCT_MATRIX, block_dct
from edgejpeg.jpeg.reference import quantize
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.jpeg.zigzag import from_zigzag

MOST = 0.005
"""The largest fraction of levels that may differ from the float64 quantiser's."""


def thresholds(rng, flat: float | None = None) -> np.ndarray:
    """Random ones, a third of them plain rounding; or the same for all AC frequencies."""
    values = rng.uniform(0.5, 1, (8, 8)) if flat is None else np.full((8, 8), flat)
    if flat is None:
        values[rng.random((8, 8)) < 1 / 3] = 0.5
        values[7, 7] = 1
    values[0, 0] = 0.5
    return values


def strips(rng, photo) -> dict[str, np.ndarray]:
    """(8, 16 n) int8 samples."""
    line = np.tile(np.arange(8), 40)
    return {
        "photo": (photo(128, 640)[..., 1].reshape(16, 8, 640).swapaxes(0, 1).reshape(8, -1) ^ 128).view(np.int8),
        "noise": rng.integers(-128, 128, (8, 4096)).astype(np.int8),
        "weak noise": np.clip(rng.normal(0, 12, (8, 4096)), -128, 127).astype(np.int8),
        "two values": rng.choice(np.array([-128, 127], np.int8), (8, 1024)),
        "columns": np.tile(np.where(line % 2, 127, -128).astype(np.int8), (8, 1)),
        "one pair": rng.integers(-128, 128, (8, 16)).astype(np.int8),
    }


@pytest.fixture
def native(native_hooks):
    """(back end, samples, table, dead zone or None, exactly) -> levels (blocks, 8, 8), or None without the back end."""
    function = native_hooks.library.hook_quantise
    function.restype = ctypes.c_int32
    pointer = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, pointer, ctypes.c_size_t, pointer, pointer, ctypes.c_int32, pointer]

    def levels(name, samples, table, dead_zone=None, exactly=False):
        samples = np.ascontiguousarray(samples)
        out = np.full((samples.shape[1] // 8, 64), 9999, np.int16)
        zones = None if dead_zone is None else np.ascontiguousarray(dead_zone, np.float64)
        steps = np.ascontiguousarray(table.array)
        done = function(
            name.encode(),
            samples.ctypes.data,
            samples.shape[1] // 16,
            steps.ctypes.data,
            None if zones is None else zones.ctypes.data,
            exactly,
            out.ctypes.data,
        )
        return from_zigzag(out) if done else None

    return levels


def expected(samples, table, dead_zone=None):
    return quantize(block_dct(samples.astype(np.int16))[0], table, dead_zone)


@pytest.mark.parametrize("flat", [None, 0.5, 0.7, 1.0])
def test_the_exact_quantiser_equals_the_oracle(flat, native, rng, photo):
    dead_zone = thresholds(rng, flat)
    for name, samples in strips(rng, photo).items():
        for table in (*ijg_tables(80), QuantTable(np.full((8, 8), 1)), QuantTable(np.full((8, 8), 255))):
            for backend in ("scalar", "reference"):
                got = native(backend, samples, table, dead_zone, exactly=True)
                np.testing.assert_array_equal(got, expected(samples, table, dead_zone), err_msg=name)


def test_a_coefficient_at_the_threshold_stays(native):
    """C = -24 with q = 32: |C| = .75 q, and the int16 DCT is exact at this frequency."""
    plane = np.zeros((8, 8))
    plane[4, 4] = -24
    samples = np.tile(np.round(DCT_MATRIX.T @ plane @ DCT_MATRIX), (1, 2)).astype(np.int8)
    assert block_dct(samples.astype(np.int16))[0, 0, 4, 4] == pytest.approx(-24, abs=1e-12)
    table = QuantTable(np.full((8, 8), 32))
    for threshold, level in ((0.75, -1), (np.nextafter(0.75, 1), 0)):
        for backend in ("scalar", "avx2", "avx512", "neon"):
            got = native(backend, samples, table, thresholds(None, threshold))
            assert got is None or (got[:, 4, 4] == level).all(), (backend, threshold)


@pytest.mark.parametrize("flat", [None, 0.6, 1.0])
def test_the_int16_quantiser_is_within_rounding(flat, native, rng, photo):
    dead_zone = thresholds(rng, flat)
    for name, samples in strips(rng, photo).items():
        for table in (*ijg_tables(30), *ijg_tables(90), QuantTable(np.full((8, 8), 255))):
            got = native("scalar", samples, table, dead_zone)
            difference = np.abs(got - expected(samples, table, dead_zone))
            assert difference.max() <= 1, name
            assert difference.mean() <= MOST or difference.sum() == 1, name


@pytest.mark.parametrize("backend", ["avx2", "avx512", "neon"])
@pytest.mark.parametrize("flat", [None, 0.5, 0.8, "rounding"])
def test_all_back_ends_give_the_same_levels(flat, backend, native, rng, photo):
    if native(backend, np.zeros((8, 16), np.int8), ijg_tables(50)[0]) is None:
        pytest.skip(f"this machine's processor has no {backend} back end")
    dead_zone = None if flat == "rounding" else thresholds(rng, flat)
    for name, samples in strips(rng, photo).items():
        for step in (1, 5, 8, 9, 40, 255):
            table = QuantTable(np.maximum(ijg_tables(60)[0].array // 4, 1) if step == 1 else np.full((8, 8), step))
            for exactly in (False, True):
                plain = native("scalar", samples, table, dead_zone, exactly)
                got = native(backend, samples, table, dead_zone, exactly)
                np.testing.assert_array_equal(got, plain, err_msg=name)


def test_half_everywhere_is_plain_rounding(native, rng, photo):
    samples = strips(rng, photo)["photo"]
    for backend in ("scalar", "avx2", "avx512", "neon", "reference"):
        for exactly in (False, True):
            plain = native(backend, samples, ijg_tables(80)[0], None, exactly)
            if plain is not None:
                half = native(backend, samples, ijg_tables(80)[0], np.full((8, 8), 0.5), exactly)
                np.testing.assert_array_equal(half, plain)


# --- NEON, built by the cross compiler and run by an emulator ---

PROGRAM = r"""
#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" int32_t hook_quantise(const char*, const int8_t*, size_t, const uint8_t*, const double*, int32_t, int16_t*);

// Samples from the standard input, levels of "neon" to the standard output.
int main() {
  uint64_t pairs;
  uint8_t table[64];
  double dead_zone[64];
  while (fread(&pairs, sizeof(pairs), 1, stdin) == 1) {
    std::vector<int8_t> samples(128 * pairs);
    std::vector<int16_t> levels(128 * pairs);
    if (fread(table, 64, 1, stdin) != 1 || fread(dead_zone, 512, 1, stdin) != 1 ||
        fread(samples.data(), samples.size(), 1, stdin) != 1) {
      return 1;
    }
    const double* const zone = dead_zone[0] == 0 ? nullptr : dead_zone;
    if (!hook_quantise("neon", samples.data(), pairs, table, zone, 0, levels.data())) return 2;
    fwrite(levels.data(), 2, levels.size(), stdout);
  }
}
"""

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.slow
def test_arm_gives_the_same_levels(native, rng, photo, repository, tmp_path):
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: g++-aarch64-linux-gnu, qemu-user)")
    source = repository / "runtime" / "native"
    (tmp_path / "main.cpp").write_text(PROGRAM)
    names = ("backend", "neon", "neon_colour", "quantise", "scalar", "scalar_colour", "testing/quantise_hooks")
    files = [*(source / f"{name}.cpp" for name in names), tmp_path / "main.cpp"]
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-static"]
    subprocess.run([COMPILER, *flags, *files, "-o", tmp_path / "program"], check=True)
    packed, wanted = b"", []
    for samples in strips(rng, photo).values():
        for table in (ijg_tables(40)[0], ijg_tables(90)[0], QuantTable(np.full((8, 8), 5))):
            for dead_zone in (None, thresholds(rng), thresholds(rng, 1.0)):
                zone = np.zeros((8, 8)) if dead_zone is None else dead_zone
                head = (samples.shape[1] // 16).to_bytes(8, "little") + table.array.tobytes() + zone.tobytes()
                packed += head + np.ascontiguousarray(samples).tobytes()
                wanted.append(native("scalar", samples, table, dead_zone).astype(np.int16))
    run = subprocess.run(
        [EMULATOR, tmp_path / "program"], input=packed, capture_output=True, check=True, env=os.environ
    )
    got = from_zigzag(np.frombuffer(run.stdout, np.int16).reshape(-1, 64))
    np.testing.assert_array_equal(got, np.concatenate(wanted))
