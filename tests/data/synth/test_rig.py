import numpy as np

from udx.data.nuscenes import load_keyframes
from udx.data.spec import CAMERAS
from udx.data.synth.rig import CAMERA_MOUNTS, LIDAR_MOUNT, image_height_px
from udx.geometry.se3 import from_quaternion


def test_the_rig_is_that_of_a_real_keyframe(keyframe_root) -> None:
    import json

    folder = keyframe_root / "v1.0-mini"
    channel = {each["token"]: each["channel"] for each in json.loads((folder / "sensor.json").read_text())}
    mounts = {mount.channel: mount for mount in (LIDAR_MOUNT, *CAMERA_MOUNTS)}
    records = json.loads((folder / "calibrated_sensor.json").read_text())
    assert len(records) == len(mounts)
    for record in records:
        mount = mounts[channel[record["sensor_token"]]]
        real = from_quaternion(np.array(record["rotation"]), np.array(record["translation"]))
        np.testing.assert_allclose(mount.ego_T_sensor, real, atol=1e-12)
    keyframe = load_keyframes(keyframe_root, "keyframe")[0]
    for name, intrinsic in zip(keyframe.rig.names, keyframe.rig.intrinsics_N33, strict=True):
        np.testing.assert_allclose(mounts[name].intrinsic(1600), intrinsic)  # type: ignore[attr-defined]


def test_a_scaled_intrinsic_keeps_the_image_corners() -> None:
    for mount in CAMERA_MOUNTS:
        native, small = mount.intrinsic(1600), mount.intrinsic(400)
        corner = np.array([-0.5, -0.5, 1.0])  # the outer corner of the first pixel, at any scale
        np.testing.assert_allclose(np.linalg.solve(native, corner), np.linalg.solve(small, corner))
    assert image_height_px(352) == 198


def test_all_cameras_of_a_detector_are_there() -> None:
    assert {mount.channel for mount in CAMERA_MOUNTS} == set(CAMERAS)
