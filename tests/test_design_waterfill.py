"""Reverse water-filling: the level spends the budget."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from edgejpeg.design import reverse_water_level
from edgejpeg.errors import InvalidInputError


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.3, 0.77, 0.999])
def test_the_level_spends_the_budget(fraction: float, rng: np.random.Generator) -> None:
    variances = np.exp(rng.normal(0, 3, (3, 8, 8)))
    variances[1, 4:] = 0
    budget = fraction * variances.sum()
    level = reverse_water_level(variances, budget)
    assert np.minimum(level, variances).sum() == pytest.approx(budget, rel=1e-11)
    assert 0 < level <= variances.max()
    root = optimize.brentq(lambda d: np.minimum(d, variances).sum() - budget, 0, variances.max(), xtol=1e-300)
    assert level == pytest.approx(root, rel=1e-8)


def test_small_budgets_are_shared_equally_and_large_ones_grow(rng: np.random.Generator) -> None:
    variances = rng.uniform(2, 5, 64)
    assert reverse_water_level(variances, 64 * 1.5) == pytest.approx(1.5)
    levels = [reverse_water_level(variances, budget) for budget in np.linspace(0.1, variances.sum(), 50)]
    assert (np.diff(levels) > 0).all()
    assert levels[-1] == pytest.approx(variances.max())


def test_equal_and_single_variances() -> None:
    assert reverse_water_level([3.0, 3.0, 3.0], 9.0) == 3.0
    assert reverse_water_level([3.0, 3.0, 0.0], 5.0) == 2.5
    assert reverse_water_level(7.0, 2.0) == 2.0
    corner = reverse_water_level([1.0, 2.0, 4.0], 5.0)
    assert corner == 2.0


def test_the_whole_sum_in_another_order(rng: np.random.Generator) -> None:
    variances = np.exp(rng.normal(0, 4, 192))
    for order in (variances, variances[::-1], rng.permutation(variances)):
        assert reverse_water_level(variances, float(np.cumsum(order)[-1])) == pytest.approx(variances.max(), rel=1e-9)


@pytest.mark.parametrize(
    ("variances", "budget", "value"),
    [
        ([1.0, 2.0], 3.1, "3.1"),
        ([0.0, 0.0], 1.0, "1"),
        ([1.0, 2.0], 0.0, "0.0"),
        ([1.0, 2.0], -1.0, "-1.0"),
        ([1.0, 2.0], float("nan"), "nan"),
        ([1.0, -2.0], 0.5, "-2.0"),
        ([1.0, np.nan], 0.5, "nan"),
        ([], 0.5, "empty"),
    ],
)
def test_impossible_budgets(variances: list[float], budget: float, value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        reverse_water_level(variances, budget)
    assert value in str(caught.value)
