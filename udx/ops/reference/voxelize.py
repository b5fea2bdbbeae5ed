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
    # Feature by feature in memory, because everything below runs along the points.
    features_FBM = points_BMF.permute(2, 0, 1).contiguous()
    given = torch.arange(capacity, device=device) < num_points_B1
    finite = given & (features_FBM.abs().amax(dim=0) <= torch.finfo(torch.float32).max)
    # A tensor and not a Python scalar, by whose reciprocal torch for CUDA multiplies.
    cell = torch.full((), grid.cell, dtype=torch.float32, device=device)
    across = (features_FBM[0] - grid.x_min) / cell
    along = (features_FBM[1] - grid.y_min) / cell
    height = features_FBM[2]
    inside = finite & (height >= grid.z_min) & (height < grid.z_max)
    inside &= (across >= 0) & (across < grid.columns) & (along >= 0) & (along < grid.rows)
    column, row = across.floor(), along.floor()
    first_cell = torch.arange(batch, dtype=torch.int32, device=device)[:, None] * grid.num_cells
    own_cell = row.int() * grid.columns + column.int() + first_cell
    nowhere = batch * grid.num_cells
    cell_M = own_cell.masked_fill_(~inside, nowhere).flatten()
    steps = [
        (across - column - 0.5) * grid.steps_per_cell,
        (along - row - 0.5) * grid.steps_per_cell,
        (height - grid.z_middle) * STEPS_PER_METRE,
    ]
    # A histogram is by far the fastest sum per cell, and in FP64 one of whole numbers is exact. What points in no
    # cell add to the last row is overwritten.
    addends = [step.floor().flatten().double() for step in steps]
    sums = torch.stack(
        [torch.bincount(cell_M, addend, minlength=nowhere + 1).int() for addend in addends]
        + [torch.bincount(cell_M, minlength=nowhere + 1).int()],
        dim=1,
    )
    num_given = num_points_B1.clamp(0, capacity).sum()
    num_finite, num_inside = finite.count_nonzero(), sums[:-1, 3].sum()
    not_finite, outside = num_given - num_finite, num_finite - num_inside
    beyond = (num_points_B1 - capacity).clamp(min=0).sum()
    sums[-1] = torch.stack([not_finite, outside, beyond, not_finite + outside + beyond])
    return cell_M, sums
