"""Huffman tables: the stored ones and the choice among them, and samples instead of the whole of large frames."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from edgejpeg.design.opts import design_tables
from edgejpeg.design.statistics import block_statistics
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.huffman_sets import STORED_TABLES
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.reference import component_blocks, quantize
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import load_profile
from edgejpeg.runtime import Encoder, encode_jpeg
from edgejpeg.runtime.library import NativeEncoder

LARGE = (720, 1280)


@pytest.fixture(scope="module")
def training(repository):
    """benchmarks/huffman_sets.py, whose counts of symbols are NumPy's alone."""
    pytest.importorskip("cv2", reason="OpenCV, with which the script reads images, is not installed")
    spec = importlib.util.spec_from_file_location("huffman_sets", repository / "benchmarks" / "huffman_sets.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored(repository):
    """The tables of huffman_sets.cpp by (class, slot), Annex K's first."""
    text = (repository / "runtime" / "native" / "huffman_sets.cpp").read_text()
    found = {}
    for kind, name in enumerate(("kTrainedDc", "kTrainedAc")):
        body = re.search(rf"{name}\[2\]\[\w+ - 1\] = (\{{.*?\}});", text, re.DOTALL).group(1)
        entries = re.findall(r"\{\{([\d,\s]+)\},\s*\{([0-9a-fx,\s]+)\},\s*(\d+)\}", body)
        tables = []
        for counts, symbols, size in entries:
            table = huffman.HuffmanTable(
                tuple(int(c) for c in counts.split(",")), tuple(int(s, 16) for s in symbols.split(","))
            )
            assert len(table.symbols) == int(size) == sum(table.counts)
            tables.append(table)
        half = len(tables) // 2
        for slot in (0, 1):
            found[kind, slot] = [huffman.STANDARD_TABLES[kind, slot], *tables[slot * half : (slot + 1) * half]]
    return found


def large_frame(photo, rng) -> np.ndarray:
    frame = photo(*LARGE).astype(int) + rng.integers(-2, 3, (*LARGE, 3))
    return np.clip(frame, 0, 255).astype(np.uint8)


# --- the stored tables ---


def test_python_knows_the_same_stored_tables(stored):
    assert {key: list(tables) for key, tables in STORED_TABLES.items()} == stored


def test_stored_tables_code_every_symbol_of_a_baseline_file(stored):
    assert [len(stored[kind, slot]) for kind in (0, 1) for slot in (0, 1)] == [4, 4, 12, 12]
    for (kind, slot), tables in stored.items():
        assert len(set(tables)) == len(tables)
        for table in tables:
            assert sorted(table.symbols) == sorted(huffman.STANDARD_TABLES[kind, slot].symbols)
            assert len(table.counts) == 16
            # Codes of all ones are reserved, so one of the longest is missing.
            assert sum(count << (16 - length) for length, count in enumerate(table.counts, 1)) < 1 << 16


@pytest.mark.parametrize("quality", [5, 20, 50, 75, 95])
@pytest.mark.parametrize("subsampling", ["444", "420", "gray"])
def test_the_choice_is_near_the_best(quality, subsampling, training, stored, photo, monkeypatch):
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")  # so that the levels are the Python reference's
    tables = ijg_tables(quality)
    for frame in (photo(224, 224), photo(112, 304)[:, 48:], photo(16, 16), photo(400, 592)[::-1]):
        chosen = parse_jpeg(encode_jpeg(frame, quality=quality, subsampling=subsampling)).huffman
        counts = {key: np.zeros(256, np.int64) for key in chosen}
        for index, blocks in enumerate(component_blocks(frame, subsampling)):
            slot = min(index, 1)
            levels = training.scan_order(quantize(blocks, tables[slot]), index == 0 and subsampling == "420")
            dc, ac, _ = training.count_component(levels)
            counts[0, slot] += dc
            counts[1, slot] += ac
        taken = best = standard = 0
        for key, table in chosen.items():
            written = [huffman.without_larger(t, huffman.largest_sizes(tables[key[1]])[key[0]]) for t in stored[key]]
            assert table in written
            bits = [int(counts[key] @ training.lengths(choice)) for choice in stored[key]]
            assert (counts[key][training.lengths(table) == 0] == 0).all()
            taken += bits[written.index(table)]
            best += min(bits)
            standard += bits[0]
        assert taken <= 1.02 * best + 32, (frame.shape, taken, best, standard)
        assert taken <= standard + 32


def test_no_content_has_a_symbol_that_was_left_out(rng, monkeypatch):
    """The largest levels and differences that there are, from the signs of the cosines, against Annex K's tables."""
    decoder = pytest.importorskip("PIL.Image", reason="Pillow, the decoder to test against, is not installed")

    def opened(data):
        return np.asarray(decoder.open(io.BytesIO(data)))

    y, x = np.mgrid[0:64, 0:64] % 8
    wave = np.cos((2 * np.arange(8)[:, None] + 1) * np.arange(8) * np.pi / 16)
    patterns = [wave[y, v] * wave[x, u] for u in range(8) for v in range(8)]
    patterns += [np.mgrid[0:64, 0:64].sum(axis=0) // 8 % 2 - 0.5, rng.uniform(-1, 1, (64, 64))]
    frames = [np.where(pattern * sign > 0, 255, 0).astype(np.uint8) for pattern in patterns for sign in (1, -1)]
    for backend in ("", "scalar", "reference"):
        monkeypatch.setenv("EDGEJPEG_BACKEND", backend)
        for step in (1, 2, 3, 5, 8, 9, 16, 17, 32, 33, 64, 65, 66, 67, 128, 129, 255):
            table = QuantTable(np.full((8, 8), step))
            stored, whole = (NativeEncoder("gray", 0, 1, standard_huffman=standard) for standard in (0, 1))
            for frame in frames if backend == "" else frames[::9]:
                files = []
                for native in (stored, whole):
                    native.set_tables(table.array, None)
                    files.append(native.encode(frame, "gray"))
                assert (opened(files[0]) == opened(files[1])).all(), step
                sizes = huffman.largest_sizes(table)
                tables = parse_jpeg(files[0]).huffman
                assert all(tables[kind, 0].symbols[-1] % 16 <= sizes[kind] for kind in (0, 1))
            stored.close()
            whole.close()


def test_sampled_tables_have_every_symbol_that_can_be(photo, rng):
    frame = large_frame(photo, rng)
    for quality in (30, 75, 90):
        tables = ijg_tables(quality)
        sampled = parse_jpeg(encode_jpeg(frame, quality=quality, effort=1)).huffman
        for (kind, slot), table in sampled.items():
            largest = huffman.largest_sizes(tables[slot])[kind]
            every = [s for s in huffman.STANDARD_TABLES[kind, slot].symbols if s % 16 <= largest]
            assert sorted(table.symbols) == sorted(every)


def test_smaller_than_annex_k_on_photos_and_never_larger_than_it_by_much(photo, rng):
    frames = [photo(300, 400), photo(64, 64), rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)]
    for quality in (10, 50, 90):
        for frame in frames:
            native = NativeEncoder("420", 0, 1, standard_huffman=1)
            native.set_tables(*(table.array for table in ijg_tables(quality)))
            annex_k = native.encode(frame, "rgb")
            assert parse_jpeg(annex_k).huffman == huffman.STANDARD_TABLES
            native.close()
            size = len(encode_jpeg(frame, quality=quality))
            assert size <= 1.005 * len(annex_k)
            if frame is frames[0]:
                assert size < len(annex_k)


def test_a_file_does_not_depend_on_the_frames_before(photo, rng):
    native = NativeEncoder("420", 0, 1)
    frames = [photo(90, 120), rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), np.zeros((90, 120, 3), np.uint8)]
    for quality in (10, 90):
        native.set_tables(*(table.array for table in ijg_tables(quality)))
        for frame in [*frames, *reversed(frames)]:
            assert native.encode(frame, "rgb") == encode_jpeg(frame, quality=quality)


