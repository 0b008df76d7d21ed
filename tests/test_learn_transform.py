"""The torch transform against explicit cosines in float64, and against libjpeg-turbo's decoder."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.reference import encode_reference  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable  # noqa: E402
from edgejpeg.learn import transform  # noqa: E402

FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}
SIZES = [(1, 1), (8, 8), (16, 16), (17, 33), (5, 40), (37, 3), (24, 2), (31, 5)]


def _basis() -> np.ndarray:
    """(64, 64): row u*8+v is the orthonormal 2-D cosine of vertical frequency u and horizontal frequency v."""
    rows = []
    for u in range(8):
        for v in range(8):
            scale = (math.sqrt(0.5) if u == 0 else 1) * (math.sqrt(0.5) if v == 0 else 1) / 4
            rows.append(
                [
                    scale * math.cos((2 * y + 1) * u * math.pi / 16) * math.cos((2 * x + 1) * v * math.pi / 16)
                    for y in range(8)
                    for x in range(8)
                ]
            )
    return np.array(rows)


def test_block_dct_is_the_orthonormal_dct(rng):
    planes = rng.normal(0, 50, (3, 16, 24))
    result = transform.block_dct(torch.from_numpy(planes)).numpy()
    assert result.shape == (3, 2, 3, 8, 8)
    basis = _basis()
    for n, row, column in np.ndindex(3, 2, 3):
        block = planes[n, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(64)
        np.testing.assert_allclose(result[n, row, column].reshape(64), basis @ block, atol=1e-10)
    np.testing.assert_allclose(transform.inverse_block_dct(torch.from_numpy(result)).numpy(), planes, atol=1e-10)


def test_dc_is_eight_times_the_mean_at_the_file_scale():
    rgb = torch.full((1, 3, 8, 8), 255.0, dtype=torch.float64)
    luma, cb, cr = transform.coefficients_from_rgb(rgb, "444")
    assert float(luma[0, 0, 0, 0, 0]) == pytest.approx(8 * 127)
    assert float(cb.abs().max()) < 1e-9 and float(cr.abs().max()) < 1e-9


@pytest.mark.parametrize("size", SIZES)
def test_444_is_lossless(rng, size):
    rgb = torch.from_numpy(rng.uniform(0, 255, (2, 3, *size)))
    coefficients = transform.coefficients_from_rgb(rgb, "444")
    torch.testing.assert_close(transform.rgb_from_coefficients(coefficients, "444", size), rgb, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", FACTORS)
def test_coefficients_are_those_of_averaged_and_replicated_planes(rng, subsampling, size):
    rgb = rng.uniform(0, 255, (1, 3, *size))
    vertical, horizontal = FACTORS[subsampling]
    red, green, blue = rgb[0]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402]
    result = transform.coefficients_from_rgb(torch.from_numpy(rgb), subsampling)
    basis = _basis()
    height, width = -(-size[0] // (8 * vertical)) * 8 * vertical, -(-size[1] // (8 * horizontal)) * 8 * horizontal
    for channel, plane in enumerate(planes):
        full = np.array(
            [[plane[min(y, size[0] - 1), min(x, size[1] - 1)] for x in range(width)] for y in range(height)]
        )
        if channel:
            full = sum(full[i::vertical, j::horizontal] for i in range(vertical) for j in range(horizontal))
            full = full / (vertical * horizontal)
        got = result[channel].numpy()[0]
        assert got.shape == (full.shape[0] // 8, full.shape[1] // 8, 8, 8)
        for row, column in np.ndindex(got.shape[:2]):
            block = full[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(64)
            np.testing.assert_allclose(got[row, column].reshape(64), basis @ block, atol=1e-9)


@pytest.mark.parametrize("size", [*SIZES, (64, 48)])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_decoding_agrees_with_libjpeg_turbo(rng, subsampling, size):
    """Chroma differs strongly from sample to sample, so a wrong upsampling or border is off by tens of levels."""
    image_module = pytest.importorskip("PIL.Image")
    vertical, horizontal = FACTORS[subsampling]
    cells = rng.integers(40, 216, (-(-size[0] // vertical), -(-size[1] // horizontal), 3))
    rgb = np.repeat(np.repeat(cells, vertical, 0), horizontal, 1)[: size[0], : size[1]].astype(np.uint8)
    finest = QuantTable(np.ones((8, 8)))
    data = encode_reference(rgb, (finest, finest), subsampling)
    decoded = np.asarray(image_module.open(io.BytesIO(data)).convert("RGB")).astype(float)
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1).astype(float))[None]
    coefficients = [c.round() for c in transform.coefficients_from_rgb(pixels, subsampling)]
    ours = transform.rgb_from_coefficients(coefficients, subsampling, size)[0].numpy().transpose(1, 2, 0)
    difference = np.abs(np.clip(ours, 0, 255) - decoded)
    assert difference.max() < 6 and difference.mean() < 1  # a few roundings, of samples and of colour


def test_nothing_is_clamped_or_rounded():
    """The map is linear: twice the deviation from grey is twice the coefficients, far outside 0..255."""
    coefficients = [torch.zeros(1, 1, 1, 8, 8, dtype=torch.float64) for _ in range(3)]
    coefficients[0][..., 0, 0] = 4096.25
    rgb = transform.rgb_from_coefficients(coefficients, "444", (8, 8))
    torch.testing.assert_close(rgb, torch.full_like(rgb, 128 + 4096.25 / 8))


@pytest.mark.parametrize("subsampling", FACTORS)
def test_gradcheck(subsampling):
    generator = torch.Generator().manual_seed(3)
    coefficients = [
        torch.randn(1, rows, columns, 8, 8, dtype=torch.float64, generator=generator).requires_grad_()
        for rows, columns in ((2, 2), *2 * [(2 // FACTORS[subsampling][0], 2 // FACTORS[subsampling][1])])
    ]

    def decode(*planes):
        return transform.rgb_from_coefficients(planes, subsampling, (11, 13))[:, :, ::5, ::5]

    assert torch.autograd.gradcheck(decode, coefficients)


@pytest.mark.parametrize("subsampling", ["gray", "411", "", None])
def test_other_subsamplings_are_refused(subsampling):
    with pytest.raises(InvalidInputError, match="444, 422, 420"):
        transform.coefficients_from_rgb(torch.zeros(1, 3, 8, 8), subsampling)
