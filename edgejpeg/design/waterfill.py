"""Reverse water-filling: the water level that spends a distortion budget.

Below the water level d every component of a Gaussian source gets distortion min(d, variance); the level is where the
sum meets the budget. For SWE the variances are weighted, s_i sigma_i^2, and d is then in raw units
(:func:`edgejpeg.design.normalised_water_level` converts).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgejpeg.design._checks import finite_array, positive
from edgejpeg.errors import InvalidInputError


def reverse_water_level(weighted_variances: ArrayLike, distortion: float) -> float:
    """The d with sum_i min(d, s_i sigma_i^2) = D_T.

    The sum is piecewise linear in d with its corners at the variances, so the level is exact: no bisection.

    Args:
        weighted_variances: s_i sigma_i^2 of all frequencies (and components) that share the budget, any shape, not
            negative.
        distortion: the budget D_T per block, above 0 and at most the sum of all variances. At the sum itself the
            smallest such d is given, the largest variance.

    Raises:
        InvalidInputError: a negative or non-finite variance, no variances, or an impossible budget.
    """
    budget = positive(distortion, "the distortion budget")
    variances = np.sort(finite_array(weighted_variances, "weighted_variances", minimum=0.0).reshape(-1))
    if not variances.size:
        raise InvalidInputError("weighted_variances is empty; water-filling needs at least one variance")
    count = len(variances)
    below = np.concatenate([[0.0], np.cumsum(variances)])
    at_corner = below[:-1] + variances * np.arange(count, 0, -1)
    # The caller's sum of the same variances may differ in its last digits.
    if budget > below[-1] * (1 + 1e-12):
        raise InvalidInputError(
            f"the distortion budget is at most the sum of the weighted variances, {below[-1]:.6g}; got {budget:.6g}"
        )
    covered = int(np.searchsorted(at_corner, budget))
    if covered == count:
        return float(variances[-1])
    return float((budget - below[covered]) / (count - covered))
