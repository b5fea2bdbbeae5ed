"""Where each point of the camera frustums lands on the BEV grid: calibration as data.

The camera branch predicts, for every feature cell, a distribution over depth bins. Every (camera, bin,
row, column) is one frustum point. A ``PoolingPlan`` sorts the points by the BEV cell they fall in, so
that pooling is a gather per cell, and a moved camera is merely another plan.
"""

from dataclasses import dataclass

import numpy as np

from udx.geometry.arrays import FloatArray, IntArray
from udx.geometry.grid import BevGrid
from udx.geometry.rig import CameraRig


@dataclass(frozen=True, slots=True, kw_only=True)
class Frustum:
    """The lattice of points that one camera's feature map is lifted to.

    ``image_height_px`` × ``image_width_px`` is the network's input, ``stride_px`` the feature map's
    stride; depth bins are centred at ``depth_min_m``, ``depth_min_m + depth_step_m``, …
    """

    image_height_px: int
    image_width_px: int
    stride_px: int
    depth_min_m: float
    depth_step_m: float
    depth_bins: int

    def __post_init__(self) -> None:
        if self.image_height_px % self.stride_px or self.image_width_px % self.stride_px:
            size = f"{self.image_height_px}×{self.image_width_px}"
            raise ValueError(f"image size {size} is not a multiple of the feature stride {self.stride_px}")
        if self.depth_bins < 1 or self.depth_min_m <= 0 or self.depth_step_m <= 0:
            raise ValueError(f"a frustum needs positive depths, not {self}")

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(h, w) of the camera feature map."""
        return self.image_height_px // self.stride_px, self.image_width_px // self.stride_px

    @property
    def num_points(self) -> int:
        """Points of one camera: bins · h · w."""
        height, width = self.feature_shape
        return self.depth_bins * height * width

    def pixels_and_depths(self) -> FloatArray:
        """(bins, h, w, 3): (u, v) of each feature cell's centre in pixels, and depth in metres."""
        height, width = self.feature_shape
        depth = self.depth_min_m + self.depth_step_m * np.arange(self.depth_bins, dtype=np.float64)
        # A cell covers the pixels [i·s, i·s + s); whole numbers are pixel centres, hence the half pixel.
        v = (np.arange(height) + 0.5) * self.stride_px - 0.5
        u = (np.arange(width) + 0.5) * self.stride_px - 0.5
        depth_DHW, v_DHW, u_DHW = np.meshgrid(depth, v, u, indexing="ij")
        return np.stack([u_DHW, v_DHW, depth_DHW], axis=-1)


@dataclass(frozen=True, eq=False, slots=True)
class PoolingPlan:
    """Frustum points sorted by BEV cell.

    ``point_index`` (P,) holds flat indices into (camera, bin, row, column); those of cell ``c`` stand at
    ``cell_offsets[c]:cell_offsets[c + 1]``, in ascending order. P is the number of all frustum points, so
    its length never changes with the calibration; the points that land nowhere stand behind the last offset.
    """

    point_index_P: IntArray
    cell_offsets: IntArray

    @property
    def num_pooled(self) -> int:
        """How many frustum points land on the grid."""
        return int(self.cell_offsets[-1])


def pooling_plan(rig: CameraRig, frustum: Frustum, grid: BevGrid, z_range_m: tuple[float, float]) -> PoolingPlan:
    """Sort the frustum points of ``rig`` by the cell of ``grid`` they fall in.

    Points whose height in the BEV frame lies outside ``z_range_m`` are left out, as those outside the grid.
    """
    lattice = frustum.pixels_and_depths().reshape(-1, 3)
    rays = np.concatenate([lattice[:, :2] * lattice[:, 2:], lattice[:, 2:]], axis=1)
    ego_A_rays_N33 = rig.ego_T_cam_N44[:, :3, :3] @ np.linalg.inv(rig.intrinsics_N33)
    points_N_L3 = rays @ ego_A_rays_N33.transpose(0, 2, 1) + rig.ego_T_cam_N44[:, None, :3, 3]
    points = points_N_L3.reshape(-1, 3)
    cell = grid.flat_index(points[:, :2])
    nowhere = (cell < 0) | (points[:, 2] < z_range_m[0]) | (points[:, 2] >= z_range_m[1])
    cell = np.where(nowhere, grid.num_cells, cell)
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=grid.num_cells + 1)[: grid.num_cells]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PoolingPlan(point_index_P=order.astype(np.int32), cell_offsets=offsets.astype(np.int32))
