"""The sum inside Q_d: the mean level E(c, h) of P(i) = softmax_i(-h (c - i)^2), and its slopes [JPEG-DL A.1].

With r = E - c, everything follows from r and its derivatives r_c, r_h, none of which cancels where |c| is large:

    Q_d = q E,   dQ_d/dz = 1 + r_c = 2 h Var,   dQ_d/dq = r - c r_c + 2 h r_h,   dQ_d/dalpha = q^3 r_h

Inside the alphabet r has period 1 in c, and t = c - round(c) is all that counts. There are three ways to sum:

- h > 2.5: the levels round(c) - R .. round(c) + R, R = 2 in float32 and 4 in float64. With x = exp(h (2t - 1)) and
  y = exp(-h (2t + 1)) the level at distance j has the weight exp(-h j (j - 1)) x^j or y^j, all at most 1.
- h <= 2.5: the Poisson dual S = 1 + 2 sum_{k=1,2} exp(-pi^2 k^2 / h) cos(2 pi k c), r = S' / (2 h S).
- near the ends of the alphabet: level by level, on those coefficients alone.

The error is below 4e-7 in float32 and 1e-13 in float64, beside what the rounding of c itself brings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DUAL_BELOW = 2.5
"""The hardness up to which the Poisson dual with two terms is as good as exact."""

_DUAL_VANISHES = 0.05
"""exp(-pi^2 / .05) is 1e-86: below, the dual's ripple is nothing, but 1 / h^3 would overflow."""


@dataclass(frozen=True)
class Slopes:
    """dQ/dz, dQ/dq and dE/dh of a piece, each broadcast to its shape."""

    z: Tensor
    q: Tensor
    hardness: Tensor


class Kernel:
    """Q_d or Q_u on one piece of coefficients.

    Args:
        z: coefficients, float32 or float64.
        q, alpha: of as many dimensions, broadcast against z.
        levels: L, the last level of the alphabet.
        kind: ``"exact"``, ``"5"`` (the authors' window) or ``"hard"`` (Q_u).
        clip: whether the alphabet ends.
    """

    def __init__(self, z: Tensor, q: Tensor, alpha: Tensor, levels: int, kind: str, clip: bool) -> None:
        self.q, self.alpha, self.kind = q, alpha, kind
        self.h = alpha * q * q
        self.c = z / q
        self.double = z.dtype == torch.float64
        if kind == "hard":
            nearest = (self.c.abs() + 0.5).floor_().copysign_(self.c)
            self.k = nearest.clamp_(-levels, levels) if clip else nearest
        else:
            self.k = torch.round(self.c)
        self.t = self.c - self.k
        self.levels = levels
        self.ends = self._find_ends() if clip else None

    def expectation(self) -> Tensor:
        """E, of z's shape."""
        if self.kind == "hard":
            return self.k
        mean = self._periodic(slopes=False)[0].add_(self.c)
        if self.ends is not None:
            mean[self.ends] = self._at_ends()[0]
        return mean

    def slopes(self) -> Slopes:
        """The derivatives that the backward pass multiplies with."""
        if self.kind == "hard":
            inside = torch.ones_like(self.c)
            by_q = -self.t
            if self.ends is not None:
                inside[self.ends] = 0
                by_q[self.ends] = self.k[self.ends]
            return Slopes(inside, by_q, torch.zeros_like(self.c))
        r, r_c, r_h = self._periodic(slopes=True)
        by_q = torch.addcmul(r, self.c, r_c, value=-1).addcmul_(self.h, r_h, value=2)
        by_z = r_c.add_(1)
        if self.ends is not None:
            _, by_z[self.ends], by_q[self.ends], r_h[self.ends] = self._at_ends()
        return Slopes(by_z, by_q, r_h)

    def _periodic(self, *, slopes: bool) -> tuple[Tensor, ...]:
        """r, and with ``slopes`` r_c and r_h, for an alphabet without ends."""
        if self.kind == "5":
            return window_sum(self.t, self.h, 2, slopes=slopes)
        radius = 4 if self.double else 2
        low = self.h <= DUAL_BELOW
        if not bool(low.any()):
            return window_sum(self.t, self.h, radius, slopes=slopes)
        if bool(low.all()):
            return dual_sum(self.t, self.h, slopes=slopes)
        pairs = zip(
            dual_sum(self.t, self.h, slopes=slopes), window_sum(self.t, self.h, radius, slopes=slopes), strict=True
        )
        return tuple(torch.where(low, dual, window) for dual, window in pairs)

    # --- the ends of the alphabet ---

    @property
    def _negligible(self) -> float:
        """Levels whose weight is below exp(-this) next to the largest do not count."""
        return 42.0 if self.double else 20.0

    def _find_ends(self) -> Tensor | None:
        """Which coefficients the alphabet's ends concern; None if none."""
        if self.kind == "hard":
            ends = self.c.abs() > self.levels + 0.5
        elif self.kind == "5":
            ends = self.k.abs() > self.levels - 3
        else:
            radius = 5.0 if self.double else 3.0
            margin = ((self._negligible / self.h).sqrt() + 1).clamp_(min=radius)
            ends = self.c.abs() > self.levels - margin
        return ends if bool(ends.any()) else None

    def _at_ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """E, dQ/dz, dQ/dq and dE/dh of the coefficients near the ends, as flat tensors.

        Offsets m are counted from the level nearest to c, so that all weights exp(-h (m^2 - 2 m d)), d = c - nearest,
        are at most 1.
        """
        assert self.ends is not None
        c, h = self.c[self.ends], self.h.expand_as(self.c)[self.ends]
        last = self.levels - 1 if self.kind == "5" else self.levels
        nearest = torch.round(c).clamp_(-last, last)
        d = c - nearest
        if self.kind == "5":
            middle, half, reach = nearest.clamp(2 - last, last - 2), 2, 4
        else:
            # Where even the next level weighs nothing, one term is enough.
            alive = h * (2 * d.abs() - 1).clamp_(min=0) < self._negligible
            softest = float(h[alive].min()) if bool(alive.any()) else math.inf
            reach = min(2 * last, math.ceil(math.sqrt(self._negligible / softest)) + 1)
            middle, half = torch.zeros_like(c), last
        moments = [torch.zeros_like(c) for _ in range(4)]
        for m in range(-reach, reach + 1):
            weight = torch.exp(h * (m * (2 * d - m)))
            weight.masked_fill_((nearest + (m - middle)).abs() > half, 0)
            for power, moment in enumerate(moments):
                moment.add_(weight, alpha=float(m**power))
        total, first, second, third = moments
        first, second, third = first / total, second / total, third / total
        mean, variance, skew = nearest + first, second - first * first, third - first * second
        by_h = 2 * d * variance - skew
        by_q = mean + 2 * h * ((d - nearest) * variance - skew)
        return mean, 2 * h * variance, by_q, by_h


