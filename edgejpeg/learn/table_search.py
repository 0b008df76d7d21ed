"""The search behind learned tables: least change of a network's output at a given rate, by weighing noisy slopes.

A common factor on all steps is the handle on the rate, so the search walks on the surface of the wanted rate. With a =
sum dD / d log q and b = sum dR / d log q, D being the error of the logits, the change of D along the surface is that
of D + mu R with mu = -a / b: the weight of the rate needs no sweep, it follows from the target. What drift is left is
taken out after every step by the factor itself.

The slope by one frequency is small against its scatter over images: the quantization errors of all other frequencies
act on it through the network. Hundreds of images leave that of a high frequency uncertain by as much as it is worth.
So the walk is a Kalman filter. The parameters at which the slopes vanish are the unknown; the belief about them is a
normal distribution, before any image one of smooth tables (neighbours in the 8x8 grid differ little from their common
shape); the slope g of a step, over the curvature h, is a measurement of how far off they are, with the scatter of the
images as its noise. Frequencies that say little follow their neighbours, those that say much go where they want.

Curvature: D rises about as q^2 and R falls about as -log q, so where they balance the second derivative by log q is
about mu |dR / d log q|, from R alone and so nearly free of noise, times 1 to 2. For a threshold the factor is a guess:
zeroing costs as much as it saves somewhere between .5 and 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgejpeg.learn.table_problem import PARAMETERS, Problem, State

_CURVATURE = np.repeat([1.5, 4.0], PARAMETERS // 2)  # over mu |dR|: by log q, by t
_STEP_SPREAD, _STEP_WHITE = 0.8, 0.15  # of log q before any image: of the shape, and of one frequency alone
_COMMON_SPREAD = 0.5  # of the ratio of chroma to luma
_THRESHOLD_SPREAD, _THRESHOLD_WHITE = 0.12, 0.04
_LENGTH = 2.5  # of the smooth part, in frequencies
_NEXT_LEVEL = 0.3  # the part of this variance that comes back from level to level
_FORGETTING = 1.02  # the variance grows so in every step of the first half, when early slopes are of elsewhere
_SMOOTHING, _SLOPE_SMOOTHING = 0.95, 0.9  # of the slopes a and b; of scatter and rate by parameter
_SURPRISE = 3.0  # the largest distance that one measurement may claim, over its noise and 1
_LARGEST_MOVE = np.repeat([0.5, 0.1], PARAMETERS // 2)
_GAIN = 0.3  # of the control of the rate
_CONTROL = 5  # a, b, their weight; the target; the weight of scatter and rate by parameter
_LOWEST = np.repeat([0.0, 0.5], PARAMETERS // 2)
_HIGHEST = np.repeat([math.log(255.0), 1.0], PARAMETERS // 2)
_HIGHEST[[PARAMETERS // 2, PARAMETERS * 3 // 4]] = 0.5  # DC is rounded


@dataclass
class Walk:
    """One level's search: all that it knows is in one array of float64, which can be stored and continued.

    Attributes:
        state: :meth:`width` numbers: parameters, scatter, rate by parameter, the covariance of the belief, control, and
            the rates of all images at the start.
        steps: the length of the walk.
    """

    state: State
    steps: int

    @staticmethod
    def width(images: int) -> int:
        """The length of the state."""
        return (3 + PARAMETERS) * PARAMETERS + _CONTROL + images

    @classmethod
    def begin(
        cls, problem: Problem, parameters: State, target: float, steps: int, covariance: State | None = None
    ) -> Walk:
        """Start from tables of any rate: their common factor is changed until the estimate meets the target.

        Args:
            target: the wanted mean of the estimated rate, bits per pixel.
            covariance: (PARAMETERS, PARAMETERS), what the search for another rate ended with; None for none.
        """
        walk = cls(np.zeros(cls.width(problem.count)), steps)
        walk.control[3] = target
        walk.covariance[:] = unlearned() if covariance is None else covariance + _NEXT_LEVEL * unlearned()
        low, high = -math.log(255.0), math.log(255.0)
        sample = np.linspace(0, problem.count - 1, min(problem.count, 64)).astype(np.int64)
        for _ in range(12):
            middle = (low + high) / 2
            rate = problem.rates(shifted(parameters, middle), sample).mean()
            low, high = (middle, high) if rate > target else (low, middle)
        walk.parameters[:] = shifted(parameters, (low + high) / 2)
        walk.start_rates[:] = problem.rates(walk.parameters)
        return walk

    @property
    def parameters(self) -> State:
        """Where the walk is, at its end the result; a view."""
        return self._part(0)

    @property
    def covariance(self) -> State:
        """What is still uncertain about the parameters, (PARAMETERS, PARAMETERS); a view."""
        return self.state[3 * PARAMETERS : (3 + PARAMETERS) * PARAMETERS].reshape(PARAMETERS, PARAMETERS)

    @property
    def start_rates(self) -> NDArray[np.float64]:
        """The estimated rate of each image at the start; a view."""
        return self.state[(3 + PARAMETERS) * PARAMETERS + _CONTROL :]

    @property
    def control(self) -> NDArray[np.float64]:
        """The smoothed slopes a and b, their weight, the target, the weight of the other averages; a view."""
        return self.state[(3 + PARAMETERS) * PARAMETERS : (3 + PARAMETERS) * PARAMETERS + _CONTROL]

    def step(self, problem: Problem, number: int, index: NDArray[np.int64]) -> tuple[float, float]:
        """One step on the images of ``index``; returns their mean error and the estimated mean rate of all images."""
        parameters, scatter, rate_slopes = (self._part(i) for i in range(3))
        control, target = self.control, self.control[3]
        found = problem.slopes(index, parameters)
        by_error, by_rate = found.by_parameter.mean(0), found.rate_by_parameter
        # How the batch's rate moved since the start says how all images' rate moved, whatever images these are.
        rate = float(found.rates.sum() / self.start_rates[index].sum() * self.start_rates.mean())
        half = PARAMETERS // 2
        totals = np.array([by_error[:half].sum(), by_rate[:half].sum(), 1.0])
        control[:3] = _SMOOTHING * control[:3] + (1 - _SMOOTHING) * totals
        control[4] = _SLOPE_SMOOTHING * control[4] + 1 - _SLOPE_SMOOTHING
        scatter[:] = _SLOPE_SMOOTHING * scatter + (1 - _SLOPE_SMOOTHING) * ((found.by_parameter - by_error) ** 2).mean(
            0
        )
        rate_slopes[:] = _SLOPE_SMOOTHING * rate_slopes + (1 - _SLOPE_SMOOTHING) * by_rate
        slope = min(control[1] / control[2], -1e-3 * target)
        weight = max(0.0, -control[0] / control[2] / slope)
        curvature = _CURVATURE * weight * np.maximum(-rate_slopes / control[4], 0.0)
        move = self._learn(by_error + weight * by_rate, curvature, scatter / control[4] / len(index))
        parameters += np.clip(move, -_LARGEST_MOVE, _LARGEST_MOVE)
        parameters[:half] += np.clip(_GAIN * (rate - target) / -slope, -0.1, 0.1)
        parameters[:] = shifted(parameters, 0.0)
        if number < self.steps // 2:
            self.covariance[:] *= _FORGETTING
        return float(found.error.mean()), rate

    def _learn(self, gradient: State, curvature: State, variance: State) -> State:
        """Take a measurement into the covariance; returns how far the mean moves.

        Args:
            gradient, curvature: of D + mu R by each parameter.
            variance: of the gradient.
        """
        known = curvature > 0
        distance = np.zeros(PARAMETERS)
        most = _SURPRISE * np.sqrt(1 + variance[known] / curvature[known] ** 2)
        distance[known] = np.clip(-gradient[known] / curvature[known], -most, most)
        # What pushes against a bound is where it should be, and no measurement for its neighbours.
        free = np.where(distance < 0, self.parameters > _LOWEST, self.parameters < _HIGHEST)
        precision = np.zeros(PARAMETERS)
        used = known & free
        precision[used] = curvature[used] ** 2 / (variance[used] + 1e-6 * curvature[used] ** 2)
        root = np.sqrt(precision)
        shared = self.covariance * root
        inner = np.eye(PARAMETERS) + root[:, None] * shared
        covariance = self.covariance - shared @ np.linalg.solve(inner, shared.T)
        self.covariance[:] = (covariance + covariance.T) / 2
        move: State = self.covariance @ (precision * distance)
        return move

    def _part(self, number: int) -> State:
        return self.state[number * PARAMETERS : (number + 1) * PARAMETERS]


def unlearned() -> State:
    """The covariance of the parameters before any image: smooth over the 8x8 frequencies, a little of each alone."""
    row, column = np.divmod(np.arange(64), 8)
    distance = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    near = np.exp(-distance / (2 * _LENGTH**2))
    steps = _STEP_SPREAD**2 * near + _STEP_WHITE**2 * np.eye(64)
    thresholds = _THRESHOLD_SPREAD**2 * near + _THRESHOLD_WHITE**2 * np.eye(64)
    result: State = np.kron(np.diag([1.0, 1.0, 0.0, 0.0]), steps + _COMMON_SPREAD**2)
    result += np.kron(np.diag([0.0, 0.0, 1.0, 1.0]), thresholds)
    return result


def shifted(parameters: State, log_factor: float) -> State:
    """All steps times a factor, kept within what a file and an encoder hold: q in 1..255, t in .5..1, DC's t .5."""
    moved = parameters.copy()
    moved[: PARAMETERS // 2] += log_factor
    return np.clip(moved, _LOWEST, _HIGHEST)
