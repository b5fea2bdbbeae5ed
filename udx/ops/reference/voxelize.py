"""Points to cells and integer sums per cell. Legend and arguments as in ``udx.ops.voxelize``.

The arithmetic is that of the kernel, rounding by rounding: a product is never followed by a sum.
"""

import torch
from torch import Tensor

from udx.ops.pillar_grid import STEPS_PER_METRE, PillarGrid


def voxelize(points_BMF: Tensor, num_points_B1: Tensor, grid: PillarGrid) -> tuple[Tensor, Tensor]:
    """Cells (B · M,) and sums (B · cells + 1, 4)."""
    batch, capacity, _ = points_BMF.shape
    device = points_BMF.device
    given = torch.arange(capacity, device=device) < num_points_B1
    finite = given & points_BMF.isfinite().all(dim=-1)
    across = (points_BMF[..., 0] - grid.x_min) / grid.cell
    along = (points_BMF[..., 1] - grid.y_min) / grid.cell
    height = points_BMF[..., 2]
    inside = finite & (height >= grid.z_min) & (height < grid.z_max)
    inside &= (across >= 0) & (across < grid.columns) & (along >= 0) & (along < grid.rows)
    column, row = across.floor(), along.floor()
    steps = [
        (across - column - 0.5) * grid.steps_per_cell,
        (along - row - 0.5) * grid.steps_per_cell,
        (height - grid.z_middle) * STEPS_PER_METRE,
    ]
    own_cell = torch.where(inside, row, 0).int() * grid.columns + torch.where(inside, column, 0).int()
    first_cell = torch.arange(batch, dtype=torch.int32, device=device)[:, None] * grid.num_cells
    nowhere = batch * grid.num_cells
    cell_M = torch.where(inside, own_cell + first_cell, nowhere).flatten()
    addends = [torch.where(inside, step, 0).floor().int().flatten() for step in steps] + [inside.int().flatten()]
    # Column by column: index_add_ of single numbers is a plain loop, of rows it is 20 times slower.
    sums = torch.stack([cell_M.new_zeros(nowhere + 1).index_add_(0, cell_M, a) for a in addends], 1)
    outside = (finite & ~inside).sum()
    not_finite = (given & ~finite).sum()
    beyond = (num_points_B1 - capacity).clamp(min=0).sum()
    sums[-1] = torch.stack([not_finite, outside, beyond, not_finite + outside + beyond])
    return cell_M, sums
