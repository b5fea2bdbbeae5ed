"""A skip list that keeps the loss of mAP within a budget: greedy, with a record of every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from udx.calibration.placement import Placement
from udx.calibration.sensitivity import Sensitivity

MeasureMap = Callable[[Placement], float]
"""mAP in [0, 1] of the detector with a placement quantized."""


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement: the layer that was left in FP32 before it, and what was lost then, in points of mAP."""

    skipped: str | None
    error: float
    mAP: float
    drop: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The placement that was settled on, how it came about, and whether it keeps the budget."""

    placement: Placement
    steps: tuple[Step, ...]
    exact_mAP: float
    budget: float

    @property
    def drop(self) -> float:
        """Points of mAP that the placement loses."""
        return self.steps[-1].drop

    @property
    def met(self) -> bool:
        """Whether the budget is kept."""
        return self.drop <= self.budget

    @property
    def vacuous(self) -> bool:
        """Whether the budget holds whatever is lost, because there is no more than that to lose."""
        return 100.0 * self.exact_mAP <= self.budget

    def sentence(self) -> str:
        """What was done, and what it gave."""
        skipped = [step.skipped for step in self.steps if step.skipped]
        left = f"{len(skipped)} of the most sensitive layers left in FP32" if skipped else "every layer quantized"
        if self.vacuous:
            return (
                f"FP32 itself has {100 * self.exact_mAP:.2f} points of mAP on these samples, no more than the budget "
                f"of {self.budget:g}: this says nothing of the loss, with {left}"
            )
        kept = "within" if self.met else "NOT within"
        return f"{self.drop:+.2f} points of mAP lost with {left}, {kept} the budget of {self.budget:g}"


def meet(
    placement: Placement, ranked: Sequence[Sensitivity], exact_mAP: float, measure: MeasureMap, budget: float
) -> Outcome:
    """Leave out the most sensitive layers, one by one, until no more than ``budget`` points of mAP are lost.

    If even the last layer's going does not help, the outcome is what lost least, and says that the budget is not met.
    """
    current = placement
    steps: list[Step] = []
    placements: list[Placement] = []
    for skipped in (None, *ranked):
        if skipped is not None:
            current = current.without({skipped.name})
            if not current.layers:
                break
        found = measure(current)
        steps.append(
            Step(
                skipped.name if skipped else None,
                skipped.error if skipped else 0.0,
                found,
                100.0 * (exact_mAP - found),
            )
        )
        placements.append(current)
        if steps[-1].drop <= budget:
            break
    best = min(range(len(steps)), key=lambda at: steps[at].drop) if steps[-1].drop > budget else len(steps) - 1
    return Outcome(placements[best], tuple(steps[: best + 1]), exact_mAP, budget)
