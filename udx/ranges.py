"""Ranges that the fields of configurations must lie in."""

import operator
from typing import Any


def require_range(
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    **values: Any,
) -> None:
    """Raise unless every named value lies within the bounds that are given; NaN lies within none.

    Raises:
        ValueError: a value lies outside; the sentence names it, the bounds and the value.
    """
    tests = {
        "at least": (at_least, operator.ge),
        "above": (above, operator.gt),
        "at most": (at_most, operator.le),
        "below": (below, operator.lt),
    }
    bounds = [(name, bound, holds) for name, (bound, holds) in tests.items() if bound is not None]
    for name, value in values.items():
        if not all(holds(value, bound) for _, bound, holds in bounds):
            said = " and ".join(f"{kind} {bound:g}" for kind, bound, _ in bounds)
            raise ValueError(f"{name} must be {said}, not {value!r:.40}")
