"""Does one engine cost more than another? A verdict that can also be "cannot tell".

The margin is fixed before the measurement. Two one-sided tests at 5 % each (Schuirmann 1987) find two engines
equivalent exactly if the 90 % interval of their ratio lies within the margin. The same engine opened twice is
measured along: where even that control does not come out as equivalent, no equivalence is claimed, and no
difference is that does not stand out from the control's.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from udx.geometry.arrays import FloatArray
from udx.runtime.statistics import Interval, bootstrap_interval, medians

Verdict = Literal["equivalent", "different", "cannot tell"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """A verdict, the sentence that justifies it, and what it rests on; ``aa`` is the control."""

    verdict: Verdict
    reason: str
    margin: float
    ab: Ratio
    aa: Ratio


def paired_ratio(numerator_ms: FloatArray, denominator_ms: FloatArray, seed: int) -> Ratio:
    """Compare two engines by their medians in the same blocks, (B,) each."""
    assert numerator_ms.shape == denominator_ms.shape and len(numerator_ms) >= 2
    ratios = numerator_ms / denominator_ms
    return Ratio(
        ratio=float(np.median(ratios)),
        ci90=bootstrap_interval(ratios, medians, level=0.90, seed=seed, block=1),
        blocks=len(ratios),
        ratios=tuple(ratios.tolist()),
    )


def judge(ab: Ratio, aa: Ratio, margin: float) -> Equivalence:
    """Decide; ``ab`` is the engine against the other, ``aa`` the engine against itself."""
    verdict, reason = _decide(ab, aa, margin)
    return Equivalence(verdict=verdict, reason=reason, margin=margin, ab=ab, aa=aa)


def _decide(ab: Ratio, aa: Ratio, margin: float) -> tuple[Verdict, str]:
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
    if ab.within(margin):
        return "equivalent", f"the 90 % interval of the difference, {_percent(ab)}, lies within {within}"
    return "cannot tell", f"the 90 % interval of the difference, {_percent(ab)}, crosses {within}: measure more blocks"


def _percent(ratio: Ratio) -> str:
    return f"{ratio.ci90[0] - 1:+.2%} to {ratio.ci90[1] - 1:+.2%}"
