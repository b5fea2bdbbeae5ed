import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import SEED, cases
from tests.mutations import mutations
from udx.data.frame import Sweep
from udx.data.points import accumulate, fit_to, in_bev_frame, on_own_vehicle, read_sweep
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
    (point,) = accumulate([in_bev_frame(sweep)], np.eye(4))
    assert point == pytest.approx([9, 3, 2, 0.2, 0.25])
    (doubled,) = accumulate([in_bev_frame(sweep)], np.diag([2.0, -2, 2, 1]))
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


def save(path, points):
    np.save(path, points)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_s_own_files(tmp_path, dtype, order):
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=dtype, order=order)
    assert read_sweep(save(tmp_path / "a.npy", rows)).tolist() == [[1, 2, 3, 4, 0], [5, 6, 7, 8, 0]]
    ringed = np.hstack([rows, rows[:, :1]])
    found = read_sweep(save(tmp_path / "b.npy", ringed))
    assert found.tolist() == ringed.tolist()
    assert found.dtype == np.float32


def test_numbers_that_single_precision_does_not_hold_are_left_out(tmp_path):
    path = save(tmp_path / "a.npy", np.array([[1e300, 0, 0, 0], [np.nan, 0, 0, 0], [1, 2, 3, 4]]))
    assert read_sweep(path).tolist() == [[1, 2, 3, 4, 0]]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.zeros((3, 3)), r"holds float64 \[3, 3\], not x, y, z"),
        (np.zeros(5), r"holds float64 \[5\]"),
        (np.zeros((0, 5), np.float32), r"holds float32 \[0, 5\], not .* of one point or more"),
        (np.zeros((2, 5), complex), "holds complex128"),
        (np.zeros((2, 5), "U1"), "holds <U1"),
        (np.array([[object()] * 5]), "is no whole .npy file .*Python objects"),
    ],
)
def test_arrays_that_are_no_points(tmp_path, stored, said):
    with pytest.raises(UdxError, match=said):
        read_sweep(save(tmp_path / "a.npy", stored))


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    path = save(tmp_path / "a.npy", np.zeros((9, 5), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(9, 5)", b"(9999999999, 5)"))
    with pytest.raises(UdxError, match=r"is no whole \.npy file"):
        read_sweep(path)


@pytest.mark.parametrize("name", ["POINTS.NPY", "points.Npy"])
def test_the_name_may_be_in_capitals(tmp_path, name):
    np.save(tmp_path / "a.npy", np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32))
    path = (tmp_path / "a.npy").rename(tmp_path / name)
    assert read_sweep(path).tolist() == [[1, 2, 3, 4, 0], [5, 6, 7, 8, 0]]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pcd.bin")
    with pytest.raises(UdxError, match=r"a\.pcd\.bin is no file"):
        read_sweep(tmp_path / "a.pcd.bin")


def test_no_sweeps_have_no_points():
    assert accumulate([], np.eye(4)).shape == (0, 5)


def test_two_million_points_are_thinned_evenly_to_the_buffer():
    points = np.random.default_rng(0).normal(size=(2_000_000, 5)).astype(np.float32)
    points[:, 4] = 0
    kept = fit_to(points, 30_000)
    assert len(kept) == 30_000
    assert np.abs(kept[:, :3].mean(axis=0)).max() < 0.03
    assert np.abs(kept[:, :3].std(axis=0) - 1).max() < 0.03


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
def test_damaged_sweeps_are_refused_or_can_be_used(tmp_path, suffix):
    points = np.random.default_rng(1).normal(scale=20, size=(12, 5)).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, points)
    content = points.tobytes() if suffix == ".bin" else buffer.getvalue()
    path, used, refused = tmp_path / f"sweep{suffix}", 0, 0
    for damaged in mutations(content, cases(1500), SEED):
        path.write_bytes(damaged)
        try:
            found = accumulate([in_bev_frame(Sweep(path, yaw_rotation(0.3), 0.05))], np.eye(4))
        except UdxError as error:
            refused += 1
            assert f"sweep{suffix}" in str(error)
        else:
            used += 1
            assert len(fit_to(found, 5)) <= 5
            assert found.dtype == np.float32
    assert min(used, refused) > 100
