import dataclasses

import numpy as np
import pytest
from PIL import Image

from udx.data import load as module
from udx.data.augment import Augmentation, AugmentationConfig, BevAugmentation, BevChange, ImageAugmentation
from udx.data.frame import Annotations, KeyFrame
from udx.data.images import ImageChange
from udx.data.load import Reading, load_sample, read_sweeps, trainable
from udx.data.nuscenes import load_keyframes
from udx.data.spec import CameraSpec, LidarSpec, SensorSpec
from udx.errors import UdxError
from udx.geometry import BevGrid, CameraRig, Frustum
from udx.geometry.se3 import inverse, transform_points

real = module.load_image
GRID = BevGrid(-40, 40, -40, 40, 0.8)
TWO = ("CAM_FRONT", "CAM_BACK")


def spec(names=TWO, sweeps=10, max_points=1000, width=80, height=32):
    frustum = Frustum(
        image_height_px=height, image_width_px=width, stride_px=16, depth_min_m=1, depth_step_m=1, depth_bins=30
    )
    return SensorSpec(
        grid=GRID,
        z_range_m=(-5.0, 3.0),
        camera=CameraSpec(names=names, frustum=frustum),
        lidar=LidarSpec(sweeps=sweeps, max_points=max_points),
    )


@pytest.fixture
def keyframe(world_root) -> KeyFrame:
    return load_keyframes(world_root, "train", TWO)[1]


def test_sample_by_hand(keyframe):
    sample = load_sample(keyframe, spec())
    assert sample.images_NHW3.shape == (2, 32, 80, 3)
    assert sample.images_NHW3.dtype == np.uint8
    # 160 × 90 at half size is 80 × 45, of which the top 13 rows go.
    expected = np.array([[0.5, 0, -0.25], [0, 0.5, -13.25], [0, 0, 1]]) @ keyframe.rig.intrinsics_N33[0]
    assert sample.rig.intrinsics_N33[0] == pytest.approx(expected)
    # Three sweeps see the bollard at one place; each also had a point on the car and a lost one.
    bollard = transform_points(inverse(keyframe.global_T_ego), np.array([[115.0, 212.0, 1.0]]))[0]
    assert sample.points_M5.dtype == np.float32
    assert sample.points_M5[:, :3] == pytest.approx(np.tile(bollard, (3, 1)), abs=1e-4)
    assert sample.points_M5[:, 3] == pytest.approx([0.2] * 3)
    assert sample.points_M5[:, 4] == pytest.approx([0, 0.25, 0.5])
    assert sample.dropped_points == 0
    assert len(sample.annotations) == 1


def test_only_what_the_spec_asks_for(keyframe):
    both = spec()
    camera = load_sample(keyframe, dataclasses.replace(both, lidar=None))
    assert camera.points_M5 is None
    lidar = load_sample(keyframe, dataclasses.replace(both, camera=None))
    assert lidar.images_NHW3 is None
    assert lidar.rig is None
    one = load_sample(keyframe, spec(sweeps=1))
    assert one.points_M5[:, 4].tolist() == [0]


def test_cameras_come_in_the_order_of_the_spec(keyframe):
    forth, back = load_sample(keyframe, spec()), load_sample(keyframe, spec(names=TWO[::-1]))
    assert back.rig.names == ("CAM_BACK", "CAM_FRONT")
    assert np.array_equal(back.images_NHW3, forth.images_NHW3[::-1])
    assert np.array_equal(back.rig.ego_T_cam_N44, forth.rig.ego_T_cam_N44[::-1])
    with pytest.raises(UdxError, match=r"keyframe t1 has no camera CAM_SIDE; it has CAM_FRONT, CAM_BACK"):
        load_sample(keyframe, spec(names=("CAM_SIDE",)))


def test_points_beyond_the_buffer_are_counted(keyframe):
    sample = load_sample(keyframe, spec(max_points=2))
    assert sample.points_M5[:, 4] == pytest.approx([0, 0.25])  # the newest stay
    assert sample.dropped_points == 1


