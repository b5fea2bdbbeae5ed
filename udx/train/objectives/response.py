"""UniDistill's response objective: what the heads say, under a Gaussian at every box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.models.taps import Taps
from udx.train.losses import Responses, gaussian_mask, response_distance, responses_at
from udx.train.objectives.base import Lesson, Objective, ObjectiveConfig, Objects, Pair, of_all
from udx.train.objectives.bridge import HeadAlignment, by_sample_of


class ResponseObjective(Objective):
    """``response_loss`` of the head maps; a teacher on another grid is brought to the student's.

    Raises:
        UdxError: the head maps of the two have different channels, or share no ground.
    """

    def __init__(self, pair: Pair, *, teacher_temperature: float = 1.0) -> None:
        super().__init__()
        self.teacher_temperature = teacher_temperature
        self.align = HeadAlignment(pair)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``confidence`` (M,) and ``regression`` (M, R) at the cells under the mask."""
        cells_M3 = self._mask(objects).nonzero()
        responses = responses_at(self.align(teacher.heads), cells_M3, self.teacher_temperature)
        batch = len(objects.boxes)
        by_sample = (by_sample_of(cells_M3, part, batch) for part in responses)
        return [
            {"confidence": confidence, "regression": regression}
            for confidence, regression in zip(*by_sample, strict=True)
        ]

    def forward(self, student: Taps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the heads; cells outside the teacher's ground do not count."""
        mask_BHW = self._mask(objects)
        cells_M3 = mask_BHW.nonzero()
        responses = responses_at(student.heads, cells_M3)
        taught = Responses(*(of_all(lessons, name, mask_BHW) for name in ("confidence", "regression")))
        return response_distance(responses, taught, mask_BHW[cells_M3.unbind(1)])

    def _mask(self, objects: Objects) -> Float[Tensor, "B H W"]:
        return gaussian_mask(objects.boxes, self.align.grids.student)[:, 0] * self.align.covered_HW


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(ObjectiveConfig):
    """``teacher_temperature`` divides the teacher's logits alone (the authors' code: 2)."""

    kind: Literal["response"] = "response"
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        if not 0 < self.teacher_temperature < float("inf"):
            raise ValueError(f"the teacher's temperature must be positive, not {self.teacher_temperature}")

    def build(self, pair: Pair) -> ResponseObjective:
        """Build the objective between two detectors."""
        return ResponseObjective(pair, teacher_temperature=self.teacher_temperature)
