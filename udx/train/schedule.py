"""The learning rate over a training."""

import math


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear from 1/25 up to 1 over ``warmup · steps``, then half a cosine down to 0."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return 1 / 25 + (1 - 1 / 25) * step / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))
