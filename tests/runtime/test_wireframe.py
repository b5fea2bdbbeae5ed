"""Boxes in images: what is behind the camera stays out, what crosses an edge is cut there."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from udx.geometry import CameraRig
from udx.runtime.wireframe import clip_to_depth, clip_to_image, wireframes

INTRINSICS = np.array([[100.0, 0, 50], [0, 100.0, 40], [0, 0, 1]])


def forward_rig() -> CameraRig:
    """One camera at the origin that looks along +x; the image is 101 × 81 pixels."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    return CameraRig(("CAM_FRONT",), INTRINSICS[None], pose[None])


def box(x: float, y: float = 0.0, z: float = 0.0, size: float = 2.0, yaw: float = 0.0) -> np.ndarray:
    return np.array([[x, y, z, size, size, size, yaw, 0, 0]])


def test_a_box_in_front_is_drawn_where_its_corners_project() -> None:
    (seen,) = wireframes(box(11), forward_rig(), 0, 101, 81)
    assert len(seen.segments_S4) == 13
    ends = seen.segments_S4.reshape(-1, 2)
    # The rear face is 10 m away: ±1 m is ±10 px about (50, 40); the front face, 12 m away, is smaller.
    assert ends.min(axis=0) == pytest.approx([40, 30])
    assert ends.max(axis=0) == pytest.approx([60, 50])


def test_the_heading_runs_along_the_floor_to_the_front() -> None:
    (seen,) = wireframes(box(11, yaw=np.pi / 2), forward_rig(), 0, 101, 81)
    # From the floor's centre to the left: 1 m of 11 m, at 1 m below the axis.
    assert seen.segments_S4[-1] == pytest.approx([50, 40 + 100 / 11, 50 - 100 / 11, 40 + 100 / 11])


def test_boxes_behind_and_beside_are_left_out() -> None:
    boxes = np.concatenate([box(-11), box(-1.2), box(11, y=30), box(11)])
    seen = wireframes(boxes, forward_rig(), 0, 101, 81)
    assert [frame.box for frame in seen] == [3]


def test_a_box_around_the_camera_is_cut_at_the_near_plane() -> None:
    long = np.array([[2, 0, 0, 6, 0.6, 0.6, 0, 0, 0]])
    (seen,) = wireframes(long, forward_rig(), 0, 101, 81)
    # The front face 5 m away, the four edges that lead to it, and the heading; nothing of the rear, 1 m behind.
    assert len(seen.segments_S4) == 9
    ends = seen.segments_S4.reshape(-1, 2)
    assert (ends >= -0.5 - 1e-9).all() and (ends <= np.array([100.5, 80.5]) + 1e-9).all()
    off_centre = np.abs(ends - [50, 40])
    assert off_centre[:, 0].max() == pytest.approx(40.5)  # cut by the image's nearer edge, 40.5 px up or down


def test_the_farthest_box_comes_first() -> None:
    seen = wireframes(np.concatenate([box(10), box(30), box(20)]), forward_rig(), 0, 101, 81)
    assert [frame.box for frame in seen] == [1, 2, 0]


def test_the_second_camera_is_another() -> None:
    rig = forward_rig()
    turned = rig.ego_T_cam_N44[0].copy()
    turned[:2, :3] *= -1
    both = CameraRig(("A", "B"), np.stack([INTRINSICS] * 2), np.stack([rig.ego_T_cam_N44[0], turned]))
    assert [len(wireframes(box(11), both, camera, 101, 81)) for camera in (0, 1)] == [1, 0]
    assert [len(wireframes(box(-11), both, camera, 101, 81)) for camera in (0, 1)] == [0, 1]


def test_a_segment_through_the_near_plane_is_cut_there() -> None:
    starts, ends = clip_to_depth(np.array([[-1.0, 0, 0]]), np.array([[3.0, 4.0, 0]]), forward_rig(), 1.0)
    assert starts[0] == pytest.approx([1, 2, 0])
    assert ends[0] == pytest.approx([3, 4, 0])
    backwards = clip_to_depth(np.array([[3.0, 4.0, 0]]), np.array([[-1.0, 0, 0]]), forward_rig(), 1.0)
    assert backwards[1][0] == pytest.approx([1, 2, 0])
    assert len(clip_to_depth(np.array([[-1.0, 0, 0]]), np.array([[0.5, 0, 0]]), forward_rig(), 1.0)[0]) == 0


def test_segments_are_cut_at_the_image_edge() -> None:
    segments = np.array(
        [
            [-10.5, 5, 109.5, 5],  # through
            [2, 2, 4, 4],  # inside
            [5, -50, 5, -10],  # above, vertical
            [-100, 90, 90, 280],  # past the corner
            [0, 0, 0, 0],  # a point
        ],
        dtype=np.float64,
    )
    kept = clip_to_image(segments, 100, 80)
    assert kept.tolist()[:2] == [[-0.5, 5, 99.5, 5], [2, 2, 4, 4]]
    assert len(kept) == 3


@example([0.0, 0.0, 5e-324, 0.0])
@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_whatever_is_clipped_lies_within(ends: list[float]) -> None:
    kept = clip_to_image(np.array([ends]), 64, 48).reshape(-1, 2)
    assert (kept >= -0.5 - 1e-6).all() and (kept <= np.array([63.5, 47.5]) + 1e-6).all()