def test_points_off_the_grid_or_height_range_are_left_out(keyframe):
    low = dataclasses.replace(spec(), z_range_m=(-5.0, -4.0))
    assert load_sample(keyframe, low).points_M5.shape == (0, 5)
    narrow = dataclasses.replace(spec(), grid=BevGrid(-8, 8, -8, 8, 0.8))
    sample = load_sample(keyframe, narrow)
    assert sample.points_M5.shape == (0, 5)
    assert sample.dropped_points == 0


def test_nothing_changed_is_equal_bit_for_bit(keyframe):
    plain = load_sample(keyframe, spec())
    no_change = AugmentationConfig().draw(np.random.default_rng(0), cameras=2)
    for same in (load_sample(keyframe, spec(), Augmentation()), load_sample(keyframe, spec(), no_change)):
        assert np.array_equal(plain.images_NHW3, same.images_NHW3)
        assert plain.points_M5.tobytes() == same.points_M5.tobytes()
        assert plain.annotations.boxes_N9.tobytes() == same.annotations.boxes_N9.tobytes()
        assert plain.rig.intrinsics_N33.tobytes() == same.rig.intrinsics_N33.tobytes()
        assert plain.rig.ego_T_cam_N44.tobytes() == same.rig.ego_T_cam_N44.tobytes()


def test_images_points_boxes_and_rig_move_together(keyframe, tmp_path):
    """A marker painted where a box centre projects is found again where the augmented centre projects."""
    target = keyframe.annotations.boxes_N9[:, :3]
    pixel = keyframe.rig.project(target)[0, 0]
    assert pixel[2] > 0
    columns, rows = np.meshgrid(np.arange(160), np.arange(90))
    spot = 250 * np.exp(-((columns - pixel[0]) ** 2 + (rows - pixel[1]) ** 2) / 18)
    path = tmp_path / "spot.png"
    Image.fromarray(spot.round().astype(np.uint8)).save(path)
    marked = dataclasses.replace(keyframe, image_paths=(path, path))
    config = AugmentationConfig(
        image=ImageAugmentation(
            resize=(0.95, 1.1), shift_x=(-0.05, 0.05), flip_probability=0.5, rotation_rad=(-0.1, 0.1)
        ),
        bev=BevAugmentation(
            mirror_x_probability=0.5,
            mirror_y_probability=0.5,
            rotation_rad=(-3.0, 3.0),
            scale=(0.9, 1.1),
            translation_std_m=(1.0, 1.0, 0.2),
        ),
    )
    big = spec(width=160, height=80)
    for seed in range(8):
        change = config.draw(np.random.default_rng(seed), cameras=2)
        sample = load_sample(marked, big, change)
        weight = sample.images_NHW3[0, ..., 0].astype(float)
        v, u = np.mgrid[:80, :160]
        found = [(weight * u).sum() / weight.sum(), (weight * v).sum() / weight.sum()]
        expected = sample.rig.project(sample.annotations.boxes_N9[:, :3])[0, 0]
        assert 10 < expected[0] < 150, "the marker must be whole for its centroid to mean something"
        assert found == pytest.approx(expected[:2], abs=0.15)
        assert expected[2] == pytest.approx(pixel[2])
        bollard = transform_points(inverse(keyframe.global_T_ego), np.array([[115.0, 212.0, 1.0]]))
        moved = transform_points(change.bev.new_T_ego, bollard)[0]
        assert sample.points_M5[0, :3] == pytest.approx(moved, abs=1e-4)


def test_trainable_boxes():
    boxes = np.zeros((4, 9))
    boxes[:, 3:6] = 1
    boxes[:, 0] = [0, 39.9, 40.0, 1]
    annotations = Annotations(boxes, np.arange(4), np.array([1, 1, 1, 0]))
    assert trainable(annotations, GRID).labels_N.tolist() == [0, 1]  # off the grid; no points


