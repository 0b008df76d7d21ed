"""The encoder's int16 arithmetic in torch, held against the levels in the encoder's files, each of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.jpeg.dct import DCT_MATRIX  # noqa: E402
from edgejpeg.jpeg.reference import component_blocks, quantize  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable, ijg_tables  # noqa: E402
from edgejpeg.learn.coded_planes import code_planes  # noqa: E402
from edgejpeg.learn.fixed_point import SCALES, frequency_major, int16_dct, planes_of, takes_int16  # noqa: E402
from edgejpeg.profile import DeadZone, Profile  # noqa: E402
from edgejpeg.runtime import Encoder, encode_jpeg  # noqa: E402

FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}


@pytest.fixture(scope="module")
def decode_coefficients():
    path = Path(__file__).parent / "test_runtime_coefficients.py"
    spec = importlib.util.spec_from_file_location("coefficients", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.decode_coefficients


@pytest.fixture(autouse=True)
def no_other_back_end(monkeypatch):
    monkeypatch.delenv("EDGEJPEG_BACKEND", raising=False)


def _tensors(tables):
    return [torch.tensor(table.array.astype(np.float32)) for table in tables]


def _levels(image, tables, subsampling, **options):
    """Of every block of the padded image, (rows, columns, 8, 8) for each component."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    steps = _tensors(tables)
    luma, chroma = code_planes(pixels, *steps, subsampling, **options)
    levels = []
    for planes, q in ((luma[0], steps[0]), (chroma[0, 0], steps[1]), (chroma[0, 1], steps[1])):
        height, width = planes.shape
        blocks = planes.reshape(height // 8, 8, width // 8, 8).transpose(1, 2) / q
        levels.append(blocks.round().int().numpy())
    return levels


def _assert_same(image, tables, subsampling, data, decode_coefficients, **options):
    ours = _levels(image, tables, subsampling, **options)
    for mine, real in zip(ours, decode_coefficients(data), strict=True):
        np.testing.assert_array_equal(mine[: real.shape[0], : real.shape[1]], real)


def _random_tables(rng, high=256):
    return tuple(QuantTable(rng.integers(1, high, (8, 8))) for _ in range(2))


def _flat(step):
    return (QuantTable(np.full((8, 8), step)),) * 2


def _images(photo, rng, size):
    yield photo(*size)
    yield rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    yield (rng.integers(0, 2, (*size, 3)) * 255).astype(np.uint8)
    yield np.full((*size, 3), rng.integers(0, 256, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    yield np.stack([7 * x + y, 255 - 5 * y, 3 * x], axis=2).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("subsampling", FACTORS)
def test_levels_are_those_in_the_file(photo, rng, subsampling, decode_coefficients):
    sizes = [(1, 1), (1, 40), (40, 1), (16, 16), *rng.integers(1, 41, (4, 2)).tolist(), (50, 61)]
    for size in sizes:
        for image in _images(photo, rng, size):
            qualities = rng.choice([1, 10, 30, 50, 75, 85, 90, 91, 92, 95, 100], 2, replace=False)
            for tables in (*map(ijg_tables, qualities.tolist()), _random_tables(rng, int(rng.choice([20, 256])))):
                data = encode_jpeg(image, tables=tables, subsampling=subsampling)
                _assert_same(image, tables, subsampling, data, decode_coefficients)


@pytest.mark.parametrize("color", ["gray", "color"])
def test_every_step(rng, decode_coefficients, color):
    """Each q from 1 to 255 at every frequency, on values that reach and cross the thresholds."""
    image = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    if color == "gray":
        image[:] = image[..., :1]
        image[:8, :8] = 255 * (rng.integers(0, 2, (8, 8, 1)) > 0)
    for step in range(1, 256):
        data = encode_jpeg(image, tables=_flat(step), subsampling="444")
        _assert_same(image, _flat(step), "444", data, decode_coefficients)


def test_the_largest_values(decode_coefficients):
    """Blocks with the signs of each basis function: no coefficient of eight bits is larger, and int16 holds it."""
    signs = np.sign(np.einsum("uy,vx->uvyx", DCT_MATRIX, DCT_MATRIX)).reshape(8, 8, 8, 8)
    gray = np.where(np.concatenate([signs, -signs], axis=1) > 0, 255, 0)
    image = np.repeat(gray.transpose(0, 2, 1, 3).reshape(64, 128)[..., None], 3, axis=2).astype(np.uint8)
    samples = torch.from_numpy(image[..., 0].astype(np.int32) - 128)[None]
    largest = int16_dct(samples).abs().max()
    assert 24_000 < int(largest) < 32_768
    for tables in (_flat(1), _flat(8), _flat(9), _flat(255), ijg_tables(80)):
        data = encode_jpeg(image, tables=tables, subsampling="444")
        _assert_same(image, tables, "444", data, decode_coefficients)


def test_the_dct_is_near_the_exact_one_and_the_same_in_float64(rng):
    samples = torch.from_numpy(rng.integers(-128, 128, (2, 16, 24)).astype(np.int32))
    coefficients = int16_dct(samples)
    torch.testing.assert_close(int16_dct(samples.double()).int(), coefficients, atol=0, rtol=0)
    scales = torch.tensor(SCALES, dtype=torch.float64)[:, None, None, None]
    planes = planes_of(coefficients / scales, samples.shape).numpy()
    blocks = planes.reshape(2, 2, 8, 3, 8).transpose(0, 1, 3, 2, 4)
    exact = DCT_MATRIX @ samples.numpy().reshape(2, 2, 8, 3, 8).transpose(0, 1, 3, 2, 4) @ DCT_MATRIX.T
    assert 0 < np.abs(blocks - exact).max() < 0.6
    torch.testing.assert_close(planes_of(frequency_major(samples), samples.shape), samples)


def test_which_arithmetic_is_the_cores_choice(rng):
    """Flat tables of 7 are too fine for int16, those of 8 are not; each shows in the file."""
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for step, is_int16 in ((7, False), (8, True)):
        steps = [q[None] for q in _tensors(_flat(step))]
        assert takes_int16(*steps, (2, 2)).tolist() == [is_int16]
        reference = [quantize(blocks, _flat(step)[0]) for blocks in component_blocks(image, "420")]
        ours = _levels(image, _flat(step), "420")
        different = sum(int((a != b).sum()) for a, b in zip(ours, reference, strict=True))
        assert (different > 0) == is_int16 and different < 0.005 * image.size
        exact = _levels(image, _flat(step), "420", int16=False)
        assert all((a == b).all() for a, b in zip(exact, reference, strict=True))
    below_one = torch.full((1, 8, 8), 200.0)
    below_one[0, 3, 3] = 0.5
    assert takes_int16(below_one, below_one, (1, 1)).tolist() == [False]


def test_the_choice_depends_on_the_subsampling(rng, decode_coefficients):
    """Fine luma and coarse chroma: at 4:4:4, where chroma weighs more, int16 is good enough, at 4:2:0 not."""
    tables = _flat(5)[0], _flat(30)[0]
    steps = [q[None] for q in _tensors(tables)]
    image = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    chosen = {name: bool(takes_int16(*steps, factors)) for name, factors in FACTORS.items()}
    assert chosen["444"] and not chosen["420"]
    for subsampling in FACTORS:
        data = encode_jpeg(image, tables=tables, subsampling=subsampling)
        _assert_same(image, tables, subsampling, data, decode_coefficients)


@pytest.mark.parametrize("quality", [20, 60, 85, 95])
def test_dead_zones_are_those_of_the_encoder(photo, rng, quality, decode_coefficients):
    zones = rng.uniform(0.5, 1, (2, 8, 8))
    zones[:, 2:4] = 0.5, 1.0, 0.75, 0.6, 0.5, 1.0, 0.9, 0.625
    zones[:, 0, 0] = 0.5
    tables = ijg_tables(quality)
    for image in (photo(50, 61), rng.integers(0, 256, (33, 40, 3)).astype(np.uint8)):
        for subsampling in FACTORS:
            profile = Profile.fixed(
                name="zones", luma=tables[0], chroma=tables[1], dead_zone=DeadZone(*zones), subsampling=subsampling
            )
            data = Encoder(profile, color="rgb").encode(image)
            thresholds = torch.from_numpy(zones)
            _assert_same(image, tables, subsampling, data, decode_coefficients, thresholds=thresholds)
            with pytest.raises(AssertionError):
                _assert_same(image, tables, subsampling, data, decode_coefficients)
