"""What every objective is given, and what it returns."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.detection_loss import MAX_WEIGHT
from udx.models.taps import DeclaredTaps, PerspectiveTap, Tap, Taps
from udx.ranges import require_range
from udx.train.losses import Boxes, crucial_points
from udx.train.objects import Objects as Objects

Lesson = Mapping[str, Tensor]
"""What one objective keeps of the teacher for one sample; all that a cache need hold of it."""

AdapterPolicy = Literal["auto", "always", "never"]
"""When an adapter brings the student's map to the teacher's: ``auto``, where the teacher is weaker or the channels
differ; ``always``, even where neither holds; ``never``, so that different channels are an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """From which detector to which, whether the teacher is the weaker one, and where to put adapters."""

    student: DeclaredTaps
    teacher: DeclaredTaps
    teacher_is_weaker: bool = False
    adapter: AdapterPolicy = "auto"


class Objective(nn.Module, abc.ABC):
    """One comparison of a student with a teacher; its parameters are its adapter's.

    It works in two steps, so that the teacher need not be there in the second: ``read`` keeps what the objective
    needs of the teacher, ``forward`` compares it with the student.
    """

    of_encoder: bool = False
    """Whether it looks at no more than ``EncoderTaps``, so that it can teach a sensor encoder alone."""

    @abc.abstractmethod
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Return the lesson of each sample. It depends on that sample and on nothing that is learned."""

    @abc.abstractmethod
    def forward(self, student: Taps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Return the raw loss.

        For a batch without boxes it is exactly 0 (with a graph), but for an objective that says it compares more than
        the objects: that one is well defined without any.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig(abc.ABC):
    """Settings of one objective. Subclasses have a field ``kind``, whose only value tells them apart in files.

    ``weight``: what it is worth beside the detection loss (see ``Balance``); 0 switches it off, so that it costs
    nothing.

    Raises:
        ValueError: the weight is negative, too large or not finite.
    """

    weight: float

    def __post_init__(self) -> None:
        require_range(at_least=0, at_most=MAX_WEIGHT, **{"the weight of a distillation loss": self.weight})

    @abc.abstractmethod
    def build(self, pair: Pair) -> Objective:
        """Build the objective between two detectors.

        Raises:
            UdxError: the two cannot be compared by it.
        """


def by_sample(tensor_N: Tensor, boxes: Boxes) -> list[Tensor]:
    """Cut what was computed for the N boxes of the whole batch, along its first dimension, at the samples' borders."""
    return list(tensor_N.split([len(its) for its in boxes]))


def of_all(lessons: Sequence[Lesson], name: str, like: Tensor) -> Tensor:
    """Join one tensor of the lessons of all samples, on the device of ``like``."""
    return torch.cat([lesson[name].to(like.device, non_blocking=True) for lesson in lessons])


@dataclass(frozen=True, slots=True)
class GridPair:
    """The grids of the two maps that an objective compares."""

    student: BevGrid
    teacher: BevGrid

    @classmethod
    def of(cls, pair: Pair, student: Tap, teacher: Tap) -> "GridPair":
        """Coarsen both detectors' grids to the strides of their taps.

        Raises:
            UdxError: the two maps share no ground.
        """
        grids = cls(pair.student.grid.coarsened(student.stride), pair.teacher.grid.coarsened(teacher.stride))
        if not _overlap(grids.student, grids.teacher):
            raise UdxError(
                f"the student's grid {grids.student} and the teacher's {grids.teacher} share no ground: "
                "give both detectors ranges that overlap"
            )
        return grids

    def comparable(self, boxes: Boxes) -> list[Float[Tensor, "_ 9"]]:
        """Leave out the boxes that one of the maps holds only in part.

        Beyond a map stands zero, which is fair where both maps end, but no lesson where only one does. So on the
        same ground all boxes stay.
        """
        if _bounds(self.student) == _bounds(self.teacher):
            return list(boxes)
        return [its[self._on_both(crucial_points(its))] for its in boxes]

    def _on_both(self, points_N92: Float[Tensor, "N 9 2"]) -> Bool[Tensor, " N"]:
        return (inside(points_N92, self.student) & inside(points_N92, self.teacher)).all(dim=-1)


def inside(points: Float[Tensor, "*shape 2"], grid: BevGrid) -> Bool[Tensor, "*shape"]:
    """Whether metric points (x, y) lie on the ground of ``grid``, its bounds included."""
    x, y = points.unbind(dim=-1)
    return (x >= grid.x_min) & (x <= grid.x_max) & (y >= grid.y_min) & (y <= grid.y_max)


def adapter(
    pair: Pair, student: Tap | PerspectiveTap, teacher: Tap | PerspectiveTap, *, channels_must_match: bool
) -> nn.Module:
    """Build what brings the student's map to the teacher's, by the pair's policy.

    One 3 × 3 convolution with batch norm and ReLU for a teacher that is weaker (the paper's adaptive layer: the
    student need not unlearn what the teacher does not know), else a 1 × 1 convolution where channels differ.

    Raises:
        UdxError: the channels differ and the policy forbids an adapter.
    """
    if pair.adapter == "always" or (pair.adapter == "auto" and pair.teacher_is_weaker):
        return nn.Sequential(
            nn.Conv2d(student.channels, teacher.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(teacher.channels),
            nn.ReLU(),
        )
    if student.channels == teacher.channels or not channels_must_match:
        return nn.Identity()
    if pair.adapter == "never":
        raise UdxError(
            f"the student's map has {student.channels} channels and the teacher's {teacher.channels}, which needs an "
            "adapter: set the distillation's adapter to 'auto', or give both the same width"
        )
    return nn.Conv2d(student.channels, teacher.channels, 1)


def _bounds(grid: BevGrid) -> tuple[float, ...]:
    return tuple(round(bound, 6) for bound in (grid.x_min, grid.x_max, grid.y_min, grid.y_max))


def _overlap(a: BevGrid, b: BevGrid) -> bool:
    return max(a.x_min, b.x_min) < min(a.x_max, b.x_max) and max(a.y_min, b.y_min) < min(a.y_max, b.y_max)
