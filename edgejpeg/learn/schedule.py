"""The network's learning rate as a function of the step alone."""

from __future__ import annotations

import math

from edgejpeg.learn.recipe import ScheduleRecipe


def rate_factor(schedule: ScheduleRecipe, step: int, steps_per_epoch: int) -> float:
    """What ``lr`` is multiplied with.

    Args:
        schedule: ``[schedule]``. Milestones and ``step`` take effect where an epoch begins, the cosine and the warm-up
            at every step. The cosine begins where the warm-up ends.
        step: 0 .. epochs x steps_per_epoch - 1.
        steps_per_epoch: at least 1.
    """
    warm = schedule.warmup * steps_per_epoch
    if step < warm:
        return schedule.warmup_start + (1 - schedule.warmup_start) * (step + 1) / math.ceil(warm)
    epoch = step // steps_per_epoch
    if schedule.kind == "milestones":
        return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    if schedule.kind == "step":
        return schedule.gamma ** (epoch // schedule.step)
    if schedule.kind == "cosine":
        done = (step - warm) / max(schedule.epochs * steps_per_epoch - warm, 1)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0
