"""UniDistill's feature objective: the BEV maps before the BEV encoder, at the crucial points of the boxes."""

from jaxtyping import Float
from torch import Tensor

from udx.models.taps import Taps
from udx.train.averages import RunningMean
from udx.train.losses import EPS, Boxes, box_features, feature_distance
from udx.train.objectives.base import GridPair, Objective, Path, adapter

LEAST_SPREAD = 0.1
"""Spread of a channel, as a share of the mean one, below which it is not enlarged any further: dead channels."""


class FeatureObjective(Objective):
    """``feature_loss`` of the ``low`` taps.

    With ``normalise``, differences are measured in the teacher's own spread: the standard deviation of each of its
    channels over the crucial points, averaged over steps. The loss then no longer depends on the scale of a map.
    """

    def __init__(self, path: Path, *, normalise: bool = False, ema_decay: float = 0.98) -> None:
        super().__init__()
        student, teacher = path.student.low, path.teacher.low
        self.grids = GridPair.of(path, student, teacher)
        self.adapter = adapter(path, student, teacher, channels_must_match=True)
        self.variance = RunningMean((teacher.channels,), decay=ema_decay) if normalise else None

    def forward(self, student: Taps, teacher: Taps, boxes: Boxes) -> Float[Tensor, ""]:
        """Compare the ``low`` maps at the crucial points."""
        boxes = self.grids.comparable(boxes)
        student_N9C = box_features(self.adapter(student.low_BCHW), boxes, self.grids.student)
        teacher_N9C = box_features(teacher.low_BCHW.detach(), boxes, self.grids.teacher)
        if self.variance is not None:
            spread_C = self._spread(self.variance, teacher_N9C)
            student_N9C, teacher_N9C = student_N9C / spread_C, teacher_N9C / spread_C
        return feature_distance(student_N9C, teacher_N9C)

    def _spread(self, variance: RunningMean, teacher_N9C: Float[Tensor, "N 9 C"]) -> Float[Tensor, " C"]:
        if self.training:
            centred_N9C = teacher_N9C - teacher_N9C.mean(dim=(0, 1))
            variance.observe(centred_N9C.square().mean(dim=(0, 1)), valid=len(teacher_N9C) > 0)
        spread_C = variance.value.sqrt()
        return spread_C.clamp_min(LEAST_SPREAD * spread_C.mean()) + EPS
