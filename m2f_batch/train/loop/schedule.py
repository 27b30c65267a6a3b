"""Computes the learning rate from the step alone, so that resuming needs no state."""

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["step", "cosine", "poly"]


def rate_factor(
    step: int, steps: int, schedule: Schedule, *, warmup_steps: int = 0, milestones: Sequence[float] = ()
) -> float:
    """Return the learning rate of step 0 to steps - 1, relative to its peak.

    ``step`` falls to a tenth at each share of the steps in ``milestones``, ``poly`` is (1 - step / steps) ** 0.9 and
    ``cosine`` half a wave. Both reach 0 after the last step. A linear rise over ``warmup_steps`` is multiplied in, as
    detectron2 does it. The first step has 1 / (warmup_steps + 1) of its rate.

    >>> [rate_factor(step, 10, "step", milestones=(0.5, 0.9)) for step in (0, 4, 5, 9)]
    [1.0, 1.0, 0.1, 0.01]
    """
    rise = min(1.0, (step + 1) / (warmup_steps + 1))
    done = min(step / steps, 1.0)
    if schedule == "step":
        passed = sum(step >= round(share * steps) for share in milestones)
        return rise * round(0.1**passed, 12)
    return rise * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else (1 - done) ** 0.9)
