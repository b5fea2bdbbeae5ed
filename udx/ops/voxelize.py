"""Points to pillars: the cell of each point, and integer sums of position per cell.

Legend: B batch, M capacity of a point buffer, F point features (x, y, z first). The batch is a disjoint union: the
cells of sample b begin at ``b · rows · columns``, and cell ``B · rows · columns`` stands for nowhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from udx.ops.dispatch import require, require_countable, runs_kernels
from udx.ops.pillar_grid import PillarGrid
from udx.ops.reference import voxelize as reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """How many points of a batch are in no cell, and why.

    ``not_finite``: a feature is NaN or infinite; ``outside``: off the grid or out of the height range;
    ``beyond_capacity``: announced by ``num_points``, but the buffer is not that long.
    """

    not_finite: int
    outside: int
    beyond_capacity: int


def dropped_of(sums: Tensor) -> Dropped:
    """Read the tally of ``voxelize`` from its sums; on a GPU this waits for them."""
    not_finite, outside, beyond_capacity, _ = sums[-1].tolist()
    return Dropped(not_finite=not_finite, outside=outside, beyond_capacity=beyond_capacity)


@torch.library.custom_op("udx::voxelize", mutates_args=())
def voxelize(
    points_BMF: Tensor,
    num_points_B1: Tensor,
    x_min: float,
    y_min: float,
    cell: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
) -> tuple[Tensor, Tensor]:
    """Find the cell of each point, and sum position and count per cell: int32 (B · M,) and (B · cells + 1, 4).

    The scalars are those of a ``PillarGrid``. Only the first ``num_points`` points of a sample are looked at; one
    of them that is outside the ranges, or has a feature that is not finite, is nowhere, as is every slot behind.

    A row of the sums holds the offsets x and y from the cell's centre and z from the middle of the height range,
    each rounded down to 1/1024 m, and the number of points: integers, so the same for any order of the points.
    The last row tallies the points that are nowhere (``dropped_of``), its last entry all of them.

    The points are FP32 and stay so: rounding them to FP16 would move them to other cells. Cells and sums are the
    same bits on the CPU and on a GPU.

    Raises:
        ValueError: dtype, shape, device or layout of a tensor is wrong, the grid has no cells, or there are so many
            points that a sum could overflow.
    """
    grid = PillarGrid(x_min, y_min, cell, rows, columns, z_min, z_max)
    _check(points_BMF, num_points_B1, grid)
    if runs_kernels(points_BMF) and points_BMF.numel():  # of no points the reference makes zeros on any device
        from udx.ops.kernels import voxelize as kernels

        with torch.cuda.device_of(points_BMF):
            return kernels.voxelize(points_BMF, num_points_B1, grid)
    return reference.voxelize(points_BMF, num_points_B1, grid)


@voxelize.register_fake
def _(
    points_BMF: Tensor,
    num_points_B1: Tensor,
    x_min: float,
    y_min: float,
    cell: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
) -> tuple[Tensor, Tensor]:
    batch, capacity, _ = points_BMF.shape
    cell_M = points_BMF.new_empty(batch * capacity, dtype=torch.int32)
    return cell_M, points_BMF.new_empty(batch * rows * columns + 1, 4, dtype=torch.int32)


def _check(points_BMF: Tensor, num_points_B1: Tensor, grid: PillarGrid) -> None:
    require("points", points_BMF, (torch.float32,), (None, None, None), points_BMF.device)
    batch, capacity, features = points_BMF.shape
    if features < 3:
        raise ValueError(f"points must have x, y and z, not {features} features")
    require("num_points", num_points_B1, (torch.int32,), (batch, 1), points_BMF.device)
    if capacity * grid.largest_step >= 2**31:
        raise ValueError(f"{capacity} points could overflow a sum of up to {grid.largest_step} steps each")
    require_countable("points", points_BMF.numel())
    require_countable("sums", (batch * grid.num_cells + 1) * 4)
