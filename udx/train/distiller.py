"""From a teacher to a student: weighs and balances the objectives, and owns what they train or remember."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.models.taps import DeclaredTaps, Taps
from udx.train.averages import RunningMean
from udx.train.losses import EPS, Boxes
from udx.train.objectives import (
    Balance,
    DistillationConfig,
    FeatureObjective,
    Objective,
    Path,
    RelationObjective,
    ResponseObjective,
)


class DistillationTerms(NamedTuple):
    """What the distiller adds to the detection loss, term by term, and the raw losses behind it (detached)."""

    weighted: dict[str, Tensor]
    raw: dict[str, Tensor]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum to add to the detection loss."""
        return torch.stack(list(self.weighted.values())).sum()


@dataclass(frozen=True, slots=True)
class Term:
    """An objective and its weight, which ``Balance`` gives a meaning."""

    weight: float
    objective: Objective


class Distiller(nn.Module):
    """Weighs objectives between two detectors, whatever their sensors.

    Holds neither of the detectors: its parameters, which the optimiser must get beside the student's, are those of
    the adapters; its buffers are running means. So a student's checkpoint never carries any of it.

    With balance ``share`` a term of weight w is scaled by ``w · mean detection loss / mean raw loss``, both running
    means over the steps whose batch has boxes, without gradient: on average it contributes the share w of the
    detection loss, whatever the scale of the maps and however far training has come.
    """

    def __init__(
        self, terms: Mapping[str, Term], *, balance: Balance = "share", ramp: float = 0.0, ema_decay: float = 0.98
    ) -> None:
        super().__init__()
        self.objectives = nn.ModuleDict({name: term.objective for name, term in terms.items()})
        self.weights = {name: term.weight for name, term in terms.items()}
        self.ramp = ramp
        self.means = RunningMean((1 + len(terms),), decay=ema_decay) if balance == "share" else None

    @classmethod
    def unidistill(
        cls,
        config: DistillationConfig,
        *,
        student: DeclaredTaps,
        teacher: DeclaredTaps,
        teacher_is_weaker: bool = False,
    ) -> "Distiller":
        """Put the paper's objectives, without those that are switched off, between any two detectors.

        Raises:
            UdxError: the two detectors cannot be compared with this config.
        """
        path = Path(student=student, teacher=teacher, teacher_is_weaker=teacher_is_weaker, adapter=config.adapter)
        weights, terms = config.weights, {}
        if weights.feature:
            feature = FeatureObjective(path, normalise=config.normalise_feature, ema_decay=config.ema_decay)
            terms["feature"] = Term(weights.feature, feature)
        if weights.relation:
            terms["relation"] = Term(weights.relation, RelationObjective(path))
        if weights.response:
            response = ResponseObjective(path, teacher_temperature=config.teacher_temperature)
            terms["response"] = Term(weights.response, response)
        return cls(terms, balance=config.balance, ramp=config.ramp, ema_decay=config.ema_decay)

    def forward(
        self, student: Taps, teacher: Taps, boxes: Boxes, detection_loss: Float[Tensor, ""], progress: float
    ) -> DistillationTerms:
        """Compare the taps of one batch; ``progress`` through training in [0, 1] drives the warm-up of the weights.

        ``boxes``: B tensors (N_i, 9) in the BEV frame. The teacher's taps and the detection loss are detached.
        """
        assert 0 <= progress <= 1, progress
        losses = {name: objective(student, teacher, boxes) for name, objective in self.objectives.items()}
        raw = {name: loss.detach() for name, loss in losses.items()}
        if self.means is not None and self.training:
            # Batches without boxes are left out of both means: there the raw losses are 0, and say nothing.
            self.means.observe(torch.stack([detection_loss.detach(), *raw.values()]), any(len(its) for its in boxes))
        factors = self._factors(progress)
        return DistillationTerms({name: factors[name] * loss for name, loss in losses.items()}, raw)

    def _factors(self, progress: float) -> dict[str, Tensor | float]:
        """Ramp, weight and balance of each term."""
        ramp = min(1.0, progress / self.ramp) if self.ramp else 1.0
        ramped = {name: ramp * weight for name, weight in self.weights.items()}
        if self.means is None:
            return dict(ramped)
        detection, *raw = self.means.value.unbind()
        # EPS lets a term go to sleep where teacher and student agree, instead of magnifying rounding errors.
        return {
            name: weight * detection / (mean + EPS) for (name, weight), mean in zip(ramped.items(), raw, strict=True)
        }


class FrozenTeacher:
    """A detector that teaches: in eval mode and without gradient at every call.

    It is no ``nn.Module``, so whatever module holds it registers none of its parameters: they reach neither the
    optimiser nor a checkpoint, and ``train()`` on the holder cannot wake its batch norms.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Taps:
        """Run the detector; ``train()`` called on it elsewhere is undone."""
        taps: Taps = self.detector.eval()(*inputs)
        return taps
