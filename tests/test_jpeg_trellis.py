"""Dead zones and the trellis: against their definitions, brute force, and the file's real bits."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.reference import component_blocks, encode_reference, quantize
from edgejpeg.jpeg.tables import QuantTable, dead_zone_thresholds, ijg_tables
from edgejpeg.jpeg.trellis import (
    AC_SYMBOLS,
    block_bits,
    code_lengths,
    trellis_block,
    trellis_quantize,
    trim_block,
)
from edgejpeg.jpeg.zigzag import to_zigzag

STANDARD = code_lengths(huffman.STANDARD_AC_LUMA)


def thresholds(rng) -> np.ndarray:
    values = rng.uniform(0.5, 1, (8, 8))
    values[0, 0] = 0.5
    return values


def test_dead_zone_is_its_definition(rng):
    table = QuantTable(rng.integers(1, 100, (8, 8)))
    zone = thresholds(rng)
    blocks = rng.laplace(0, 30, (200, 8, 8))
    blocks[0] = zone * table.array  # on the threshold: kept, unless rounding alone gives 0
    blocks[1] = -np.nextafter(zone * table.array, 0)
    levels = quantize(blocks, table, zone)
    for index in np.ndindex(*blocks.shape):
        c, q, t = blocks[index], float(table.array[index[1:]]), zone[index[1:]]
        rounded = int(np.sign(c) * np.floor(abs(c) / q + 0.5))
        assert levels[index] == (0 if abs(c) < t * q and index[1:] != (0, 0) else rounded)
    assert (levels[0] == 1).all()
    assert (levels[1].reshape(64)[1:] == 0).all()


def test_half_a_step_everywhere_is_plain_rounding(rng, photo):
    table = ijg_tables(60)[0]
    blocks = component_blocks(photo(64, 64), "444")[0]
    half = np.full((8, 8), 0.5)
    assert (quantize(blocks, table, half) == quantize(blocks, table)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z[:7], "shape"),
        (lambda z: np.where(z == z[3, 3], np.nan, z), "got nan at row 3, column 3"),
        (lambda z: np.where(z == z[3, 3], 0.4, z), "got 0.4 at row 3, column 3"),
        (lambda z: np.where(z == z[3, 3], 1.1, z), "got 1.1"),
        (lambda z: z + 0.1 * (np.arange(64).reshape(8, 8) == 0), "DC"),
    ],
)
def test_thresholds_out_of_range_are_refused(rng, change, message):
    with pytest.raises(InvalidInputError, match=message):
        dead_zone_thresholds(change(thresholds(rng) * 0.9 + 0.05))


def test_a_file_with_dead_zones_decodes_to_fewer_nonzeros(rng, photo):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    frame = photo(48, 64)
    tables = ijg_tables(50)
    zones = [thresholds(rng), thresholds(rng)]
    plain, zoned = encode_reference(frame, tables), encode_reference(frame, tables, dead_zones=zones)
    assert len(zoned) < len(plain)
    decoded = np.asarray(image.open(io.BytesIO(zoned)).convert("RGB"), float)
    assert np.abs(decoded - frame).mean() < 12
    with pytest.raises(InvalidInputError, match="luma and chroma"):
        encode_reference(frame, tables, dead_zones=zones[:1])


def random_block(rng, nonzero: int, scale: float = 3.0):
    """Coefficients, levels, steps and weights with this many nonzero AC levels, long runs among them."""
    steps = rng.integers(1, 40, 64).astype(float)
    coefficients = rng.uniform(-0.49, 0.49, 64) * steps
    for position in rng.choice(np.arange(1, 64), nonzero, replace=False):
        coefficients[position] = steps[position] * rng.choice([-1, 1]) * (0.5 + rng.exponential(scale))
    levels = (np.sign(coefficients) * np.floor(np.abs(coefficients) / steps + 0.5)).astype(int)
    return coefficients, levels, steps, rng.exponential(1, 64) / steps**2


def cost(coefficients, levels, steps, weights, lengths, lagrangian) -> float:
    error = (coefficients - steps * levels)[1:]
    return float((weights[1:] * error * error).sum() + lagrangian * block_bits(levels, lengths))


def random_lengths(rng) -> np.ndarray:
    """Code lengths without any order in them, so that longer runs are sometimes cheaper."""
    lengths = np.zeros(256, np.uint8)
    lengths[list(AC_SYMBOLS)] = rng.integers(1, 17, len(AC_SYMBOLS))
    return lengths


@pytest.mark.parametrize("nonzero", [0, 1, 2, 3, 4, 5, 6])
def test_the_trellis_finds_the_best_of_all_combinations(rng, nonzero):
    for trial in range(25):
        coefficients, levels, steps, weights = random_block(rng, nonzero, scale=1.5)
        lengths = random_lengths(rng) if trial % 2 else STANDARD
        lagrangian = float(rng.exponential(0.15))
        places = np.flatnonzero(levels[1:]) + 1
        best = np.inf
        for magnitudes in itertools.product(*[sorted({0, abs(levels[p]) - 1, abs(levels[p])}) for p in places]):
            tried = np.where(np.arange(64) == 0, levels, 0)
            tried[places] = np.sign(levels[places]) * magnitudes
            best = min(best, cost(coefficients, tried, steps, weights, lengths, lagrangian))
        found = trellis_block(coefficients, levels, steps, weights, lengths, lagrangian)
        assert cost(coefficients, found, steps, weights, lengths, lagrangian) == pytest.approx(best, rel=1e-12)
        assert found[0] == levels[0]


def test_trimming_finds_the_best_end(rng):
    for _ in range(100):
        coefficients, levels, steps, weights = random_block(rng, int(rng.integers(0, 20)), scale=0.6)
        lagrangian = float(rng.exponential(0.3))
        costs = [
            cost(coefficients, np.where(np.arange(64) <= end, levels, 0), steps, weights, STANDARD, lagrangian)
            for end in range(64)
        ]
        found = trim_block(coefficients, levels, steps, weights, STANDARD, lagrangian)
        assert cost(coefficients, found, steps, weights, STANDARD, lagrangian) == pytest.approx(min(costs), rel=1e-12)
        full = trellis_block(coefficients, levels, steps, weights, STANDARD, lagrangian)
        assert cost(coefficients, full, steps, weights, STANDARD, lagrangian) <= min(costs) * (1 + 1e-12)


def test_free_bits_change_nothing_and_dear_bits_zero_everything(rng):
    coefficients, levels, steps, weights = random_block(rng, 20)
    for decide in (trellis_block, trim_block):
        assert (decide(coefficients, levels, steps, weights, STANDARD, 0.0) == levels).all()
        assert not decide(coefficients, levels, steps, weights, STANDARD, 1e9)[1:].any()


def test_bits_are_those_of_a_file(rng):
    """One gray block: the scan's length is that of DC, the AC bits, and the padding."""
    table = QuantTable(np.ones((8, 8), int))
    for _ in range(20):
        frame = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        levels = to_zigzag(quantize(component_blocks(frame, "gray")[0][0, 0], table))
        size = abs(int(levels[0])).bit_length()
        dc = huffman.STANDARD_DC_LUMA.codes()[size][1] + size
        data = encode_reference(frame, [table], "gray")
        scan = data[data.index(b"\xff\xda") + 10 : -2].replace(b"\xff\x00", b"\xff")
        assert len(scan) == -(-(dc + block_bits(levels, STANDARD)) // 8)


def test_trellis_on_a_photo_saves_bits_at_a_lower_cost(photo):
    blocks = component_blocks(photo(64, 64), "444")[0]
    table = ijg_tables(60)[0]
    weights = 1.0 / table.array.astype(float) ** 2
    lagrangian = 0.12
    rounded = quantize(blocks, table)
    results = {
        name: trellis_quantize(
            blocks, rounded, table, weights, huffman.STANDARD_AC_LUMA, lagrangian, trim_only=name == "trim"
        )
        for name in ("trellis", "trim")
    } | {"round": rounded}

    def total(levels):
        error = ((blocks - levels * table.array) ** 2 * weights).sum()
        bits = sum(block_bits(block, STANDARD) for block in to_zigzag(levels).reshape(-1, 64))
        return error + lagrangian * bits, bits

    costs = {name: total(levels) for name, levels in results.items()}
    assert costs["trellis"][0] < costs["trim"][0] < costs["round"][0]
    assert costs["trellis"][1] < costs["trim"][1] < costs["round"][1]


def test_what_cannot_be_coded_is_refused(rng):
    coefficients, levels, steps, weights = random_block(rng, 5)
    none = STANDARD.copy()
    none[0x11] = 0
    big = np.where(np.arange(64) == 9, 1024, levels)
    for change, message in (
        ({"lagrangian": -1.0}, "lambda"),
        ({"lagrangian": float("nan")}, "lambda"),
        ({"weights": -weights}, "weights"),
        ({"lengths": none}, "without a code length"),
        ({"levels": big}, "1024"),
    ):
        arguments = {
            "coefficients": coefficients,
            "levels": levels,
            "steps": steps,
            "weights": weights,
            "lengths": STANDARD,
            "lagrangian": 1.0,
        } | change
        for decide in (trellis_block, trim_block):
            with pytest.raises(InvalidInputError, match=message):
                decide(**arguments)
