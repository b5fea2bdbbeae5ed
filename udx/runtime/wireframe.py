"""3D boxes as line segments in images, clipped at the near plane and at the image's edge."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udx.geometry import CameraRig
from udx.geometry.arrays import FloatArray
from udx.geometry.boxes import box_corners

NEAR_M: Final = 0.3
EDGES: Final = np.array(
    [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7], [8, 9]]
)
"""Corners as ``box_corners`` has them; 8 and 9 are the floor's centre and the middle of its front edge."""


@dataclass(frozen=True, eq=False, slots=True)
class Wireframe:
    """What one camera sees of one box: segments (S, 4) as u0, v0, u1, v1 in pixels, all within the image."""

    box: int
    segments_S4: FloatArray


def wireframes(
    boxes_N9: FloatArray, rig: CameraRig, camera: int, width_px: int, height_px: int, near_m: float = NEAR_M
) -> list[Wireframe]:
    """Outline the boxes that a camera sees, the farthest first; a segment to the front marks the heading.

    What lies nearer than ``near_m`` in front of the camera, or behind it, is cut off in 3D before projection: a
    corner behind the camera would come out mirrored. Boxes of which nothing remains are left out.
    """
    one = CameraRig(rig.names[camera : camera + 1], rig.intrinsics_N33[[camera]], rig.ego_T_cam_N44[[camera]])
    found: list[tuple[float, Wireframe]] = []
    for index, points in enumerate(_outline_points(boxes_N9)):
        starts, ends = clip_to_depth(points[EDGES[:, 0]], points[EDGES[:, 1]], one, near_m)
        if not len(starts):
            continue
        pixels = np.concatenate([one.project(starts)[0, :, :2], one.project(ends)[0, :, :2]], axis=1)
        segments = clip_to_image(pixels, width_px, height_px)
        if len(segments):
            distance = float(one.project(points[8:9])[0, 0, 2])
            found.append((distance, Wireframe(index, segments)))
    return [frame for _, frame in sorted(found, key=lambda item: -item[0])]


def clip_to_depth(
    starts_S3: FloatArray, ends_S3: FloatArray, rig: CameraRig, near_m: float
) -> tuple[FloatArray, FloatArray]:
    """Keep of each segment of the BEV frame what lies at least ``near_m`` in front of the rig's one camera.

    Depth is linear along a segment, so the cut is at a fraction of it.
    """
    depth0, depth1 = rig.project(starts_S3)[0, :, 2], rig.project(ends_S3)[0, :, 2]
    keep = np.maximum(depth0, depth1) > near_m
    starts, ends, depth0, depth1 = starts_S3[keep], ends_S3[keep], depth0[keep], depth1[keep]
    rise = np.where(depth1 == depth0, 1.0, depth1 - depth0)
    cut = starts + ((near_m - depth0) / rise)[:, None] * (ends - starts)
    return np.where(depth0[:, None] < near_m, cut, starts), np.where(depth1[:, None] < near_m, cut, ends)


def clip_to_image(segments_S4: FloatArray, width_px: int, height_px: int) -> FloatArray:
    """Clip segments (S, 4) to the image by Liang and Barsky's algorithm (1984); those outside are left out."""
    start, along = segments_S4[:, :2], segments_S4[:, 2:] - segments_S4[:, :2]
    # Pixel centres are whole numbers: the image reaches half a pixel beyond the outermost.
    low, high = np.array([-0.5, -0.5]), np.array([width_px - 0.5, height_px - 0.5])
    enter, leave = np.zeros(len(segments_S4)), np.ones(len(segments_S4))
    outside: NDArray[np.bool_] = np.zeros(len(segments_S4), bool)
    for axis in (0, 1):
        still = np.abs(along[:, axis]) < 1e-9  # dividing by less could overflow
        step = np.where(still, 1.0, along[:, axis])
        at_low, at_high = (low[axis] - start[:, axis]) / step, (high[axis] - start[:, axis]) / step
        enter = np.where(still, enter, np.maximum(enter, np.minimum(at_low, at_high)))
        leave = np.where(still, leave, np.minimum(leave, np.maximum(at_low, at_high)))
        outside |= still & ((start[:, axis] < low[axis]) | (start[:, axis] > high[axis]))
    keep = ~outside & (enter < leave)
    start, along = start[keep], along[keep]
    return np.concatenate([start + enter[keep, None] * along, start + leave[keep, None] * along], axis=1)


def _outline_points(boxes_N9: FloatArray) -> FloatArray:
    """(N, 10, 3): corners, the floor's centre, the middle of the floor's front edge."""
    corners = box_corners(boxes_N9)
    floor = corners[:, :4].mean(axis=1, keepdims=True)
    front = corners[:, [0, 3]].mean(axis=1, keepdims=True)
    return np.concatenate([corners, floor, front], axis=1)
