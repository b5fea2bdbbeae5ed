"""Masks: by hand, against a second implementation, and by property."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.second_opinion import np_cells_of_box, np_mask
from tests.tiny import ring_of_cameras
from udx.geometry import BevGrid, CameraRig, Frustum
from udx.models.targets import make_targets
from udx.train import masks
from udx.train.objects import Objects

# Wider than high and off-centre: whoever swaps x and y, or forgets the origin, marks other cells.
GRID = BevGrid(-4.0, 12.0, 2.0, 8.0, 1.0)
FRUSTUM = Frustum(image_height_px=32, image_width_px=64, stride_px=8, depth_min_m=1.0, depth_step_m=1.0, depth_bins=4)


def box(x: float, y: float, length: float = 2.0, width: float = 1.0, yaw: float = 0.0, **up: float) -> list[float]:
    return [x, y, up.get("z", 0.0), length, width, up.get("height", 1.5), yaw, float("nan"), float("nan")]


def objects_of(*samples: list[list[float]], projections: torch.Tensor | None = None) -> Objects:
    boxes = [torch.tensor(rows, dtype=torch.float64).reshape(-1, 9) for rows in samples]
    labels = [torch.arange(len(its)) % 10 for its in boxes]
    return Objects(boxes, labels, None if projections is None else projections.expand(len(boxes), -1, -1, -1))


def drawn(mask: torch.Tensor) -> list[str]:
    """The one map of a mask as text, the top row first being the one at ``y_min``."""
    (cells_HW,) = mask[:, 0]
    return ["".join("#" if cell else "." for cell in row) for row in cells_HW]


# ---------------------------------------------------------------------------------------------------------------------
# Box interiors.


def test_the_interior_of_a_box_along_x() -> None:
    """x 1 … 5, y 4 … 6: columns 5 to 8, rows 2 and 3."""
    assert drawn(masks.interior(objects_of([box(3, 5, length=4, width=2)]), GRID)) == [
        "................",
        "................",
        ".....####.......",
        ".....####.......",
        "................",
        "................",
    ]


def test_the_interior_of_a_box_turned_left() -> None:
    """45° to the left, so it rises with x; the other sign of yaw would make it fall."""
    assert drawn(masks.interior(objects_of([box(3.5, 4.5, length=6, width=0.5, yaw=np.pi / 4)]), GRID)) == [
        ".....#..........",
        "......#.........",
        ".......#........",
        "........#.......",
        ".........#......",
        "................",
    ]


def test_a_box_smaller_than_a_cell_has_its_own_cell() -> None:
    mask = masks.interior(objects_of([box(3.1, 4.9, 0.4, 0.4)]), GRID)
    assert mask.sum() == 1 and mask[0, 0, 2, 7] == 1


def test_only_what_lies_on_the_grid_is_marked() -> None:
    half_outside = masks.interior(objects_of([box(-4, 8, length=4, width=4)]), GRID)
    assert half_outside[0, 0, 4:, :2].sum() == 4 == half_outside.sum()
    assert masks.interior(objects_of([box(-9, 5), box(3, 90)]), GRID).sum() == 0


box_rows = st.builds(box, st.floats(-7, 15), st.floats(-1, 11), st.floats(0.1, 9), st.floats(0.1, 4), st.floats(-7, 7))


@settings(max_examples=40)
@given(rows=st.lists(box_rows, max_size=3))
def test_interior_and_sizes_agree_with_numpy(rows: list[list[float]]) -> None:
    objects = objects_of(rows, [])
    cells = masks.cells_of_boxes(objects.boxes[0], GRID).numpy()
    for row, found in zip(rows, cells, strict=True):
        # Centres on the very edge fall on either side of it, as they round.
        least, most = (np_cells_of_box(np.array(row), GRID, slack_m) for slack_m in (-1e-9, 1e-9))
        assert (least <= found).all() and (found <= most).all()
    interior = masks.interior(objects, GRID)
    assert (interior[0, 0].numpy() == cells.any(axis=0)).all()
    assert interior[1].sum() == 0
    share = np.zeros(GRID.shape)
    for each in cells:
        share = np.maximum(share, each / max(each.sum(), 1))
    np.testing.assert_allclose(masks.size_normalised(objects, GRID)[0, 0].numpy(), share, rtol=1e-6)


def test_objects_weigh_the_same_and_small_ones_win() -> None:
    large, small = box(3, 5, length=6, width=4), box(3.5, 4.5, 0.5, 0.5)
    apart = masks.size_normalised(objects_of([large, box(10.5, 2.5, 0.5, 0.5)]), GRID)
    assert apart.sum().item() == pytest.approx(2)
    assert apart[0, 0, 0, 14] == 1 and apart[0, 0, 2, 7].item() == pytest.approx(1 / 24)
    over = masks.size_normalised(objects_of([large, small]), GRID)
    assert over[0, 0, 2, 7] == 1
    assert over.sum().item() == pytest.approx(1 + 23 / 24)


# ---------------------------------------------------------------------------------------------------------------------
# Gaussians.


def test_heatmap_is_what_the_head_learns_of_any_class() -> None:
    objects = objects_of([box(3.5, 5.5, 4, 2), box(4.5, 5.5, 2, 1)], [])
    mask = masks.heatmap(objects, GRID)
    targets = make_targets(list(objects.boxes), list(objects.labels), GRID)
    assert (mask[:, 0] == targets.heatmap_BKHW.amax(dim=1)).all()
    assert mask[0, 0, 3, 7] == mask[0, 0, 3, 8] == 1
    assert mask[1].sum() == 0
    assert (mask[0] > 0).sum() > (masks.gaussian(objects, GRID)[0] > 0).sum()


@pytest.mark.parametrize("seed", range(4))
def test_heatmap_agrees_with_numpy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [box(*generator.uniform([-6, 0, 0.5, 0.5, -4], [14, 10, 9, 4, 4])) for _ in range(4)]
    want = np_mask([np.array(rows)], GRID, overlap=0.1, least_radius=2)
    np.testing.assert_allclose(masks.heatmap(objects_of(rows), GRID)[:, 0].numpy(), want, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# New masks of old ones.


def test_masks_combine() -> None:
    objects = objects_of([box(3, 5, length=4, width=2)], [])
    both = masks.union(masks.interior, masks.heatmap)(objects, GRID)
    assert (both == torch.maximum(masks.interior(objects, GRID), masks.heatmap(objects, GRID))).all()
    within = masks.product(masks.interior, masks.heatmap)(objects, GRID)
    assert (within == masks.interior(objects, GRID) * masks.heatmap(objects, GRID)).all()
    assert (masks.background(objects, GRID) == 1 - masks.interior(objects, GRID)).all()
    assert (
        masks.complement(masks.complement(masks.heatmap))(objects, GRID) - masks.heatmap(objects, GRID)
    ).abs().max() < 1e-6


def test_equalised_samples_weigh_the_same() -> None:
    objects = objects_of([box(3, 5, length=4, width=2)], [box(0, 5), box(8, 5)], [])
    equal = masks.equalised(masks.interior)(objects, GRID)
    torch.testing.assert_close(equal.sum(dim=(1, 2, 3)), torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(equal[0, 0, 2, 5].item(), 1 / 8)
    behind = masks.equalised(masks.background)(objects, GRID)
    torch.testing.assert_close(behind.sum(dim=(1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize("name", masks.FOREGROUND)
def test_masks_know_no_order_and_stay_with_the_world(name: masks.MaskName) -> None:
    """The same boxes in any order; the same ground in a larger grid, its origin three cells left and two down."""
    rows = [box(2, 5, yaw=0.3), box(7, 4.6, 3, 1, -1.0), box(-4, 2, 3, 2)]
    mask = masks.FOREGROUND[name](objects_of(rows), GRID)
    assert mask.shape == (1, 1, *GRID.shape) and 0 < mask.max() <= 1 and mask.min() == 0
    assert (masks.FOREGROUND[name](objects_of(rows[::-1]), GRID) == mask).all()
    larger = masks.FOREGROUND[name](objects_of(rows[:2]), BevGrid(-7.0, 12.0, 0.0, 8.0, 1.0))
    torch.testing.assert_close(larger[..., 2:, 3:], masks.FOREGROUND[name](objects_of(rows[:2]), GRID))


@pytest.mark.parametrize("name", masks.FOREGROUND)
def test_no_boxes_mark_nothing(name: masks.MaskName) -> None:
    assert masks.FOREGROUND[name](objects_of([], []), GRID).sum() == 0


# ---------------------------------------------------------------------------------------------------------------------
# Images.


def looking_ahead() -> CameraRig:
    """One camera at the origin that looks along x; u grows to the right (−y), v downwards (−z)."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return CameraRig(("ahead",), np.array([[[40.0, 0, 31.5], [0, 40.0, 15.5], [0, 0, 1]]]), pose[None])


