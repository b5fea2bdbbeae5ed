import shutil

import numpy as np
import pytest
from PIL import Image

from tests.tiny import FRUSTUM, ring_of_cameras, tiny_detector
from udx.data.folder import folder_frames, thinned
from udx.data.images import ImageChange, load_image
from udx.data.load import load_sample
from udx.data.rig_file import Calibration
from udx.data.spec import CAMERAS
from udx.errors import UdxError

SPEC = {modality: tiny_detector(modality).spec for modality in ("cam", "lidar", "fusion")}
NATIVE = ring_of_cameras().with_image_transforms(np.stack([np.diag([3.0, 3.0, 1.0])] * 6))
CALIBRATION = Calibration(NATIVE, np.eye(4))
TARGET = FRUSTUM.image_width_px, FRUSTUM.image_height_px


def picture(path, seed, size=(192, 108)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    for seed, name in enumerate(CAMERAS):
        picture(tmp_path / "frame" / f"{name}.png", seed)
    return tmp_path / "frame"


@pytest.fixture
def drive(tmp_path):
    for seed, name in enumerate(CAMERAS):
        for at in range(3):
            picture(tmp_path / "drive" / name / f"{at:06}.jpg", 10 * seed + at)
    return tmp_path / "drive"


def cloud(path, count=50, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(seed).uniform([-20, -10, -1, 0, 0], [20, 10, 2, 255, 31], (count, 5))
    path.write_bytes(points.astype("<f4").tobytes())
    return path


def frames_of(modality, images=None, points=None, calibration=CALIBRATION, network_rig=None):
    return folder_frames(SPEC[modality], images=images, points=points, calibration=calibration, network_rig=network_rig)


def test_points_of_another_kind_are_refused(tmp_path):
    for name in ("scan.pcd", "scan.ply", "scan"):
        with pytest.raises(UdxError, match=rf"{name} is no file of points that udx reads \(\.bin, \.npy\); convert it"):
            frames_of("lidar", points=cloud(tmp_path / name))


def test_images_are_those_of_training_pixel_by_pixel(images):
    (frame,) = frames_of("cam", images)
    sample = load_sample(frame, SPEC["cam"])
    assert frame.token == "frame"
    for slot, name in enumerate(CAMERAS):
        expected, new_T_old = load_image(images / f"{name}.png", TARGET, ImageChange())
        np.testing.assert_array_equal(sample.images_NHW3[slot], expected)
        np.testing.assert_allclose(sample.rig.intrinsics_N33[slot], new_T_old @ NATIVE.intrinsics_N33[slot])


def test_the_engine_s_own_rig_is_taken_back_to_the_images_size(images):
    network = ring_of_cameras()
    (frame,) = frames_of("cam", images, calibration=None, network_rig=network)
    sample = load_sample(frame, SPEC["cam"])
    np.testing.assert_allclose(sample.rig.intrinsics_N33, network.intrinsics_N33, atol=1e-9)
    np.testing.assert_array_equal(sample.rig.ego_T_cam_N44, network.ego_T_cam_N44)
    # One third of the width is kept of 192 px, and of the height the bottom: 36 of 108 px, less 4 at the top.
    assert frame.rig.intrinsics_N33[0, 0, 0] == pytest.approx(3 * network.intrinsics_N33[0, 0, 0])


def test_many_frames_come_in_the_order_of_their_names(drive, tmp_path):
    for at in range(3):
        cloud(tmp_path / "lidar" / f"{at:06}.bin", seed=at)
    frames = frames_of("fusion", drive, tmp_path / "lidar")
    assert [frame.token for frame in frames] == ["000000", "000001", "000002"]
    for at, frame in enumerate(frames):
        assert [path.name for path in frame.image_paths] == [f"{at:06}.jpg"] * 6
        assert [path.parent.name for path in frame.image_paths] == list(CAMERAS)
        assert frame.sweeps[0].path.name == f"{at:06}.bin"


def test_points_come_in_through_the_lidar_s_pose(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = [1.0, 0, 1.8]
    path = tmp_path / "one.npy"
    np.save(path, np.array([[5.0, 2.0, -1.0, 51.0]]))
    (frame,) = frames_of("lidar", points=path, calibration=Calibration(NATIVE, pose))
    assert frame.token == "one"
    assert load_sample(frame, SPEC["lidar"]).points_M5[0] == pytest.approx([6, 2, 0.8, 0.2, 0])
    (frame,) = frames_of("lidar", points=path, calibration=None)
    assert load_sample(frame, SPEC["lidar"]).points_M5[0] == pytest.approx([5, 2, -1, 0.2, 0])


def test_points_beyond_the_buffer_are_told(tmp_path):
    spec = SPEC["lidar"]
    full = frames_of("lidar", points=cloud(tmp_path / "full.bin", 2_500))
    few = frames_of("lidar", points=cloud(tmp_path / "few.bin", 1_900))
    (told,) = thinned([*full, *few], spec)
    beyond = 2_500 - spec.lidar.max_points - told[1]  # the own car's returns, and what is too low, are no points
    assert told[0] == "full"
    assert 0 <= beyond < 60
    assert len(load_sample(full[0], spec).points_M5) == spec.lidar.max_points
    assert load_sample(full[0], spec).dropped_points == told[1]
    assert list(thinned(few, SPEC["cam"])) == []


def test_what_is_missing_is_named(images, drive, tmp_path):
    points = cloud(tmp_path / "a.bin")

    def refused(said, *args, **kwargs):
        with pytest.raises(UdxError, match=said):
            frames_of(*args, **kwargs)

    refused(r"a cam detector reads images: give them \(--images\)", "cam", points=points)
    refused(r"a lidar detector reads no images: leave them out \(--images\)", "lidar", images, points)
    refused(r"a fusion detector reads points: give them, too \(--points\)", "fusion", images)
    refused("there is no folder of images .*nowhere", "cam", tmp_path / "nowhere")
    refused("there is no file or folder of points .*nowhere", "lidar", points=tmp_path / "nowhere.bin")
    refused("holds no file of points", "lidar", points=images)
    refused(r"hold different numbers of frames \(1, 3\)", "fusion", drive, points)
    refused("the engine holds no calibration; give that of the cameras with --rig", "cam", images, calibration=None)
    five = Calibration(NATIVE.select(CAMERAS[:5]), np.eye(4))
    refused("does not fit the detector: there is no camera CAM_BACK_RIGHT", "cam", images, calibration=five)
    (images / "CAM_BACK.png").unlink()
    refused("has no image of camera CAM_BACK .*; the detector reads CAM_FRONT_LEFT", "cam", images)
    (drive / "CAM_BACK" / "000001.jpg").unlink()
    refused("has 2 images of CAM_BACK and 3 of CAM_FRONT_LEFT; every frame needs one of each", "cam", drive)


def test_frames_of_one_name_are_refused(tmp_path):
    cloud(tmp_path / "lidar" / "7.bin")
    np.save(tmp_path / "lidar" / "7.npy", np.ones((3, 4)))
    with pytest.raises(UdxError, match="lidar holds two frames named 7; give every frame a name of its own"):
        frames_of("lidar", points=tmp_path / "lidar")


def test_damaged_images_are_named_when_their_turn_comes(images):
    path = images / "CAM_FRONT.png"
    path.write_bytes(path.read_bytes()[:200])
    (frame,) = frames_of("cam", images)
    with pytest.raises(UdxError, match=r"CAM_FRONT\.png cannot be decoded"):
        load_sample(frame, SPEC["cam"])
    shutil.rmtree(images)
    with pytest.raises(UdxError, match="there is no folder of images"):
        frames_of("cam", images)
