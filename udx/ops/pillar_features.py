"""What a pillar network reads of each point: the point, and where it lies in its pillar.

Legend as in ``udx.ops.voxelize``.
"""

import torch
from torch import Tensor

from udx.ops.dispatch import require, runs_kernels
from udx.ops.pillar_grid import PillarGrid
from udx.ops.reference import pillar_features as reference


@torch.library.custom_op("udx::pillar_features", mutates_args=())
def pillar_features(
    points_BMF: Tensor,
    cell_M: Tensor,
    sums: Tensor,
    x_min: float,
    y_min: float,
    cell: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
) -> Tensor:
    """Describe each point: FP32 (B · M, F + 5); a point that is nowhere has zeros.

    The columns are the point's own F, its offset x, y, z from the mean of its pillar, and x, y from the pillar's
    centre, metres. ``cell_M`` and ``sums`` are what ``voxelize`` made of the points with the same scalars. The mean
    is taken of integers, so it too is the same for any order of the points. There is no gradient: nothing that
    learns stands before the points.

    Raises:
        ValueError: dtype, shape, device or layout of a tensor is wrong.
    """
    grid = PillarGrid(x_min, y_min, cell, rows, columns, z_min, z_max)
    device = points_BMF.device
    require("points", points_BMF, (torch.float32,), (None, None, None), device)
    batch, capacity, _ = points_BMF.shape
    require("cell", cell_M, (torch.int32,), (batch * capacity,), device)
    require("sums", sums, (torch.int32,), (batch * grid.num_cells + 1, 4), device)
    if runs_kernels(points_BMF):
        from udx.ops.kernels import pillar_features as kernels

        with torch.cuda.device_of(points_BMF):
            return kernels.pillar_features(points_BMF, cell_M, sums, grid)
    return reference.pillar_features(points_BMF, cell_M, sums, grid)


@pillar_features.register_fake
def _(
    points_BMF: Tensor,
    cell_M: Tensor,
    sums: Tensor,
    x_min: float,
    y_min: float,
    cell: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
) -> Tensor:
    return points_BMF.new_empty(cell_M.shape[0], points_BMF.shape[-1] + 5)  # len() would fix the size in an export
