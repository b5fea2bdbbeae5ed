"""What a LiDAR knows of the depth of camera features: a target for training, never an input."""

import numpy as np
from numpy.typing import NDArray

from udx.geometry import CameraRig, Frustum
from udx.geometry.arrays import Float32Array

UNKNOWN = -1


def depth_targets(points_M5: Float32Array, rig: CameraRig, frustum: Frustum) -> NDArray[np.int64]:
    """Depth bin (N, h, w) of the nearest point that projects into each feature cell; ``UNKNOWN`` where none does.

    ``points_M5`` in the rig's BEV frame, metres; only those of the keyframe's own sweep (age 0) count, because
    older ones see moving objects where they were. ``rig`` has the intrinsics of the network's images.
    """
    height, width = frustum.feature_shape
    own = points_M5[points_M5[:, 4] == 0, :3].astype(np.float64)
    u, v, depth = np.moveaxis(rig.project(own), -1, 0)
    with np.errstate(invalid="ignore"):
        column, row = np.floor((u + 0.5) / frustum.stride_px), np.floor((v + 0.5) / frustum.stride_px)
        depth_bin = np.round((depth - frustum.depth_min_m) / frustum.depth_step_m)
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        seen &= (depth_bin >= 0) & (depth_bin < frustum.depth_bins)
    camera, _ = np.nonzero(seen)
    cell = (camera * height + row[seen].astype(np.int64)) * width + column[seen].astype(np.int64)
    nearest = np.full(len(rig.names) * height * width, frustum.depth_bins, np.int64)
    np.minimum.at(nearest, cell, depth_bin[seen].astype(np.int64))
    nearest[nearest == frustum.depth_bins] = UNKNOWN
    return nearest.reshape(len(rig.names), height, width)
