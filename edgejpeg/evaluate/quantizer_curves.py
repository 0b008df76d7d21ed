"""Q_d and its derivatives over one coefficient, as numbers: figures 2, 7, 8 and 9 of [JPEG-DL]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.quantizer import hard_quantize, soft_quantize

Float = NDArray[np.float64]


@dataclass(frozen=True)
class QuantizerCurves:
    """The quantizers at ``z``, float64.

    Attributes:
        z: (points,) coefficients.
        q: the step.
        alphas: (curves,) inverse temperatures; the hardness is alpha q^2.
        hard: (points,) Q_u.
        soft: (curves, points) Q_d [eq. 7; figure 2].
        by_z, by_q, by_alpha: (curves, points) its partial derivatives [A.1; figures 7, 8 and 9].
    """

    z: Float
    q: float
    alphas: Float
    hard: Float
    soft: Float
    by_z: Float
    by_q: Float
    by_alpha: Float


def quantizer_curves(
    alphas: Sequence[float],
    *,
    q: float = 1.0,
    bits: int = 8,
    window: Literal["exact", 5] = "exact",
    reach: float = 3.5,
    points: int = 1401,
) -> QuantizerCurves:
    """Evaluate the quantizers that the layer trains with, and their backward passes.

    Args:
        alphas: at least one inverse temperature above 0.
        q: the step, above 0.
        bits, window: as in :func:`edgejpeg.learn.soft_quantize`.
        reach: from -reach q to reach q; beyond 2^(bits - 1) the alphabet's end is seen.
        points: at least 2.

    Raises:
        InvalidInputError: something outside what is allowed.
    """
    if not alphas or points < 2 or not 0 < reach < np.inf:
        raise InvalidInputError(
            f"curves need an alpha, 2 points and a positive reach; got {list(alphas)}, {points}, {reach:g}"
        )
    z = torch.linspace(-reach * q, reach * q, points, dtype=torch.float64)
    rows: list[list[Float]] = []
    for alpha in alphas:
        # Each point has a q and an alpha of its own, so that nothing is summed over the points.
        leaves = [values.clone().requires_grad_() for values in (z, torch.full_like(z, q), torch.full_like(z, alpha))]
        soft = soft_quantize(leaves[0], leaves[1], leaves[2], bits=bits, window=window)
        slopes = torch.autograd.grad(soft.sum(), leaves)
        rows.append([values.detach().numpy() for values in (soft, *slopes)])
    soft_rows, by_z, by_q, by_alpha = (np.stack(column) for column in zip(*rows, strict=True))
    hard = hard_quantize(z, q, bits=bits).numpy()
    return QuantizerCurves(z.numpy(), q, np.array(alphas, np.float64), hard, soft_rows, by_z, by_q, by_alpha)
