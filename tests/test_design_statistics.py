"""Statistics of coefficients against loops, NumPy's own, and SciPy's DCT on real photographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import fft

from edgejpeg.design import Statistics, StatisticsAccumulator, block_statistics, image_blocks, image_statistics
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import SUBSAMPLINGS, sample_planes

Photo = Callable[[int, int], np.ndarray]


def random_blocks(rng: np.random.Generator, counts: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.laplace(rng.normal(0, 20, (8, 8)), rng.uniform(1, 50, (8, 8)), (count, 8, 8)) for count in counts]


@pytest.mark.parametrize("counts", [(1,), (700,), (301, 77, 5)])
def test_sums_run_one_block_after_another(counts: tuple[int, ...], rng: np.random.Generator) -> None:
    """To the last bit what a plain loop in float64 gives: what the native library is compared with."""
    blocks = random_blocks(rng, counts)
    statistics = block_statistics(blocks)
    for component, coefficients in enumerate(blocks):
        count = len(coefficients)
        total = np.zeros((8, 8))
        for block in coefficients:
            total = total + block
        mean = total / count
        squares, absolute = np.zeros((8, 8)), np.zeros((8, 8))
        for block in coefficients:
            squares = squares + (block - mean) * (block - mean)
            absolute = absolute + np.abs(block - mean)
        np.testing.assert_array_equal(statistics.mean[component], mean)
        np.testing.assert_array_equal(statistics.variance[component], squares / count)
        np.testing.assert_array_equal(statistics.laplace_scale[component], absolute / count)
    assert statistics.blocks.tolist() == list(counts)
    assert statistics.channels == len(counts)


def test_block_grids_of_any_shape_and_layout(rng: np.random.Generator) -> None:
    grid = rng.normal(0, 9, (6, 10, 8, 8))
    expected = block_statistics([grid.reshape(60, 8, 8)])
    for same in (grid, grid.copy(order="F"), np.concatenate([grid, grid], axis=1)[:, :10]):
        found = block_statistics([same])
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.variance, expected.variance)
    whole = np.rint(grid).astype(np.int16)
    np.testing.assert_array_equal(block_statistics([whole]).mean, block_statistics([whole.astype(float)]).mean)


def test_without_removing_the_mean(rng: np.random.Generator) -> None:
    blocks = random_blocks(rng, (400, 100, 100))
    printed = block_statistics(blocks, center=False)
    centred = block_statistics(blocks)
    for component, coefficients in enumerate(blocks):
        np.testing.assert_allclose(printed.laplace_scale[component], np.abs(coefficients).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(printed.variance, centred.variance)
    assert (printed.laplace_scale[0] > centred.laplace_scale[0]).mean() > 0.5


def test_laplace_scale_estimates_the_scale(rng: np.random.Generator) -> None:
    lam = np.geomspace(0.3, 100, 64).reshape(8, 8)
    statistics = block_statistics([rng.laplace(7, lam, (40_000, 8, 8))])
    np.testing.assert_allclose(statistics.laplace_scale[0], lam, rtol=0.03)
    np.testing.assert_allclose(statistics.variance[0], 2 * lam**2, rtol=0.08)


@pytest.mark.parametrize("subsampling", list(SUBSAMPLINGS))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (9, 17), (16, 24), (33, 40), (71, 130)])
def test_image_statistics_count_the_real_blocks(subsampling: str, height: int, width: int, photo: Photo) -> None:
    image = photo(height, width)
    statistics = image_statistics(image, subsampling)
    vertical, horizontal = SUBSAMPLINGS[subsampling]
    planes = sample_planes(image, subsampling)
    assert statistics.channels == len(planes)
    for component, plane in enumerate(planes):
        rows, columns = height, width
        if component:
            rows, columns = -(-height // vertical), -(-width // horizontal)
        real = plane[: rows + -rows % 8, : columns + -columns % 8].astype(float)
        coefficients = [
            fft.dctn(real[y : y + 8, x : x + 8], norm="ortho")
            for y in range(0, real.shape[0], 8)
            for x in range(0, real.shape[1], 8)
        ]
        assert statistics.blocks[component] == len(coefficients)
        np.testing.assert_allclose(statistics.mean[component], np.mean(coefficients, axis=0), atol=1e-9)
        np.testing.assert_allclose(statistics.variance[component], np.var(coefficients, axis=0), atol=1e-6)
        deviation = np.abs(np.array(coefficients) - np.mean(coefficients, axis=0)).mean(axis=0)
        np.testing.assert_allclose(statistics.laplace_scale[component], deviation, atol=1e-9)


def test_accumulator_equals_all_blocks_at_once(rng: np.random.Generator) -> None:
    images = [random_blocks(rng, counts) for counts in ((40, 10, 10), (1, 1, 1), (333, 80, 80), (7, 2, 2))]
    expected = block_statistics([np.concatenate([image[c] for image in images]) for c in range(3)])
    first = StatisticsAccumulator()
    for image in images:
        first.update(image)
    second = StatisticsAccumulator(center=first.result().mean)
    for image in images:
        second.update(image)
    found = second.result()
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-11)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-11)
    np.testing.assert_allclose(found.laplace_scale, expected.laplace_scale, rtol=1e-11)
    np.testing.assert_array_equal(found.blocks, expected.blocks)
    printed = block_statistics([np.concatenate([image[c] for image in images]) for c in range(3)], center=False)
    np.testing.assert_allclose(first.result().laplace_scale, printed.laplace_scale, rtol=1e-11)


def test_accumulators_of_workers_merge(rng: np.random.Generator) -> None:
    images = [random_blocks(rng, (20 + 3 * n, 5, 5)) for n in range(6)]
    alone = StatisticsAccumulator()
    workers = [StatisticsAccumulator() for _ in range(3)]
    for index, image in enumerate(images):
        alone.update(image)
        workers[index % 2].update(image)
    workers[2].merge(workers[0])
    workers[2].merge(workers[1])
    workers[2].merge(StatisticsAccumulator())
    for name in ("mean", "variance", "laplace_scale", "blocks"):
        np.testing.assert_allclose(getattr(workers[2].result(), name), getattr(alone.result(), name), rtol=1e-11)


def test_large_offsets_do_not_cancel(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 1e-3, (5_000, 8, 8))
    accumulator = StatisticsAccumulator(1)
    for part in np.split(noise + 1e6, 50):
        accumulator.update([part])
    np.testing.assert_allclose(accumulator.result().variance[0], np.var(noise + 1e6, axis=0), rtol=1e-6)


def test_statistics_are_read_only_copies() -> None:
    mean = np.zeros((1, 8, 8))
    statistics = Statistics(mean, np.ones((1, 8, 8)), np.ones((1, 8, 8)), np.array([4]))
    mean += 1
    assert not statistics.mean.any()
    with pytest.raises(ValueError, match="read-only"):
        statistics.variance[0, 0, 0] = 3
    assert statistics.blocks.dtype == np.int64


ONES = np.ones((3, 8, 8))
COUNTS = np.array([1, 1, 1])


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: Statistics(ONES[:2], ONES[:2], ONES[:2], COUNTS[:2]), "(2, 8, 8)"),
        (lambda: Statistics(ONES, ONES[:1], ONES, COUNTS), "(1, 8, 8)"),
        (lambda: Statistics(ONES, -ONES, ONES, COUNTS), "-1.0"),
        (lambda: Statistics(ONES, ONES, ONES * np.nan, COUNTS), "nan"),
        (lambda: Statistics(ONES, ONES, ONES, COUNTS * 0), "0"),
        (lambda: Statistics(ONES, ONES, ONES, COUNTS * 1.5), "1.5"),
        (lambda: block_statistics([]), "0"),
        (lambda: block_statistics([np.zeros((4, 8, 8))] * 2), "2"),
        (lambda: block_statistics([np.zeros((8, 8))]), "(8, 8)"),
        (lambda: block_statistics([np.zeros((4, 64))]), "(4, 64)"),
        (lambda: block_statistics([np.zeros((0, 8, 8))]), "(0, 8, 8)"),
        (lambda: block_statistics([np.full((2, 8, 8), np.inf)]), "inf"),
        (lambda: image_statistics(np.zeros((8, 8, 3), np.uint8), "411"), "411"),
        (lambda: image_blocks(np.zeros((8, 8, 3)), "444"), "float64"),
        (lambda: image_blocks(np.zeros((0, 8, 3), np.uint8), "444"), "(0, 8, 3)"),
        (lambda: StatisticsAccumulator(2), "2"),
        (lambda: StatisticsAccumulator(3, center=ONES[:1]), "(1, 8, 8)"),
        (lambda: StatisticsAccumulator(1).update([np.zeros((1, 8, 8))] * 3), "3"),
        (lambda: StatisticsAccumulator().result(), "no blocks"),
        (lambda: StatisticsAccumulator().merge(StatisticsAccumulator(center=ONES)), "differ"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
