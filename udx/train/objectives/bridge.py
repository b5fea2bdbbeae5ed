"""Makes whole maps of two detectors comparable cell by cell: the student's by an adapter, the teacher's by resampling.

Legend: B batch, C channels, H W rows and columns of the student's grid, P covered cells, M chosen cells.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.center_head import REGRESSION, TASKS
from udx.models.taps import DeclaredTaps, EncoderTaps, HeadMaps, Tap, Taps
from udx.train.losses import at_least_float32
from udx.train.objectives.base import GridPair, Lesson, Pair, adapter, inside, of_all

BevMap = Literal["low", "high"]
"""The BEV map before or after the BEV encoder."""

AnyMap = Literal["low", "high", "heatmap"]
"""These, or the logits of the class heatmaps."""


class Alignment(nn.Module):
    """Brings maps of the teacher to the student's cells.

    ``covered_HW``: the student's cells whose centre lies on the teacher's ground. Beyond it the border is repeated:
    no lesson, but no zero either that would mix into the cells at the border.
    """

    covered_HW: Tensor
    read_at_HW2: Tensor

    def __init__(self, grids: GridPair) -> None:
        super().__init__()
        self.grids = grids
        centres_HW2 = cell_centres(grids.student)
        self.register_buffer("covered_HW", inside(centres_HW2, grids.teacher), persistent=False)
        self.register_buffer("read_at_HW2", _normalised(centres_HW2, grids.teacher), persistent=False)
        self.covers_all = bool(self.covered_HW.all())

    @torch.no_grad()
    def forward(self, map_BCHW: Float[Tensor, "B C TH TW"]) -> Float[Tensor, "B C H W"]:
        """Interpolate bilinearly at the student's cell centres; on the same grid nothing is to be done."""
        if self.grids.student == self.grids.teacher:
            return map_BCHW
        values_BCHW = at_least_float32(map_BCHW)
        read_at_BHW2 = self.read_at_HW2.to(values_BCHW).expand(len(values_BCHW), -1, -1, -1)
        return F.grid_sample(values_BCHW, read_at_BHW2, padding_mode="border", align_corners=False)


class HeadAlignment(nn.Module):
    """Brings head maps of the teacher to the student's cells; there is no adapter, as they have a meaning of their own.

    An offset counts in cells from the centre of its own cell. Interpolated between cells that point at the same
    object it points there from the place between them, so only its unit changes.

    Raises:
        UdxError: the head maps of the two have different channels, or share no ground.
    """

    regression_scale_R11: Tensor

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        require_same_heads(pair)
        self.grids = GridPair.of(pair, pair.student.heads, pair.teacher.heads)
        self.align = Alignment(self.grids)
        self.register_buffer("regression_scale_R11", _regression_scale(self.grids)[:, None, None], persistent=False)

    @property
    def covered_HW(self) -> Bool[Tensor, "H W"]:
        """The student's cells whose centre lies on the teacher's ground."""
        return self.align.covered_HW

    @torch.no_grad()
    def forward(self, heads: HeadMaps) -> HeadMaps:
        """The teacher's heads on the student's grid."""
        if self.grids.student == self.grids.teacher:
            return heads
        return HeadMaps(self.align(heads.heatmap_BKHW), self.align(heads.regression_BRHW) * self.regression_scale_R11)


