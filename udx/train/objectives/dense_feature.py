"""Dense feature imitation under a foreground mask: the L2 between BEV maps, weighted cell by cell.

The dense part of BEVDistill (Chen et al., ICLR 2023), whose weights are the label heatmap, any class; with the same
weights also the LiDAR part of LabelDistill (Kim et al., ECCV 2024). In box interiors, it is the classical foreground
imitation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.models.taps import EncoderTaps, Taps
from udx.train.losses import at_least_float32, weighted_mean
from udx.train.masks import FOREGROUND, MaskName
from udx.train.objectives.base import Lesson, Objective, ObjectiveConfig, Objects, Pair, of_all
from udx.train.objectives.bridge import BevMap, Bridge, at_cells, by_sample_of


class DenseFeatureObjective(Objective):
    """Mean over channels of the squared difference, averaged over the cells with the mask as weights.

    Lessons hold the cells under the mask only.
    """

    def __init__(self, pair: Pair, *, at: BevMap, mask: MaskName) -> None:
        super().__init__()
        self.of_encoder = at == "low"
        self.bridge = Bridge(pair, at)
        self.mask = FOREGROUND[mask]

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``cells`` (M, C) under the mask."""
        cells_M3 = self._weight(objects).nonzero()
        values_MC = at_cells(self.bridge.of_teacher(teacher), cells_M3)
        return [{"cells": its} for its in by_sample_of(cells_M3, values_MC, len(objects.boxes))]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the maps under the mask."""
        weight_BHW = self._weight(objects)
        cells_M3 = weight_BHW.nonzero()
        student_MC = at_cells(self.bridge.of_student(student), cells_M3)
        teacher_MC = at_least_float32(of_all(lessons, "cells", student_MC))
        return weighted_mean((student_MC - teacher_MC).square().mean(dim=1), weight_BHW[cells_M3.unbind(1)])

    def _weight(self, objects: Objects) -> Float[Tensor, "B H W"]:
        return self.mask(objects, self.bridge.grid)[:, 0] * self.bridge.align.covered_HW


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFeature(ObjectiveConfig):
    """``at``: which BEV map is compared; ``mask``: the weights of its cells."""

    kind: Literal["dense_feature"] = "dense_feature"
    at: BevMap = "high"
    mask: MaskName = "heatmap"

    def build(self, pair: Pair) -> DenseFeatureObjective:
        """Build the objective between two detectors."""
        return DenseFeatureObjective(pair, at=self.at, mask=self.mask)
