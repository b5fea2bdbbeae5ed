"""Dynamic pillars: points to cells with per-cell sums, and point features to the BEV map.

Legend: M points, F point features, C channels, cells of the BEV grid in row-major order. A batch is a
disjoint union: the caller numbers the cells of sample b from ``b · cells``.
"""

from typing import Final

import torch
from torch import Tensor

POSITION_STEP_M: Final = 1 / 1024
"""Resolution at which positions are summed: integers make the sum the same for any order of the points."""


@torch.library.custom_op("udx::voxelize", mutates_args=())
def voxelize(
    points_MF: Tensor,
    num_points: Tensor,
    x_min: float,
    y_min: float,
    cell: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
) -> tuple[Tensor, Tensor]:
    """Find the cell of each point, and sum position and count per cell.

    A point beyond ``num_points``, outside the ranges (metres), or not finite gets cell ``rows · columns``.
    The sums are int32: offsets x, y, z from the cell's centre (z from the middle of the height range) in
    ``POSITION_STEP_M``, and the number of points. The points are FP32 and stay so: rounding them to FP16
    would move them to other cells.

    Raises:
        ValueError: the points are not FP32, or so many that a sum could overflow.
    """
    if points_MF.dtype != torch.float32:
        raise ValueError(f"points must be float32, not {points_MF.dtype}: cells depend on exact coordinates")
    largest = max(cell, z_max - z_min) / 2 / POSITION_STEP_M + 1
    if len(points_MF) * largest >= 2**31:
        raise ValueError(f"{len(points_MF)} points could overflow the sum of a cell {largest:.0f} steps wide")
    nowhere = rows * columns
    x, y, z = points_MF[:, 0], points_MF[:, 1], points_MF[:, 2]
    column, row = torch.floor((x - x_min) / cell), torch.floor((y - y_min) / cell)
    valid = torch.arange(len(points_MF), device=points_MF.device) < num_points
    inside = valid & (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (z >= z_min) & (z < z_max)
    cell_M = torch.where(inside, row * columns + column, nowhere).int()
    offset_M3 = torch.stack(
        [
            x - ((column + 0.5) * cell + x_min),
            y - ((row + 0.5) * cell + y_min),
            z - (z_min + z_max) / 2,
        ],
        dim=1,
    )
    steps_M3 = torch.where(inside[:, None], torch.round(offset_M3 / POSITION_STEP_M), 0).int()
    sums = torch.zeros(nowhere + 1, 4, dtype=torch.int32, device=points_MF.device)
    sums.index_add_(0, cell_M, torch.cat([steps_M3, torch.ones_like(steps_M3[:, :1])], dim=1))
    return cell_M, sums[:nowhere].clone()


@voxelize.register_fake
def _(
    points_MF: Tensor,
    num_points: Tensor,
    x_min: float,
    y_min: float,
    cell: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
) -> tuple[Tensor, Tensor]:
    cell_M = points_MF.new_empty(len(points_MF), dtype=torch.int32)
    return cell_M, points_MF.new_empty(rows * columns, 4, dtype=torch.int32)


@torch.library.custom_op("udx::pillar_scatter", mutates_args=())
def pillar_scatter(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    """Maximum over each cell's points and zero; points with cell ``num_cells`` are left out.

    Zero belongs to the maximum because the features come out of a ReLU: an empty cell needs no mark, and
    the map may start as zeros. The maximum does not depend on the order of the points.

    Raises:
        ValueError: a cell is out of bounds.
    """
    if ((cell_M < 0) | (cell_M > num_cells)).any():
        raise ValueError(f"a cell is outside 0 to {num_cells}")
    map_cells = features_MC.new_zeros(num_cells + 1, features_MC.shape[1])
    index_MC = cell_M.long()[:, None].expand_as(features_MC)
    map_cells.scatter_reduce_(0, index_MC, features_MC, reduce="amax", include_self=True)
    return map_cells[:num_cells].clone()


@pillar_scatter.register_fake
def _(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    return features_MC.new_empty(num_cells, features_MC.shape[1])


@torch.library.custom_op("udx::pillar_scatter_backward", mutates_args=())
def pillar_scatter_backward(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    """Gradient of ``pillar_scatter``: to the points that hold the maximum, in equal shares where several do."""
    last = torch.zeros_like(pillars[:1])
    cell = cell_M.long()
    maximum_MC = torch.cat([pillars, last]).index_select(0, cell)
    holds_MC = ((features_MC == maximum_MC) & (features_MC > 0)).to(grad.dtype)
    holders = torch.zeros_like(torch.cat([pillars, last])).index_add_(0, cell, holds_MC)
    share = torch.cat([grad, last]) / holders.clamp(min=1)
    return share.index_select(0, cell) * holds_MC


@pillar_scatter_backward.register_fake
def _(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    return torch.empty_like(features_MC)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    features_MC, cell_M, _ = inputs
    ctx.save_for_backward(features_MC, cell_M, output)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    features_MC, cell_M, pillars = ctx.saved_tensors  # type: ignore[attr-defined]
    return pillar_scatter_backward(grad.contiguous(), features_MC, cell_M, pillars), None, None


pillar_scatter.register_autograd(_backward, setup_context=_setup_context)
