"""UniDistill's relation objective: how the crucial points of a box resemble each other after the BEV encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.models.taps import Taps
from udx.train.losses import box_features, cosines, matrix_distance
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


class RelationObjective(Objective):
    """``relation_loss`` of the ``high`` taps, whose channels may differ: a cosine has none."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        student, teacher = pair.student.high, pair.teacher.high
        self.grids = GridPair.of(pair, student, teacher)
        self.adapter = adapter(pair, student, teacher, channels_must_match=False)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``cosines`` (N, 9, 9)."""
        boxes = self.grids.comparable(objects.boxes)
        cosines_N99 = cosines(box_features(teacher.high_BCHW, boxes, self.grids.teacher))
        return [{"cosines": matrix} for matrix in by_sample(cosines_N99, boxes)]

    def forward(self, student: Taps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the ``high`` maps at the crucial points."""
        boxes = self.grids.comparable(objects.boxes)
        student_N99 = cosines(box_features(self.adapter(student.high_BCHW), boxes, self.grids.student))
        return matrix_distance(student_N99, of_all(lessons, "cosines", student_N99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation(ObjectiveConfig):
    """The relation objective has no settings of its own."""

    kind: Literal["relation"] = "relation"

    def build(self, pair: Pair) -> RelationObjective:
        """Build the objective between two detectors."""
        return RelationObjective(pair)
