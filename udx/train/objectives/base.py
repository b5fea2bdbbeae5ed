"""What every objective is given, and what it returns."""

import abc
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.taps import DeclaredTaps, Tap, Taps
from udx.train.losses import Boxes, crucial_points

AdapterPolicy = Literal["auto", "always", "never"]
"""When an adapter brings the student's map to the teacher's: ``auto``, where the teacher is weaker or the channels
differ; ``always``, even where neither holds; ``never``, so that different channels are an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """From which detector to which, whether the teacher is the weaker one, and where to put adapters."""

    student: DeclaredTaps
    teacher: DeclaredTaps
    teacher_is_weaker: bool = False
    adapter: AdapterPolicy = "auto"


class Objective(nn.Module, abc.ABC):
    """One comparison of a student with a teacher; its parameters are its adapter's.

    Subclasses are built from a ``Path`` and their own keywords.
    """

    @abc.abstractmethod
    def forward(self, student: Taps, teacher: Taps, boxes: Boxes) -> Float[Tensor, ""]:
        """Return the raw loss, exactly 0 (with a graph) for a batch without boxes; the teacher is detached."""


@dataclass(frozen=True, slots=True)
class GridPair:
    """The grids of the two maps that an objective compares."""

    student: BevGrid
    teacher: BevGrid

    @classmethod
    def of(cls, path: Path, student: Tap, teacher: Tap) -> "GridPair":
        """Coarsen both detectors' grids to the strides of their taps.

        Raises:
            UdxError: the two maps share no ground.
        """
        pair = cls(path.student.grid.coarsened(student.stride), path.teacher.grid.coarsened(teacher.stride))
        if not _overlap(pair.student, pair.teacher):
            raise UdxError(
                f"the student's grid {pair.student} and the teacher's {pair.teacher} share no ground: "
                "give both detectors ranges that overlap"
            )
        return pair

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


def adapter(path: Path, student: Tap, teacher: Tap, *, channels_must_match: bool) -> nn.Module:
    """Build what brings the student's map to the teacher's, by the path's policy.

    One 3 × 3 convolution with batch norm and ReLU for a teacher that is weaker (the paper's adaptive layer: the
    student need not unlearn what the teacher does not know), else a 1 × 1 convolution where channels differ.

    Raises:
        UdxError: the channels differ and the policy forbids an adapter.
    """
    if path.adapter == "always" or (path.adapter == "auto" and path.teacher_is_weaker):
        return nn.Sequential(
            nn.Conv2d(student.channels, teacher.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(teacher.channels),
            nn.ReLU(),
        )
    if student.channels == teacher.channels or not channels_must_match:
        return nn.Identity()
    if path.adapter == "never":
        raise UdxError(
            f"the student's map has {student.channels} channels and the teacher's {teacher.channels}, which needs an "
            "adapter: set the distillation's adapter to 'auto', or give both the same width"
        )
    return nn.Conv2d(student.channels, teacher.channels, 1)


def _bounds(grid: BevGrid) -> tuple[float, ...]:
    return tuple(round(bound, 6) for bound in (grid.x_min, grid.x_max, grid.y_min, grid.y_max))


def _overlap(a: BevGrid, b: BevGrid) -> bool:
    return max(a.x_min, b.x_min) < min(a.x_max, b.x_max) and max(a.y_min, b.y_min) < min(a.y_max, b.y_max)
