import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udx.data.augment import Augmentation, AugmentationConfig, BevAugmentation, BevChange, ImageAugmentation
from udx.data.frame import Annotations
from udx.data.images import ImageChange
from udx.geometry import CameraRig
from udx.geometry.boxes import points_in_box
from udx.geometry.se3 import from_quaternion, transform_points

bev_changes = st.builds(
    BevChange,
    mirror_x=st.booleans(),
    mirror_y=st.booleans(),
    rotation_rad=st.floats(-3.2, 3.2),
    scale=st.floats(0.5, 2.0),
    translation_m=st.tuples(*[st.floats(-5, 5)] * 3),
)
CONFIG = AugmentationConfig(
    image=ImageAugmentation(
        resize=(0.9, 1.2), shift_x=(-0.1, 0.1), shift_y=(-0.1, 0.0), flip_probability=0.5, rotation_rad=(-0.1, 0.1)
    ),
    bev=BevAugmentation(
        mirror_x_probability=0.5,
        mirror_y_probability=0.5,
        rotation_rad=(-0.4, 0.4),
        scale=(0.95, 1.05),
        translation_std_m=(0.5, 0.5, 0.2),
    ),
)


def annotations(*boxes):
    count = len(boxes)
    return Annotations(np.array(boxes, dtype=float), np.zeros(count, np.int64), np.ones(count, np.int64))


def moved_box(box, **change):
    return BevChange(**change).moved(annotations(box)).boxes_N9[0]


BOX = (10.0, 4.0, 1.0, 4.5, 1.9, 1.6, 0.3, 2.0, 0.5)


def test_mirror_y_turns_left_into_right():
    assert moved_box(BOX, mirror_y=True) == pytest.approx([10, -4, 1, 4.5, 1.9, 1.6, -0.3, 2, -0.5])


def test_mirror_x_turns_front_into_back():
    assert moved_box(BOX, mirror_x=True) == pytest.approx([-10, 4, 1, 4.5, 1.9, 1.6, np.pi - 0.3, -2, 0.5])


def test_rotation_is_counter_clockwise():
    turned = moved_box(BOX, rotation_rad=np.pi / 2)
    assert turned == pytest.approx([-4, 10, 1, 4.5, 1.9, 1.6, 0.3 + np.pi / 2, -0.5, 2])


def test_scale_also_scales_sizes_and_velocities():
    assert moved_box(BOX, scale=2.0) == pytest.approx([20, 8, 2, 9, 3.8, 3.2, 0.3, 4, 1])


def test_mirror_comes_before_rotation_and_translation_last():
    change = BevChange(mirror_x=True, rotation_rad=np.pi / 2, scale=2.0, translation_m=(1, 0, 0))
    # (3, 0) → (−3, 0) → (0, −3) → (0, −6) → (1, −6)
    assert transform_points(change.new_T_ego, np.array([[3.0, 0, 0]]))[0] == pytest.approx([1, -6, 0])


def test_unknown_velocity_stays_unknown():
    assert np.isnan(moved_box((*BOX[:7], np.nan, np.nan), rotation_rad=0.5, mirror_y=True)[7:]).all()


@settings(max_examples=60)
@given(bev_changes, st.integers(0, 2**32 - 1))
def test_boxes_keep_their_points(change, seed):
    generator = np.random.default_rng(seed)
    box = np.array([*generator.uniform(-20, 20, 2), 0.5, *generator.uniform(0.5, 8, 3), generator.uniform(-3, 3), 1, 2])
    points = box[:3] + generator.uniform(-6, 6, (400, 3))
    surely = points_in_box(points, box, -1e-6) == points_in_box(points, box, 1e-6)
    new_box = change.moved(annotations(box)).boxes_N9[0]
    new_points = transform_points(change.new_T_ego, points)
    assert np.array_equal(points_in_box(points, box)[surely], points_in_box(new_points, new_box)[surely])


@settings(max_examples=60)
@given(bev_changes, st.integers(0, 2**32 - 1))
def test_points_keep_their_pixels(change, seed):
    generator = np.random.default_rng(seed)
    pose = from_quaternion(generator.normal(size=4), generator.normal(size=3))
    rig = CameraRig(("CAM",), np.array([[[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]]]), pose[None])
    in_camera = np.concatenate([generator.uniform(-20, 20, (50, 2)), generator.uniform(2, 60, (50, 1))], axis=1)
    points = transform_points(pose, in_camera)
    before = rig.project(points)
    after = rig.with_ego_transform(change.new_T_ego).project(transform_points(change.new_T_ego, points))
    assert after == pytest.approx(before, rel=1e-6, abs=1e-6)


def test_velocity_follows_the_heading():
    """A box that drives where it heads still does so after any change."""
    box = (5.0, -3.0, 0.0, 4.0, 2.0, 1.5, 0.7, 3 * np.cos(0.7), 3 * np.sin(0.7))
    generator = np.random.default_rng(3)
    for _ in range(20):
        new = CONFIG.bev.draw(generator).moved(annotations(box)).boxes_N9[0]
        assert np.cos(np.arctan2(new[8], new[7]) - new[6]) == pytest.approx(1)


def test_same_seed_gives_the_same_change():
    first = CONFIG.draw(np.random.default_rng(7), cameras=6)
    assert first == CONFIG.draw(np.random.default_rng(7), cameras=6)
    assert first != CONFIG.draw(np.random.default_rng(8), cameras=6)
    assert len(first.images) == 6
    assert len(set(first.images)) == 6  # every camera is drawn on its own


def test_default_draws_no_change():
    drawn = AugmentationConfig().draw(np.random.default_rng(0), cameras=2)
    assert drawn.bev == BevChange()
    assert drawn.images == (ImageChange(), ImageChange())


def test_draws_stay_in_their_ranges():
    generator = np.random.default_rng(0)
    drawn = [CONFIG.draw(generator, cameras=1) for _ in range(200)]
    assert all(0.9 <= change.image(0).resize <= 1.2 for change in drawn)
    assert all(-0.1 <= change.image(0).shift_y <= 0.0 for change in drawn)
    assert all(-0.4 <= change.bev.rotation_rad <= 0.4 for change in drawn)
    for flag in ("mirror_x", "mirror_y"):
        assert 60 < sum(getattr(change.bev, flag) for change in drawn) < 140
    assert np.std([change.bev.translation_m[2] for change in drawn]) == pytest.approx(0.2, rel=0.2)


def test_without_image_changes_every_camera_stays():
    assert Augmentation().image(5) == ImageChange()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ImageAugmentation(resize=(1.2, 0.9)),
        lambda: ImageAugmentation(flip_probability=1.5),
        lambda: BevAugmentation(rotation_rad=(0.0, float("inf"))),
        lambda: BevAugmentation(mirror_x_probability=-0.1),
        lambda: BevChange(scale=0.0),
    ],
)
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=r"range|probability|scale"):
        wrong()


def test_changes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BevChange().scale = 2.0
