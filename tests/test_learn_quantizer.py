"""Q_d against the whole softmax in float64, its slopes against autograd and finite differences, and its memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.learn.quantizer import annealed_hardness, hard_quantize, soft_quantize  # noqa: E402

HARDNESS = [0.01, 0.05, 0.3, 0.7, 1.0, 2.499, 2.501, 3.5, 5.0, 20.0, 100.0, 1000.0]


def _whole_softmax(z, q, alpha, levels, middle=None, half=None):
    """All 2 L + 1 levels in float64; with ``middle`` only those within ``half`` of it."""
    i = torch.arange(-levels, levels + 1, dtype=torch.float64)
    logits = -alpha[..., None] * (z[..., None] - i * q[..., None]) ** 2
    if middle is not None:
        logits = logits.masked_fill((i - middle[..., None]).abs() > half, -math.inf)
    return (torch.softmax(logits, dim=-1) * i).sum(-1) * q


def _positions(levels, count=120):
    """c = z / q: inside, at all the fractions of the first and last levels, and far beyond the ends."""
    rng = np.random.default_rng(levels)
    reach = min(levels, 40)
    c = np.concatenate(
        [
            rng.uniform(-5, 5, count),
            rng.uniform(levels - reach, levels + 4, count),
            -rng.uniform(levels - reach, levels + 4, count),
            np.arange(levels - 3, levels + 3) + 0.5,
            np.array([0.0, 0.5, -0.5, 0.4999999, levels, -levels, 3.0 * levels, -50.0 * levels]),
        ]
    )
    return torch.from_numpy(c)


def _case(levels, hardness, dtype, q=1.75):
    c = _positions(levels)
    z = (c * q).to(dtype).requires_grad_()
    steps = torch.full_like(z, q).detach().requires_grad_()
    alpha = torch.full_like(z, hardness / q**2).detach().requires_grad_()
    return z, steps, alpha


@pytest.mark.parametrize("bits", [3, 8, 11])
@pytest.mark.parametrize("hardness", HARDNESS)
def test_equals_the_whole_softmax_in_float64(bits, hardness):
    levels = 2 ** (bits - 1)
    ours, theirs = (_case(levels, hardness, torch.float64) for _ in range(2))
    value, expected = soft_quantize(*ours, bits=bits), _whole_softmax(*theirs, levels)
    # z / q is rounded once: an error of |c| 2^-53, times the slope 2 h Var <= h.
    c_error = 2.3e-16 * ours[0].detach().abs() * (1 + hardness)
    assert bool(((value - expected).abs() <= 2e-14 + 4 * c_error).all())
    by_ours, by_theirs = torch.autograd.grad(value.sum(), ours), torch.autograd.grad(expected.sum(), theirs)
    for slope, truth, tolerance in zip(by_ours, by_theirs, (1e-9, 1e-7, 2e-6), strict=True):
        np.testing.assert_allclose(slope.numpy(), truth.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bits", [3, 8, 11])
@pytest.mark.parametrize("hardness", HARDNESS)
def test_float32_is_as_good_as_its_input(bits, hardness):
    levels = 2 ** (bits - 1)
    z, q, alpha = _case(levels, hardness, torch.float32)
    value = soft_quantize(z, q, alpha, bits=bits)
    assert value.dtype == torch.float32
    exact = [t.detach().double().requires_grad_() for t in (z, q, alpha)]
    expected = _whole_softmax(*exact, levels)
    magnitude = torch.minimum(z.detach().double().abs(), torch.tensor(2.0 * levels)) / 1.75
    c_error = 2.0**-23 * magnitude * (1 + hardness)
    assert bool(((value.double() - expected).abs() / 1.75 <= 4e-7 + c_error).all())
    ours, theirs = torch.autograd.grad(value.sum(), (z, q)), torch.autograd.grad(expected.sum(), exact[:2])
    # Slopes change by at most h^2 (third central moment) per unit of c, dQ/dq by |c| times that.
    slope_error = 1e-5 + 4 * c_error * (1 + hardness)
    assert bool(((ours[0].double() - theirs[0]).abs() <= slope_error).all())
    assert bool(((ours[1].double() - theirs[1]).abs() <= 1e-5 + slope_error * (1 + magnitude)).all())


@pytest.mark.parametrize("hardness", [0.1, 0.7, 2.6, 10.0])
def test_without_clip_the_alphabet_has_no_ends(hardness):
    """bits = 3 without ends is the whole softmax over a far larger alphabet."""
    c = torch.linspace(-30, 30, 301, dtype=torch.float64)
    q, alpha = torch.full_like(c, 0.5), torch.full_like(c, hardness / 0.25)
    value = soft_quantize(c * 0.5, q, alpha, bits=3, clip=False)
    torch.testing.assert_close(value, _whole_softmax(c * 0.5, q, alpha, 200), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("hardness", [0.05, 0.7, 3.0, 40.0])
@pytest.mark.parametrize("bits", [3, 8])
def test_window_of_five_is_the_authors(bits, hardness):
    """Their five levels start at clamp(round(c) - 2, -L + 1, L - 5): a window that stops at the ends."""
    levels = 2 ** (bits - 1)
    ours, theirs = (_case(levels, hardness, torch.float64) for _ in range(2))
    start = (torch.round(theirs[0].detach() / theirs[1].detach()) - 2).clamp(-levels + 1, levels - 5)
    expected = _whole_softmax(*theirs, levels, middle=start + 2, half=2)
    value = soft_quantize(*ours, bits=bits, window=5)
    torch.testing.assert_close(value, expected, atol=1e-11, rtol=1e-12)
    by_ours, by_theirs = torch.autograd.grad(value.sum(), ours), torch.autograd.grad(expected.sum(), theirs)
    for slope, truth in zip(by_ours, by_theirs, strict=True):
        torch.testing.assert_close(slope, truth, atol=1e-8, rtol=1e-8)


def test_at_the_imagenet_setting_the_exact_quantizer_is_the_identity_and_the_window_is_not():
    z = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    identity = soft_quantize(z, 1.0, 0.7, bits=11)
    assert float((identity - z).abs().max()) < 7e-6
    assert float((soft_quantize(z, 1.0, 0.7, bits=11, window=5) - z).abs().max()) > 1e-3


def test_hardness_closes_the_gap_to_the_hard_quantizer():
    z = torch.linspace(-3.499, 3.499, 6999, dtype=torch.float64)
    distances = [float((soft_quantize(z, 1.0, h, bits=8) - torch.round(z)).abs()[_away(z)].max()) for h in (5.0, 20.0)]
    assert distances[0] > distances[1] > 1e-3
    for hardness in (5.0, 20.0):
        below = 0.5 - torch.linspace(0.01, 0.3, 30, dtype=torch.float64)
        expected = 1 / (1 + torch.exp(2 * hardness * (0.5 - below)))
        torch.testing.assert_close(soft_quantize(below, 1.0, hardness), expected, atol=1e-2, rtol=0)
    far = soft_quantize(z, 1.0, 1000.0)
    torch.testing.assert_close(far[_away(z)], torch.round(z)[_away(z)], atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("hardness", "distance", "expected"),
    [(5.0, 0.1, 0.27), (20.0, 0.1, 0.02), (5.0, 0.075, 0.32), (20.0, 0.05, 0.12), (5.0, 0.0, 0.5), (20.0, 0.0, 0.5)],
)
def test_the_gap_at_a_distance_from_a_threshold(hardness, distance, expected):
    """The figures of docs/jpeg_layer.md, and where the gap is .32 q and .12 q; at the threshold it is half a step."""
    c = torch.tensor([k + 0.5 + sign * distance for k in range(-4, 4) for sign in (-1, 1)], dtype=torch.float64)
    nearest = torch.floor(c + 0.5) if distance else c - 0.5
    for q in (1.0, 7.5):
        gap = (soft_quantize(c * q, q, hardness / q**2) - nearest * q).abs() / q
        torch.testing.assert_close(gap, torch.full_like(gap, expected), atol=0.006, rtol=0)


def test_no_hardness_lowers_the_largest_gap_below_half_a_step():
    c = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    for hardness in (5.0, 20.0):
        gap = (soft_quantize(c, 1.0, hardness) - torch.round(c)).abs()
        assert float(gap.max()) == pytest.approx(0.5, abs=0.002)


def _away(z):
    """Not within .02 of a threshold."""
    return ((z - torch.floor(z)) - 0.5).abs() > 0.02


def _moments(c, h, levels):
    i = np.arange(-levels, levels + 1)
    weights = np.exp(-h * (c - i) ** 2 + h * (c - np.clip(np.round(c), -levels, levels)) ** 2)
    p = weights / weights.sum()
    return i, p


@pytest.mark.parametrize("hardness", [0.2, 0.7, 2.0, 3.0, 12.0])
def test_derivatives_of_appendix_a1(hardness):
    """By sums: 2 alpha Var, (E + 2 alpha z Var - 2 alpha Skew) / q, -Cov(Q_p, (z - Q_p)^2)."""
    q, levels = 2.25, 128
    alpha = hardness / q**2
    c = np.concatenate([np.linspace(-6.3, 6.4, 33), [126.4, 127.5, -128.2, -125.9]])
    z = torch.from_numpy(c * q).requires_grad_()
    steps, inverse = (
        torch.full_like(z, q).detach().requires_grad_(),
        torch.full_like(z, alpha).detach().requires_grad_(),
    )
    gradients = torch.autograd.grad(soft_quantize(z, steps, inverse).sum(), (z, steps, inverse))
    for index, position in enumerate(c):
        i, p = _moments(position, hardness, levels)
        values = i * q
        mean = (p * values).sum()
        variance = (p * (values - mean) ** 2).sum()
        skew = (p * values**3).sum() - mean * (p * values**2).sum()
        by_alpha = -(
            (p * values * (position * q - values) ** 2).sum() - mean * (p * (position * q - values) ** 2).sum()
        )
        expected = (
            2 * alpha * variance,
            (mean + 2 * alpha * position * q * variance - 2 * alpha * skew) / q,
            by_alpha,
        )
        np.testing.assert_allclose([float(g[index]) for g in gradients], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"window": 5}, {"clip": False}])
@pytest.mark.parametrize("hardness", [0.3, 2.0, 4.0, 15.0])
def test_gradcheck_in_z_q_and_alpha(options, hardness):
    generator = torch.Generator().manual_seed(5)
    q = (1 + torch.rand(1, 4, dtype=torch.float64, generator=generator)).requires_grad_()
    c = torch.cat(
        [
            torch.floor(torch.rand(5, 4, dtype=torch.float64, generator=generator) * 12 - 6) + 0.21,
            torch.tensor([[3.2, 4.3, -4.2, -6.8]], dtype=torch.float64),
        ]
    )
    z = (c * q.detach()).requires_grad_()
    alpha = torch.tensor(hardness / 2.25, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: soft_quantize(*args, bits=3, **options), (z, q, alpha))


def test_mixed_hardness_in_one_table():
    """Steps on both sides of the change of method, as tables have, and a piece of memory at a time."""
    generator = torch.Generator().manual_seed(6)
    q = torch.rand(64, generator=generator, dtype=torch.float64) * 3 + 0.1
    z = torch.randn(3000, 64, generator=generator, dtype=torch.float64) * 4
    value = soft_quantize(z, q, 1.0, bits=8)
    expected = torch.stack([_whole_softmax(z[:, i], q[i : i + 1], torch.ones(1), 128) for i in range(64)], dim=1)
    torch.testing.assert_close(value, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("shape", [(), (3,), (2, 70_000), (5, 1, 3), (0, 4)])
def test_gradients_of_broadcast_operands_are_sums(shape):
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(shape, dtype=torch.float64, generator=generator) * 3
    q = torch.full(shape[-1:], 1.25, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(shape, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad(soft_quantize(z, q, alpha), (q, alpha), incoming)
    single_q, single_alpha = torch.full_like(z, 1.25).requires_grad_(), torch.full_like(z, 2.0).requires_grad_()
    whole = torch.autograd.grad(soft_quantize(z, single_q, single_alpha), (single_q, single_alpha), incoming)
    torch.testing.assert_close(ours[0], whole[0].sum_to_size(q.shape))
    torch.testing.assert_close(ours[1], whole[1].sum())


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_keeps_its_inputs_and_nothing_else(kind):
    z = torch.randn(400, 64, requires_grad=True)
    q, alpha = torch.full((64,), 2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = soft_quantize(z, q, alpha, bits=16) if kind == "soft" else hard_quantize(z, q, bits=16)
    inputs = {t.untyped_storage().data_ptr() for t in (z, q, alpha)}
    assert set(kept) <= inputs and z.untyped_storage().data_ptr() in kept
    value.sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_stays_in_float32(dtype):
    z = torch.linspace(-900, 900, 7201).requires_grad_()
    q = torch.tensor(3.0, requires_grad=True)
    expected = soft_quantize(z, q, 0.5, bits=11)
    slopes = torch.autograd.grad(expected.sum(), (z, q))
    with torch.autocast("cpu", dtype=dtype):
        value = soft_quantize(z, q, 0.5, bits=11)
        inside = torch.autograd.grad(value.sum(), (z, q))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, atol=0, rtol=0)
    for ours, theirs in zip(inside, slopes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    half = z.detach().to(dtype).requires_grad_()
    result = soft_quantize(half, q, 0.5, bits=11)
    assert result.dtype == torch.float32
    (slope,) = torch.autograd.grad(result.sum(), half)
    assert slope.dtype == dtype and bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("h", [1e-8, 1e-3, 1e6])
def test_extreme_hardness_stays_finite(h):
    z = torch.tensor([0.0, 1e-3, 0.7, 127.5, 1e4, -1e6, 3e-30], requires_grad=True)
    q, alpha = torch.full((7,), 1e-2, requires_grad=True), torch.full((7,), h / 1e-4, requires_grad=True)
    value = soft_quantize(z, q, alpha)
    gradients = torch.autograd.grad(value.sum(), (z, q, alpha))
    assert all(bool(torch.isfinite(t).all()) for t in (value, *gradients))
    assert float(value.detach().abs().max()) <= 1.28 * (1 + 1e-6)


def test_hard_rounds_halves_away_from_zero_and_clips():
    z = torch.tensor([-2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.49, 7.6, -9.0], dtype=torch.float64)
    assert hard_quantize(z, 1.0, bits=3).tolist() == [-3, -2, -1, 0, 1, 2, 2, 4, -4]
    assert hard_quantize(z, 1.0, bits=3, clip=False).tolist() == [-3, -2, -1, 0, 1, 2, 2, 8, -9]
    steps = torch.tensor(3.0, dtype=torch.float64)
    from edgejpeg.jpeg.reference import quantize
    from edgejpeg.jpeg.tables import QuantTable

    rng = np.random.default_rng(3)
    coefficients = np.round(rng.normal(0, 60, (50, 8, 8)) * 2) / 2
    expected = quantize(coefficients, QuantTable(np.full((8, 8), 3))) * 3
    np.testing.assert_array_equal(hard_quantize(torch.from_numpy(coefficients), steps, bits=11).numpy(), expected)


def test_hard_gradients_are_straight_through():
    z = torch.tensor([0.2, 3.9, -7.7, 30.0, -31.0], dtype=torch.float64, requires_grad=True)
    q = torch.full((5,), 2.0, dtype=torch.float64, requires_grad=True)
    by_z, by_q = torch.autograd.grad(hard_quantize(z, q, bits=3).sum(), (z, q))
    assert by_z.tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(by_q.numpy(), [0 - 0.1, 2 - 1.95, -4 + 3.85, 4, -4], atol=1e-12)


def test_second_derivatives_are_refused():
    z = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(soft_quantize(z, 1.0, 3.0).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(slope.sum(), z)


def test_hardness_is_annealed_geometrically():
    path = [annealed_hardness(k / 4, 0.5, 128) for k in range(5)]
    np.testing.assert_allclose(path, [0.5, 2, 8, 32, 128])
    for wrong in (
        {"progress": -0.1},
        {"progress": math.nan},
        {"progress": 0.5, "start": 0},
        {"progress": 1, "end": "9"},
    ):
        with pytest.raises(InvalidInputError, match=r"hardness|progress"):
            annealed_hardness(**wrong)


@pytest.mark.parametrize("value", [0.0, -3.0, math.nan, math.inf])
@pytest.mark.parametrize("quantizer", [soft_quantize, hard_quantize])
def test_a_wrong_step_is_named(quantizer, value):
    q = torch.full((8, 8), 4.0)
    q[2, 5] = value
    args = () if quantizer is hard_quantize else (1.0,)
    with pytest.raises(InvalidInputError, match=r"step q is positive and finite; got .* at index \(2, 5\)"):
        quantizer(torch.zeros(3, 8, 8), q, *args)


def test_other_wrong_operands_are_refused():
    z = torch.zeros(4, 8)
    with pytest.raises(InvalidInputError, match="alpha is positive"):
        soft_quantize(z, 1.0, -1.0)
    with pytest.raises(InvalidInputError, match=r"floating-point tensor; got torch.int64.*\.float\(\)"):
        soft_quantize(z.long(), 1.0, 1.0)
    with pytest.raises(InvalidInputError, match=r"q broadcasts against .*\(4, 8\); got \(3,\)"):
        soft_quantize(z, torch.ones(3), 1.0)
    with pytest.raises(InvalidInputError, match="q is real"):
        soft_quantize(z, torch.ones(8, dtype=torch.bool), 1.0)
    for bits in (2, 17, 8.0, True):
        with pytest.raises(InvalidInputError, match="3 to 16 bits"):
            soft_quantize(z, 1.0, 1.0, bits=bits)
    for window in (3, "five", True):
        with pytest.raises(InvalidInputError, match="window is 'exact' or 5"):
            soft_quantize(z, 1.0, 1.0, window=window)
