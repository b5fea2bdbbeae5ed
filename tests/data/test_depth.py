"""Depth targets: the nearest point of the keyframe's sweep, in the right cell of the right camera."""

import numpy as np

from tests.tiny import FRUSTUM, ring_of_cameras
from udx.data.depth import UNKNOWN, depth_targets
from udx.data.load import load_sample
from udx.data.nuscenes import load_keyframes
from udx.data.spec import CameraSpec, LidarSpec, SensorSpec
from udx.geometry import BevGrid, Frustum


def targets_of(*points):
    rows = np.array([(*point, 0.0, age) for *point, age in points], np.float32)
    return depth_targets(rows, ring_of_cameras(), FRUSTUM)


def test_a_point_ahead_of_the_first_camera():
    # The first camera looks along +x from (0, 0, 1.5); fx = 40, principal point (31.5, 15.5); 16 px a cell.
    target = targets_of((10.0, 0.0, 1.5, 0.0))
    # On the axis u = 31.5 and v = 15.5: half a pixel short of cells 2 and 1. Bins lie at 2, 5, 8, 11 m.
    assert target[0, 1, 2] == 3
    assert (target != UNKNOWN).sum() == 1


def test_left_is_left_and_up_is_up():
    target = targets_of((10.0, 4.0, 3.0, 0.0))  # u = 31.5 − 40 · 0.4, v = 15.5 − 40 · 0.15
    assert target[0, 0, 1] == 3


def test_the_nearest_point_of_a_cell_counts():
    assert targets_of((20.0, 0, 1.4, 0.0), (8.0, 0, 1.4, 0.0))[0].max() == 2


def test_older_sweeps_and_points_too_near_or_too_far_say_nothing():
    target = targets_of((10.0, 0.0, 1.5, 0.05), (0.3, 0, 1.5, 0.0), (100.0, 0, 1.5, 0.0))
    assert (target == UNKNOWN).all()


def test_no_points():
    assert (depth_targets(np.zeros((0, 5), np.float32), ring_of_cameras(), FRUSTUM) == UNKNOWN).all()


def test_the_real_keyframe_has_depth_below_the_horizon(keyframe_root):
    frustum = Frustum(
        image_height_px=128, image_width_px=352, stride_px=16, depth_min_m=2.0, depth_step_m=1.0, depth_bins=56
    )
    grid = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
    spec = SensorSpec(
        grid=grid,
        z_range_m=(-3.0, 5.0),
        camera=CameraSpec(frustum=frustum),
        lidar=LidarSpec(sweeps=1, max_points=40_000),
    )
    sample = load_sample(load_keyframes(keyframe_root, "keyframe")[0], spec)
    target = depth_targets(sample.points_M5, sample.rig, frustum)
    assert target.shape == (6, 8, 22)
    known = target != UNKNOWN
    assert known[:, 5:].mean() > 0.9
    # The road is nearer the lower it is seen: medians of the rows fall from top to bottom.
    rows = [np.median(target[:, row][known[:, row]]) for row in range(4, 8)]
    assert rows == sorted(rows, reverse=True)
