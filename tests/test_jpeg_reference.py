"""The reference encoder against libjpeg: same coefficients, same Huffman tables, decoded without complaint."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.reference import component_blocks, encode_reference, quantize
from edgejpeg.jpeg.tables import QuantTable, ijg_tables

Image = pytest.importorskip("PIL.Image", reason="Pillow, the decoder to test against, is not installed")
ONES = (QuantTable(np.ones((8, 8), int)),) * 2


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
@pytest.mark.parametrize("effort", [0, 1])
def test_every_small_size_decodes(subsampling, effort, rng):
    for height, width in itertools.product((1, 2, 7, 8, 9, 15, 16, 17, 25), repeat=2):
        shape = (height, width) if subsampling == "gray" else (height, width, 3)
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        data = encode_reference(image, ijg_tables(90), subsampling, effort=effort)
        info = parse_jpeg(data)
        assert (info.width, info.height, info.subsampling) == (width, height, subsampling)
        assert _decode(data).shape == (height, width, 3)


def test_step_one_is_nearly_lossless(rng):
    gray = rng.integers(0, 256, (40, 33), dtype=np.uint8)
    decoded = _decode(encode_reference(gray, ONES[:1], "gray"))[..., 0]
    assert np.abs(decoded - gray).max() <= 2
    assert (decoded == gray).mean() > 0.9


def test_close_to_pillows_encoding_of_a_photo(photo):
    image = photo(120, 165)
    for subsampling, code in (("444", 0), ("422", 1), ("420", 2)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=85, subsampling=code)
        ours = encode_reference(image, ijg_tables(85), subsampling)
        assert abs(len(ours) / len(buffer.getvalue()) - 1) < 0.01
        # libjpeg rounds chroma before it averages and so differs a little more where there is subsampling.
        bound = 0.3 if subsampling == "444" else 0.8
        assert np.abs(_decode(ours) - _decode(buffer.getvalue())).mean() < bound


@pytest.mark.skipif(shutil.which("djpeg") is None, reason="djpeg (libjpeg-turbo-progs) is not installed")
def test_djpeg_strict(photo, tmp_path):
    path = tmp_path / "a.jpg"
    for subsampling, effort in itertools.product(("444", "422", "420"), (0, 1)):
        path.write_bytes(encode_reference(photo(37, 51), ijg_tables(50), subsampling, effort=effort, comment=b"hi"))
        done = subprocess.run(["djpeg", "-strict", "-outfile", str(tmp_path / "a.ppm"), str(path)], capture_output=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_noise_and_checkerboards_at_step_one(subsampling, rng):
    checker = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    for image in (rng.choice(np.array([0, 255], np.uint8), (32, 32, 3)), np.repeat(checker[..., None], 3, 2)):
        blocks = [quantize(b, ONES[0]) for b in component_blocks(image, subsampling)]
        assert max(np.abs(b).max() for b in blocks) <= 1024
        assert max(np.abs(b.reshape(-1, 64)[:, 1:]).max() for b in blocks) <= 1023
        for effort in (0, 1):
            decoded = _decode(encode_reference(image, ONES, subsampling, effort=effort))
            assert np.abs(decoded.mean() - image.mean()) < 3


def test_quantize_rounds_halves_away_from_zero():
    table = QuantTable(np.full((8, 8), 2))
    values = np.zeros((8, 8))
    values[0] = [1, -1, 3, -3, 0.99, -0.99, 5, 0]
    assert quantize(values, table)[0].tolist() == [1, -1, 2, -2, 0, 0, 3, 0]


def _shortest_lengths(frequencies: np.ndarray) -> float:
    """Bits of an unrestricted Huffman code with one reserved symbol, by the textbook heap."""
    import heapq

    heap = [(int(f), i, 0) for i, f in enumerate(frequencies) if f] + [(0, 999, 0)]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        total += a[0] + b[0]
        heapq.heappush(heap, (a[0] + b[0], min(a[1], b[1]), 0))
    return total


def test_optimal_tables_are_optimal_prefix_codes(rng):
    for trial in range(40):
        used = int(rng.integers(1, 257))
        frequencies = np.zeros(256, np.int64)
        frequencies[rng.permutation(256)[:used]] = rng.integers(1, 50 if trial % 2 else 5000, used)
        table = huffman.optimal_table(frequencies)
        codes = table.codes()
        assert set(codes) == set(np.flatnonzero(frequencies))
        words = sorted(f"{code:0{length}b}" for code, length in codes.values())
        assert not any(b.startswith(a) for a, b in itertools.pairwise(words))
        assert not any(set(word) == {"1"} for word in words)  # the all-ones code is reserved
        assert max(map(len, words)) <= 16
        bits = sum(int(frequencies[s]) * length for s, (_, length) in codes.items())
        if max(map(len, words)) < 16:
            assert bits <= _shortest_lengths(frequencies) + frequencies.max()
        assert bits >= _shortest_lengths(frequencies) - 1


def test_optimal_tables_limit_the_code_length():
    frequencies = np.zeros(256, np.int64)
    frequencies[:40] = [int(1.6**k) + 1 for k in range(40)]  # Fibonacci-like: unrestricted codes would need 40 bits
    codes = huffman.optimal_table(frequencies).codes()
    assert max(length for _, length in codes.values()) == 16
    assert sum(2.0**-length for _, length in codes.values()) < 1


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="jpegtran (libjpeg-turbo-progs) is not installed")
@pytest.mark.parametrize("subsampling", ["444", "420", "gray"])
def test_optimal_tables_equal_libjpegs(subsampling, photo, tmp_path):
    """jpegtran optimises the Huffman tables of our standard-table file: the same file as ours with optimal tables."""
    for size, quality in (((64, 64), 100), ((90, 131), 75), ((17, 9), 20)):
        image = photo(*size) if subsampling != "gray" else photo(*size)[..., 1]
        path, out = tmp_path / "a.jpg", tmp_path / "b.jpg"
        path.write_bytes(encode_reference(image, ijg_tables(quality), subsampling))
        subprocess.run(["jpegtran", "-optimize", "-outfile", str(out), str(path)], check=True)
        ours = encode_reference(image, ijg_tables(quality), subsampling, effort=1)
        assert parse_jpeg(ours).huffman == parse_jpeg(out.read_bytes()).huffman
        assert ours.split(b"\xff\xda")[1] == out.read_bytes().split(b"\xff\xda")[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effort": 2}, "effort"),
        ({"tables": ONES[:1]}, "luma and a chroma"),
        ({"comment": b"x" * 65534}, "65533"),
        ({"subsampling": "440"}, "subsampling"),
    ],
)
def test_bad_options(change, message, rng):
    options = {"tables": ONES, "subsampling": "420", **change}
    with pytest.raises(InvalidInputError, match=message):
        encode_reference(np.zeros((8, 8, 3), np.uint8), options.pop("tables"), options.pop("subsampling"), **options)
