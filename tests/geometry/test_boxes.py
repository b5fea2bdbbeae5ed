import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.geometry import BOX_CONVENTION, BOX_SIZE, CLASSES
from udx.geometry.boxes import box_corners, points_in_box, transform_boxes, wrap_angle
from udx.geometry.se3 import from_quaternion, inverse, transform_points, yaw_rotation

lengths = st.floats(0.1, 20)
boxes = st.tuples(
    *[st.floats(-50, 50)] * 3, lengths, lengths, lengths, st.floats(-3.1, 3.1), *[st.floats(-20, 20)] * 2
).map(lambda values: np.array([values]))


def test_classes_are_the_devkits_in_its_order():
    from nuscenes.eval.detection.constants import DETECTION_NAMES

    assert list(CLASSES) == DETECTION_NAMES


def test_convention_names_every_number():
    assert len(BOX_CONVENTION.split(";")[0].split(",")) == BOX_SIZE


def test_corners_by_hand():
    # 4 m long, 2 m wide, heading left (+y): the front is at y = 2, its left side at x = −1.
    corners = box_corners(np.array([[0, 0, 1, 4, 2, 2, np.pi / 2, 0, 0]]))[0]
    bottom = np.array([[-1, 2, 0], [-1, -2, 0], [1, -2, 0], [1, 2, 0]])
    assert corners[:4] == pytest.approx(bottom)
    assert corners[4:] == pytest.approx(bottom + np.array([0, 0, 2]))


@given(boxes)
def test_corners_are_counter_clockwise_and_span_the_size(box):
    corners = box_corners(box)[0]
    edges = np.diff(corners[[0, 1, 2, 3, 0]], axis=0)
    turn = edges[:, 0] * np.roll(edges[:, 1], -1) - edges[:, 1] * np.roll(edges[:, 0], -1)
    assert (turn[:4] > 0).all()
    assert np.linalg.norm(edges[0]) == pytest.approx(box[0, 3])
    assert np.linalg.norm(edges[1]) == pytest.approx(box[0, 4])
    assert corners.mean(axis=0) == pytest.approx(box[0, :3], abs=1e-9)


def test_points_in_box_by_hand():
    box = np.array([1, 1, 0, 4, 2, 2, np.pi / 2, 0, 0])  # x from 0 to 2, y from −1 to 3
    points = np.array([[1, 1, 0], [0.1, 2.9, 0.9], [2.1, 1, 0], [1, 3.1, 0], [1, 1, 1.1], [3, 1, 0]])
    assert points_in_box(points, box).tolist() == [True, True, False, False, False, False]
    assert points_in_box(points, box, margin_m=0.2).tolist() == [True, True, True, True, True, False]


@given(boxes)
def test_points_in_box_agrees_with_its_corners(box):
    corners, centre = box_corners(box)[0], box[0, :3]
    shrunk, grown = centre + 0.999 * (corners - centre), centre + 1.001 * (corners - centre)
    assert points_in_box(shrunk, box[0]).all()
    assert not points_in_box(grown, box[0]).any()
    assert points_in_box(corners, box[0], margin_m=1e-6).all()


@given(boxes, st.floats(-3, 3), st.tuples(*[st.floats(-50, 50)] * 3))
def test_rigid_motion_moves_corners_and_back(box, yaw, translation):
    dst_T_src = yaw_rotation(yaw)
    dst_T_src[:3, 3] = translation
    moved = transform_boxes(dst_T_src, box)
    assert box_corners(moved)[0] == pytest.approx(transform_points(dst_T_src, box_corners(box)[0]), abs=1e-9)
    assert moved[0, 3:6] == pytest.approx(box[0, 3:6])
    back = transform_boxes(inverse(dst_T_src), moved)
    assert back == pytest.approx(box, abs=1e-9)


@given(boxes, st.sampled_from([(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)]), st.floats(0.5, 2))
def test_mirror_and_scale_keep_the_set_of_corners(box, signs, scale):
    dst_T_src = np.diag([scale * signs[0], scale * signs[1], scale, 1.0])
    moved = transform_boxes(dst_T_src, box)
    ours = box_corners(moved)[0]
    expected = transform_points(dst_T_src, box_corners(box)[0])
    distance = np.linalg.norm(ours[:, None] - expected[None], axis=-1)
    assert distance.min(axis=1).max() < 1e-9  # left and right corners change places, the box is the same
    assert moved[0, 3:6] == pytest.approx(box[0, 3:6] * scale)
    assert moved[0, 7:] == pytest.approx(box[0, 7:] * scale * signs)
    assert ours[[0, 3]].mean(axis=0) == pytest.approx(expected[[0, 3]].mean(axis=0), abs=1e-9)  # the front stays


def test_tilted_frame_keeps_the_heading():
    tilt = from_quaternion(np.array([np.cos(0.02), np.sin(0.02), 0, 0]), np.zeros(3))
    box = np.array([[10.0, 5, 0, 4, 2, 1.5, 0.8, 1, 2]])
    moved = transform_boxes(tilt, box)
    assert moved[0, 6] == pytest.approx(0.8, abs=1e-3)
    assert moved[0, 3:6] == pytest.approx([4, 2, 1.5])


def test_no_boxes():
    assert transform_boxes(np.eye(4), np.zeros((0, 9))).shape == (0, 9)
    assert box_corners(np.zeros((0, 9))).shape == (0, 8, 3)


@given(st.floats(-100, 100))
def test_wrapped_angle(angle):
    wrapped = wrap_angle(np.array([angle]))[0]
    assert -np.pi <= wrapped < np.pi + 1e-12
    assert np.exp(1j * wrapped) == pytest.approx(np.exp(1j * angle))


def test_wrapped_angle_at_the_seam():
    assert wrap_angle(np.array([np.pi, -np.pi, 3 * np.pi])) == pytest.approx([-np.pi] * 3)
