"""The measures against plain loops, SciPy and known distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgejpeg.errors import InvalidInputError
from edgejpeg.evaluate import metrics


def _kl_by_loop(p_logits: list[float], q_logits: list[float]) -> float:
    """The definition with math.fsum, no vectorisation and no max shift (small logits only)."""
    p_total = math.fsum(math.exp(v) for v in p_logits)
    q_total = math.fsum(math.exp(v) for v in q_logits)
    return math.fsum(
        math.exp(a) / p_total * (math.log(math.exp(a) / p_total) - math.log(math.exp(b) / q_total))
        for a, b in zip(p_logits, q_logits, strict=True)
    )


def test_kl_equals_the_definition_by_loop() -> None:
    rng = np.random.default_rng(1)
    clean, compressed = rng.normal(size=(20, 17)) * 4, rng.normal(size=(20, 17)) * 4
    expected = [_kl_by_loop(a.tolist(), b.tolist()) for a, b in zip(clean, compressed, strict=True)]
    np.testing.assert_allclose(metrics.kl_divergence(clean, compressed), expected, rtol=1e-11)


def test_kl_equals_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    clean, compressed = rng.normal(size=(8, 1000)) * 3, rng.normal(size=(8, 1000)) * 3
    expected = stats.entropy(special.softmax(clean, axis=1), special.softmax(compressed, axis=1), axis=1)
    np.testing.assert_allclose(metrics.kl_divergence(clean, compressed), expected, rtol=1e-10)


def test_kl_keeps_its_digits_where_float32_loses_them() -> None:
    # Two nearly equal outputs: KL = Var_p(e)/2 + O(e^3), about 1e-8 here, below float32's resolution of log p.
    rng = np.random.default_rng(3)
    clean = rng.normal(size=1000).astype(np.float32)
    step = np.where(np.arange(1000) % 2 == 0, np.float64(1e-4), -1e-4)
    p = np.exp(clean.astype(np.float64))
    p /= p.sum()
    variance = float(p @ step**2 - (p @ step) ** 2)
    result = float(metrics.kl_divergence(clean, clean.astype(np.float64) + step))
    assert result == pytest.approx(variance / 2, rel=1e-3)


@given(
    hnp.arrays(np.float64, (3, 9), elements=st.floats(-800, 800)),
    hnp.arrays(np.float64, (3, 9), elements=st.floats(-800, 800)),
    st.floats(-1e3, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_kl_is_finite_never_negative_and_blind_to_a_shift(a: np.ndarray, b: np.ndarray, shift: float) -> None:
    result = metrics.kl_divergence(a, b)
    assert np.isfinite(result).all() and (result >= 0).all()
    np.testing.assert_allclose(metrics.kl_divergence(a + shift, b), result, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(metrics.kl_divergence(a, a), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("clean", "compressed"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4))),
        (np.zeros((2, 3)), np.zeros((3, 3))),
        (np.float64(1), np.float64(1)),
        (np.zeros((2, 0)), np.zeros((2, 0))),
        (np.array([0.0, np.nan]), np.zeros(2)),
        (np.zeros(2), np.array([0.0, np.inf])),
    ],
)
def test_kl_refuses_what_it_cannot_measure(clean: np.ndarray, compressed: np.ndarray) -> None:
    with pytest.raises(InvalidInputError):
        metrics.kl_divergence(clean, compressed)


def test_agreement_is_of_the_first_top_class() -> None:
    clean = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 1.0], [0.0, 0.0, 0.0]])
    compressed = np.array([[0.0, 0.1, 0.0], [0.0, 9.0, 1.0], [0.0, 0.0, 1.0]])
    assert metrics.top1_agreement(clean, compressed).tolist() == [True, False, False]


def test_accuracy_by_hand_and_by_loop() -> None:
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(200, 12)), rng.integers(0, 12, 200)
    for top in (1, 5, 12):
        best = [sorted(range(12), key=row.tolist().__getitem__, reverse=True)[:top] for row in logits]
        hits = sum(label in row for label, row in zip(labels.tolist(), best, strict=True))
        assert metrics.accuracy(logits, labels, top=top) == hits / 200
    assert metrics.accuracy([[0.0, 1.0]], [1]) == 1.0
    for bad in ({"labels": [12] * 200}, {"labels": [-1] * 200}, {"labels": labels[:5]}, {"top": 0}, {"top": 13}):
        with pytest.raises(InvalidInputError):
            metrics.accuracy(logits, bad.get("labels", labels), top=bad.get("top", 1))


def test_weights_are_counts_and_repeatable() -> None:
    weights = metrics.bootstrap_weights(30, resamples=50, seed=7)
    assert weights.shape == (50, 30)
    assert (weights.sum(axis=1) == 30).all() and (weights == np.round(weights)).all() and weights.min() == 0
    np.testing.assert_array_equal(weights, metrics.bootstrap_weights(30, resamples=50, seed=7))
    assert (weights != metrics.bootstrap_weights(30, resamples=50, seed=8)).any()


def test_groups_are_drawn_whole() -> None:
    groups = ["b", "a", "b", "c", "a", "b"]
    weights = metrics.bootstrap_weights(6, resamples=200, seed=1, groups=groups)
    for key in "abc":
        columns = weights[:, [i for i, g in enumerate(groups) if g == key]]
        assert (columns == columns[:, :1]).all()
    first = weights[:, [0, 1, 3]]
    assert (first.sum(axis=1) == 3).all() and {0.0, 1.0, 2.0} <= set(first.ravel().tolist())
    with pytest.raises(InvalidInputError):
        metrics.bootstrap_weights(6, groups=groups[:5])
    with pytest.raises(InvalidInputError):
        metrics.bootstrap_weights(0)


def test_weighted_means_equal_means_of_repeated_values() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(2, 9))
    weights = metrics.bootstrap_weights(9, resamples=20, seed=3)
    for r, row in enumerate(weights.astype(int)):
        repeated = np.repeat(values, row, axis=1)
        np.testing.assert_allclose(metrics.weighted_means(values, weights)[:, r], repeated.mean(axis=1), rtol=1e-12)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 300 samples of 40 exponentials (mean 1): the percentile bootstrap is a little short of 95 %.
    rng = np.random.default_rng(6)
    weights = metrics.bootstrap_weights(40, resamples=400, seed=9)
    hits = 0
    for _ in range(300):
        interval = metrics.bootstrap_mean(rng.exponential(size=40), weights)
        assert interval.low <= interval.value <= interval.high
        hits += interval.low <= 1.0 <= interval.high
    assert 0.87 <= hits / 300 <= 0.98


def test_cluster_interval_is_wider_for_frames_that_repeat_each_other() -> None:
    rng = np.random.default_rng(7)
    scenes = rng.normal(size=12)
    values = np.repeat(scenes, 10) + rng.normal(size=120) * 0.01
    keys = np.repeat(np.arange(12), 10).tolist()
    by_frame = metrics.bootstrap_mean(values, metrics.bootstrap_weights(120, seed=1))
    by_scene = metrics.bootstrap_mean(values, metrics.bootstrap_weights(120, seed=1, groups=keys))
    ratio = (by_scene.high - by_scene.low) / (by_frame.high - by_frame.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.25)


def test_paired_difference_is_far_narrower_than_the_means() -> None:
    rng = np.random.default_rng(8)
    common = rng.normal(size=100) * 10
    weights = metrics.bootstrap_weights(100, seed=2)
    interval = metrics.bootstrap_difference(common + 0.5 + rng.normal(size=100) * 0.1, common, weights)
    assert interval.low < 0.5 < interval.high and interval.high - interval.low < 0.1
    with pytest.raises(InvalidInputError):
        metrics.bootstrap_difference(common, common[:-1], weights)
    with pytest.raises(InvalidInputError):
        metrics.percentile_interval(0.0, [np.nan])
    with pytest.raises(InvalidInputError):
        metrics.percentile_interval(0.0, [1.0], level=95)
