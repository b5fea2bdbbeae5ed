"""What a pillar network reads of each point. Legend and arguments as in ``udx.ops.pillar_features``."""

import torch
from torch import Tensor

from udx.ops.pillar_grid import STEPS_PER_METRE, PillarGrid


def pillar_features(points_BMF: Tensor, cell_M: Tensor, sums: Tensor, grid: PillarGrid) -> Tensor:
    """Features (B · M, F + 5)."""
    points_MF = points_BMF.flatten(0, 1)
    low = torch.tensor([grid.x_min, grid.y_min], dtype=torch.float32, device=points_MF.device)
    # A tensor and not a Python scalar, by whose reciprocal torch for CUDA multiplies.
    cell, steps_per_cell = torch.tensor([grid.cell, grid.steps_per_cell], dtype=torch.float32, device=points_MF.device)
    position_M2 = (points_MF[:, :2] - low) / cell
    from_centre_M2 = position_M2 - position_M2.floor() - 0.5
    height_M1 = points_MF[:, 2:3] - grid.z_middle
    own_sums_M4 = sums.index_select(0, cell_M)
    # Each point was rounded down to a step, so the mean lies half a step higher.
    mean_M3 = own_sums_M4[:, :3].float() / own_sums_M4[:, 3:].float() + 0.5
    features = [
        points_MF,
        (from_centre_M2 - mean_M3[:, :2] / steps_per_cell) * grid.cell,
        height_M1 - mean_M3[:, 2:] / STEPS_PER_METRE,
        from_centre_M2 * grid.cell,
    ]
    inside_M1 = (cell_M < len(sums) - 1)[:, None]
    return torch.where(inside_M1, torch.cat(features, dim=1), 0)
