import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udx.data.frame import Sweep
from udx.data.points import accumulate, fit_to, on_own_vehicle, read_sweep
from udx.errors import UdxError
from udx.geometry.se3 import yaw_rotation


def write(path, rows):
    path.write_bytes(np.array(rows, dtype="<f4").tobytes())
    return path


def test_points_that_are_not_finite_are_left_out(tmp_path):
    path = write(tmp_path / "a.bin", [[1, 2, 3, 4, 5], [np.nan, 0, 0, 0, 0], [0, np.inf, 0, 0, 0], [6, 7, 8, 9, 10]])
    assert read_sweep(path).tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


@pytest.mark.parametrize("size", [0, 1, 19, 21, 119])
def test_truncated_sweep(tmp_path, size):
    path = tmp_path / "cut.pcd.bin"
    path.write_bytes(b"\0" * size)
    with pytest.raises(UdxError, match=rf"cut\.pcd\.bin has {size} bytes, not a .*multiple of 20.*; restore it"):
        read_sweep(path)


def test_missing_sweep(tmp_path):
    with pytest.raises(UdxError, match=r"sweep .*none\.pcd\.bin cannot be read .*; restore it"):
        read_sweep(tmp_path / "none.pcd.bin")


def test_own_vehicle_is_a_square_about_the_sensor():
    points = np.array([[0.9, -0.9, 5], [1.1, 0, 0], [0, -1.1, 0], [0, 0, -2]], np.float32)
    assert on_own_vehicle(points).tolist() == [True, False, False, True]


def test_columns_and_motion(tmp_path):
    forward = yaw_rotation(np.pi / 2)
    forward[:3, 3] = [10, 0, 2]
    sweep = Sweep(write(tmp_path / "a.bin", [[3, 1, 0, 51, 7], [0, 0, 0, 255, 0]]), forward, 0.25)
    # 90° to the left takes (3, 1) to (−1, 3), then 10 m ahead and 2 m up; the second point is the car itself.
    (point,) = accumulate([sweep], np.eye(4))
    assert point == pytest.approx([9, 3, 2, 0.2, 0.25])
    (doubled,) = accumulate([sweep], np.diag([2.0, -2, 2, 1]))
    assert doubled == pytest.approx([18, -6, 4, 0.2, 0.25])


def test_few_points_stay_untouched():
    points = np.ones((3, 5), np.float32)
    assert fit_to(points, 3) is points


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_choice_is_newest_first_and_blind_to_order(seed, capacity):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(300, 5)).astype(np.float32)
    points[:, 4] = generator.choice([0.0, 0.05, 0.1], 300)
    kept = fit_to(points, capacity)
    again = fit_to(generator.permutation(points), capacity)
    assert len(kept) == min(capacity, 300)
    assert sorted(map(tuple, kept.tolist())) == sorted(map(tuple, again.tolist()))
    left_out = {tuple(row) for row in points.tolist()} - {tuple(row) for row in kept.tolist()}
    if left_out:
        assert kept[:, 4].max() <= min(row[4] for row in left_out)


def test_choice_within_a_sweep_is_even():
    # A ring of points: each quarter must keep about its share, whatever the values look like.
    angle = np.linspace(0, 2 * np.pi, 8000, endpoint=False)
    ring = np.stack([20 * np.cos(angle), 20 * np.sin(angle), 0 * angle, 0 * angle, 0 * angle], axis=1)
    kept = fit_to(ring.astype(np.float32), 2000)
    quarters = np.bincount((kept[:, 0] > 0) * 2 + (kept[:, 1] > 0), minlength=4)
    assert quarters.min() > 420
    assert quarters.max() < 580
