"""What people use in place of udx's operators, written here in plain torch from the published descriptions.

Every rival of ``bev_pool`` gets the order of the frustum points prepared, as udx does: where the original sorts
them anew for every frame, it is slower than shown here.
"""

from typing import Any, Final

import torch
from ops_inputs import Z_RANGE_M, PointCase, PoolCase, cells_of
from torch import Tensor
from torch.nn import functional as F

from udx.ops import pillar_scatter, voxelize
from udx.ops.pillar_grid import STEPS_PER_METRE

# -- BEV pooling: (depth, context) -> (B, cells, C) --------------------------------------------------------------------


class PreparedPool:
    """The plan of a case in the forms that the rivals read: flat over the batch, sorted by cell.

    Attributes:
        point: flat index into depth (B, N, D, h, w) of each pooled point.
        pixel: row of the pooled point in context (B·N·h·w, C).
        cell: its cell in the maps of the batch, ascending.
        occupied: the cells that have points; ``starts`` and ``lengths`` are their intervals of points.
        cell_of_point: for every frustum point its cell, or the number of all cells.
    """

    def __init__(self, case: PoolCase) -> None:
        batch, _, bins, height, width = case.depth_BNDhw.shape
        self.shape = batch, case.cells, case.context_BNhwC.shape[-1]
        points, device = case.depth_BNDhw[0].numel(), case.depth_BNDhw.device
        counts = case.cell_offsets.diff().long()
        pooled = [index[: int(end)] for index, end in zip(case.point_index_BP, case.cell_offsets[:, -1], strict=True)]
        self.point = torch.cat([index.long() + sample * points for sample, index in enumerate(pooled)])
        self.cell = torch.arange(batch * case.cells, device=device).repeat_interleave(counts.flatten())
        pixels = height * width
        self.pixel = self.point // (bins * pixels) * pixels + self.point % pixels
        self.occupied = counts.flatten().nonzero()[:, 0]
        self.lengths = counts.flatten()[self.occupied]
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.cell_of_point = torch.full((batch * points,), batch * case.cells, device=device)
        self.cell_of_point[self.point] = self.cell

    def spread(self, pooled_VC: Tensor) -> Tensor:
        """Write the occupied cells into maps of zeros (B, cells, C)."""
        batch, cells, channels = self.shape
        maps = pooled_VC.new_zeros(batch * cells, channels)
        return maps.index_copy(0, self.occupied, pooled_VC).view(self.shape)


def lifted(depth_BNDhw: Tensor, context_BNhwC: Tensor) -> Tensor:
    """Every frustum point's features (B·N·D·h·w, C): the volume that udx never makes."""
    return (depth_BNDhw[..., None] * context_BNhwC[:, :, None]).flatten(0, 4)


def pool_by_cumulative_sum(prepared: PreparedPool, depth_BNDhw: Tensor, context_BNhwC: Tensor) -> Tensor:
    """Lift, sort by cell, add up all points, subtract at the borders of the cells.

    Philion and Fidler, "Lift, Splat, Shoot" (ECCV 2020), section 4.2.
    """
    sorted_PC = lifted(depth_BNDhw, context_BNhwC).index_select(0, prepared.point)
    return prepared.spread(_CumulativeSum.apply(sorted_PC, prepared.starts, prepared.lengths))


class _CumulativeSum(torch.autograd.Function):
    """Sums of consecutive intervals as differences of one running sum, with the gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, terms_PC: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(lengths)
        at_ends = terms_PC.cumsum(0, dtype=torch.float32).index_select(0, starts + lengths - 1)
        return torch.cat([at_ends[:1], at_ends[1:] - at_ends[:-1]]).to(terms_PC.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (lengths,) = ctx.saved_tensors
        return grads[0].repeat_interleave(lengths, dim=0), None, None


def pool_by_index_add(prepared: PreparedPool, depth_BNDhw: Tensor, context_BNhwC: Tensor) -> Tensor:
    """Lift, and add every point to its cell; what lands nowhere goes to a row that is cut off."""
    batch, cells, channels = prepared.shape
    terms = lifted(depth_BNDhw, context_BNhwC)
    maps = terms.new_zeros(batch * cells + 1, channels).index_add(0, prepared.cell_of_point, terms)
    return maps[:-1].view(prepared.shape)


def pool_by_intervals(prepared: PreparedPool, depth_BNDhw: Tensor, context_BNhwC: Tensor) -> Tensor:
    """Gather depth and context of the points on the grid, multiply, sum each cell's interval.

    The formulation of BEVDet's ``bev_pool_v2`` (Huang and Huang, "BEVPoolv2", 2022) with torch's own operators.
    """
    weights = depth_BNDhw.flatten().index_select(0, prepared.point)
    features = context_BNhwC.flatten(0, 3).index_select(0, prepared.pixel)
    sums = torch.segment_reduce(features * weights[:, None], "sum", lengths=prepared.lengths, axis=0, unsafe=True)
    return prepared.spread(sums)


# -- voxelization: points -> count (cells,), mean offset from the cell's centre (cells, 3), cell of each point (M,) ----

Voxels = tuple[Tensor, Tensor, Tensor | None]

SPCONV_POINTS: Final = 20
"""Points that spconv keeps of one pillar, as configurations of PointPillars for nuScenes have it."""


def voxelize_by_udx(case: PointCase) -> Voxels:
    """``udx.ops.voxelize``, and the mean from its sums: each point was rounded down to a step."""
    cell_M, sums = voxelize(case.points_MF[None], case.num_points[None], *case.pillars.scalars)
    count = sums[:-1, 3]
    mean = (sums[:-1, :3] / count[:, None] + 0.5) / STEPS_PER_METRE
    return count, torch.where(count[:, None] > 0, mean, 0), cell_M


def voxelize_by_unique(case: PointCase) -> Voxels:
    """Number the occupied cells, and add every point to its own: dynamic voxelization as mmcv's ``DynamicScatter``."""
    cell_M = cells_of(case)
    occupied, rank_M, count = torch.unique(cell_M, return_inverse=True, return_counts=True)
    sums = case.points_MF.new_zeros(len(occupied), 3).index_add_(0, rank_M, case.points_MF[:, :3])
    return *_dense(case.grid.num_cells, occupied, count, sums / count[:, None], case), cell_M


