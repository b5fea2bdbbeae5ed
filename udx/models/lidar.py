"""LiDAR encoder: points to the low BEV map by dynamic pillars.

Pillars follow Lang et al., "PointPillars" (CVPR 2019), without its cap on the points of a pillar
(Zhou et al., "End-to-End Multi-View Fusion", CoRL 2019).
Legend: B batch, M points, F point features, C channels, H W grid rows and columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from udx.data.spec import POINT_FEATURES
from udx.geometry import BevGrid
from udx.models.blocks import conv_bn_relu
from udx.ops import POSITION_STEP_M, pillar_scatter, voxelize


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarEncoderConfig:
    """``pillars_per_cell``: pillars along one side of a grid cell; their map is brought to the grid by a stride."""

    pillar_channels: int
    pillars_per_cell: int


class LidarEncoder(nn.Module):
    """Per-point features against their pillar, maximum per pillar, convolution down to the grid."""

    def __init__(
        self, config: LidarEncoderConfig, grid: BevGrid, z_range_m: tuple[float, float], low_channels: int
    ) -> None:
        super().__init__()
        per_cell = config.pillars_per_cell
        self.grid = BevGrid(grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell / per_cell)
        self.z_range_m = z_range_m
        # Beside the point itself: offsets to the mean of its pillar (3) and to the pillar's centre (2).
        self.point_linear = nn.Linear(len(POINT_FEATURES) + 5, config.pillar_channels, bias=False)
        self.point_norm = nn.BatchNorm1d(config.pillar_channels)
        self.to_low = nn.Sequential(
            conv_bn_relu(config.pillar_channels, low_channels, stride=per_cell),
            conv_bn_relu(low_channels, low_channels),
        )

    def forward(
        self, points_BMF: Float[Tensor, "B M F"], num_points_B1: Int[Tensor, "B 1"]
    ) -> Float[Tensor, "B C H W"]:
        """Low BEV map on the detector's grid."""
        batch, cells = len(points_BMF), self.grid.num_cells
        described = [self.describe(points, num) for points, num in zip(points_BMF, num_points_B1, strict=True)]
        features_MF = torch.cat([features for features, _ in described])
        # A batch is the disjoint union of its samples; what is in no cell goes to the cell behind the last.
        cell_M = torch.cat(
            [
                torch.where(cell < cells, cell + sample * cells, batch * cells)
                for sample, (_, cell) in enumerate(described)
            ]
        )
        if self.training:
            # Padding must not enter the batch statistics.
            inside = cell_M < batch * cells
            features_MF, cell_M = features_MF[inside], cell_M[inside]
        features_MC = F.relu(self.point_norm(self.point_linear(features_MF)))
        pillars = pillar_scatter(features_MC, cell_M.contiguous(), batch * cells)
        low: Tensor = self.to_low(pillars.unflatten(0, (batch, *self.grid.shape)).permute(0, 3, 1, 2))
        return low

    def describe(self, points_MF: Tensor, num_points: Tensor) -> tuple[Tensor, Tensor]:
        """Features (M, F + 5) of one sample's points, in metres but for intensity and age, and their cells (M,)."""
        grid, (z_min, z_max) = self.grid, self.z_range_m
        rows, columns = grid.shape
        points_MF = points_MF.contiguous()
        cell_M, sums = voxelize(points_MF, num_points, grid.x_min, grid.y_min, grid.cell, rows, columns, z_min, z_max)
        # The mean is taken of the integers, so it too is the same for any order of the points.
        own_sums_M4 = F.pad(sums, (0, 0, 0, 1)).index_select(0, cell_M)
        mean_M3 = own_sums_M4[:, :3].float() * POSITION_STEP_M / own_sums_M4[:, 3:].clamp(min=1).float()
        centre_M3 = torch.stack(
            [
                (cell_M % columns + 0.5) * grid.cell + grid.x_min,
                (cell_M // columns + 0.5) * grid.cell + grid.y_min,
                torch.full_like(points_MF[:, 2], (z_min + z_max) / 2),
            ],
            dim=1,
        )
        to_centre_M3 = points_MF[:, :3] - centre_M3
        features = torch.cat([points_MF, to_centre_M3 - mean_M3, to_centre_M3[:, :2]], dim=1)
        inside_M1 = (cell_M < grid.num_cells)[:, None]
        return torch.where(inside_M1, features, torch.zeros_like(features)), cell_M
