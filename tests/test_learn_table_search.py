"""The search for tables: a Kalman filter that is one, slopes that are slopes, and an optimum that is known."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.jpeg.reference import component_blocks  # noqa: E402
from edgejpeg.learn.entropy import file_bytes  # noqa: E402
from edgejpeg.learn.table_problem import PARAMETERS, Problem, Slopes  # noqa: E402
from edgejpeg.learn.table_search import Walk, shifted, unlearned  # noqa: E402

HALF = PARAMETERS // 2


class Bowl:
    """D + mu R has its least value, on the surface of a rate, at ``best`` plus any factor; slopes scatter.

    R = -sum r log q and D = sum d exp(2 (log q - best)), with d ~ r: then dD / d log q is in balance with
    dR / d log q at ``best`` for all frequencies at once. Thresholds cost (t - best)^2.
    """

    def __init__(self, best, noise, rng):
        self.best, self.noise, self.rng, self.count = best, noise, rng, 40
        self.weights = np.linspace(2, 0.5, HALF) / HALF

    def _rate(self, parameters):
        return 4 - self.weights @ parameters[:HALF]

    def rates(self, parameters, index=None):
        return np.full(self.count if index is None else len(index), self._rate(parameters))

    def slopes(self, index, parameters):
        off = parameters - self.best
        by_step = self.weights * np.exp(2 * off[:HALF])
        by_threshold = self.weights * 4 * off[HALF:]
        mean = np.concatenate([by_step, by_threshold])
        scatter = self.noise * np.tile(self.weights, 2) * self.rng.normal(size=(len(index), PARAMETERS))
        rate_slopes = np.concatenate([-self.weights, -self.weights * 1e-6])
        rates = np.full(len(index), self._rate(parameters))
        return Slopes(np.full(len(index), by_step.sum()), mean + scatter, rates, rate_slopes)


def smooth_truth():
    row, column = np.divmod(np.arange(64), 8)
    luma, chroma = 1.5 + 0.15 * (row + column), 2.0 + 0.2 * row + 0.03 * column**2
    thresholds = np.full(128, 0.5)
    return np.concatenate([luma, chroma, thresholds])


def walk_to(problem, target, steps, start):
    walk = Walk.begin(problem, start, target, steps)
    order = np.random.default_rng(3)
    for number in range(steps):
        walk.step(problem, number, np.sort(order.choice(problem.count, 10, replace=False)))
    return walk


def shape_error(walk, best):
    off = (walk.parameters - best)[:HALF]
    return float((off - off.mean()).std())


def test_a_known_optimum_is_found(rng):
    best = smooth_truth()
    start = np.concatenate([np.full(128, 2.0), np.full(128, 0.5)])
    problem = Bowl(best, 0.0, rng)
    target = problem._rate(best)
    walk = walk_to(problem, target, 60, start)
    assert shape_error(walk, best) < 0.02
    assert problem._rate(walk.parameters) == pytest.approx(target, abs=0.01)


def test_noise_in_every_frequency_leaves_the_shape(rng):
    """Each frequency by itself would end .41 off: the scatter of the mean slope over all images, by the curvature 2."""
    best = smooth_truth()
    start = np.concatenate([np.full(128, 2.5), np.full(128, 0.5)])
    problem = Bowl(best, 20.0, rng)
    steps = 60
    assert 20.0 / np.sqrt(10 * steps) / 2 > 0.4
    walk = walk_to(problem, problem._rate(best), steps, start)
    assert shape_error(walk, best) < 0.27


def test_one_measurement_is_that_of_the_textbook(rng):
    """Information form: P' = (P^-1 + W)^-1, and the mean moves by P' W (measured - mean)."""
    walk = Walk(np.zeros(Walk.width(4)), 10)
    walk.parameters[:] = np.concatenate([rng.uniform(1, 4, HALF), rng.uniform(0.55, 0.9, HALF)])
    walk.parameters[[HALF, HALF + 64]] = 0.5
    walk.covariance[:] = unlearned()
    before = walk.covariance.copy()
    curvature, variance = rng.uniform(0.5, 2, PARAMETERS), rng.uniform(0.1, 5, PARAMETERS)
    gradient = rng.normal(0, 0.3, PARAMETERS)
    move = walk._learn(gradient, curvature, variance)
    weights = curvature**2 / (variance + 1e-6 * curvature**2)
    weights[[HALF, HALF + 64]] = 0  # DC's thresholds have no room
    expected = np.linalg.inv(np.linalg.inv(before) + np.diag(weights))
    assert np.allclose(walk.covariance, expected, rtol=1e-6, atol=1e-9)
    assert np.allclose(move, expected @ (weights * -gradient / curvature), rtol=1e-6, atol=1e-9)


def test_what_pushes_against_a_bound_moves_no_neighbour():
    walk = Walk(np.zeros(Walk.width(4)), 10)
    walk.parameters[:] = np.concatenate([np.full(HALF, 2.0), np.full(HALF, 0.5)])
    walk.covariance[:] = unlearned()
    gradient = np.zeros(PARAMETERS)
    gradient[HALF + 1 : HALF + 8] = 100.0  # thresholds that should be below .5
    one = np.zeros(PARAMETERS)
    one[HALF + 1 : HALF + 8] = 1.0
    assert not walk._learn(gradient, one, one).any()
    assert np.array_equal(walk.covariance, unlearned())
    assert walk._learn(-gradient, one, one)[HALF + 9] > 0


def test_what_is_known_before_any_image():
    covariance = unlearned()
    assert np.array_equal(covariance, covariance.T) and np.linalg.eigvalsh(covariance).min() > 1e-4
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert correlation[9, 10] > correlation[9, 14] > 0  # neighbours are nearer to each other than others
    assert not covariance[:HALF, HALF:].any()


def test_parameters_stay_inside_what_a_file_holds(rng):
    inside = shifted(rng.normal(3, 5, PARAMETERS), 1.0).reshape(2, 2, 64)
    assert inside[0].min() >= 0 and np.exp(inside[0]).max() <= 255.0000001
    assert inside[1].min() == 0.5 and inside[1].max() == 1 and (inside[1, :, 0] == 0.5).all()


@pytest.fixture
def case(photo, rng):
    """A linear network of pixels, six pictures and some parameters."""
    base = photo(60, 90)
    pictures = np.stack([base[4 * i : 4 * i + 32, 5 * i : 5 * i + 32] for i in range(6)]).transpose(0, 3, 1, 2).copy()
    torch.manual_seed(4)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(3 * 256, 7))
    network.requires_grad_(False)
    blocks = [component_blocks(np.ascontiguousarray(image.transpose(1, 2, 0)), "420") for image in pictures]
    planes = [torch.tensor(np.stack([b[c] for b in blocks]), dtype=torch.float32) for c in range(3)]
    parameters = np.concatenate([rng.uniform(0, 1.5, HALF), rng.uniform(0.5, 0.9, HALF)])
    return network, pictures, planes, parameters


def problem_of(network, pictures, planes, bfloat16=False):
    return Problem(network, pictures, planes, (120.0,) * 3, (60.0,) * 3, "420", 0, 4, bfloat16)


def test_slopes_are_those_of_the_mean_error_and_the_mean_rate(case):
    """Tables that all images share: left to autograd, in the layer's own terms."""
    network, pictures, planes, parameters = case
    problem = problem_of(network, pictures, planes)
    index = np.array([0, 2, 3])
    found = problem.slopes(index, parameters)

    leaf = torch.tensor(parameters, requires_grad=True)
    steps, thresholds = leaf.view(2, 2, 8, 8)[0].exp().float(), leaf.view(2, 2, 8, 8)[1].float()
    which = torch.from_numpy(index)
    got = problem.logits(which, steps, thresholds)
    with torch.no_grad():
        clean = network((torch.from_numpy(pictures[index]).float() - 120) / 60)
    error = ((got - got.mean(1, keepdim=True)) - (clean - clean.mean(1, keepdim=True))).square().mean(1)
    (expected,) = torch.autograd.grad(error.mean(), leaf)
    assert np.allclose(found.error, error.detach(), rtol=1e-4)
    assert np.allclose(found.by_parameter.mean(0), expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))
    assert (found.by_parameter.std(0) > 0).sum() > 60

    leaf = torch.tensor(parameters, requires_grad=True)
    steps, thresholds = leaf.view(2, 2, 8, 8)[0].exp().float(), leaf.view(2, 2, 8, 8)[1].float()
    levels = [planes[c][which] / steps[min(c, 1)] for c in range(3)]
    rates = file_bytes(levels, (32, 32), "420", thresholds=list(thresholds), effort=0, steps=list(steps)) * 8 / 1024
    (expected,) = torch.autograd.grad(rates.mean(), leaf)
    assert np.allclose(found.rates, rates.detach(), rtol=1e-6)
    assert np.allclose(found.rate_by_parameter, expected, rtol=1e-4, atol=1e-9)


def test_bfloat16_blurs_the_slopes_and_nothing_else(case):
    network, pictures, planes, parameters = case
    exact, blurred = (problem_of(network, pictures, planes, bfloat16) for bfloat16 in (False, True))
    index, parameters = np.arange(6), shifted(parameters, 2.0)
    one, other = exact.slopes(index, parameters), blurred.slopes(index, parameters)
    assert not np.array_equal(one.by_parameter, other.by_parameter)
    assert np.corrcoef(one.by_parameter.mean(0), other.by_parameter.mean(0))[0, 1] > 0.9
    assert np.array_equal(one.rates, other.rates)
    assert np.array_equal(one.rate_by_parameter, other.rate_by_parameter)
    assert exact.mean_divergence(parameters) == blurred.mean_divergence(parameters)
    assert torch.equal(exact.targets, blurred.targets)