# --- samples of large frames ---


def test_sampled_huffman_tables_are_nearly_as_good_as_exact_ones(photo, rng):
    frame = large_frame(photo, rng)
    for quality in (30, 80):
        sampled, exact = (
            encode_jpeg(frame, quality=quality, effort=1, exact_huffman=exact_huffman)
            for exact_huffman in (False, True)
        )
        stored = encode_jpeg(frame, quality=quality)
        assert len(exact) < len(sampled) < 1.001 * len(stored)
        assert len(sampled) < 1.01 * len(exact)
        assert {encode_jpeg(frame, quality=quality, effort=1, threads=n) for n in (2, 3, 7)} == {sampled}


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="jpegtran (libjpeg-turbo-progs) is not installed")
def test_exact_huffman_tables_are_libjpegs(photo, rng):
    frame = large_frame(photo, rng)
    exact = encode_jpeg(frame, effort=1, exact_huffman=True)
    done = subprocess.run(["jpegtran", "-optimize"], input=encode_jpeg(frame), capture_output=True, check=True)
    assert done.stdout == exact


@pytest.mark.parametrize("size", [(720, 1279), (719, 1280), (300, 3072 + 16)])
def test_smaller_frames_are_not_sampled(size, photo):
    frame = photo(*size)
    assert encode_jpeg(frame, effort=1) == encode_jpeg(frame, effort=1, exact_huffman=True)
    profile = load_profile("efficientnet_lite0")
    with Encoder(profile) as plain, Encoder(profile, sampled_statistics=True) as sampled:
        assert plain.encode(frame) == sampled.encode(frame)


def test_sampled_statistics_are_those_of_every_fourth_row(photo, rng, monkeypatch):
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    frame = large_frame(photo, rng)[:712]
    frame = np.concatenate([frame, frame[:40]])  # 47 rows of MCUs
    profile = load_profile("efficientnet_lite0")
    assert profile.sensitivity is not None
    with Encoder(profile, color="rgb", sampled_statistics=True) as encoder:
        data = encoder.encode(frame)
        statistics, tables = encoder.statistics, encoder.tables
    measured = np.concatenate([frame[16 * row : 16 * row + 16] for row in range(2, 47, 4)])
    expected = block_statistics(component_blocks(measured, "420"), center=False)
    assert statistics is not None
    for name in ("mean", "variance", "laplace_scale"):
        np.testing.assert_allclose(getattr(statistics, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
    assert statistics.blocks.tolist() == expected.blocks.tolist()
    assert tables == design_tables(profile.sensitivity, expected, profile.water_level, profile.q_max)
    assert parse_jpeg(data).quant_table(0) == tables[0]


def test_sampled_statistics_on_any_back_end_and_thread_count(photo, rng, monkeypatch):
    frame = large_frame(photo, rng)
    files = set()
    for backend in ("scalar", ""):
        monkeypatch.setenv("EDGEJPEG_BACKEND", backend)
        for threads in (1, 3):
            for subsampling in ("efficientnet_lite0", "efficientnet_lite0-444"):
                with Encoder(subsampling, threads=threads, sampled_statistics=True) as encoder:
                    files.add(encoder.encode(frame))
    assert len(files) == 2
    with Encoder("efficientnet_lite0") as encoder:
        everything = encoder.encode(frame)
    assert min(abs(len(data) / len(everything) - 1) for data in files) < 0.02
