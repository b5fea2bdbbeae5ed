"""Does one engine cost more than another? A verdict that can also be "cannot tell".

The margin is fixed before the measurement. Two one-sided tests at 5 % each (Schuirmann 1987) find two engines
equivalent exactly if the 90 % interval of their ratio lies within the margin. Two controls are measured along, and
without them no equivalence is claimed. The same engine opened twice (A/A) must come out as equivalent: it shows how
much is noise, and a difference is only claimed if it stands out from it. The same engine with a small layer more (the
positive control) must come out as dearer: it shows that the test would see a difference.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from udx.geometry.arrays import FloatArray
from udx.runtime.statistics import Interval, bootstrap_interval, medians

Verdict = Literal["equivalent", "different", "cannot tell"]

PRECISE: Final = 0.4
"""Half a 90 % interval that is this share of the margin is narrow enough: of two equal engines, whose estimate then
scatters by a quarter of the margin, 98 % are found to be equivalent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The median of per-block latency ratios, 1 for equal cost, and its 90 % bootstrap interval."""

    ratio: float
    ci90: Interval
    blocks: int
    ratios: tuple[float, ...]

    def within(self, margin: float) -> bool:
        """Whether the interval lies inside 1 ± margin: both one-sided tests reject a difference."""
        return 1 - margin < self.ci90[0] and self.ci90[1] < 1 + margin

    def beyond(self, margin: float) -> bool:
        """Whether the interval lies wholly outside 1 ± margin."""
        return self.ci90[0] > 1 + margin or self.ci90[1] < 1 - margin

    @property
    def reach(self) -> float:
        """How far the interval reaches from 1, to either side; of the control, this is the noise floor."""
        return max(abs(end - 1) for end in self.ci90)

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.ci90[1] - self.ci90[0]) / 2

    def blocks_needed(self, margin: float) -> int:
        """How many blocks make the interval ``PRECISE``, widths shrinking with the root of their number."""
        return math.ceil(self.blocks * (self.half_width / (PRECISE * margin)) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """A verdict, the sentence that justifies it, and what it rests on.

    ``ab`` is the engine against the other, ``aa`` its second copy against its first, ``positive`` the engine with a
    known extra layer against it; None where none could be made.
    """

    verdict: Verdict
    reason: str
    margin: float
    ab: Ratio
    aa: Ratio
    positive: Ratio | None


def paired_ratio(numerator_ms: FloatArray, denominator_ms: FloatArray, seed: int, together: int = 1) -> Ratio:
    """Compare two engines by their medians in the same blocks, (B,) each.

    ``together`` neighbouring blocks share the luck of one opening of the engines, and are resampled as one.
    """
    assert numerator_ms.shape == denominator_ms.shape and len(numerator_ms) >= 2
    ratios = numerator_ms / denominator_ms
    block = together if len(ratios) > together else 1
    return Ratio(
        ratio=float(np.median(ratios)),
        ci90=bootstrap_interval(ratios, medians, level=0.90, seed=seed, block=block),
        blocks=len(ratios),
        ratios=tuple(ratios.tolist()),
    )


def judge(ab: Ratio, aa: Ratio, positive: Ratio | None, margin: float) -> Equivalence:
    """Decide; see ``Equivalence`` for the ratios."""
    verdict, reason = _decide(ab, aa, positive, margin)
    return Equivalence(verdict=verdict, reason=reason, margin=margin, ab=ab, aa=aa, positive=positive)


def _decide(ab: Ratio, aa: Ratio, positive: Ratio | None, margin: float) -> tuple[Verdict, str]:
    within = f"the margin of ±{margin:.2%}"
    if ab.beyond(margin):
        # The control shares the engine's own luck with the comparison, but inverted: its sign says nothing.
        if not ab.beyond(aa.reach):
            return (
                "cannot tell",
                f"the same engine measured twice differs as much ({_percent(aa)} against {_percent(ab)})",
            )
        side = "more" if ab.ratio > 1 else "less"
        return "different", f"it costs {abs(ab.ratio - 1):.2%} {side} (90 % interval {_percent(ab)}), beyond {within}"
    if not aa.within(margin):
        return "cannot tell", f"the same engine measured twice differs by {_percent(aa)}, which is not within {within}"
    if not ab.within(margin):
        return (
            "cannot tell",
            f"the 90 % interval of the difference, {_percent(ab)}, crosses {within}: measure more blocks",
        )
    if positive is None:
        return (
            "cannot tell",
            f"there is no positive control: the difference, {_percent(ab)}, lies within {within}, but nothing shows "
            "that this measurement would see one",
        )
    if not (positive.beyond(margin) and positive.ratio > 1):
        return (
            "cannot tell",
            f"the same engine with an extra layer differs by {_percent(positive)}, which is not beyond {within}: this "
            "measurement would not see a difference",
        )
    return "equivalent", f"the 90 % interval of the difference, {_percent(ab)}, lies within {within}"


def _percent(ratio: Ratio) -> str:
    low, high = (100 * (end - 1) for end in ratio.ci90)
    return f"{low:+.2f} % to {high:+.2f} %"