def voxelize_by_sorting(case: PointCase) -> Voxels:
    """Sort the points by cell, and average each run of equal cells."""
    cell_M = cells_of(case)
    sorted_M, order = torch.sort(cell_M)
    occupied, count = torch.unique_consecutive(sorted_M, return_counts=True)
    xyz = case.points_MF[:, :3].index_select(0, order)
    mean = torch.segment_reduce(xyz, "mean", lengths=count, axis=0, unsafe=True)
    return *_dense(case.grid.num_cells, occupied, count, mean, case), cell_M


class SpconvVoxels:
    """spconv's ``PointToVoxel`` on the CPU: it copies up to ``SPCONV_POINTS`` points of a cell and drops the rest.

    Raises:
        ImportError: spconv is not installed.
    """

    def __init__(self, case: PointCase, features: int) -> None:
        from spconv.pytorch.utils import PointToVoxel

        grid, (z_min, z_max) = case.grid, Z_RANGE_M
        self.to_voxels = PointToVoxel(
            vsize_xyz=[grid.cell, grid.cell, z_max - z_min],
            coors_range_xyz=[grid.x_min, grid.y_min, z_min, grid.x_max, grid.y_max, z_max],
            num_point_features=features,
            max_num_voxels=grid.num_cells,
            max_num_points_per_voxel=SPCONV_POINTS,
        )
        self.columns = grid.shape[1]

    def __call__(self, points_MF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Occupied cells (V,), their counts (V,) and points (V, ``SPCONV_POINTS``, F), zeros behind the last."""
        voxels, zyx, count = self.to_voxels(points_MF)
        return zyx[:, 1].long() * self.columns + zyx[:, 2], count, voxels


def voxelize_by_spconv(case: PointCase, spconv: SpconvVoxels) -> Voxels:
    """``PointToVoxel``, and the mean of the points that it kept."""
    occupied, count, voxels = spconv(case.points_MF)
    mean = voxels[..., :3].sum(1) / count[:, None]
    return *_dense(case.grid.num_cells, occupied, count, mean, case), None


def _dense(cells: int, occupied: Tensor, count: Tensor, mean: Tensor, case: PointCase) -> tuple[Tensor, Tensor]:
    """Counts and means of occupied cells as maps; the mean relative to the cell's centre, as udx gives it."""
    grid = case.grid
    columns = grid.shape[1]
    centre = torch.stack(
        [
            (occupied % columns + 0.5) * grid.cell + grid.x_min,
            (occupied // columns + 0.5) * grid.cell + grid.y_min,
            torch.full_like(mean[:, 2], sum(Z_RANGE_M) / 2),
        ],
        dim=1,
    )
    counts = count.new_zeros(cells + 1).index_copy_(0, occupied, count)
    means = mean.new_zeros(cells + 1, 3).index_copy_(0, occupied, mean - centre)
    return counts[:cells], means[:cells]


# -- pillars: (features before the ReLU (M, C), cell (M,)) -> (cells, C) -----------------------------------------------


def scatter_by_udx(features_MC: Tensor, cell_M: Tensor, cells: int) -> Tensor:
    """``udx.ops.pillar_scatter``."""
    return pillar_scatter(F.relu(features_MC), cell_M, cells)


def scatter_by_unique(features_MC: Tensor, cell_M: Tensor, cells: int) -> Tensor:
    """Number the occupied cells, take each one's maximum, write them into the map, as mmcv's ``DynamicScatter``."""
    occupied, rank_M = torch.unique(cell_M, return_inverse=True)
    index_MC = rank_M[:, None].expand_as(features_MC)
    empty = features_MC.new_zeros(len(occupied), features_MC.shape[1])
    maxima = empty.scatter_reduce(0, index_MC, F.relu(features_MC), "amax", include_self=False)
    return features_MC.new_zeros(cells + 1, features_MC.shape[1]).index_copy(0, occupied.long(), maxima)[:cells]


def scatter_by_sorting(features_MC: Tensor, cell_M: Tensor, cells: int) -> Tensor:
    """Sort the points by cell, take the maximum of each run, write them into the map."""
    sorted_M, order = torch.sort(cell_M)
    occupied, count = torch.unique_consecutive(sorted_M, return_counts=True)
    ordered = F.relu(features_MC).index_select(0, order)
    maxima = torch.segment_reduce(ordered, "max", lengths=count, axis=0, unsafe=True)
    return features_MC.new_zeros(cells + 1, features_MC.shape[1]).index_copy(0, occupied.long(), maxima)[:cells]


def pillars_by_spconv(case: PointCase, spconv: SpconvVoxels) -> Tensor:
    """``PointToVoxel`` of points with their features, and the maximum of those that it kept."""
    occupied, _, voxels = spconv(torch.cat([case.points_MF, F.relu(case.features_MC)], dim=1))
    maxima = voxels[..., case.points_MF.shape[1] :].amax(1)
    return maxima.new_zeros(case.grid.num_cells, maxima.shape[1]).index_copy_(0, occupied, maxima)
