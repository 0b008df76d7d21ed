"""The compiled trellis takes the decisions of the readable one, on random blocks and on photographs."""

from __future__ import annotations

import numpy as np
import pytest

from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.reference import component_blocks, quantize
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.jpeg.trellis import AC_SYMBOLS, code_lengths, trellis_block, trim_block
from edgejpeg.jpeg.zigzag import ZIGZAG, to_zigzag

STANDARD = code_lengths(huffman.STANDARD_AC_LUMA)


@pytest.fixture
def native(native_hooks):
    """(blocks (n, 8, 8), levels (n, 8, 8), steps, weights (8, 8), lengths, lambda, trim) -> levels (n, 64), zigzag."""

    def decide(blocks, levels, steps, weights, lengths, lagrangian, trim):
        blocks = np.ascontiguousarray(blocks)
        result = np.ascontiguousarray(to_zigzag(levels).reshape(-1, 64), dtype=np.int16)
        native_hooks.library.hook_trellis(
            blocks.ctypes.data,
            blocks.dtype == np.float32,
            len(blocks),
            np.ascontiguousarray(steps, dtype=np.float64),
            np.ascontiguousarray(weights, dtype=np.float64),
            ZIGZAG.astype(np.uint8),
            lengths,
            lagrangian,
            trim,
            result,
        )
        return result

    return decide


def oracle(blocks, levels, steps, weights, lengths, lagrangian, trim):
    flat = [to_zigzag(np.asarray(a, np.float64)).reshape(-1, 64) for a in (blocks, steps, weights)]
    decide = trim_block if trim else trellis_block
    rounded = to_zigzag(levels).reshape(-1, 64)
    return np.array([decide(c, k, flat[1][0], flat[2][0], lengths, lagrangian) for c, k in zip(flat[0], rounded)])  # noqa: B905


def rounded(blocks, steps):
    return (np.sign(blocks) * np.floor(np.abs(np.asarray(blocks, np.float64)) / steps + 0.5)).astype(np.int16)


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_equal_decisions_on_random_blocks(rng, native, kind, trim):
    for trial in range(40):
        steps = rng.integers(1, 1 + rng.integers(1, 60), (8, 8)).astype(float)
        spread = rng.exponential(1.5) * steps * rng.exponential(1, (8, 8))
        blocks = np.clip(rng.laplace(0, 1, (12, 8, 8)) * spread, -1023, 1023).astype(kind)
        lengths = STANDARD
        if trial % 2:  # no order in the lengths: a longer run may be cheaper, and nothing can be pruned lightly
            lengths = np.zeros(256, np.uint8)
            lengths[list(AC_SYMBOLS)] = rng.integers(1, 17, len(AC_SYMBOLS))
        weights = rng.exponential(1, (8, 8)) / steps**2
        if trial % 5 == 0:
            weights[rng.random((8, 8)) < 0.3] = 0
        lagrangian = 0.0 if trial == 7 else float(rng.exponential(0.15))
        arguments = (blocks, rounded(blocks, steps), steps, weights, lengths, lagrangian, trim)
        found, expected = native(*arguments), oracle(*arguments)
        assert (found == expected).all(), np.argwhere(found != expected)[:5]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_equal_decisions_on_a_photo(photo, native, quality, trim):
    blocks = component_blocks(photo(96, 128), "444")[0].reshape(-1, 8, 8).astype(np.float32)
    table = ijg_tables(quality)[0]
    weights = 1.0 / table.array.astype(float) ** 2
    levels = quantize(blocks.astype(np.float64), table)
    arguments = (blocks, levels, table.array, weights, STANDARD, 0.125, trim)
    found = native(*arguments)
    assert (found == oracle(*arguments)).all()
    assert 0 < np.count_nonzero(found) < np.count_nonzero(levels)


def test_full_and_extreme_blocks(rng, native):
    """63 nonzero levels at q = 1, the largest levels, the last position, and nothing at all."""
    steps = np.ones((8, 8))
    blocks = np.stack(
        [
            rng.choice([-1, 1], (8, 8)) * rng.integers(1, 1024, (8, 8)),
            np.full((8, 8), 1023),
            np.full((8, 8), -1),
            np.zeros((8, 8)),
            np.where(np.arange(64).reshape(8, 8) == 63, 1, 0),
        ]
    ).astype(np.int16)
    for lagrangian in (0.0, 0.01, 0.3, 10.0, 1e9):
        for trim in (False, True):
            arguments = (blocks, blocks, steps, np.ones((8, 8)), STANDARD, lagrangian, trim)
            assert (native(*arguments) == oracle(*arguments)).all()


def test_a_level_that_baseline_cannot_code_leaves_the_block_alone(native):
    blocks = np.ones((1, 8, 8), np.int16)
    blocks[0, 3, 3] = 1024
    kept = native(blocks, blocks, np.ones((8, 8)), np.ones((8, 8)), STANDARD, 1e9, False)
    assert (kept == to_zigzag(blocks).reshape(-1, 64)).all()


def test_dead_zone_levels_go_in_as_well(photo, native):
    blocks = component_blocks(photo(64, 64), "444")[0].reshape(-1, 8, 8).astype(np.float32)
    table = QuantTable(np.full((8, 8), 11))
    zone = np.full((8, 8), 0.7)
    zone[0, 0] = 0.5
    levels = quantize(blocks.astype(np.float64), table, zone)
    arguments = (blocks, levels, table.array, np.full((8, 8), 1 / 121), STANDARD, 0.1, False)
    assert (native(*arguments) == oracle(*arguments)).all()
