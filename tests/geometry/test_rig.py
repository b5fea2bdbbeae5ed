import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.geometry import CameraRig
from udx.geometry.se3 import from_quaternion, yaw_rotation

FORWARD = np.array(
    [[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
)  # ego_T_cam of a camera that looks ahead
INTRINSIC = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])


def rig(*yaws):
    poses = np.array([yaw_rotation(yaw) @ FORWARD for yaw in yaws])
    return CameraRig(tuple(f"CAM{index}" for index in range(len(yaws))), np.tile(INTRINSIC, (len(yaws), 1, 1)), poses)


def test_projection_by_hand():
    # 10 m ahead, 2 m to the left, 1 m up: left and up of the image centre.
    front, back = rig(0.0, np.pi).project(np.array([[10.0, 2, 1]]))
    assert front[0] == pytest.approx([80 - 20, 45 - 10, 10])
    assert back[0, 2] == pytest.approx(-10)


def test_point_in_the_camera_plane_has_no_warning():
    projected = rig(0.0).project(np.array([[0.0, 1, 0], [0, 0, 0]]))
    assert projected[0, :, 2] == pytest.approx([0, 0])
    assert not np.isfinite(projected[0, :, 0]).any()


@given(st.integers(0, 2**32 - 1))
def test_unprojection_undoes_projection(seed):
    generator = np.random.default_rng(seed)
    pose = from_quaternion(generator.normal(size=4), generator.normal(size=3))
    cameras = CameraRig(("CAM",), INTRINSIC[None], pose[None])
    in_camera = np.array([[generator.uniform(-5, 5), generator.uniform(-5, 5), generator.uniform(1, 50)]])
    point = in_camera @ pose[:3, :3].T + pose[:3, 3]
    u, v, depth = cameras.project(point)[0, 0]
    ray = np.linalg.inv(INTRINSIC) @ [u * depth, v * depth, depth]
    assert ray == pytest.approx(in_camera[0], abs=1e-6)


def test_image_transform_moves_pixels():
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -10.25], [0, 0, 1]])
    point = np.array([[10.0, 2, 1]])
    before, after = rig(0.0).project(point)[0, 0], rig(0.0).with_image_transforms(half[None]).project(point)[0, 0]
    assert after[:2] == pytest.approx(half[:2] @ [before[0], before[1], 1])
    assert after[2] == before[2]


def test_another_ego_frame_keeps_pixels():
    new_T_ego = yaw_rotation(0.3) @ np.diag([1.0, -1, 1, 1])
    new_T_ego[:3, 3] = [1, 2, 3]
    point = np.array([[10.0, 2, 1]])
    moved = point @ new_T_ego[:3, :3].T + new_T_ego[:3, 3]
    assert rig(0.0, 1.0).with_ego_transform(new_T_ego).project(moved) == pytest.approx(rig(0.0, 1.0).project(point))


def test_json_round_trip():
    first = rig(0.0, 2.0)
    second = CameraRig.from_json(json.loads(json.dumps(first.to_json())))
    assert second.names == first.names
    assert np.array_equal(second.intrinsics_N33, first.intrinsics_N33)
    assert np.array_equal(second.ego_T_cam_N44, first.ego_T_cam_N44)


def test_what_is_no_rig():
    good = rig(0.0)
    with pytest.raises(ValueError, match=r"intrinsics must have shape \(2, 3, 3\), not \(1, 3, 3\)"):
        CameraRig(("A", "B"), good.intrinsics_N33, good.ego_T_cam_N44)
    with pytest.raises(ValueError, match="ego_T_cam must be finite"):
        CameraRig(("A",), good.intrinsics_N33, good.ego_T_cam_N44 * np.nan)


def test_cameras_are_selected_by_name():
    two = rig(0.0, 1.0)
    turned = two.select(("CAM1", "CAM0"))
    assert turned.names == ("CAM1", "CAM0")
    np.testing.assert_array_equal(turned.ego_T_cam_N44, two.ego_T_cam_N44[::-1])
    with pytest.raises(ValueError, match="there is no camera CAM2, only CAM0, CAM1"):
        two.select(("CAM0", "CAM2"))
