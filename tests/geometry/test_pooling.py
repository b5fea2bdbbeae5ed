import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udx.geometry import BevGrid, CameraRig, Frustum, pooling_plan
from udx.geometry.pooling import PoolingPlan
from udx.geometry.se3 import from_quaternion, yaw_rotation

GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, 1.0)
HEIGHTS = (-3.0, 3.0)
FRUSTUM = Frustum(image_height_px=8, image_width_px=16, stride_px=4, depth_min_m=1.0, depth_step_m=1.5, depth_bins=5)
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
INTRINSIC = np.array([[10.0, 0, 7.5], [0, 10, 3.5], [0, 0, 1]])


def rig(*poses):
    return CameraRig(tuple(map(str, range(len(poses)))), np.tile(INTRINSIC, (len(poses), 1, 1)), np.array(poses))


def brute_force(cameras, frustum, grid, heights):
    """Cell → flat indices of frustum points, one point after the other."""
    cells = {}
    height, width = frustum.feature_shape
    flat = 0
    for intrinsic, pose in zip(cameras.intrinsics_N33, cameras.ego_T_cam_N44, strict=True):
        for bin_ in range(frustum.depth_bins):
            depth = frustum.depth_min_m + bin_ * frustum.depth_step_m
            for row in range(height):
                for column in range(width):
                    u = column * frustum.stride_px + (frustum.stride_px - 1) / 2
                    v = row * frustum.stride_px + (frustum.stride_px - 1) / 2
                    in_camera = np.linalg.solve(intrinsic, [u * depth, v * depth, depth])
                    x, y, z = pose[:3, :3] @ in_camera + pose[:3, 3]
                    if grid.x_min <= x < grid.x_max and grid.y_min <= y < grid.y_max and heights[0] <= z < heights[1]:
                        cell = int((y - grid.y_min) // grid.cell), int((x - grid.x_min) // grid.cell)
                        cells.setdefault(cell[0] * grid.shape[1] + cell[1], []).append(flat)
                    flat += 1
    return cells


def cells_of(plan):
    return {
        cell: plan.point_index_P[start:end].tolist()
        for cell, (start, end) in enumerate(zip(plan.cell_offsets[:-1], plan.cell_offsets[1:], strict=True))
        if end > start
    }


def test_lattice_by_hand():
    assert FRUSTUM.feature_shape == (2, 4)
    assert FRUSTUM.num_points == 40
    pixels = FRUSTUM.pixels()
    assert pixels.shape == (3, 8)
    assert pixels[:, 0].tolist() == [1.5, 1.5, 1]  # the middle of pixels 0 to 3
    assert pixels[:, 7].tolist() == [13.5, 5.5, 1]
    assert FRUSTUM.depths_m().tolist() == [1, 2.5, 4, 5.5, 7]


def test_one_ray_by_hand():
    """A single-cell feature map straight ahead: its bins walk along +x."""
    frustum = Frustum(image_height_px=8, image_width_px=8, stride_px=8, depth_min_m=0.5, depth_step_m=1.0, depth_bins=3)
    cameras = CameraRig(("0",), np.array([[[10.0, 0, 3.5], [0, 10, 3.5], [0, 0, 1]]]), FORWARD[None])
    plan = pooling_plan(cameras, frustum, GRID, HEIGHTS)
    assert cells_of(plan) == {8 * 16 + 8: [0], 8 * 16 + 9: [1], 8 * 16 + 10: [2]}
    assert plan.num_pooled == 3


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_plan_equals_brute_force_on_random_rigs(seed):
    generator = np.random.default_rng(seed)
    poses = [from_quaternion(generator.normal(size=4), generator.normal(size=3)) for _ in range(2)]
    cameras = rig(*poses)
    plan = pooling_plan(cameras, FRUSTUM, GRID, HEIGHTS)
    assert cells_of(plan) == brute_force(cameras, FRUSTUM, GRID, HEIGHTS)


def test_plan_holds_every_point_once():
    cameras = rig(FORWARD, yaw_rotation(2.0) @ FORWARD)
    plan = pooling_plan(cameras, FRUSTUM, GRID, HEIGHTS)
    assert sorted(plan.point_index_P.tolist()) == list(range(2 * FRUSTUM.num_points))
    assert plan.point_index_P.dtype == plan.cell_offsets.dtype == np.int32
    assert len(plan.cell_offsets) == GRID.num_cells + 1
    assert 0 < plan.num_pooled <= 2 * FRUSTUM.num_points


def test_another_rig_gives_another_plan_of_the_same_shape():
    first = pooling_plan(rig(FORWARD), FRUSTUM, GRID, HEIGHTS)
    turned = pooling_plan(rig(yaw_rotation(np.pi / 2) @ FORWARD), FRUSTUM, GRID, HEIGHTS)
    assert first.point_index_P.shape == turned.point_index_P.shape
    assert first.cell_offsets.shape == turned.cell_offsets.shape
    # What lay ahead now lies to the left: cell (row, column) → (column, 15 − row).
    expected = {(cell % 16) * 16 + 15 - cell // 16: points for cell, points in cells_of(first).items()}
    assert cells_of(turned) == expected
    assert cells_of(turned) != cells_of(first)


def test_wider_lens_is_another_plan():
    wide = dataclasses.replace(rig(FORWARD), intrinsics_N33=INTRINSIC[None] * np.array([[0.5], [0.5], [1]]))
    assert cells_of(pooling_plan(wide, FRUSTUM, GRID, HEIGHTS)) != cells_of(
        pooling_plan(rig(FORWARD), FRUSTUM, GRID, HEIGHTS)
    )


def test_more_cells_than_16_bits_number():
    fine = BevGrid(-8.0, 8.0, -8.0, 8.0, 1 / 32)  # 512 × 512
    cameras = rig(FORWARD, yaw_rotation(2.0) @ FORWARD)
    assert cells_of(pooling_plan(cameras, FRUSTUM, fine, HEIGHTS)) == brute_force(cameras, FRUSTUM, fine, HEIGHTS)


def test_height_range_leaves_points_out():
    whole = pooling_plan(rig(FORWARD), FRUSTUM, GRID, HEIGHTS)
    upper = pooling_plan(rig(FORWARD), FRUSTUM, GRID, (0.0, 3.0))
    # The upper feature row looks up, the lower one down, and they are mirror images.
    assert upper.num_pooled * 2 == whole.num_pooled
    assert pooling_plan(rig(FORWARD), FRUSTUM, GRID, (50.0, 60.0)).num_pooled == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_width_px": 18}, "image size 8×18 is not a multiple of the feature stride 4"),
        ({"depth_bins": 0}, "depth_bins must be at least 1"),
        ({"depth_min_m": 0.0}, "depth_min_m must be above 0"),
        ({"depth_step_m": -1.0}, "depth_step_m must be above 0"),
    ],
)
def test_impossible_frustums_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(FRUSTUM, **change)


@pytest.mark.parametrize(
    ("index", "offsets", "sentence"),
    [
        ([0, 1, 1], [0, 3], "each of its 3 points once"),
        ([0, 1, 3], [0, 3], "each of its 3 points once"),
        ([0, 1, -1], [0, 3], "each of its 3 points once"),
        ([0, 1, 2], [0, 4], "reach to 4, beyond the plan's 3 points"),
        ([0, 1, 2], [0, 2, 1], "not decrease"),
        ([0, 1, 2], [1, 2], "begin at 0"),
        ([0, 1, 2], [0], "begin at 0"),
        ([[0, 1, 2]], [0, 1], "point_index must have shape"),
    ],
)
def test_impossible_plans_are_refused(index, offsets, sentence):
    with pytest.raises(ValueError, match=sentence):
        PoolingPlan(np.array(index, np.int32), np.array(offsets, np.int32))


def test_a_plan_may_pool_nothing():
    assert PoolingPlan(np.zeros(0, np.int32), np.zeros(2, np.int32)).num_pooled == 0
