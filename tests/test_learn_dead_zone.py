"""The quantiser that tables are learned through: the encoder's in the limit, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.reference import quantize  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable  # noqa: E402
from edgejpeg.learn.dead_zone import dead_zone_quantize  # noqa: E402


@pytest.fixture
def case(rng):
    steps = rng.integers(1, 60, (8, 8))
    zone = rng.uniform(0.5, 1, (8, 8))
    zone[0, 0] = 0.5
    return rng.laplace(0, 40, (50, 8, 8)), steps, zone


def test_a_narrow_ramp_is_the_encoders_quantiser(case):
    coefficients, steps, zone = case
    expected = quantize(coefficients, QuantTable(steps), zone) * steps
    got = dead_zone_quantize(*(torch.tensor(a, dtype=torch.float64) for a in case), half_width=1e-9)
    assert np.array_equal(got.numpy(), expected)
    assert (got == 0).any() and (got != 0).any()


def test_dc_is_rounded_whatever_its_threshold_says(case):
    coefficients, steps, zone = case
    zone[0, 0] = 0.9
    got = dead_zone_quantize(*(torch.tensor(a, dtype=torch.float64) for a in (coefficients, steps, zone)))
    plain = quantize(coefficients, QuantTable(steps)) * steps
    assert np.array_equal(got[:, 0, 0].numpy(), plain[:, 0, 0])


def test_the_ramps_derivatives_are_those_of_its_formula(rng):
    """Below |C| = q the value is K q with K = clip((|C| / q - t + w) / 2 w, 0, 1): left to autograd."""
    w = 0.2
    steps = torch.tensor(rng.uniform(5, 40, (8, 8)), requires_grad=True)
    zone = torch.tensor(rng.uniform(0.5, 0.8, (8, 8)), requires_grad=True)
    inside = torch.tensor(rng.uniform(-0.99, 0.99, (200, 8, 8)))
    coefficients = (inside * steps.detach()).requires_grad_()
    weights = torch.tensor(rng.normal(size=(200, 8, 8)))
    weights[:, 0, 0] = 0
    leaves = (coefficients, steps, zone)
    ours = torch.autograd.grad((dead_zone_quantize(*leaves, half_width=w) * weights).sum(), leaves)
    ratio = coefficients / steps
    ramp = ((ratio.abs() - zone + w) / (2 * w)).clamp(0, 1) * ratio.sign()
    expected = torch.autograd.grad((ramp * steps * weights).sum(), leaves)
    for mine, formula in zip(ours, expected, strict=True):
        assert torch.allclose(mine, formula, rtol=1e-9, atol=1e-9)
        assert (mine != 0).any()


def test_larger_levels_and_dc_are_straight_through(rng):
    steps = torch.full((8, 8), 10.0, dtype=torch.float64, requires_grad=True)
    zone = torch.full((8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    ratio = torch.tensor(rng.uniform(1.5, 30, (20, 8, 8)) * rng.choice([-1, 1], (20, 8, 8)))
    ratio[:, 0, 0] = torch.tensor(rng.uniform(-3, 3, 20))
    coefficients = (ratio * 10).requires_grad_()
    result = dead_zone_quantize(coefficients, steps, zone)
    result.sum().backward()
    assert torch.equal(coefficients.grad, torch.ones_like(ratio))
    rounding_error = (torch.copysign((ratio.abs() + 0.5).floor(), ratio) - ratio).sum(0)
    assert torch.allclose(steps.grad, rounding_error)
    assert torch.equal(zone.grad, torch.zeros_like(zone))


def test_the_mean_gradient_by_the_threshold_is_that_of_the_hard_quantiser():
    """Evenly spread coefficients, squared error: d/dt of the mean error of one frequency, in closed form.

    With C = a q, a uniform on [0, 1.5): error^2 is a^2 below t and (1 - a)^2 above, so that
    d/dt of its mean is q^2 (t^2 - (1 - t)^2) / 1.5.
    """
    q, t = 20.0, 0.7
    a = torch.linspace(0, 1.5, 30001, dtype=torch.float64)[:, None, None].expand(-1, 8, 8)
    steps = torch.full((8, 8), q, dtype=torch.float64)
    zone = torch.full((8, 8), t, dtype=torch.float64, requires_grad=True)
    error = (dead_zone_quantize(a * q, steps, zone) - a * q)[:, 3, 2]
    (gradient,) = torch.autograd.grad(error.square().mean(), zone)
    assert gradient[3, 2].item() == pytest.approx(q**2 * (t**2 - (1 - t) ** 2) / 1.5, rel=1e-3)


def test_tables_of_each_image_are_those_images_alone(case):
    coefficients, steps, zone = (torch.tensor(a, dtype=torch.float64) for a in case)
    images = coefficients.view(5, 2, 5, 8, 8)
    own_steps = (steps * torch.arange(1, 6)[:, None, None]).view(5, 1, 1, 8, 8).requires_grad_()
    own_zone = zone.expand(5, 1, 1, 8, 8).clone().requires_grad_()
    together = dead_zone_quantize(images, own_steps, own_zone)
    weights = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)
    gradients = torch.autograd.grad((together * weights).sum(), (own_steps, own_zone))
    for i in range(5):
        leaves = [own_steps[i, 0, 0].detach().requires_grad_(), own_zone[i, 0, 0].detach().requires_grad_()]
        alone = dead_zone_quantize(images[i], *leaves)
        assert torch.equal(alone, together[i])
        for mine, theirs in zip(torch.autograd.grad((alone * weights[i]).sum(), leaves), gradients, strict=True):
            assert torch.allclose(mine, theirs[i, 0, 0], rtol=1e-12, atol=1e-12)


def test_bad_input():
    flat = torch.full((8, 8), 0.5)
    with pytest.raises(InvalidInputError, match=r"above 0 and at most \.5; got 0"):
        dead_zone_quantize(torch.zeros(2, 8, 8), flat, flat, half_width=0)
    for steps, thresholds in (
        (torch.ones(64), flat),
        (torch.ones(3, 8, 8), flat.expand(3, 8, 8)),
        (torch.ones(2, 8, 8), flat),
        (torch.ones(1, 2, 8, 8), flat.expand(1, 2, 8, 8)),
    ):
        with pytest.raises(InvalidInputError, match=r"steps and thresholds \(8, 8\)"):
            dead_zone_quantize(torch.zeros(2, 8, 8), steps, thresholds)
