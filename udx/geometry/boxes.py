"""3D boxes in the BEV frame, and the convention that every file with boxes is stamped with."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from udx.geometry.arrays import FloatArray

BOX_CONVENTION: Final = "x,y,z(centre),l(heading),w,h,yaw(ccw from +x),vx,vy; ego frame at LIDAR_TOP; m, rad, m/s"
BOX_SIZE: Final = 9

CLASSES: Final = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
"""nuScenes' detection classes in the devkit's order; a label is an index into it."""


def wrap_angle(angle_rad: FloatArray) -> FloatArray:
    """Wrap angles to [−π, π)."""
    wrapped: FloatArray = (angle_rad + np.pi) % (2 * np.pi) - np.pi
    return wrapped


def box_corners(boxes_N9: FloatArray) -> FloatArray:
    """Corners (N, 8, 3) in the boxes' frame, metres.

    The first four are the bottom, counter-clockwise seen from above from front-left:
    front-left, rear-left, rear-right, front-right; the last four are the top in the same order.
    """
    forward = np.array([1, -1, -1, 1, 1, -1, -1, 1]) / 2
    left = np.array([1, 1, -1, -1, 1, 1, -1, -1]) / 2
    up = np.array([-1, -1, -1, -1, 1, 1, 1, 1]) / 2
    x = boxes_N9[:, 3:4] * forward
    y = boxes_N9[:, 4:5] * left
    z = boxes_N9[:, 5:6] * up
    cos, sin = np.cos(boxes_N9[:, 6:7]), np.sin(boxes_N9[:, 6:7])
    corners = np.stack([x * cos - y * sin, x * sin + y * cos, z], axis=-1)
    moved: FloatArray = corners + boxes_N9[:, None, :3]
    return moved


def transform_boxes(dst_T_src: FloatArray, boxes_N9: FloatArray) -> FloatArray:
    """Bring boxes to another frame whose z axis is (nearly) parallel: centre, heading, size and velocity.

    ``dst_T_src`` may scale evenly and mirror, as augmentation does; sizes and velocities scale along.
    """
    linear = dst_T_src[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    heading = np.stack([np.cos(boxes_N9[:, 6]), np.sin(boxes_N9[:, 6]), np.zeros(len(boxes_N9))], axis=-1) @ linear.T
    velocity = np.concatenate([boxes_N9[:, 7:9], np.zeros((len(boxes_N9), 1))], axis=1) @ linear.T
    moved = boxes_N9.copy()
    moved[:, :3] = boxes_N9[:, :3] @ linear.T + dst_T_src[:3, 3]
    moved[:, 3:6] = boxes_N9[:, 3:6] * scale
    moved[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    moved[:, 7:9] = velocity[:, :2]
    return moved


def points_in_box(points_M3: FloatArray, box_9: FloatArray, margin_m: float = 0.0) -> NDArray[np.bool_]:
    """Mask (M,) of the points inside one box, grown by ``margin_m`` on every side."""
    offset = points_M3 - box_9[:3]
    cos, sin = np.cos(box_9[6]), np.sin(box_9[6])
    along = offset[:, 0] * cos + offset[:, 1] * sin
    across = -offset[:, 0] * sin + offset[:, 1] * cos
    half = box_9[3:6] / 2 + margin_m
    inside: NDArray[np.bool_] = (
        (np.abs(along) <= half[0]) & (np.abs(across) <= half[1]) & (np.abs(offset[:, 2]) <= half[2])
    )
    return inside