def window_sum(t: Tensor, h: Tensor, radius: int, *, slopes: bool) -> tuple[Tensor, ...]:
    """r, and with ``slopes`` r_c and r_h, from the levels -radius .. radius around the nearest; t in -.5 .. .5."""
    twice = 2 * h
    up = t * twice
    # A power of a smaller x would be a denormal number, which a processor multiplies a hundred times as slowly.
    least = -150.0 if t.dtype == torch.float64 else -30.0
    x, y = (up - h).clamp_(min=least).exp_(), torch.neg(up).sub_(h).clamp_(min=least).exp_()
    both, odd = x + y, x - y
    total, first = both + 1, odd
    if slopes:
        second, third = both, odd
    x_power, y_power = x, y
    for j in range(2, radius + 1):
        x_power, y_power = x_power * x, y_power * y
        exponent = -j * (j - 1) * h
        weight = torch.where(exponent < least, 0.0, torch.exp(exponent))
        both, odd = (x_power + y_power).mul_(weight), (x_power - y_power).mul_(weight)
        total.add_(both)
        first = torch.add(first, odd, alpha=j)
        if slopes:
            second, third = torch.add(second, both, alpha=j * j), torch.add(third, odd, alpha=j**3)
    first = first / total
    r = first - t
    if not slopes:
        return (r,)
    second, third = second / total, third / total
    variance = torch.addcmul(second, first, first, value=-1)
    skew = torch.addcmul(third, first, second, value=-1)
    r_h = torch.mul(t, variance).mul_(2).sub_(skew)
    return r, variance.mul_(twice).sub_(1), r_h


def dual_sum(t: Tensor, h: Tensor, *, slopes: bool) -> tuple[Tensor, ...]:
    """r, and with ``slopes`` r_c and r_h, from the Poisson dual of the sum over all integers, h <= 2.5."""
    h = h.clamp(min=_DUAL_VANISHES, max=DUAL_BELOW)
    waves = [2 * torch.exp(-((math.pi * k) ** 2) / h) for k in (1, 2)]
    angle = t * (2 * math.pi)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    # Times exp(...), the second harmonic.
    cosines = [cosine * waves[0], (2 * cosine * cosine - 1) * waves[1]]
    sines = [sine * waves[0], (2 * sine * cosine) * waves[1]]
    tau = 2 * math.pi
    total = 1 + cosines[0] + cosines[1]
    first = -tau * (sines[0] + 2 * sines[1]) / total
    r = first / (2 * h)
    if not slopes:
        return (r,)
    second = -(tau**2) * (cosines[0] + 4 * cosines[1]) / total
    third = tau**3 * (sines[0] + 8 * sines[1]) / total
    r_c = (second - first * first) / (2 * h)
    # S is a solution of the heat equation, dS/dh = -S'' / (4 h^2).
    r_h = -r / h - (third - second * first) / (8 * h**3)
    return r, r_c, r_h


def exported_expectation(c: Tensor, h: Tensor, authors: bool) -> Tensor:
    """E for an alphabet without ends, in traceable operators without a choice by value."""
    t = c - torch.round(c)
    (window,) = window_sum(t, h, 2, slopes=False)
    if authors:
        return c + window
    (dual,) = dual_sum(t, h, slopes=False)
    return c + torch.where(h <= DUAL_BELOW, dual, window)
