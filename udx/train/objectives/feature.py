"""UniDistill's feature objective: the BEV maps before the BEV encoder, at the crucial points of the boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.models.taps import EncoderTaps
from udx.processes import mean_over_processes
from udx.train.averages import RunningMean
from udx.train.losses import EPS, at_least_float32, box_features, feature_distance
from udx.train.objectives.base import (
    GridPair,
    Lesson,
    Objective,
    ObjectiveConfig,
    Objects,
    Pair,
    adapter,
    by_sample,
    of_all,
)

LEAST_SPREAD = 0.1
"""Spread of a channel, as a share of the mean one, below which it is not enlarged any further: dead channels."""


class FeatureObjective(Objective):
    """``feature_loss`` of the ``low`` taps.

    With ``normalise``, differences are measured in the teacher's own spread: the standard deviation of each of its
    channels over the crucial points, averaged over steps. The loss then no longer depends on the scale of a map.
    """

    of_encoder = True

    def __init__(self, pair: Pair, *, normalise: bool = False, ema_decay: float = 0.98) -> None:
        super().__init__()
        student, teacher = pair.student.low, pair.teacher.low
        self.grids = GridPair.of(pair, student, teacher)
        self.adapter = adapter(pair, student, teacher, channels_must_match=True)
        self.variance = RunningMean((teacher.channels,), decay=ema_decay) if normalise else None

    @torch.no_grad()
    def read(self, teacher: EncoderTaps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``points`` (N, 9, C)."""
        boxes = self.grids.comparable(objects.boxes)
        points_N9C = box_features(teacher.low_BCHW, boxes, self.grids.teacher)
        return [{"points": points} for points in by_sample(points_N9C, boxes)]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the ``low`` maps at the crucial points."""
        boxes = self.grids.comparable(objects.boxes)
        student_N9C = box_features(self.adapter(student.low_BCHW), boxes, self.grids.student)
        teacher_N9C = of_all(lessons, "points", student_N9C)
        if self.variance is not None:
            spread_C = self._spread(self.variance, teacher_N9C)
            student_N9C, teacher_N9C = student_N9C / spread_C, teacher_N9C / spread_C
        return feature_distance(student_N9C, teacher_N9C)

    def _spread(self, variance: RunningMean, teacher_N9C: Float[Tensor, "N 9 C"]) -> Float[Tensor, " C"]:
        if self.training:
            points_PC = at_least_float32(teacher_N9C.detach().flatten(0, 1))
            variance.observe(_mean(torch.square(points_PC - _mean(points_PC))))
        spread_C = variance.value.sqrt()
        return spread_C.clamp_min(LEAST_SPREAD * spread_C.mean()) + EPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature(ObjectiveConfig):
    """``normalise``: measure differences in the teacher's own spread, averaged over steps with ``ema_decay``."""

    kind: Literal["feature"] = "feature"
    normalise: bool = False
    ema_decay: float = 0.98

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")

    def build(self, pair: Pair) -> FeatureObjective:
        """Build the objective between two detectors."""
        return FeatureObjective(pair, normalise=self.normalise, ema_decay=self.ema_decay)


def _mean(points_PC: Float[Tensor, "P C"]) -> Float[Tensor, " C"]:
    """Mean over the points of all processes; not finite where there are none."""
    number = points_PC.new_tensor([float(len(points_PC))])
    means = mean_over_processes(torch.cat([points_PC.sum(dim=0), number]))
    return means[:-1] / means[-1]
