"""The encoder's integers as an operator: gradients, batches, tracing, bad input. Its values: test_learn_fixed_point."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn import coded_planes  # noqa: E402
from edgejpeg.learn.coded_planes import code_planes  # noqa: E402
from edgejpeg.learn.planes import encode_planes  # noqa: E402
from edgejpeg.learn.quantizer import hard_quantize  # noqa: E402

FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}


def _pixels(*shape, seed=1):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float()


def _tables(quality, dtype=torch.float32):
    return [torch.tensor(table.array.astype(float), dtype=dtype) for table in ijg_tables(quality)]


def _composed(rgb, luma, chroma, subsampling, bits):
    """The float64 DCT and the straight-through quantizer, each an operator of its own."""
    planes = []
    for part, q in zip(encode_planes(rgb, subsampling, rounding=True), (luma, chroma), strict=True):
        q = q if q.ndim == 2 else q[(slice(None), *[None] * (part.ndim - 3))]
        blocks = part.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        steps = q[..., None, None, :, :] if q.ndim > 2 else q
        planes.append(hard_quantize(blocks, steps, bits=bits).transpose(-3, -2).flatten(-2).flatten(-3, -2))
    return planes


@pytest.mark.parametrize("bits", [3, 11])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_float64_values_and_gradients_are_those_of_the_separate_operators(subsampling, per_image, bits):
    rgb = _pixels(2, 3, 19, 26).double().requires_grad_()
    tables = [q.requires_grad_() for q in _tables(60, torch.float64)]
    if per_image:
        tables = [torch.stack([q, 1.5 * q + 1]).detach().requires_grad_() for q in tables]
    ours = code_planes(rgb, *tables, subsampling, int16=False, bits=bits)
    expected = _composed(rgb, *tables, subsampling, bits)
    weights = [torch.randn(part.shape, dtype=torch.float64) for part in ours]
    results = [
        torch.autograd.grad(sum((p * w).sum() for p, w in zip(parts, weights, strict=True)), (rgb, *tables))
        for parts in (ours, expected)
    ]
    for a, b in zip((*ours, *results[0]), (*expected, *results[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("subsampling", FACTORS)
def test_int16_gradients_pass_straight_through(subsampling):
    """To the image as if nothing was rounded; to a step K - C / q, with C within the int16 DCT's error."""
    rgb = _pixels(2, 3, 21, 30)
    tables = _tables(50)
    gradients = []
    for int16 in (True, False):
        inputs = [rgb.clone().requires_grad_(), *(q.clone().requires_grad_() for q in tables)]
        parts = code_planes(*inputs, subsampling, int16=int16)
        generator = torch.Generator().manual_seed(5)
        loss = sum((part * torch.rand(part.shape, generator=generator)).sum() for part in parts)
        gradients.append((torch.autograd.grad(loss, inputs), parts))
    (ours, ours_parts), (exact, exact_parts) = gradients
    torch.testing.assert_close(ours[0], exact[0])
    assert not all(torch.equal(a, b) for a, b in zip(ours_parts, exact_parts, strict=True))
    linear = rgb.clone().requires_grad_()
    generator = torch.Generator().manual_seed(5)
    loss = sum((p * torch.rand(p.shape, generator=generator)).sum() for p in encode_planes(linear, subsampling))
    torch.testing.assert_close(ours[0], torch.autograd.grad(loss, linear)[0], atol=1e-4, rtol=1e-4)
    for a, b in zip(ours[1:], exact[1:], strict=True):
        assert float((a - b).abs().max()) < 0.05 * float(b.abs().max()) + 2


def test_int16_gradient_of_a_step_is_that_of_its_levels():
    """For weights w the loss is sum w K q: along a step, K - C / q with C = what the core's DCT gives, in float64."""
    from edgejpeg.learn.fixed_point import SCALES, frequency_major, int16_dct
    from edgejpeg.learn.integers import integer_samples

    rgb, tables = _pixels(1, 3, 16, 16), [q.requires_grad_() for q in _tables(50)]
    luma, _ = code_planes(rgb, *tables, "444")
    weights = torch.randn(luma.shape)
    (by_step,) = torch.autograd.grad((luma * weights).sum(), tables[0])
    core = int16_dct(integer_samples(rgb, 1, 1, torch.int32)[0]) / torch.tensor(SCALES)[:, None, None, None]
    q = tables[0].detach().T[:, :, None, None]
    slopes = (frequency_major(luma.detach()) - core) / q
    expected = (frequency_major(weights) * slopes).sum((2, 3)).T
    torch.testing.assert_close(by_step, expected, atol=1e-3, rtol=1e-3)


