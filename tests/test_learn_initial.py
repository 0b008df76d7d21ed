"""Where tables start, against the papers' formulas written out once more."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.colour import rgb_to_ycbcr  # noqa: E402
from edgejpeg.jpeg.dct import block_dct, pad_to_multiple  # noqa: E402
from edgejpeg.learn.initial import constant_tables, tables_from_magnitudes, tables_from_sensitivity  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.profile import load_profile  # noqa: E402


def test_constant():
    luma, chroma = constant_tables()
    assert luma.shape == chroma.shape == (8, 8) and (luma == 1).all() and (chroma == 1).all()
    assert (constant_tables(2.5)[1] == 2.5).all()
    for wrong in (0, -1, float("nan"), float("inf"), "1"):
        with pytest.raises(InvalidInputError, match="positive and finite"):
            constant_tables(wrong)


def test_sensitivity_is_inverted():
    sensitivity = load_profile("efficientnet_lite0").sensitivity
    luma, chroma = tables_from_sensitivity(sensitivity, q_max=20)
    smallest = min(float(s) for s in sensitivity[0].ravel())
    for row, column in np.ndindex(8, 8):
        s_y, s_cb, s_cr = (float(sensitivity[k, row, column]) for k in range(3))
        assert luma[row, column] == pytest.approx(20 * smallest / s_y)
        assert chroma[row, column] == pytest.approx(20 * smallest / ((s_cb + s_cr) / 2))
    assert luma.max() == pytest.approx(20)
    JpegLayer(luma, chroma, q_min=1e-5)(torch.zeros(1, 3, 8, 8))


def test_sensitivity_bad_input():
    good = np.ones((3, 8, 8))
    for position, value, message in (
        ((0, 2, 5), 0.0, "luma at row 2, column 5"),
        ((2, 7, 0), np.nan, "chroma at row 7"),
    ):
        wrong = good.copy()
        wrong[position] = value
        with pytest.raises(InvalidInputError, match=message):
            tables_from_sensitivity(wrong)
    with pytest.raises(InvalidInputError, match=r"shape \(3, 8, 8\)"):
        tables_from_sensitivity(np.ones((3, 64)))
    with pytest.raises(InvalidInputError, match="q_max"):
        tables_from_sensitivity(good, q_max=0)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_magnitudes_are_the_means_over_real_blocks(photo, subsampling):
    images = [photo(48, 64), photo(40, 52)[::-1]]
    batches = [torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1)))[None].float() for i in images]
    luma, chroma = tables_from_magnitudes(iter(batches), subsampling, bits=8)
    factors = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}[subsampling]
    collected = [[], []]
    for image in images:
        padded = rgb_to_ycbcr(pad_to_multiple(image, 8 * factors[0], 8 * factors[1]))
        for index, plane in enumerate(np.moveaxis(padded, 2, 0)):
            v, h = (1, 1) if index == 0 else factors
            plane = sum(plane[y::v, x::h] for y in range(v) for x in range(h)) / (v * h)
            blocks = block_dct(plane)[: -(-image.shape[0] // (8 * v)), : -(-image.shape[1] // (8 * h))]
            collected[min(index, 1)].append(np.abs(blocks).reshape(-1, 8, 8))
    for ours, blocks in zip((luma, chroma), collected, strict=True):
        expected = 2 * np.concatenate(blocks).mean(0) / np.sqrt(2**7)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    unit = tables_from_magnitudes([b / 255 for b in batches], subsampling, input_range=1)
    np.testing.assert_allclose(unit[0], luma, rtol=1e-4, atol=1e-4)


def test_magnitudes_of_flat_images_and_bad_input():
    luma, _ = tables_from_magnitudes([torch.full((2, 3, 16, 16), 90.0)])
    assert luma[0, 0] > 10 and luma[1:].max() < 1e-4 and luma.min() >= 1e-5
    JpegLayer(luma, luma, q_min=1e-5, bits=8)(torch.rand(1, 3, 16, 16) * 255)
    for batches, message in (([], "got none"), ([torch.zeros(1, 3, 8, 8).byte()], "floating point; got .*uint8")):
        with pytest.raises(InvalidInputError, match=message):
            tables_from_magnitudes(batches)
    for options in ({"bits": 0}, {"input_range": 2}, {"subsampling": "gray"}):
        with pytest.raises(InvalidInputError):
            tables_from_magnitudes([torch.zeros(1, 3, 8, 8)], **options)