class Bridge(nn.Module):
    """One map of each detector: the student's with the teacher's channels, the teacher's on the student's cells.

    Heatmaps have a meaning of their own and get no adapter.

    Raises:
        UdxError: the channels differ and the pair allows no adapter, or the maps share no ground.
    """

    def __init__(self, pair: Pair, at: AnyMap) -> None:
        super().__init__()
        self.at = at
        student, teacher = declared_map(pair.student, at), declared_map(pair.teacher, at)
        if at == "heatmap":
            require_same_heads(pair)
        self.adapter = nn.Identity() if at == "heatmap" else adapter(pair, student, teacher, channels_must_match=True)
        self.align = Alignment(GridPair.of(pair, student, teacher))

    @property
    def grid(self) -> BevGrid:
        """The student's."""
        return self.align.grids.student

    def of_student(self, taps: EncoderTaps) -> Float[Tensor, "B C H W"]:
        """The student's map through the adapter, in float32 at least."""
        return at_least_float32(self.adapter(map_of(taps, self.at)))

    def of_teacher(self, taps: Taps) -> Float[Tensor, "B C H W"]:
        """The teacher's map on the student's cells, in the precision it came in where nothing is to be done."""
        aligned: Tensor = self.align(map_of(taps, self.at))
        return aligned

    def covered(self, map_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C P"]:
        """Keep the cells on the teacher's ground, in one row."""
        return map_BCHW.flatten(2) if self.align.covers_all else map_BCHW[..., self.align.covered_HW]


def require_same_heads(pair: Pair) -> None:
    """Make sure that the head maps of the two detectors mean the same.

    Raises:
        UdxError: they have different channels.
    """
    student, teacher = pair.student.heads, pair.teacher.heads
    if student.channels != teacher.channels:
        raise UdxError(
            f"the student's heads have {student.channels} channels and the teacher's {teacher.channels}: distil "
            "between detectors of the same classes and head, or set the weight of what compares heads to 0"
        )


def declared_map(taps: DeclaredTaps, name: AnyMap) -> Tap:
    """Declaration of a map by name."""
    tap: Tap = taps.heads if name == "heatmap" else getattr(taps, name)
    return tap


def map_of(taps: EncoderTaps, name: AnyMap) -> Float[Tensor, "B C H W"]:
    """Return a map by name.

    Raises:
        TypeError: a sensor encoder alone yields no map but ``low``.
    """
    if name == "low":
        return taps.low_BCHW
    if not isinstance(taps, Taps):
        raise TypeError(f"a sensor encoder alone yields the map 'low', and not {name!r}")
    return taps.heads.heatmap_BKHW if name == "heatmap" else taps.high_BCHW


def at_cells(map_BCHW: Float[Tensor, "B C H W"], cells_M3: Int[Tensor, "M 3"]) -> Float[Tensor, "M C"]:
    """Values at cells given as (sample, row, column)."""
    sample_M, row_M, column_M = cells_M3.unbind(dim=1)
    return map_BCHW[sample_M, :, row_M, column_M]


def by_sample_of(cells_M3: Int[Tensor, "M _"], tensor_M: Tensor, batch: int) -> list[Tensor]:
    """Cut what was read at ``nonzero`` cells of a whole batch at the samples' borders."""
    return list(tensor_M.split(cells_M3[:, 0].bincount(minlength=batch).tolist()))


def whole_maps(map_BCHW: Float[Tensor, "B C H W"]) -> list[Lesson]:
    """Lessons that hold the whole map of a sample, as ``map`` (1, C, H, W)."""
    return [{"map": map_1CHW} for map_1CHW in map_BCHW.split(1)]


def joined_maps(lessons: Sequence[Lesson], like: Tensor) -> Float[Tensor, "B C H W"]:
    """The maps of ``whole_maps``, in float32 at least, on the device of ``like``."""
    return at_least_float32(of_all(lessons, "map", like))


def cell_centres(grid: BevGrid) -> Float[Tensor, "H W 2"]:
    """(x, y) of every cell's centre, metres."""
    height, width = grid.shape
    x = grid.x_min + (torch.arange(width, dtype=torch.float64) + 0.5) * grid.cell
    y = grid.y_min + (torch.arange(height, dtype=torch.float64) + 0.5) * grid.cell
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _normalised(points_HW2: Float[Tensor, "H W 2"], grid: BevGrid) -> Float[Tensor, "H W 2"]:
    """Points as ``grid_sample`` wants them: −1 at the lower bounds of the grid, 1 at the upper ones."""
    low = points_HW2.new_tensor([grid.x_min, grid.y_min])
    high = points_HW2.new_tensor([grid.x_max, grid.y_max])
    return 2 * (points_HW2 - low) / (high - low) - 1


def _regression_scale(grids: GridPair) -> Float[Tensor, " R"]:
    cells = grids.teacher.cell / grids.student.cell
    of_task = [cells if name == "offset" else 1.0 for name, channels in REGRESSION.items() for _ in range(channels)]
    return torch.tensor(of_task * len(TASKS))
