"""UniDistill's response objective: what the heads say, under a Gaussian at every box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.center_head import REGRESSION, TASKS
from udx.models.taps import HeadMaps, Taps
from udx.train.losses import Responses, gaussian_mask, response_distance, responses_at, sample_points
from udx.train.objectives.base import (
    GridPair,
    Lesson,
    Objective,
    ObjectiveConfig,
    Objects,
    Pair,
    inside,
    of_all,
)


class ResponseObjective(Objective):
    """``response_loss`` of the head maps; a teacher on another grid is brought to the student's.

    There is no adapter: head maps have a meaning of their own.

    Raises:
        UdxError: the head maps of the two have different channels.
    """

    covered_HW: Tensor
    read_at_M2: Tensor
    regression_scale_R11: Tensor

    def __init__(self, pair: Pair, *, teacher_temperature: float = 1.0) -> None:
        super().__init__()
        student, teacher = pair.student.heads, pair.teacher.heads
        if student.channels != teacher.channels:
            raise UdxError(
                f"the student's heads have {student.channels} channels and the teacher's {teacher.channels}: distil "
                "between detectors of the same classes and head, or set the weight of the response loss to 0"
            )
        self.teacher_temperature = teacher_temperature
        self.grids = GridPair.of(pair, student, teacher)
        centres_M2 = _cell_centres(self.grids.student)
        covered_HW = inside(centres_M2, self.grids.teacher).view(self.grids.student.shape)
        self.register_buffer("covered_HW", covered_HW, persistent=False)
        self.register_buffer("read_at_M2", _between_cell_centres(centres_M2, self.grids.teacher), persistent=False)
        self.register_buffer("regression_scale_R11", _regression_scale(self.grids)[:, None, None], persistent=False)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``confidence`` (M,) and ``regression`` (M, R) at the cells under the mask."""
        cells_M3 = self._mask(objects).nonzero()
        heads = teacher.heads if self.grids.student == self.grids.teacher else self._on_student_grid(teacher.heads)
        responses = responses_at(heads, cells_M3, self.teacher_temperature)
        of_sample = cells_M3[:, 0].bincount(minlength=len(objects.boxes)).tolist()
        return [
            {"confidence": confidence, "regression": regression}
            for confidence, regression in zip(*(part.split(of_sample) for part in responses), strict=True)
        ]

    def forward(self, student: Taps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the heads; cells outside the teacher's ground do not count."""
        mask_BHW = self._mask(objects)
        cells_M3 = mask_BHW.nonzero()
        responses = responses_at(student.heads, cells_M3)
        taught = Responses(*(of_all(lessons, name, mask_BHW) for name in ("confidence", "regression")))
        return response_distance(responses, taught, mask_BHW[cells_M3.unbind(1)])

    def _mask(self, objects: Objects) -> Float[Tensor, "B H W"]:
        return gaussian_mask(objects.boxes, self.grids.student)[:, 0] * self.covered_HW

    @torch.no_grad()
    def _on_student_grid(self, heads: HeadMaps) -> HeadMaps:
        """Interpolate at the student's cell centres.

        An offset counts in cells from the centre of its own cell. Interpolated between cells that point at the same
        object it points there from the place between them, so only its unit changes.
        """
        points_BM2 = self.read_at_M2.expand(len(heads.heatmap_BKHW), -1, -1)
        heatmap_BKHW, regression_BRHW = (
            sample_points(map_BCHW, points_BM2, self.grids.teacher)
            .transpose(1, 2)
            .unflatten(2, self.grids.student.shape)
            for map_BCHW in (heads.heatmap_BKHW, heads.regression_BRHW)
        )
        return HeadMaps(heatmap_BKHW, regression_BRHW * self.regression_scale_R11)


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


def _regression_scale(grids: GridPair) -> Float[Tensor, " R"]:
    cells = grids.teacher.cell / grids.student.cell
    of_task = [cells if name == "offset" else 1.0 for name, channels in REGRESSION.items() for _ in range(channels)]
    return torch.tensor(of_task * len(TASKS))


def _cell_centres(grid: BevGrid) -> Float[Tensor, "M 2"]:
    height, width = grid.shape
    x = grid.x_min + (torch.arange(width) + 0.5) * grid.cell
    y = grid.y_min + (torch.arange(height) + 0.5) * grid.cell
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def _between_cell_centres(points_M2: Float[Tensor, "M 2"], grid: BevGrid) -> Float[Tensor, "M 2"]:
    """Move points to the nearest place that lies between cell centres, where no zero from outside mixes in."""
    half = grid.cell / 2
    x, y = points_M2.unbind(dim=-1)
    return torch.stack(
        [x.clamp(grid.x_min + half, grid.x_max - half), y.clamp(grid.y_min + half, grid.y_max - half)], dim=-1
    )