def projections(rig: CameraRig) -> torch.Tensor:
    return torch.from_numpy(rig.pixels_T_ego_N34)


def test_a_box_ahead_by_hand() -> None:
    """Front at depth 4, back at 6; y 1 … 2, so u from 31.5 − 40 · 2 / 4 = 11.5 to 31.5 − 40 · 1 / 6 = 24.8;

    z −0.5 … 0.5, so v from 10.5 to 20.5: columns 1 to 3 (pixels from 7.5 to 31.5), rows 1 and 2 (7.5 to 23.5).
    """
    ahead = objects_of([box(5, 1.5, 2, 1, height=1.0)], [], projections=projections(looking_ahead()))
    mask = masks.perspective_foreground(ahead, FRUSTUM)
    assert mask.shape == (2, 1, 4, 8)
    assert drawn(mask[:1]) == ["........", ".###....", ".###....", "........"]
    assert not mask[1].any()


def test_what_a_camera_does_not_see() -> None:
    behind, beside, above = box(-5, 0), box(5, 30), box(5, 0, z=40)
    unseen = objects_of([behind, beside, above], projections=projections(looking_ahead()))
    assert not masks.perspective_foreground(unseen, FRUSTUM).any()


def test_a_box_through_the_cameras_plane_is_cut_there() -> None:
    """It reaches from 10 m behind to 10 m ahead, 1 m to the left: ahead it tends to u = 31.5 − 4, nearby to −∞.

    Its corners behind, taken as they are, would project to the right of the middle.
    """
    through = objects_of([box(0, 1.5, 20, 1, height=1.0)], projections=projections(looking_ahead()))
    mask = masks.perspective_foreground(through, FRUSTUM)
    assert mask[0, 0, :, :4].all() and not mask[0, 0, :, 4:].any()


