"""The JPEG layer in PyTorch and the module around it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.export.layer import ExportModule, JpegFrontEnd  # noqa: E402
from edgejpeg.export.reference import quantizer_ratios, reconstruct  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def tables_of(quality):
    return np.stack([np.asarray(t, dtype=np.float32).reshape(64) for t in ijg_tables(quality)])[None]


def module_of(size=(32, 48), **options):
    return ExportModule(torch.nn.Flatten(), size=size, mean=MEAN, std=STD, **options).eval()


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
def test_layer_against_float64(subsampling, rng):
    image, tables = rng.random((2, 3, 32, 64)).astype(np.float32), tables_of(40)
    decoded = JpegFrontEnd(subsampling)(torch.from_numpy(image), torch.from_numpy(tables)).numpy()
    for index in range(2):
        levels = [np.rint(r) for r in quantizer_ratios(image[index], tables[0], subsampling)]
        np.testing.assert_allclose(decoded[index], reconstruct(levels, tables[0], subsampling), atol=2e-5)


@pytest.mark.parametrize("uint8", [False, True])
def test_normalisation_is_that_of_training(uint8, rng):
    pixels = rng.integers(0, 256, (2, 3, 32, 48), dtype=np.uint8)
    image = torch.from_numpy(pixels) if uint8 else torch.from_numpy(pixels).float() / 255
    found = module_of(uint8=uint8)(image).numpy().reshape(pixels.shape)
    expected = (pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (30, 45), (17, 16), (32, 32)])
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_padding_is_by_replication_and_is_cut_off(size, subsampling, rng):
    module = module_of(size, subsampling=subsampling, tables=tables_of(50))
    image = torch.from_numpy(rng.random((1, 3, *size)).astype(np.float32))
    found = module(image).reshape(1, 3, *size)
    height, width = {"444": (8, 8), "422": (8, 16), "420": (16, 16)}[subsampling]
    below, right = -size[0] % height, -size[1] % width
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="edge")
    decoded = JpegFrontEnd(subsampling)(torch.from_numpy(padded), torch.from_numpy(tables_of(50)))
    cut = 255 * decoded[:, :, : size[0], : size[1]]
    expected = (cut - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_tables_as_input_change_the_result(rng):
    module = module_of(subsampling="420")
    image = torch.from_numpy(rng.random((1, 3, 32, 48)).astype(np.float32))
    fine, coarse = (module(image, torch.from_numpy(tables_of(q))) for q in (95, 10))
    assert (fine - coarse).abs().max() > 0.1
    with pytest.raises(InvalidInputError, match="tables"):
        module(image)


def test_tables_of_a_wrong_shape_are_refused():
    with pytest.raises(InvalidInputError, match=r"\(1, 2, 64\)"):
        module_of(subsampling="420", tables=np.ones((1, 64, 2), np.float32))
