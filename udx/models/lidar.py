"""LiDAR encoder: points to the low BEV map by dynamic pillars.

Pillars follow Lang et al., "PointPillars" (CVPR 2019), without its cap on the points of a pillar
(Zhou et al., "End-to-End Multi-View Fusion", CoRL 2019).
Legend: B batch, M points, F point features, C channels, H W grid rows and columns.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from udx.data.spec import POINT_FEATURES
from udx.geometry import BevGrid
from udx.models.blocks import MAX_CHANNELS, conv_bn_relu
from udx.ops import PillarGrid, pillar_features, pillar_scatter, voxelize
from udx.ranges import require_range

MAX_PILLARS_A_CELL: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarEncoderConfig:
    """``pillars_per_cell``: pillars along one side of a grid cell; their map is brought to the grid by a stride."""

    pillar_channels: int
    pillars_per_cell: int

    def __post_init__(self) -> None:
        require_range(at_least=1, at_most=MAX_CHANNELS, pillar_channels=self.pillar_channels)
        require_range(at_least=1, at_most=MAX_PILLARS_A_CELL, pillars_per_cell=self.pillars_per_cell)


class LidarEncoder(nn.Module):
    """Per-point features against their pillar, maximum per pillar, convolution down to the grid."""

    def __init__(
        self, config: LidarEncoderConfig, grid: BevGrid, z_range_m: tuple[float, float], low_channels: int
    ) -> None:
        super().__init__()
        per_cell = config.pillars_per_cell
        fine = BevGrid(grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell / per_cell)
        self.shape = fine.shape
        self.pillars = PillarGrid(fine.x_min, fine.y_min, fine.cell, *fine.shape, *z_range_m)
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
        scalars = self.pillars.scalars
        num_cells = len(points_BMF) * self.pillars.num_cells
        points_BMF = points_BMF.contiguous()
        cell_M, sums = voxelize(points_BMF, num_points_B1, *scalars)
        features_MF = pillar_features(points_BMF, cell_M, sums, *scalars)
        if self.training:
            # Padding must not enter the batch statistics.
            inside = cell_M < num_cells
            features_MF, cell_M = features_MF[inside], cell_M[inside]
        features_MC = F.relu(self.point_norm(self._embed(features_MF)))
        pillars = pillar_scatter(features_MC, cell_M, num_cells)
        low: Tensor = self.to_low(pillars.unflatten(0, (len(points_BMF), *self.shape)).permute(0, 3, 1, 2))
        return low

    def _embed(self, features_MF: Float[Tensor, "M F2"]) -> Float[Tensor, "M C"]:
        """Keep coordinates out of autocast: at 50 m, BF16 knows them to a quarter of a metre."""
        embedded: Tensor
        if torch.is_autocast_enabled(features_MF.device.type):
            with torch.autocast(features_MF.device.type, enabled=False):
                embedded = self.point_linear(features_MF.float())
        else:  # exports, too, come here: they would record the context
            embedded = self.point_linear(features_MF)
        return embedded
