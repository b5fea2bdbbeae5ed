"""Comparing the gradient norms of two trainings that should take the same steps."""

from collections.abc import Sequence
from typing import Any

TYPICAL = 3e-4
WORST = 1e-2


def require_equal_norms(ones: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> None:
    """Hold the gradient norms in two logs to each other.

    A gradient that was not averaged, divided by another number or not shared is off by 1e-3 and more in every step.
    Where an activation lies at the kink of a ReLU, the rounding of one step decides which way it goes: one process with
    one thread is then off by as much from one process with two. So the median over the steps is what counts.
    """
    errors = [abs(other["gradient_norm"] / one["gradient_norm"] - 1) for one, other in zip(ones, others, strict=True)]
    assert sorted(errors)[len(errors) // 2] < TYPICAL, errors
    assert max(errors) < WORST, errors
