"""Measures of what compression does to a network, and curves of rate against them.

``metrics`` and ``curves`` need NumPy alone; ``plots`` loads matplotlib when it draws.
Nothing here imports :mod:`edgejpeg.runtime`: whoever measures real files hands in the numbers.
"""

from __future__ import annotations

from edgejpeg.evaluate.curves import DeltaRate as DeltaRate
from edgejpeg.evaluate.curves import RateCurve as RateCurve
from edgejpeg.evaluate.curves import delta_rate as delta_rate
from edgejpeg.evaluate.curves import delta_rate_at_points as delta_rate_at_points
from edgejpeg.evaluate.curves import paired_delta_rate as paired_delta_rate
from edgejpeg.evaluate.metrics import Interval as Interval
from edgejpeg.evaluate.metrics import accuracy as accuracy
from edgejpeg.evaluate.metrics import bootstrap_difference as bootstrap_difference
from edgejpeg.evaluate.metrics import bootstrap_mean as bootstrap_mean
from edgejpeg.evaluate.metrics import bootstrap_weights as bootstrap_weights
from edgejpeg.evaluate.metrics import kl_divergence as kl_divergence
from edgejpeg.evaluate.metrics import top1_agreement as top1_agreement

__all__ = [
    "DeltaRate",
    "Interval",
    "RateCurve",
    "accuracy",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_weights",
    "delta_rate",
    "delta_rate_at_points",
    "kl_divergence",
    "paired_delta_rate",
    "top1_agreement",
]
