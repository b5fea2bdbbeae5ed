"""Feature imitation in the cameras' own view, at the objects.

The object-level distillation in feature space of MonoDistill (Chong et al., ICLR 2022): the L2 between the images'
feature maps inside the objects' rectangles. Its teacher sees LiDAR points painted into the image; here a teacher with
cameras of its own does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from udx.models.taps import EncoderTaps
from udx.train.losses import at_least_float32, weighted_mean
from udx.train.masks import perspective_foreground
from udx.train.objectives.base import Lesson, Objective, ObjectiveConfig, Objects, Pair, adapter, of_all
from udx.train.objectives.bridge import by_sample_of
from udx.train.objectives.perspective import feature_maps, require_same_view


class PerspectiveFeatureObjective(Objective):
    """Mean over channels of the squared difference, averaged over the cells of ``perspective_foreground``.

    Lessons hold these cells only.

    Raises:
        UdxError: the two do not have cameras with the same rows and columns, or the channels differ and the pair
            allows no adapter.
    """

    of_encoder = True

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        student, teacher = require_same_view(pair)
        self.frustum = student.frustum
        self.adapter = adapter(pair, student, teacher, channels_must_match=True)

    @torch.no_grad()
    def read(self, teacher: EncoderTaps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``cells`` (M, C) in the foreground of all cameras."""
        cells_M4 = self._cells(objects)
        values_MC = _at(feature_maps(teacher), cells_M4)
        return [{"cells": its} for its in by_sample_of(cells_M4, values_MC, len(objects.boxes))]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the feature maps in the foreground."""
        maps_BNChw = feature_maps(student)
        adapted_BNChw = self.adapter(maps_BNChw.flatten(0, 1)).unflatten(0, maps_BNChw.shape[:2])
        student_MC = at_least_float32(_at(adapted_BNChw, self._cells(objects)))
        difference_M = (student_MC - at_least_float32(of_all(lessons, "cells", student_MC))).square().mean(dim=1)
        return weighted_mean(difference_M, torch.ones_like(difference_M))

    def _cells(self, objects: Objects) -> Int[Tensor, "M 4"]:
        """(sample, camera, row, column)."""
        return perspective_foreground(objects, self.frustum).nonzero()


@dataclass(frozen=True, slots=True, kw_only=True)
class PerspectiveFeature(ObjectiveConfig):
    """The objective has no settings of its own."""

    kind: Literal["perspective_feature"] = "perspective_feature"

    def build(self, pair: Pair) -> PerspectiveFeatureObjective:
        """Build the objective between two detectors."""
        return PerspectiveFeatureObjective(pair)


def _at(maps_BNChw: Float[Tensor, "B N C h w"], cells_M4: Int[Tensor, "M 4"]) -> Float[Tensor, "M C"]:
    sample_M, camera_M, row_M, column_M = cells_M4.unbind(dim=1)
    return maps_BNChw[sample_M, camera_M, :, row_M, column_M]
