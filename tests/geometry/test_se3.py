import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from udx.geometry.se3 import (
    affine_inverse,
    from_quaternion,
    inverse,
    linear_inverse,
    quaternion_of,
    quaternion_of_yaw,
    transform_points,
    yaw_rotation,
)

quaternions = st.tuples(*[st.floats(-1, 1)] * 4).map(np.array)
translations = st.tuples(*[st.floats(-1000, 1000)] * 3).map(np.array)


def test_quarter_turn_by_hand():
    half = np.sqrt(0.5)
    matrix = from_quaternion(np.array([half, 0, 0, half]), np.array([1, 2, 3]))
    assert matrix == pytest.approx(np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]))


def test_a_quaternion_comes_back_from_its_matrix():
    rng = np.random.default_rng(0)
    units = np.concatenate([np.eye(4), rng.normal(size=(200, 4)), rng.normal(size=(50, 4)) * [0, 1, 1e-9, 1]])
    from pyquaternion import Quaternion

    for unit in units / np.linalg.norm(units, axis=1, keepdims=True):
        found = quaternion_of(Quaternion(unit).rotation_matrix)
        assert found[0] >= 0
        np.testing.assert_allclose(found * np.sign(found @ unit), unit, atol=1e-12)


@given(quaternions, translations)
def test_rotation_agrees_with_pyquaternion(rotation, translation):
    assume(np.linalg.norm(rotation) > 1e-3)
    matrix = from_quaternion(rotation, translation)
    from pyquaternion import Quaternion

    assert matrix[:3, :3] == pytest.approx(Quaternion(rotation).rotation_matrix, abs=1e-12)
    assert matrix[:3, 3].tolist() == translation.tolist()
    assert np.linalg.det(matrix) == pytest.approx(1)


@given(quaternions, translations)
def test_inverse_undoes(rotation, translation):
    assume(np.linalg.norm(rotation) > 1e-3)
    dst_T_src = from_quaternion(rotation, translation)
    assert inverse(dst_T_src) @ dst_T_src == pytest.approx(np.eye(4), abs=1e-9)


def test_inverses_agree_with_lapack():
    matrices = np.random.default_rng(0).normal(scale=5, size=(50, 4, 4))
    matrices[:, 3] = [0, 0, 0, 1]
    assert linear_inverse(matrices[:, :3, :3]) == pytest.approx(np.linalg.inv(matrices[:, :3, :3]), rel=1e-9, abs=1e-9)
    assert affine_inverse(matrices) == pytest.approx(np.linalg.inv(matrices), rel=1e-9, abs=1e-9)
    intrinsics = np.array([[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]])
    assert linear_inverse(intrinsics) == pytest.approx(np.linalg.inv(intrinsics), rel=1e-14)
    with pytest.raises(ValueError, match="singular"):
        linear_inverse(np.stack([np.eye(3), np.ones((3, 3))]))


@given(st.floats(-3.1, 3.1))
def test_yaw_is_counter_clockwise(yaw):
    turned = transform_points(yaw_rotation(yaw), np.array([[1.0, 0, 5]]))[0]
    assert turned == pytest.approx([np.cos(yaw), np.sin(yaw), 5])
    assert from_quaternion(quaternion_of_yaw(yaw), np.zeros(3)) == pytest.approx(yaw_rotation(yaw), abs=1e-12)


def test_points_by_hand():
    dst_T_src = yaw_rotation(np.pi / 2)
    dst_T_src[:3, 3] = [10, 0, 0]
    assert transform_points(dst_T_src, np.array([[1.0, 2, 3], [0, 0, 0]])) == pytest.approx(
        np.array([[8, 1, 3], [10, 0, 0]])
    )


def test_points_go_to_several_frames_at_once():
    rng = np.random.default_rng(0)
    frames, points = rng.normal(size=(2, 4, 4)), rng.normal(size=(7, 3))
    for at, moved in enumerate(transform_points(frames, points)):
        assert moved == pytest.approx(points @ frames[at, :3, :3].T + frames[at, :3, 3])


@pytest.mark.parametrize(
    ("rotation", "translation", "sentence"),
    [
        ([0, 0, 0, 0], [0, 0, 0], "unit quaternion, but is zero"),
        ([1, 0, 0], [0, 0, 0], "rotation must have shape"),
        ([1, 0, 0, 0], [0, 0], "translation must have shape"),
        ([1, 0, np.nan, 0], [0, 0, 0], "rotation must be finite"),
        ([1, 0, 0, 0], [0, np.inf, 0], "translation must be finite"),
    ],
)
def test_what_is_no_pose(rotation, translation, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_quaternion(np.array(rotation), np.array(translation))
