import dataclasses

import numpy as np
import pytest

from udx.data.frame import Annotations, Sample
from udx.data.inputs import CALIBRATION, calibration_inputs, input_shapes, inputs_of, sensor_inputs
from udx.data.spec import CameraSpec, LidarSpec, SensorSpec
from udx.errors import UdxError
from udx.geometry import BevGrid, CameraRig, Frustum, pooling_plan

FRUSTUM = Frustum(image_height_px=32, image_width_px=64, stride_px=16, depth_min_m=1, depth_step_m=1, depth_bins=4)
SPEC = SensorSpec(
    grid=BevGrid(-8, 8, -8, 8, 1.0),
    z_range_m=(-3, 3),
    camera=CameraSpec(names=("A", "B"), frustum=FRUSTUM),
    lidar=LidarSpec(sweeps=2, max_points=7),
)
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
INTRINSIC = np.array([[50.0, 0, 32], [0, 50, 16], [0, 0, 1]])
RIG = CameraRig(("A", "B"), np.stack([INTRINSIC] * 2), np.stack([FORWARD, np.diag([-1.0, -1, 1, 1]) @ FORWARD]))


def sample(points=3):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    return Sample("t", images, RIG, np.ones((points, 5), np.float32), Annotations.none())


def test_tensors_are_as_declared():
    tensors = inputs_of(sample(), SPEC)
    declared = input_shapes(SPEC)
    assert list(tensors) == list(declared)
    for name, (shape, dtype) in declared.items():
        assert tensors[name].shape == shape
        assert tensors[name].dtype == dtype


def test_points_are_padded_and_counted():
    tensors = inputs_of(sample(points=3), SPEC)
    assert tensors["num_points"].tolist() == [3]
    assert tensors["points"][:3].min() == 1
    assert tensors["points"][3:].max() == 0
    with pytest.raises(AssertionError):
        inputs_of(sample(points=8), SPEC)


def test_geometry_is_the_rigs_own_plan():
    tensors = inputs_of(sample(), SPEC)
    plan = pooling_plan(RIG, FRUSTUM, SPEC.grid, SPEC.z_range_m)
    assert np.array_equal(tensors["pool_index"], plan.point_index_P)
    assert np.array_equal(tensors["pool_offsets"], plan.cell_offsets)
    assert plan.num_pooled > 0


def test_calibration_is_apart_from_what_every_frame_brings():
    whole = inputs_of(sample(), SPEC)
    assert set(sensor_inputs(sample(), SPEC)) == set(whole) - set(CALIBRATION)
    # The rig's cameras may come in any order, and with others between them.
    other = CameraRig(("B", "C", "A"), RIG.intrinsics_N33[[1, 0, 0]], RIG.ego_T_cam_N44[[1, 1, 0]])
    for rig in (RIG, other):
        calibration = calibration_inputs(rig, SPEC)
        assert tuple(calibration) == CALIBRATION
        for name, tensor in calibration.items():
            np.testing.assert_array_equal(tensor, whole[name])


def test_rigs_that_cannot_be_used():
    with pytest.raises(UdxError, match=r"there is no camera B, only A\); calibrate the cameras again"):
        calibration_inputs(RIG.select(("A",)), SPEC)
    flat = CameraRig(RIG.names, np.zeros((2, 3, 3)), RIG.ego_T_cam_N44)
    with pytest.raises(UdxError, match=r"the rig cannot be used \(an intrinsic matrix or a pose is singular\)"):
        calibration_inputs(flat, SPEC)
    with pytest.raises(UdxError, match="has no cameras, so it takes no rig"):
        calibration_inputs(RIG, dataclasses.replace(SPEC, camera=None))
