"""How the places of an image resemble each other: the scene as a whole, in the cameras' own view.

The scene-level distillation in feature space of MonoDistill (Chong et al., ICLR 2022): the L1 between affinity maps,
cosines of every two positions of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from udx.models.taps import EncoderTaps
from udx.ranges import require_range
from udx.train.losses import at_least_float32, cosines
from udx.train.objectives.base import Lesson, Objective, ObjectiveConfig, Objects, Pair, adapter, of_all
from udx.train.objectives.perspective import feature_maps, require_same_view

MAX_POOL: Final = 256


class PerspectiveRelationObjective(Objective):
    """Mean absolute difference of the affinities, whose size does not depend on the channels.

    Feature maps are pooled first, ``pool`` × ``pool`` cells to a position, as the affinity grows with the square of
    the positions. It compares whole images, so boxes do not matter and a batch without any has a loss. Lessons hold
    one affinity a camera.

    Raises:
        UdxError: the two do not have cameras with the same rows and columns.
    """

    of_encoder = True

    def __init__(self, pair: Pair, *, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.adapter = adapter(pair, *require_same_view(pair), channels_must_match=False)

    @torch.no_grad()
    def read(self, teacher: EncoderTaps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``affinity`` (N, P, P)."""
        maps_BNChw = feature_maps(teacher)
        affinity_BNPP = self._affinity(maps_BNChw.flatten(0, 1)).unflatten(0, maps_BNChw.shape[:2])
        return [{"affinity": affinity_NPP} for affinity_NPP in affinity_BNPP]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the affinities of all images."""
        student_XPP = self._affinity(self.adapter(feature_maps(student).flatten(0, 1)))
        return (student_XPP - of_all(lessons, "affinity", student_XPP)).abs().mean()

    def _affinity(self, maps_XChw: Float[Tensor, "X C h w"]) -> Float[Tensor, "X P P"]:
        pooled_XChw = F.avg_pool2d(at_least_float32(maps_XChw), self.pool, ceil_mode=True)
        return cosines(pooled_XChw.flatten(2).mT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerspectiveRelation(ObjectiveConfig):
    """``pool``: how many cells a position is wide and high."""

    kind: Literal["perspective_relation"] = "perspective_relation"
    pool: int = 2

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(at_least=1, at_most=MAX_POOL, **{"the width of a position in cells": self.pool})

    def build(self, pair: Pair) -> PerspectiveRelationObjective:
        """Build the objective between two detectors."""
        return PerspectiveRelationObjective(pair, pool=self.pool)