def test_bad_files_are_named(world_root):
    first, second = load_keyframes(world_root, "train", TWO)
    (world_root / "samples/CAM_BACK/0.jpg").unlink()
    with pytest.raises(UdxError, match=r"samples/CAM_BACK/0\.jpg is missing"):
        load_sample(first, spec())
    jpeg = world_root / "samples/CAM_BACK/1.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:400])
    with pytest.raises(UdxError, match=r"samples/CAM_BACK/1\.jpg cannot be decoded"):
        load_sample(second, spec())
    lidar = dataclasses.replace(spec(), camera=None)
    sweep = world_root / "sweeps/LIDAR_TOP/1.pcd.bin"
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(UdxError, match=r"1\.pcd\.bin has 57 bytes"):
        load_sample(second, lidar)
    sweep.unlink()
    with pytest.raises(UdxError, match=r"sweeps/LIDAR_TOP/1\.pcd\.bin cannot be read"):
        load_sample(second, lidar)


def test_real_keyframe(keyframe_root):
    (keyframe,) = load_keyframes(keyframe_root, "keyframe")
    names = keyframe.rig.names
    sample = load_sample(keyframe, spec(names=names, max_points=40_000, width=352, height=128))
    assert sample.images_NHW3.shape == (6, 128, 352, 3)
    assert sample.images_NHW3.std(axis=(1, 2, 3)).min() > 20  # pictures, not blanks
    assert 10_000 < len(sample.points_M5) < 34_688
    assert sample.dropped_points == 0
    assert 0 <= sample.points_M5[:, 3].min() <= sample.points_M5[:, 3].max() <= 1
    ground = np.median(sample.points_M5[np.hypot(*sample.points_M5[:, :2].T) < 12, 2])
    assert abs(ground) < 0.3  # the ego frame stands on the road
    assert len(sample.annotations) == 68
    assert 20 < len(trainable(sample.annotations, GRID)) < 68


def test_augmented_rig_is_still_a_rig(keyframe):
    change = Augmentation(images=(ImageChange(flip=True),) * 2, bev=BevChange(mirror_y=True))
    rig = load_sample(keyframe, spec(), change).rig
    assert isinstance(rig, CameraRig)
    assert rig.intrinsics_N33[0, 0, 0] < 0  # the flip is in the intrinsics
    assert np.linalg.det(rig.ego_T_cam_N44[0]) < 0  # and the mirror in the pose


def test_detectors_that_read_the_same_share_what_is_decoded(keyframe, monkeypatch):
    decoded = []
    monkeypatch.setattr(module, "load_image", lambda path, *change: decoded.append(path) or real(path, *change))
    read = []

    def reads(keyframe, sweeps):
        read.append(sweeps)
        return read_sweeps(keyframe, sweeps)

    turn = AugmentationConfig(bev=BevAugmentation(rotation_rad=(0.3, 0.3))).draw(np.random.default_rng(0), 2)
    reading = Reading(keyframe, turn, reads)
    both, camera, wide = spec(), dataclasses.replace(spec(), lidar=None), spec(width=96)
    samples = [reading.sample(its) for its in (both, camera, wide)]
    assert decoded == [*keyframe.image_paths, *keyframe.image_paths]
    assert len(reading.points(both, 1)) == 1
    assert read == [10]
    for its, sample in zip((both, camera, wide), samples, strict=True):
        alone = load_sample(keyframe, its, turn)
        assert np.array_equal(sample.images_NHW3, alone.images_NHW3)
        assert np.array_equal(sample.rig.intrinsics_N33, alone.rig.intrinsics_N33)
        assert np.array_equal(sample.rig.ego_T_cam_N44, alone.rig.ego_T_cam_N44)
    assert np.array_equal(samples[0].points_M5, load_sample(keyframe, both, turn).points_M5)


def test_more_sweeps_than_were_read_are_read(keyframe):
    reading = Reading(keyframe)
    assert [len(reading.points(spec(), sweeps)) for sweeps in (1, 2, 10, 1)] == [1, 2, 3, 1]
