"""The codec's linear halves and their transposes, and its integers against libjpeg-turbo, bit for bit."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.jpeg.colour import sample_planes  # noqa: E402
from edgejpeg.jpeg.reference import component_blocks, encode_reference, quantize  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn.integers import integer_samples  # noqa: E402
from edgejpeg.learn.planes import decode_planes, encode_planes  # noqa: E402

FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}
SIZES = [(1, 1), (2, 9), (8, 8), (16, 16), (17, 33), (5, 40), (37, 3), (24, 2), (31, 6), (64, 48), (50, 62), (34, 36)]


def _whole_mcus(size, subsampling):
    vertical, horizontal = FACTORS[subsampling]
    return -(-size[0] // (8 * vertical)) * 8 * vertical, -(-size[1] // (8 * horizontal)) * 8 * horizontal


def _file_planes(image, tables, subsampling):
    """The dequantised coefficients of the reference encoder's file, as planes, zeros in blocks that a file lacks."""
    height, width = _whole_mcus(image.shape[:2], subsampling)
    vertical, horizontal = FACTORS[subsampling]
    planes = []
    for index, blocks in enumerate(component_blocks(image, subsampling)):
        table = tables[min(index, 1)]
        rows, columns = (height, width) if index == 0 else (height // vertical, width // horizontal)
        full = np.zeros((rows // 8, columns // 8, 8, 8))
        full[: blocks.shape[0], : blocks.shape[1]] = quantize(blocks, table) * table.array.astype(float)
        planes.append(torch.from_numpy(full.transpose(0, 2, 1, 3).reshape(rows, columns)))
    return planes[0][None], torch.stack(planes[1:])[None]


def _pillow(data):
    image_module = pytest.importorskip("PIL.Image")
    return np.asarray(image_module.open(io.BytesIO(data)).convert("RGB"))


def _opencv(data):
    cv2 = pytest.importorskip("cv2")
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _djpeg_plain(data):
    image_module = pytest.importorskip("PIL.Image")
    if shutil.which("djpeg") is None:
        pytest.skip("djpeg, which decodes without interpolation, is not installed")
    done = subprocess.run(["djpeg", "-nosmooth", "-ppm"], input=data, capture_output=True, check=True)
    return np.asarray(image_module.open(io.BytesIO(done.stdout)))


@functools.lru_cache
def _files(subsampling):
    rng = np.random.default_rng(9)
    files = []
    for size in SIZES:
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        for quality in (3, 92):
            tables = ijg_tables(quality)
            data = encode_reference(image, tables, subsampling)
            files.append((size, data, *_file_planes(image, tables, subsampling)))
    return files


@pytest.mark.parametrize("decoder", [_pillow, _opencv, _djpeg_plain])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_rounding_decodes_as_libjpeg_turbo_bit_for_bit(subsampling, decoder):
    for size, data, luma, chroma in _files(subsampling):
        options = {"fancy": decoder is not _djpeg_plain, "rounding": True}
        ours = decode_planes(luma, chroma, size, subsampling, **options)
        np.testing.assert_array_equal(ours[0].permute(1, 2, 0).numpy(), decoder(data), str(size))
        single = decode_planes(luma.float(), chroma.float(), size, subsampling, **options)
        assert single.dtype == torch.float32
        np.testing.assert_array_equal(single.double().numpy(), ours.numpy())


@pytest.mark.parametrize("subsampling", FACTORS)
def test_integer_samples_are_those_the_encoder_codes(rng, subsampling):
    for size in SIZES:
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        height, width = _whole_mcus(size, subsampling)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
        padded = torch.nn.functional.pad(pixels, (0, width - size[1], 0, height - size[0]), mode="replicate")
        luma, chroma = integer_samples(padded, *FACTORS[subsampling])
        for ours, expected in zip((luma, *chroma.unbind(1)), sample_planes(image, subsampling), strict=True):
            np.testing.assert_array_equal(ours[0].numpy(), expected)


@pytest.mark.parametrize("fancy", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (9, 20), (24, 2), (31, 6), (50, 62), (64, 48)])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_gradients_of_both_halves(subsampling, size, fancy):
    generator = torch.Generator().manual_seed(8)
    rgb = torch.rand(2, 3, *size, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: encode_planes(x, subsampling), rgb, fast_mode=True)
    planes = [t.detach().requires_grad_() for t in encode_planes(rgb, subsampling)]
    decode = lambda *p: decode_planes(*p, size, subsampling, fancy=fancy)  # noqa: E731
    assert torch.autograd.gradcheck(decode, planes, fast_mode=True)


@pytest.mark.parametrize("subsampling", FACTORS)
def test_plain_upsampling_repeats_samples(rng, subsampling):
    """The chroma of a plain decoder is constant over a cell: where luma is, so are R, G and B."""
    vertical, horizontal = FACTORS[subsampling]
    chroma = torch.from_numpy(rng.normal(0, 50, (1, 2, 16, 16)))
    luma = torch.zeros(1, 16 * vertical, 16 * horizontal, dtype=torch.float64)
    rgb = decode_planes(luma, chroma, luma.shape[1:], subsampling, fancy=False)
    cells = rgb.unflatten(2, (-1, vertical)).unflatten(4, (-1, horizontal))
    torch.testing.assert_close(cells, cells[:, :, :, :1, :, :1].expand_as(cells), atol=1e-12, rtol=0)
    assert float(rgb.std()) > 1


@pytest.mark.parametrize("subsampling", FACTORS)
def test_rounding_passes_gradients_straight_through(rng, subsampling):
    size = (21, 30)
    rgb = torch.from_numpy(rng.uniform(-20, 280, (2, 3, *size))).requires_grad_()
    gradients = []
    for rounding in (False, True):
        luma, chroma = encode_planes(rgb, subsampling, rounding=rounding)
        result = decode_planes(luma, chroma, size, subsampling, rounding=rounding)
        assert bool((result == result.round()).all()) is rounding
        gradients.append(torch.autograd.grad(result, rgb, torch.sin(rgb.detach() * 9))[0])
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_half_precision_regions_do_not_reach_the_transforms():
    rgb = (torch.rand(1, 3, 32, 48) * 255).requires_grad_()
    expected = decode_planes(*encode_planes(rgb, "420"), (32, 48), "420")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = decode_planes(*encode_planes(rgb, "420"), (32, 48), "420")
        gradient = torch.autograd.grad(result.sum(), rgb)[0]
    torch.testing.assert_close(result, expected, atol=0, rtol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), rgb)[0], atol=0, rtol=0)
