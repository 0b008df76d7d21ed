"""FGSM, PGD and BPDA against what can be worked out by hand: linear networks, a NumPy attack, a staircase."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.learn.attacks import (  # noqa: E402
    fgsm,
    loss_gradient,
    pgd,
    random_start,
    straight_through,
    whole_pixels,
)

CLASSES, SHAPE = 4, (3, 4, 5)
SIZE = 60


def scene(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *SHAPE), generator=generator).double()
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    weights = torch.randn(CLASSES, SIZE, generator=generator, dtype=torch.float64) / 200
    return images, labels, weights


def linear(weights):
    return lambda images: images.flatten(1) @ weights.T


def numpy_gradient(hidden, output, images, labels):
    """d/dx of the summed cross entropy of output @ relu(hidden @ x), written out."""
    x = images.reshape(len(images), -1)
    before = x @ hidden.T
    logits = np.maximum(before, 0) @ output.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return (((p @ output) * (before > 0)) @ hidden).reshape(images.shape)


def test_gradient_is_that_written_out_in_numpy():
    rng = np.random.default_rng(1)
    hidden, output = rng.normal(size=(16, SIZE)) / 100, rng.normal(size=(CLASSES, 16))
    images, labels, _ = scene()

    def network(x):
        return torch.relu(x.flatten(1) @ torch.tensor(hidden).T) @ torch.tensor(output).T

    found = loss_gradient(network)(images, labels)
    np.testing.assert_allclose(
        found.numpy(), numpy_gradient(hidden, output, images.numpy(), labels.numpy()), atol=1e-12
    )
    assert not images.requires_grad
    one = loss_gradient(network)(images[:1], labels[:1])
    torch.testing.assert_close(one, found[:1])  # a sum: no image counts for another


def test_pgd_is_madrys_written_out_in_numpy():
    rng = np.random.default_rng(2)
    hidden, output = rng.normal(size=(16, SIZE)) / 100, rng.normal(size=(CLASSES, 16))
    images, labels, _ = scene(seed=3)

    def network(x):
        return torch.relu(x.flatten(1) @ torch.tensor(hidden).T) @ torch.tensor(output).T

    start = random_start(SHAPE, list(range(6))).double()
    for eps, begin in ((2.0, None), (3.0, start)):
        clean = images.numpy()
        x = clean if begin is None else np.clip(clean + eps * begin.numpy(), 0, 255)
        for _ in range(5):
            x = x + 2.5 * eps / 5 * np.sign(numpy_gradient(hidden, output, x, labels.numpy()))
            x = np.clip(np.clip(x, clean - eps, clean + eps), 0, 255)
        found = pgd(loss_gradient(network), images, labels, eps, start=begin)
        np.testing.assert_allclose(found.numpy(), x, atol=1e-9)


@pytest.mark.parametrize("eps", [1.0, 2.5, 4.0])
def test_two_classes_and_a_linear_network_have_one_best_attack(eps):
    """The loss grows with the other class's weight minus the label's: every sample goes to that end of its interval."""
    images, _, weights = scene()
    weights = weights[:2]
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    direction = (weights[1 - labels] - weights[labels]).reshape(images.shape)
    best = (images + eps * direction.sign()).clamp(0, 255)
    gradient = loss_gradient(linear(weights))
    torch.testing.assert_close(fgsm(gradient, images, labels, eps), best, rtol=0, atol=0)
    torch.testing.assert_close(pgd(gradient, images, labels, eps), best, rtol=0, atol=1e-12)
    far = pgd(gradient, images, labels, eps, start=random_start(SHAPE, [5] * 6).double())
    torch.testing.assert_close(far, best, rtol=0, atol=1e-12)  # 5 steps of eps / 2 cross the whole ball


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0.01, 300).filter(lambda e: e <= 255),
    steps=st.integers(1, 7),
    step=st.none() | st.floats(0.01, 500),
    seed=st.integers(0, 1000),
)
def test_never_outside_the_ball_or_the_range(eps, steps, step, seed):
    images, labels, weights = scene(3, seed)
    gradient = loss_gradient(lambda x: (linear(weights)(x) * 3).sin())
    start = random_start(SHAPE, [seed, seed + 1, seed + 2]).double()
    for found in (
        fgsm(gradient, images, labels, eps),
        pgd(gradient, images, labels, eps, steps=steps, step=step, start=start),
    ):
        whole = whole_pixels(found, images, eps)
        assert torch.equal(whole, whole.round())
        for one in (found, whole):
            assert float((one - images).abs().max()) <= eps + 1e-9
            assert float(one.min()) >= 0 and float(one.max()) <= 255
        assert float((whole - found).abs().max()) < 1 + 1e-9


def test_loss_grows_with_eps_and_pgd_is_not_weaker_than_fgsm():
    images, labels, _ = scene(32, 7)
    mix = torch.randn(12, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 60
    out = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def network(x):
        return torch.tanh((x.flatten(1) - 128) @ mix.T) @ out.T

    def loss(x):
        return float(torch.nn.functional.cross_entropy(network(x), labels))

    gradient = loss_gradient(network)
    clean = loss(images)
    one_step = [loss(fgsm(gradient, images, labels, eps)) for eps in (1, 2, 3, 4)]
    several = [loss(pgd(gradient, images, labels, eps)) for eps in (1, 2, 3, 4)]
    assert [clean, *one_step] == sorted([clean, *one_step]) and [clean, *several] == sorted([clean, *several])
    assert all(p >= f - 1e-6 for p, f in zip(several, one_step, strict=True))


def test_a_staircase_hides_its_gradient_and_bpda_finds_it():
    images, labels, weights = scene()

    def staircase(x):
        return torch.round(x / 24) * 24

    network = linear(weights)
    own = loss_gradient(lambda x: network(staircase(x)))
    assert not own(images, labels).any()
    assert torch.equal(pgd(own, images, labels, 4.0), images)
    through = straight_through(staircase)
    assert torch.equal(through(images), staircase(images))
    torch.testing.assert_close(
        loss_gradient(lambda x: network(through(x)))(images, labels), loss_gradient(network)(staircase(images), labels)
    )
    unconnected = loss_gradient(lambda x: network(staircase(x.detach())))  # a real file: not part of the graph
    assert torch.equal(unconnected(images, labels), torch.zeros_like(images))


def test_random_start_does_not_depend_on_the_batch():
    together = random_start(SHAPE, [3, 1, 4])
    assert torch.equal(together, torch.cat([random_start(SHAPE, [seed]) for seed in (3, 1, 4)]))
    assert not torch.equal(together[0], together[1])
    assert float(together.abs().max()) <= 1 and float(together.abs().mean()) == pytest.approx(0.5, abs=0.1)


def test_bad_input_is_said():
    images, labels, weights = scene()
    gradient = loss_gradient(linear(weights))
    for call, message in (
        (lambda: fgsm(gradient, images, labels, 0.0), "eps is above 0"),
        (lambda: fgsm(gradient, images, labels, float("nan")), "eps is above 0"),
        (lambda: fgsm(gradient, images + 1000, labels, 1.0), "pixels in 0..255"),
        (lambda: fgsm(gradient, images * float("nan"), labels, 1.0), "pixels in 0..255"),
        (lambda: fgsm(gradient, images, labels[:2], 1.0), "N labels"),
        (lambda: fgsm(gradient, images.byte(), labels, 1.0), "floating-point"),
        (lambda: pgd(gradient, images, labels, 1.0, steps=0), "at least 1 step"),
        (lambda: pgd(gradient, images, labels, 1.0, step=-1.0), "positive length"),
        (lambda: pgd(gradient, images, labels, 1.0, start=torch.zeros(1)), "start has the images' shape"),
        (lambda: fgsm(loss_gradient(linear(weights * float("nan"))), images, labels, 1.0), "NaN or infinity"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            call()
