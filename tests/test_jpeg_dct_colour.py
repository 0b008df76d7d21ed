"""DCT and colour against SciPy, the definition, and exact integer arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg import colour, dct


def test_dct_matrix_is_the_definition():
    for u in range(8):
        for x in range(8):
            scale = math.sqrt((1 if u == 0 else 2) / 8)
            assert dct.DCT_MATRIX[u, x] == pytest.approx(scale * math.cos((2 * x + 1) * u * math.pi / 16), abs=1e-15)


def test_forward_dct_equals_scipy(rng):
    scipy_fft = pytest.importorskip("scipy.fft", reason="SciPy is not installed")
    blocks = rng.integers(-128, 128, (7, 5, 8, 8))
    ours = dct.forward_dct(blocks)
    assert np.abs(ours - scipy_fft.dctn(blocks.astype(float), axes=(2, 3), norm="ortho")).max() < 1e-11
    assert np.abs(dct.inverse_dct(ours) - blocks).max() < 1e-11


def test_dc_is_eight_times_the_mean(rng):
    block = rng.integers(-128, 128, (8, 8))
    assert dct.forward_dct(block)[0, 0] == pytest.approx(8 * block.mean())


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 16), (17, 5)])
def test_blocks_pad_by_replication(size, rng):
    plane = rng.integers(0, 255, size)
    blocks = dct.split_blocks(plane)
    assert blocks.shape == (-(-size[0] // 8), -(-size[1] // 8), 8, 8)
    joined = dct.join_blocks(blocks)
    for y in range(joined.shape[0]):
        for x in range(joined.shape[1]):
            assert joined[y, x] == plane[min(y, size[0] - 1), min(x, size[1] - 1)]
    assert np.abs(dct.inverse_block_dct(dct.block_dct(plane)) - joined).max() < 1e-10


def test_colour_is_bt601_and_inverts_exactly(rng):
    rgb = rng.uniform(0, 255, (50, 3))
    ycbcr = colour.rgb_to_ycbcr(rgb)
    y = 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]
    assert np.allclose(ycbcr[:, 0], y - 128, atol=1e-12)
    assert np.allclose(ycbcr[:, 1], (rgb[:, 2] - y) / 1.772, atol=1e-12)
    assert np.allclose(ycbcr[:, 2], (rgb[:, 0] - y) / 1.402, atol=1e-12)
    assert np.allclose(colour.ycbcr_to_rgb(ycbcr), rgb, atol=1e-11)


@pytest.mark.parametrize(("subsampling", "cell"), [("444", (1, 1)), ("422", (1, 2)), ("420", (2, 2))])
def test_integer_samples_are_the_rounded_exact_ones(subsampling, cell, rng):
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image[:4, :4] = (0, 0, 255)
    image[4:8, :4] = (255, 0, 0)
    planes = colour.sample_planes(image, subsampling)
    weights = [[Fraction(str(w)) for w in row] for row in (("0.299", "0.587", "0.114"),)]
    wrong = total = 0
    for index, plane in enumerate(planes):
        v, h = (1, 1) if index == 0 else cell
        assert plane.shape == (16 // v, 16 // h)
        assert plane.min() >= -128
        assert plane.max() <= 127
        for y in range(plane.shape[0]):
            for x in range(plane.shape[1]):
                pixels = image[y * v : y * v + v, x * h : x * h + h].reshape(-1, 3)
                red, green, blue = (Fraction(int(s), len(pixels)) for s in pixels.sum(0, dtype=int))
                luma = weights[0][0] * red + weights[0][1] * green + weights[0][2] * blue
                exact = (luma - 128, (blue - luma) / Fraction("1.772"), (red - luma) / Fraction("1.402"))[index]
                rounded = min(127, math.floor(exact + Fraction(1, 2)))
                wrong += int(plane[y, x]) != rounded
                total += 1
                assert abs(int(plane[y, x]) - exact) < Fraction(51, 100) or plane[y, x] == 127
    assert wrong <= total // 200  # 16-bit fixed point may round a tie the other way


def test_gray_samples():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    (plane,) = colour.sample_planes(image, "gray")
    assert (plane == image.astype(int) - 128).all()
    colourful = np.repeat(image[..., None], 3, 2)
    assert (colour.sample_planes(colourful, "gray")[0] == plane).all()


@pytest.mark.parametrize(
    ("image", "subsampling", "message"),
    [
        (np.zeros((8, 8, 3)), "420", "uint8"),
        (np.zeros((8, 8, 4), np.uint8), "420", r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), "420", "not empty"),
        (np.zeros((8, 8), np.uint8), "420", "gray"),
        (np.zeros((8, 8, 3), np.uint8), "411", "444, 422, 420, gray"),
    ],
)
def test_bad_images(image, subsampling, message):
    with pytest.raises(InvalidInputError, match=message):
        colour.sample_planes(image, subsampling)
