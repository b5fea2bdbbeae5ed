"""A contrastive term over objects: the student's feature of an object is to resemble the teacher's of the same object.

The sparse part of BEVDistill (Chen et al., ICLR 2023) maximises the mutual information of the two by InfoNCE (van den
Oord et al., 2018). Its objects are matched queries; here they are the annotated boxes, which need no matching.

Legend: N objects of the batch, C channels, D channels of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from udx.models.blocks import MAX_CHANNELS
from udx.models.taps import EncoderTaps, Taps
from udx.processes import mean_count
from udx.ranges import require_range
from udx.train.losses import EPS, at_least_float32, box_features
from udx.train.objectives.base import GridPair, Lesson, Objective, ObjectiveConfig, Objects, Pair, by_sample, of_all
from udx.train.objectives.bridge import BevMap, declared_map, map_of

CENTRE = 8
"""Index of the centre among the crucial points."""


def info_nce(
    student_ND: Float[Tensor, "N D"], teacher_ND: Float[Tensor, "N D"], temperature: float
) -> Float[Tensor, ""]:
    """−log of the softmax share, among the teacher's objects, of the object itself; mean over the student's objects.

    Similarities are cosines divided by the temperature. All other objects of the process's batch are negatives; one
    object alone costs nothing.
    """
    with torch.autocast(student_ND.device.type, enabled=False):  # half precision leaves three digits of a cosine
        student_ND = F.normalize(at_least_float32(student_ND), dim=1)
        teacher_ND = F.normalize(at_least_float32(teacher_ND), dim=1)
        log_share_NN = (student_ND @ teacher_ND.T / temperature).log_softmax(dim=1)
    count = mean_count(log_share_NN.new_tensor(float(len(student_ND))))
    return -log_share_NN.diagonal().sum() / (count + EPS)


class ContrastiveObjective(Objective):
    """``info_nce`` of the objects' features in one BEV map, through one projection head a detector.

    The heads are owned here and make any widths comparable, so that there is no adapter and no policy of one. Objects
    that one of the maps holds in part are left out.
    """

    def __init__(self, pair: Pair, config: "Contrastive") -> None:
        super().__init__()
        self.config = config
        self.of_encoder = config.at == "low"
        student, teacher = declared_map(pair.student, config.at), declared_map(pair.teacher, config.at)
        self.grids = GridPair.of(pair, student, teacher)
        self.project_student = _projection(student.channels, config.channels)
        self.project_teacher = _projection(teacher.channels, config.channels)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's feature of each object, ``objects`` (N, C), before its projection."""
        boxes = self.grids.comparable(objects.boxes)
        points_N9C = box_features(map_of(teacher, self.config.at), boxes, self.grids.teacher)
        return [{"objects": its} for its in by_sample(self._pooled(points_N9C), boxes)]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Tell the objects of the batch apart by their features."""
        boxes = self.grids.comparable(objects.boxes)
        points_N9C = box_features(map_of(student, self.config.at), boxes, self.grids.student)
        student_ND = self.project_student(self._pooled(points_N9C))
        teacher_ND = self.project_teacher(of_all(lessons, "objects", points_N9C))
        return info_nce(student_ND, teacher_ND, self.config.temperature)

    def _pooled(self, points_N9C: Float[Tensor, "N 9 C"]) -> Float[Tensor, "N C"]:
        return points_N9C[:, CENTRE] if self.config.pool == "centre" else points_N9C.mean(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive(ObjectiveConfig):
    """``at``: which BEV map is compared; ``pool``: whether an object's feature is its centre's or its points' mean.

    ``channels``: of the embedding; ``temperature``: of the softmax over objects.
    """

    kind: Literal["contrastive"] = "contrastive"
    at: BevMap = "high"
    pool: Literal["centre", "mean"] = "mean"
    channels: int = 64
    temperature: float = 0.1

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(at_least=1, at_most=MAX_CHANNELS, **{"channels of the embedding": self.channels})
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"the contrastive temperature must be positive, not {self.temperature}")

    def build(self, pair: Pair) -> ContrastiveObjective:
        """Build the objective between two detectors."""
        return ContrastiveObjective(pair, self)


def _projection(channels_in: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels_in, channels), nn.ReLU(), nn.Linear(channels, channels))
