"""Inputs of nuScenes' size for the operators' benchmark, made from nuScenes' own sensor rig."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from udx.data.spec import POINT_FEATURES
from udx.data.synth.rig import (
    CAMERA_MOUNTS,
    LIDAR_AZIMUTHS,
    LIDAR_BEAM_STEP_RAD,
    LIDAR_BEAMS,
    LIDAR_LOWEST_RAD,
    LIDAR_MOUNT,
    image_height_px,
)
from udx.geometry import BevGrid, CameraRig, Frustum
from udx.geometry.pooling import pooling_plan
from udx.ops import PillarGrid

Z_RANGE_M: Final = (-3.0, 5.0)
GRIDS: Final = {
    "128×128": BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8),
    "180×180": BevGrid(-54.0, 54.0, -54.0, 54.0, 0.6),
}
IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX, STRIDE_PX = 704, 256, 16


@dataclass(frozen=True, slots=True)
class PoolShape:
    """Sizes of a camera detector with six cameras and feature maps of 16 × 44."""

    grid: BevGrid
    bins: int
    channels: int

    def smaller(self, scale: int) -> "PoolShape":
        """The same view with cells, and steps of depth, ``scale`` times as large."""
        grid = BevGrid(self.grid.x_min, self.grid.x_max, self.grid.y_min, self.grid.y_max, self.grid.cell * scale)
        return PoolShape(grid, max(self.bins // scale, 1), self.channels)


BEV_POOL_V3: Final = PoolShape(BevGrid(-51.2, 51.2, -51.2, 51.2, 0.512), bins=88, channels=64)
"""The case that NVIDIA publishes for its BEVPoolV3 (24 June 2026): six cameras, 88 bins, 16 × 44, 200 × 200 cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCase:
    """What ``bev_pool`` is given: see its legend. ``cells`` is the number of cells of the grid."""

    depth_BNDhw: Tensor
    context_BNhwC: Tensor
    point_index_BP: Tensor
    cell_offsets: Tensor

    @property
    def cells(self) -> int:
        """Cells of one sample's map."""
        return self.cell_offsets.shape[1] - 1

    @property
    def minimum_bytes(self) -> int:
        """Bytes that any implementation of the forward pass must move: every input once, the map once.

        Of the plan only what is read counts: one index for each point on the grid, and the offsets. Points that
        land nowhere cost nothing, and neither do their depths.
        """
        batch, pooled = len(self.depth_BNDhw), int(self.cell_offsets[:, -1].sum())
        context, value = self.context_BNhwC, self.context_BNhwC.element_size()
        indices = pooled * self.point_index_BP.element_size() + self.cell_offsets.nbytes
        return indices + pooled * self.depth_BNDhw.element_size() + context.nbytes + batch * self.map_values * value

    @property
    def map_values(self) -> int:
        """Values of one sample's map."""
        return self.cells * self.context_BNhwC.shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCase:
    """Points (M, F) in metres on a grid, and features (M, C) as they leave a point network, before its ReLU."""

    grid: BevGrid
    points_MF: Tensor
    num_points: Tensor
    features_MC: Tensor

    @property
    def pillars(self) -> PillarGrid:
        """The grid as udx's operators take it."""
        grid = self.grid
        return PillarGrid(grid.x_min, grid.y_min, grid.cell, *grid.shape, *Z_RANGE_M)


def pool_case(grid: BevGrid, *, bins: int, channels: int, batch: int, dtype: torch.dtype, device: str) -> PoolCase:
    """Frustums of nuScenes' six cameras at 256 × 704 pixels, stride 16, lifted from 1 m to 60 m."""
    frustum = Frustum(
        image_height_px=IMAGE_HEIGHT_PX,
        image_width_px=IMAGE_WIDTH_PX,
        stride_px=STRIDE_PX,
        depth_min_m=1.0,
        depth_step_m=59.0 / bins,
        depth_bins=bins,
    )
    plan = pooling_plan(_rig(), frustum, grid, Z_RANGE_M)
    shape = batch, len(CAMERA_MOUNTS), bins, *frustum.feature_shape
    generator = torch.Generator().manual_seed(0)
    depth = torch.randn(shape, generator=generator).mul(2).softmax(dim=2)
    context = torch.randn(*shape[:2], *shape[3:], channels, generator=generator)
    return PoolCase(
        depth_BNDhw=depth.to(device, dtype),
        context_BNhwC=context.to(device, dtype),
        point_index_BP=torch.from_numpy(plan.point_index_P).repeat(batch, 1).to(device),
        cell_offsets=torch.from_numpy(plan.cell_offsets).repeat(batch, 1).to(device),
    )


def point_case(grid: BevGrid, *, points: int, channels: int, device: str) -> PointCase:
    """``points`` LiDAR returns: level ground, and walls at random ranges; some lie outside the grid."""
    rng = np.random.default_rng(0)
    beam = rng.integers(0, LIDAR_BEAMS, points)
    azimuth = rng.integers(0, LIDAR_AZIMUTHS, points) * (2 * np.pi / LIDAR_AZIMUTHS)
    elevation = LIDAR_LOWEST_RAD + beam * LIDAR_BEAM_STEP_RAD
    height = LIDAR_MOUNT.translation_m[2]
    to_ground = np.where(elevation < -0.01, height / -np.sin(np.minimum(elevation, -0.01)), np.inf)
    reach = np.minimum(to_ground, 2.0 + rng.exponential(25.0, points))
    flat = reach * np.cos(elevation)
    xyz = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height + reach * np.sin(elevation)], axis=1)
    xyz += rng.normal(0.0, 0.02, xyz.shape)
    rest = rng.random((points, len(POINT_FEATURES) - 3))
    cloud = torch.from_numpy(np.concatenate([xyz, rest], axis=1).astype(np.float32))
    features = torch.randn(points, channels, generator=torch.Generator().manual_seed(0))
    return PointCase(
        grid=grid,
        points_MF=cloud.to(device),
        num_points=torch.tensor([points], dtype=torch.int32, device=device),
        features_MC=features.to(device),
    )


def cells_of(case: PointCase) -> Tensor:
    """Row-major cell of each point, int64; the number of cells where it is nowhere. Plain torch, in FP32."""
    grid, (z_min, z_max) = case.grid, Z_RANGE_M
    rows, columns = grid.shape
    x, y, z = case.points_MF[:, :3].unbind(1)
    cell = torch.full((), grid.cell, dtype=x.dtype, device=x.device)  # see udx/ops/reference/voxelize.py
    column, row = ((x - grid.x_min) / cell).floor(), ((y - grid.y_min) / cell).floor()
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (z >= z_min) & (z < z_max)
    return torch.where(inside, row * columns + column, grid.num_cells).long()


def _rig() -> CameraRig:
    """NuScenes' cameras on images scaled to the network's width, of which the bottom is kept."""
    cropped = np.eye(3)
    cropped[1, 2] = IMAGE_HEIGHT_PX - image_height_px(IMAGE_WIDTH_PX)
    rig = CameraRig(
        tuple(mount.channel for mount in CAMERA_MOUNTS),
        np.stack([mount.intrinsic(IMAGE_WIDTH_PX) for mount in CAMERA_MOUNTS]),
        np.stack([mount.ego_T_sensor for mount in CAMERA_MOUNTS]),
    )
    return rig.with_image_transforms(np.broadcast_to(cropped, (len(CAMERA_MOUNTS), 3, 3)))
