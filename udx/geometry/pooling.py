"""Where each point of the camera frustums lands on the BEV grid: calibration as data.

The camera branch predicts, for every feature cell, a distribution over depth bins. Every (camera, bin,
row, column) is one frustum point. A ``PoolingPlan`` sorts the points by the BEV cell they fall in, so
that pooling is a gather per cell, and a moved camera is merely another plan.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udx.geometry.arrays import FloatArray, IntArray, require_shape
from udx.geometry.grid import BevGrid
from udx.geometry.rig import CameraRig
from udx.geometry.se3 import linear_inverse
from udx.ranges import require_range

MAX_SIDE_PX: Final = 8192
MAX_DEPTH_M: Final = 1e4


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
        require_range(
            at_least=1,
            at_most=MAX_SIDE_PX,
            image_height_px=self.image_height_px,
            image_width_px=self.image_width_px,
            stride_px=self.stride_px,
            depth_bins=self.depth_bins,
        )
        require_range(above=0, at_most=MAX_DEPTH_M, depth_min_m=self.depth_min_m, depth_step_m=self.depth_step_m)
        if self.image_height_px % self.stride_px or self.image_width_px % self.stride_px:
            size = f"{self.image_height_px}×{self.image_width_px}"
            raise ValueError(f"image size {size} is not a multiple of the feature stride {self.stride_px}")

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(h, w) of the camera feature map."""
        return self.image_height_px // self.stride_px, self.image_width_px // self.stride_px

    @property
    def num_points(self) -> int:
        """Points of one camera: bins · h · w."""
        height, width = self.feature_shape
        return self.depth_bins * height * width

    def pixels(self) -> FloatArray:
        """(3, h · w): homogeneous pixel coordinates (u, v, 1) of the centre of each feature cell."""
        height, width = self.feature_shape
        # A cell covers the pixels [i·s, i·s + s); whole numbers are pixel centres, hence the half pixel.
        v = (np.arange(height) + 0.5) * self.stride_px - 0.5
        u = (np.arange(width) + 0.5) * self.stride_px - 0.5
        return np.stack([np.tile(u, height), np.repeat(v, width), np.ones(height * width)])

    def depths_m(self) -> FloatArray:
        """(bins,): depth of the centre of each bin along the camera's z."""
        return self.depth_min_m + self.depth_step_m * np.arange(self.depth_bins, dtype=np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class PoolingPlan:
    """Frustum points sorted by BEV cell.

    ``point_index`` (P,) holds flat indices into (camera, bin, row, column); those of cell ``c`` stand at
    ``cell_offsets[c]:cell_offsets[c + 1]``, in ascending order. P is the number of all frustum points, so
    its length never changes with the calibration; the points that land nowhere stand behind the last offset.
    """

    point_index_P: IntArray
    cell_offsets: IntArray

    def __post_init__(self) -> None:
        require_shape("point_index", self.point_index_P, (None,))
        require_shape("cell_offsets", self.cell_offsets, (None,))
        points = len(self.point_index_P)
        if points and (self.point_index_P.min() < 0 or not (np.bincount(self.point_index_P) == 1).all()):
            raise ValueError(f"a pooling plan must hold each of its {points} points once")
        if len(self.cell_offsets) < 2 or self.cell_offsets[0] != 0 or (np.diff(self.cell_offsets) < 0).any():
            raise ValueError("the cell offsets of a pooling plan must begin at 0 and not decrease")
        if self.cell_offsets[-1] > points:
            raise ValueError(f"the cell offsets reach to {self.cell_offsets[-1]}, beyond the plan's {points} points")

    @property
    def num_pooled(self) -> int:
        """How many frustum points land on the grid."""
        return int(self.cell_offsets[-1])


def pooling_plan(rig: CameraRig, frustum: Frustum, grid: BevGrid, z_range_m: tuple[float, float]) -> PoolingPlan:
    """Sort the frustum points of ``rig`` by the cell of ``grid`` they fall in.

    Points whose height in the BEV frame lies outside ``z_range_m`` are left out, as those outside the grid.
    """
    rays_N3L = rig.ego_T_cam_N44[:, :3, :3] @ linear_inverse(rig.intrinsics_N33) @ frustum.pixels()
    # Camera by camera, in arrays that fit the cache.
    cell = np.concatenate(
        [
            _cells(rays_3L, origin, frustum.depths_m(), grid, z_range_m)
            for rays_3L, origin in zip(rays_N3L, rig.ego_T_cam_N44[:, :3, 3], strict=True)
        ]
    )
    pooled = np.flatnonzero(cell >= 0)
    its_cell = cell[pooled]
    # Keys of 16 bits are sorted by radix, ten times faster than wider ones by comparison.
    order = np.lexsort([(its_cell & 0xFFFF).astype(np.uint16), (its_cell >> 16).astype(np.uint16)])
    point_index = np.concatenate([pooled[order], np.flatnonzero(cell < 0)])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(its_cell, minlength=grid.num_cells))])
    return PoolingPlan(point_index_P=point_index.astype(np.int32), cell_offsets=offsets.astype(np.int32))


def _cells(
    rays_3L: FloatArray, origin_3: FloatArray, depths_m: FloatArray, grid: BevGrid, z_range_m: tuple[float, float]
) -> NDArray[np.int64]:
    """Cell of each (bin, row, column) of one camera; −1 where it leaves the grid or the height range."""
    x, y, z = (np.outer(depths_m, ray).ravel() + start for ray, start in zip(rays_3L, origin_3, strict=True))
    cell = grid.flat_index(np.stack([x, y], axis=1))
    cell[(z < z_range_m[0]) | (z >= z_range_m[1])] = -1
    return cell
