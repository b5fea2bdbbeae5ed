"""The inner geometry of objects: how channels, and how places, resemble each other within one box.

The inner-feature distillation of TiG-BEV (Huang et al., 2022): a lattice of points is sampled in every box, and the two
detectors are compared in the similarities of the channels over the points and of the points over the channels, rather
than in the features themselves, which differ between sensors.

Legend: N boxes, P points of the lattice, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.models.taps import EncoderTaps, Taps
from udx.ranges import require_range
from udx.train.losses import Boxes, box_features, cosines, matrix_distance
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
from udx.train.objectives.bridge import BevMap, declared_map, map_of

MAX_SIDE: Final = 64


class InnerGeometryObjective(Objective):
    """L1 between the cosines of every two channels, plus L1 between those of every two points; mean over boxes.

    Lessons hold the features at the points. Objects that one of the maps holds in part are left out.

    Raises:
        UdxError: the channels differ and the pair allows no adapter, or the maps share no ground.
    """

    def __init__(self, pair: Pair, *, at: BevMap, side: int) -> None:
        super().__init__()
        self.at = at
        self.of_encoder = at == "low"
        self.lattice = [((i + 0.5) / side - 0.5, (j + 0.5) / side - 0.5) for i in range(side) for j in range(side)]
        student, teacher = declared_map(pair.student, at), declared_map(pair.teacher, at)
        self.grids = GridPair.of(pair, student, teacher)
        self.adapter = adapter(pair, student, teacher, channels_must_match=True)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``points`` (N, P, C)."""
        boxes = self.grids.comparable(objects.boxes)
        points_NPC = box_features(map_of(teacher, self.at), boxes, self.grids.teacher, self.lattice)
        return [{"points": points} for points in by_sample(points_NPC, boxes)]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare both kinds of similarities."""
        boxes: Boxes = self.grids.comparable(objects.boxes)
        student_map = self.adapter(map_of(student, self.at))
        student_NPC = box_features(student_map, boxes, self.grids.student, self.lattice)
        teacher_NPC = of_all(lessons, "points", student_NPC)
        of_channels = matrix_distance(cosines(student_NPC.mT), cosines(teacher_NPC.mT))
        return of_channels + matrix_distance(cosines(student_NPC), cosines(teacher_NPC))


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerGeometry(ObjectiveConfig):
    """``at``: which BEV map is compared; ``side``: points along each side of a box."""

    kind: Literal["inner_geometry"] = "inner_geometry"
    at: BevMap = "high"
    side: int = 4

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(at_least=2, at_most=MAX_SIDE, **{"points along a side of the lattice": self.side})

    def build(self, pair: Pair) -> InnerGeometryObjective:
        """Build the objective between two detectors."""
        return InnerGeometryObjective(pair, at=self.at, side=self.side)