def test_a_pair_of_tables_for_each_image_chooses_its_own_arithmetic():
    rgb = _pixels(3, 3, 24, 40)
    tables = [torch.stack(parts) for parts in zip(_tables(50), _tables(98), _tables(20), strict=True)]
    together = code_planes(rgb, *tables, "420")
    for index in range(3):
        alone = code_planes(rgb[index : index + 1], *(q[index] for q in tables), "420")
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[index : index + 1], b, atol=0, rtol=0)


def test_pieces_make_no_difference(monkeypatch):
    results = []
    for limit in (1 << 18, 1):
        monkeypatch.setattr(coded_planes, "_CPU_PIECE", limit)
        inputs = [_pixels(3, 3, 17, 24).requires_grad_(), *(q.requires_grad_() for q in _tables(70))]
        parts = code_planes(*inputs, "422")
        loss = sum((part * part).sum() for part in parts)
        results.append((*parts, *torch.autograd.grad(loss, inputs)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=1e-6)


def test_an_empty_batch():
    inputs = [torch.zeros(0, 3, 10, 12, requires_grad=True), *(q.requires_grad_() for q in _tables(70))]
    luma, chroma = code_planes(*inputs, "420")
    assert luma.shape == (0, 16, 16) and chroma.shape == (0, 2, 8, 8)
    gradients = torch.autograd.grad(luma.sum() + chroma.sum(), inputs)
    assert gradients[0].shape == (0, 3, 10, 12) and float(gradients[1].abs().sum()) == 0


def test_the_operator_is_registered_as_torch_wants_it():
    zone = torch.full((2, 8, 8), 0.6, dtype=torch.float64)
    inputs = _pixels(2, 3, 9, 17).requires_grad_(), *(q.requires_grad_() for q in _tables(70))
    torch.library.opcheck(torch.ops.edgejpeg.code_planes.default, (*inputs, zone, 2, 2, 1024, True))


def test_pixels_are_rounded_and_clamped():
    wild = torch.tensor([-20.0, 0.4, 254.6, 300.0, math.inf, -math.inf]).repeat(3, 8, 4)[None]
    tame = wild.round().clamp(0, 255)
    for a, b in zip(code_planes(wild, *_tables(50), "444"), code_planes(tame, *_tables(50), "444"), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_nan_and_wrong_steps_are_refused():
    rgb = _pixels(2, 3, 8, 8)
    rgb[1, 2, 3, 4] = math.nan
    with pytest.raises(InvalidInputError, match=r"cannot hold NaN; got one in the image at index \(1, 2, 3, 4\)"):
        code_planes(rgb, *_tables(50), "444")
    luma, chroma = _tables(50)
    chroma[3, 6] = 0
    with pytest.raises(InvalidInputError, match=r"chroma table's step is positive and finite; got 0.0 .*\(3, 6\)"):
        code_planes(_pixels(1, 3, 8, 8), luma, chroma, "444")
    with pytest.raises(InvalidInputError, match="got 'gray'"):
        code_planes(_pixels(1, 3, 8, 8), luma, luma, "gray")


def test_steps_that_no_file_holds(rng):
    """Steps that still learn, no integers or above 255, are divided by in the same way: near plain rounding."""
    rgb = _pixels(1, 3, 32, 32)
    for low, high in ((8, 255), (200, 3000)):
        q = torch.from_numpy(rng.uniform(low, high, (8, 8)))
        luma, _ = code_planes(rgb, q, q, "444")
        exact, _ = code_planes(rgb, q, q, "444", int16=False)
        same = (luma - exact).abs() < 1e-3
        assert float(same.double().mean()) > 0.99
        np.testing.assert_array_less((luma - exact).abs().numpy(), float(q.max()) * 1.01)