def np_touched(row: np.ndarray, rig: CameraRig, camera: int, frustum: Frustum, slack_px: float) -> np.ndarray:
    """Cells of the rectangle around a box, grown by a little, from its corners and where its edges are cut."""
    height, width = frustum.feature_shape
    cells = np.zeros((height, width), bool)
    turn = np.array([[np.cos(row[6]), -np.sin(row[6]), 0], [np.sin(row[6]), np.cos(row[6]), 0], [0, 0, 1]])
    signs = [np.array([a, b, c]) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    cam_T_ego = np.linalg.inv(rig.ego_T_cam_N44[camera])
    ends = [cam_T_ego[:3, :3] @ (row[:3] + turn @ (sign * row[3:6] / 2)) + cam_T_ego[:3, 3] for sign in signs]
    points = [point for point in ends if point[2] >= 0.1]
    for a in range(8):
        for b in range(a):
            if np.abs(signs[a] - signs[b]).sum() == 2 and (ends[a][2] >= 0.1) != (ends[b][2] >= 0.1):
                points.append(ends[a] + (ends[b] - ends[a]) * (0.1 - ends[a][2]) / (ends[b][2] - ends[a][2]))
    if points:
        pixels = [(rig.intrinsics_N33[camera] @ point)[:2] / point[2] for point in points]
        low, high = np.min(pixels, axis=0) - slack_px, np.max(pixels, axis=0) + slack_px
        for i in range(height):
            for j in range(width):
                begin = np.array([j, i]) * frustum.stride_px - 0.5
                cells[i, j] = (high >= begin).all() and (low < begin + frustum.stride_px).all()
    return cells


in_space = st.builds(
    lambda x, y, length, width, yaw, z, height: box(x, y, length, width, yaw, z=z, height=height),
    *(st.floats(-12, 12), st.floats(-12, 12), st.floats(0.3, 9), st.floats(0.3, 4), st.floats(-7, 7)),
    *(st.floats(-3, 3), st.floats(0.3, 4)),
)


@settings(max_examples=40)
@given(rows=st.lists(in_space, max_size=3), turn=st.floats(-4, 4))
def test_rectangles_agree_with_numpy(rows: list[list[float]], turn: float) -> None:
    rig = ring_of_cameras(turn)
    mask = masks.perspective_foreground(objects_of(rows, projections=projections(rig)), FRUSTUM)
    for camera in range(len(rig.names)):
        # What ends on the very border of two cells touches either of them, as it rounds.
        least, most = (
            np.any(
                [
                    np.zeros(FRUSTUM.feature_shape),
                    *(np_touched(np.array(row), rig, camera, FRUSTUM, slack_px) for row in rows),
                ],
                axis=0,
            )
            for slack_px in (-1e-6, 1e-6)
        )
        found = mask[0, camera].numpy()
        assert (least <= found).all() and (found <= most).all()


@settings(max_examples=25)
@given(row=in_space, seed=st.integers(0, 999))
def test_every_point_of_a_box_in_sight_is_foreground(row: list[float], seed: int) -> None:
    rig = ring_of_cameras()
    mask = masks.perspective_foreground(objects_of([row], projections=projections(rig)), FRUSTUM)[0].numpy()
    local = np.random.default_rng(seed).uniform(-0.5, 0.5, (200, 3)) * row[3:6]
    cos, sin = np.cos(row[6]), np.sin(row[6])
    points = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + row[:3]
    for camera, (u, v, depth) in enumerate(rig.project(points).transpose(0, 2, 1)):
        seen = (depth > 0.11) & (u >= -0.5) & (u < 63.5) & (v >= -0.5) & (v < 31.5)
        assert mask[camera, ((v[seen] + 0.5) // 8).astype(int), ((u[seen] + 0.5) // 8).astype(int)].all()
