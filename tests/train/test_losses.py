"""UniDistill's losses: by hand, against a second implementation, and by property.

The second implementation, here and in ``tests/second_opinion.py``, is NumPy with plain loops; it shares no code and no
formula trick with udx.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.second_opinion import np_mask, np_points, np_sample
from udx.geometry import BevGrid
from udx.geometry.boxes import box_corners
from udx.models.taps import HeadMaps
from udx.train.losses import (
    box_features,
    crucial_points,
    feature_loss,
    gaussian_mask,
    relation_loss,
    response_loss,
    sample_points,
)

# Wider than high and off-centre: whoever swaps x and y, or forgets the origin, reads other cells.
GRID = BevGrid(-4.0, 12.0, 2.0, 8.0, 1.0)
PAPER_GRID = BevGrid(-54.0, 54.0, -54.0, 54.0, 0.6)
MAP_LOSSES = [feature_loss, relation_loss]


def box(x: float, y: float, length: float = 2.0, width: float = 1.0, yaw: float = 0.0) -> list[float]:
    return [x, y, 0.0, length, width, 1.5, yaw, float("nan"), float("nan")]


def boxes_of(*rows: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).reshape(-1, 9)


def random_maps(channels: int, grid: BevGrid = GRID, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *grid.shape, generator=generator, dtype=torch.float64)


def random_heads(grid: BevGrid = GRID, batch: int = 1, seed: int = 0) -> HeadMaps:
    return HeadMaps(random_maps(3, grid, batch, seed), random_maps(5, grid, batch, seed + 1))


def coordinate_map(grid: BevGrid = GRID) -> torch.Tensor:
    """Two channels that hold x and y of each cell's centre: bilinear sampling between centres returns the point."""
    height, width = grid.shape
    x = grid.x_min + (torch.arange(width, dtype=torch.float64) + 0.5) * grid.cell
    y = grid.y_min + (torch.arange(height, dtype=torch.float64) + 0.5) * grid.cell
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


# ---------------------------------------------------------------------------------------------------------------------
# The second implementation.


def np_feature(student: np.ndarray, teacher: np.ndarray, boxes: list[np.ndarray], grid: BevGrid) -> float:
    total, count = 0.0, 0
    for sample, rows in enumerate(boxes):
        for row in rows:
            errors = [
                np.abs(np_sample(student[sample], *point, grid) - np_sample(teacher[sample], *point, grid)).mean()
                for point in np_points(row)
            ]
            total, count = total + sum(errors) / 9, count + 1
    return total / (count + 1e-4)


def np_relation(student: np.ndarray, teacher: np.ndarray, boxes: list[np.ndarray], grid: BevGrid) -> float:
    def cosines(map_CHW: np.ndarray, row: np.ndarray) -> np.ndarray:
        features = [np_sample(map_CHW, *point, grid) for point in np_points(row)]
        unit = [feature / (np.sqrt((feature**2).sum()) + 1e-4) for feature in features]
        return np.array([[float((a * b).sum()) for b in unit] for a in unit])

    total, count = 0.0, 0
    for sample, rows in enumerate(boxes):
        for row in rows:
            total += np.abs(cosines(student[sample], row) - cosines(teacher[sample], row)).sum() / 81
            count += 1
    return total / (count + 1e-4)


def np_response(
    student: HeadMaps, teacher: HeadMaps, boxes: list[np.ndarray], grid: BevGrid, temperature: float
) -> float:
    mask = np_mask(boxes, grid)

    def confidence(logits: torch.Tensor, temperature: float) -> np.ndarray:
        return np.clip(1 / (1 + np.exp(-logits.numpy() / temperature)), 1e-4, 1 - 1e-4).max(axis=1)

    classes = np.abs(confidence(student.heatmap_BKHW, 1.0) - confidence(teacher.heatmap_BKHW, temperature))
    regression = np.abs(student.regression_BRHW.numpy() - teacher.regression_BRHW.numpy()).mean(axis=1)
    weight = mask.sum() + 1e-4
    return float((mask * classes).sum() / weight + (mask * regression).sum() / weight)


# ---------------------------------------------------------------------------------------------------------------------
# Crucial points.


def test_crucial_points_by_hand() -> None:
    points = crucial_points(boxes_of(box(10, 20, length=4, width=2)))[0]
    corners = [(12, 21), (8, 21), (8, 19), (12, 19)]
    edges = [(10, 21), (8, 20), (10, 19), (12, 20)]
    torch.testing.assert_close(points, torch.tensor([*corners, *edges, (10, 20)], dtype=torch.float64))


def test_positive_yaw_turns_left() -> None:
    """Heading +y after a quarter turn: the front-left corner is at −x, +y. The other sign would put it at +x, −y."""
    points = crucial_points(boxes_of(box(0, 0, length=4, width=2, yaw=np.pi / 2)))[0]
    torch.testing.assert_close(points[0], torch.tensor([-1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(points[7], torch.tensor([0.0, 2.0], dtype=torch.float64))  # middle of the front edge


def test_length_lies_along_the_heading() -> None:
    span = crucial_points(boxes_of(box(0, 0, length=10, width=2)))[0]
    assert span[:, 0].max() - span[:, 0].min() == 10
    assert span[:, 1].max() - span[:, 1].min() == 2


def test_corners_are_those_of_the_box_geometry() -> None:
    rows = np.array([box(3, -2, 4.5, 1.9, 0.7), box(-20, 8, 12, 3, -2.5)])
    points = crucial_points(torch.from_numpy(rows))
    np.testing.assert_allclose(points[:, :4].numpy(), box_corners(rows)[:, :4, :2], atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Sampling.


def test_sampling_at_a_cell_centre_gives_that_cell() -> None:
    maps = random_maps(3)
    height, width = GRID.shape
    centres = coordinate_map()[0].flatten(1).T[None]
    sampled = sample_points(maps, centres, GRID)
    torch.testing.assert_close(sampled.transpose(1, 2).view(1, 3, height, width), maps, rtol=0, atol=1e-12)


def test_sampling_between_centres_is_linear_in_x_and_y() -> None:
    points = torch.tensor([[[-3.5, 2.5], [0.3, 4.1], [11.5, 7.5], [7.77, 2.51]]], dtype=torch.float64)
    torch.testing.assert_close(sample_points(coordinate_map(), points, GRID), points)


def test_sampling_fades_to_zero_beyond_the_map() -> None:
    ones = torch.ones(1, 1, *GRID.shape, dtype=torch.float64)
    x = torch.tensor([-3.5, -4.0, -4.25, -4.5, -1e9, 12.0, 1e9], dtype=torch.float64)
    sampled = sample_points(ones, torch.stack([x, torch.full_like(x, 5.0)], -1)[None], GRID)
    torch.testing.assert_close(sampled[0, :, 0], torch.tensor([1, 0.5, 0.25, 0, 0, 0.5, 0], dtype=torch.float64))


def test_sampling_agrees_with_grid_sample() -> None:
    maps = random_maps(4, batch=2)
    points = torch.rand(2, 50, 2, dtype=torch.float64) * torch.tensor([20.0, 10.0]) + torch.tensor([-6.0, 0.0])
    u = 2 * (points[..., 0] - GRID.x_min) / (GRID.x_max - GRID.x_min) - 1
    v = 2 * (points[..., 1] - GRID.y_min) / (GRID.y_max - GRID.y_min) - 1
    want = torch.nn.functional.grid_sample(maps, torch.stack([u, v], -1)[:, None], align_corners=False)[:, :, 0]
    torch.testing.assert_close(sample_points(maps, points, GRID), want.transpose(1, 2))


def test_half_precision_maps_are_sampled_at_full_precision_places() -> None:
    """Half-precision coordinates would miss by a tenth of a metre out here."""
    x = torch.arange(180, dtype=torch.float16).expand(1, 1, 180, 180).contiguous()
    points = torch.tensor([[[53.6, 53.4], [-53.57, -53.4]]])
    sampled = sample_points(x, points, PAPER_GRID)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled[0, :, 0], (points[0, :, 0] + 54) / 0.6 - 0.5, rtol=0, atol=1e-4)


def test_a_map_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 6\) cells is not on a grid of \(6, 16\)"):
        sample_points(torch.zeros(1, 1, 16, 6), torch.zeros(1, 1, 2), GRID)


def test_box_features_come_sample_after_sample() -> None:
    maps = torch.arange(3.0)[:, None, None, None].expand(3, 1, *GRID.shape)
    rows = boxes_of(box(3, 5), box(5, 5), dtype=torch.float32)
    features = box_features(maps, [rows[:1], rows[:0], rows], GRID)
    assert features.shape == (3, 9, 1)
    assert features[:, 8, 0].tolist() == [0.0, 2.0, 2.0]


# ---------------------------------------------------------------------------------------------------------------------
# Values by hand.


def test_feature_loss_by_hand() -> None:
    """Student 0; teacher: channel 0 holds x, channel 1 holds 0. Points of the box at x 2, 3, 4, three each: mean 3.

    Over two channels 1.5; one more box 2 m further right: mean 2.5; summed 4 over 2 boxes.
    """
    teacher = coordinate_map()
    teacher[:, 1] = 0
    boxes = [boxes_of(box(3, 5), box(5, 5))]
    loss = feature_loss(torch.zeros_like(teacher), teacher, boxes, GRID)
    assert loss.item() == pytest.approx((1.5 + 2.5) / (2 + 1e-4))


@pytest.mark.parametrize(("x", "y", "want"), [(5.0, 3.5, 5.0), (3.0, 6.5, 3.0), (7.5, 3.5, 7.5)])
def test_feature_loss_reads_x_from_columns(x: float, y: float, want: float) -> None:
    """The map depends on the column alone; with x and y swapped the loss would be about y."""
    teacher = coordinate_map()[:, :1]
    loss = feature_loss(torch.zeros_like(teacher), teacher, [boxes_of(box(x, y, 0.5, 0.5))], GRID)
    assert loss.item() == pytest.approx(want / (1 + 1e-4))


def test_feature_loss_sees_the_sign_of_yaw() -> None:
    """Teacher's map is 1 in one cell, at the front-left corner of a box turned left by 30°."""
    at = boxes_of(box(4.0, 5.0, length=6.0, width=1.0, yaw=np.pi / 6))
    corner = crucial_points(at)[0, 0]
    teacher = torch.zeros(1, 1, *GRID.shape, dtype=torch.float64)
    teacher[0, 0, int(corner[1] - GRID.y_min), int(corner[0] - GRID.x_min)] = 1
    turned = boxes_of(box(4.0, 5.0, length=6.0, width=1.0, yaw=-np.pi / 6))
    assert feature_loss(torch.zeros_like(teacher), teacher, [at], GRID) > 0.02
    assert feature_loss(torch.zeros_like(teacher), teacher, [turned], GRID) == 0


def test_feature_loss_tells_length_from_width() -> None:
    teacher = (coordinate_map()[:, :1] - 4).abs()  # distance from x = 4
    long = feature_loss(torch.zeros_like(teacher), teacher, [boxes_of(box(4, 5, length=4, width=2))], GRID)
    wide = feature_loss(torch.zeros_like(teacher), teacher, [boxes_of(box(4, 5, length=2, width=4))], GRID)
    # Six of nine points lie half the length away; at x = 4 stand cells 0.5 away on either side.
    assert long.item() == pytest.approx((6 * 2 + 3 * 0.5) / 9, rel=1e-3)
    assert wide.item() == pytest.approx((6 * 1 + 3 * 0.5) / 9, rel=1e-3)


def test_relation_loss_by_hand() -> None:
    """Student: all points alike, cosines 1. Teacher: points left of the centre line are orthogonal to the others.

    The line runs through cell centres at x = 4.5, so the three points there belong to the right: 3 left, 6 right;
    of 81 cosines 2 · 3 · 6 = 36 are 0 in the teacher.
    """
    x = coordinate_map()[0, 0]
    teacher = torch.stack([(x < 4).double(), (x > 4).double()])[None]
    student = torch.ones_like(teacher)
    loss = relation_loss(student, teacher, [boxes_of(box(4.5, 5, length=2))], GRID)
    assert loss.item() == pytest.approx(36 / 81, rel=1e-3)


def test_relation_loss_ignores_the_scale_of_features() -> None:
    maps = random_maps(8)
    assert relation_loss(7 * maps, maps, [boxes_of(box(4, 5))], GRID) < 1e-3
    assert feature_loss(7 * maps, maps, [boxes_of(box(4, 5))], GRID) > 1


def test_response_loss_by_hand() -> None:
    """One pedestrian, so one cell: class-max 0.5 against σ(2); regression differs by 3 in one of two channels."""
    student = HeadMaps(torch.zeros(1, 2, *GRID.shape), torch.zeros(1, 2, *GRID.shape))
    teacher = HeadMaps(torch.zeros(1, 2, *GRID.shape), torch.zeros(1, 2, *GRID.shape))
    teacher.heatmap_BKHW[0, 1, 3, 8] = 2.0
    teacher.heatmap_BKHW[0, 0, 3, 8] = -9.0
    teacher.regression_BRHW[0, 0, 3, 8] = -3.0
    boxes = [boxes_of(box(4.2, 5.7, 0.7, 0.7), dtype=torch.float32)]
    classes = 1 / (1 + np.exp(-2)) - 0.5
    assert response_loss(student, teacher, boxes, GRID).item() == pytest.approx((classes + 1.5) / (1 + 1e-4))
    classes = 1 / (1 + np.exp(-1)) - 0.5
    warm = response_loss(student, teacher, boxes, GRID, teacher_temperature=2.0)
    assert warm.item() == pytest.approx((classes + 1.5) / (1 + 1e-4))


def test_confidences_are_clamped() -> None:
    maps = torch.full((1, 1, *GRID.shape), 100.0, dtype=torch.float64)
    flat = torch.zeros(1, 1, *GRID.shape, dtype=torch.float64)
    loss = response_loss(HeadMaps(maps, flat), HeadMaps(-maps, flat), [boxes_of(box(4.5, 5.5, 0.5, 0.5))], GRID)
    assert loss.item() == pytest.approx((1 - 2e-4) / (1 + 1e-4))


# ---------------------------------------------------------------------------------------------------------------------
# The Gaussian mask.


@pytest.mark.parametrize(
    ("length", "width", "radius"),
    [
        *((4.6, 1.95, 1), (6.9, 2.5, 1), (6.4, 2.85, 1), (11.0, 2.9, 2), (12.3, 2.9, 2)),
        *((0.73, 0.67, 0), (2.1, 0.77, 0), (1.7, 0.6, 0), (0.41, 0.41, 0), (0.5, 2.5, 0)),
    ],
)
def test_radius_of_typical_sizes_on_the_papers_grid(length: float, width: float, radius: int) -> None:
    """Car, truck, construction vehicle 1; bus, trailer 2; pedestrian, motorcycle, bicycle, cone, barrier 0."""
    mask = gaussian_mask([boxes_of(box(0.1, 0.1, length, width))], PAPER_GRID)[0, 0]
    assert (mask > 0).sum() == (2 * radius + 1) ** 2
    assert mask[90, 90] == 1


def test_mask_of_a_car_by_hand() -> None:
    mask = gaussian_mask([boxes_of(box(30.1, -20.0, 4.6, 1.95, yaw=1.0))], PAPER_GRID)[0, 0]
    row, column = int((-20.0 + 54) / 0.6), int((30.1 + 54) / 0.6)
    edge, corner = np.exp(-2), np.exp(-4)  # σ = 0.5 cells
    want = torch.tensor([[corner, edge, corner], [edge, 1, edge], [corner, edge, corner]], dtype=torch.float32)
    torch.testing.assert_close(mask[row - 1 : row + 2, column - 1 : column + 2], want)
    assert mask.sum().item() == pytest.approx(want.sum().item())


def test_mask_keeps_the_higher_of_two_gaussians() -> None:
    car = box(0.1, 0.1, 4.6, 1.95)
    beside = box(0.7, 0.1, 4.6, 1.95)
    mask = gaussian_mask([boxes_of(car, beside)], PAPER_GRID)[0, 0]
    assert mask[90, 90] == 1 and mask[90, 91] == 1
    assert mask.max() == 1


def test_mask_is_cut_at_the_border_and_never_wraps() -> None:
    corner = boxes_of(box(-53.9, 53.9, 4.6, 1.95))
    mask = gaussian_mask([corner], PAPER_GRID)[0, 0]
    assert mask[179, 0] == 1
    assert (mask > 0).sum() == 4
    outside = boxes_of(box(-54.1, 0.0, 4.6, 1.95), box(0.0, 54.0, 4.6, 1.95), box(1e6, -1e6))
    assert gaussian_mask([outside], PAPER_GRID).sum() == 0


# ---------------------------------------------------------------------------------------------------------------------
# Against the second implementation.

box_rows = st.builds(
    box,
    st.floats(-7, 15),
    st.floats(-1, 11),
    st.floats(0.1, 9),
    st.floats(0.1, 4),
    st.floats(-7, 7),
)
batches = st.lists(st.lists(box_rows, max_size=3), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(rows=batches, seed=st.integers(0, 2**16))
def test_map_losses_agree_with_numpy(rows: list[list[list[float]]], seed: int) -> None:
    boxes = [boxes_of(*its) for its in rows]
    arrays = [its.numpy() for its in boxes]
    student, teacher = random_maps(4, batch=len(boxes), seed=seed), random_maps(4, batch=len(boxes), seed=seed + 1)
    for loss, reference in ((feature_loss, np_feature), (relation_loss, np_relation)):
        want = reference(student.numpy(), teacher.numpy(), arrays, GRID)
        assert loss(student, teacher, boxes, GRID).item() == pytest.approx(want, abs=1e-9), loss.__name__


@settings(max_examples=40, deadline=None)
@given(rows=batches, seed=st.integers(0, 2**16), temperature=st.sampled_from([1.0, 2.0]))
def test_response_loss_agrees_with_numpy(rows: list[list[list[float]]], seed: int, temperature: float) -> None:
    grid = BevGrid(-4.0, 12.0, 2.0, 8.0, 0.5)
    boxes = [boxes_of(*its) for its in rows]
    arrays = [its.numpy() for its in boxes]
    student, teacher = random_heads(grid, len(boxes), seed), random_heads(grid, len(boxes), seed + 7)
    np.testing.assert_allclose(gaussian_mask(boxes, grid)[:, 0].numpy(), np_mask(arrays, grid), atol=1e-6)
    want = np_response(student, teacher, arrays, grid, temperature)
    assert response_loss(student, teacher, boxes, grid, temperature).item() == pytest.approx(want, rel=1e-5, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Properties.


@settings(max_examples=25, deadline=None)
@given(rows=batches, seed=st.integers(0, 2**16))
def test_identical_maps_cost_nothing(rows: list[list[list[float]]], seed: int) -> None:
    boxes = [boxes_of(*its) for its in rows]
    maps, heads = random_maps(4, batch=len(boxes), seed=seed), random_heads(batch=len(boxes), seed=seed)
    assert feature_loss(maps, maps, boxes, GRID) == 0
    assert relation_loss(maps, maps, boxes, GRID) == 0
    assert response_loss(heads, heads, boxes, GRID) == 0


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(box_rows, min_size=1, max_size=5), data=st.data())
def test_order_of_boxes_does_not_matter(rows: list[list[float]], data: st.DataObject) -> None:
    boxes = [boxes_of(*rows)]
    shuffled = [boxes_of(*data.draw(st.permutations(rows)))]
    for loss in MAP_LOSSES:
        maps = random_maps(4), random_maps(4, seed=1)
        torch.testing.assert_close(loss(*maps, boxes, GRID), loss(*maps, shuffled, GRID))
    heads = random_heads(), random_heads(seed=5)
    torch.testing.assert_close(response_loss(*heads, boxes, GRID), response_loss(*heads, shuffled, GRID))


def test_values_far_from_any_box_do_not_matter() -> None:
    boxes = [boxes_of(box(0, 4, yaw=0.4), box(1.5, 5))]
    far = torch.zeros(1, 1, *GRID.shape, dtype=torch.float64)
    far[..., 8:] = 1e3  # x ≥ 4
    maps, heads = (random_maps(4), random_maps(4, seed=1)), (random_heads(), random_heads(seed=5))
    for loss in MAP_LOSSES:
        torch.testing.assert_close(loss(maps[0] + far, maps[1] - far, boxes, GRID), loss(*maps, boxes, GRID))
    moved = [
        HeadMaps(head.heatmap_BKHW + far, head.regression_BRHW * (1 + far) + sign * far)
        for head, sign in zip(heads, (1, -1), strict=True)
    ]
    torch.testing.assert_close(response_loss(*moved, boxes, GRID), response_loss(*heads, boxes, GRID))


def test_the_world_does_not_move_with_the_grids_origin() -> None:
    """The same ground in a larger grid, its origin three cells left and two down; the same values in their places."""
    larger = BevGrid(-7.0, 12.0, 0.0, 8.0, 1.0)
    boxes = [boxes_of(box(2, 5, yaw=0.3), box(7, 4.6, 3, 1, -1.0))]
    pad = (3, 0, 2, 0)
    maps, heads = (random_maps(4), random_maps(4, seed=1)), (random_heads(), random_heads(seed=5))
    padded = [torch.nn.functional.pad(each, pad, value=9.0) for each in maps]
    for loss in MAP_LOSSES:
        torch.testing.assert_close(loss(*padded, boxes, larger), loss(*maps, boxes, GRID))
    padded_heads = [
        HeadMaps(*(torch.nn.functional.pad(each, pad, value=9.0) for each in (head.heatmap_BKHW, head.regression_BRHW)))
        for head in heads
    ]
    torch.testing.assert_close(response_loss(*padded_heads, boxes, larger), response_loss(*heads, boxes, GRID))


def test_turning_the_world_turns_the_points() -> None:
    """A quarter turn of boxes and maps together (x, y → −y, x) changes nothing; a yaw of the wrong sign would."""
    grid = BevGrid(-6.0, 6.0, -4.0, 4.0, 1.0)
    turned_grid = BevGrid(-4.0, 4.0, -6.0, 6.0, 1.0)
    rows = [box(1.0, 0.5, 3, 1, 0.4), box(-2, -1, 2, 1, -0.9)]
    turned = [box(-y, x, length, width, yaw + np.pi / 2) for x, y, _, length, width, _, yaw, *_ in rows]
    maps = random_maps(4, grid), random_maps(4, grid, seed=1)
    # Row = y, column = x: the new value at (x', y') is the old one at (y', −x').
    turned_maps = [each.transpose(-1, -2).flip(-1) for each in maps]
    for loss in MAP_LOSSES:
        torch.testing.assert_close(
            loss(*turned_maps, [boxes_of(*turned)], turned_grid), loss(*maps, [boxes_of(*rows)], grid)
        )


def test_maps_of_different_resolution_are_compared_in_metres() -> None:
    """x itself as the feature, once in cells of 1 m, once of 0.5 m: the same away from the border."""
    fine = BevGrid(-4.0, 12.0, 2.0, 8.0, 0.5)
    boxes = [boxes_of(box(3, 5, yaw=0.7))]
    loss = feature_loss(coordinate_map(), coordinate_map(fine), boxes, GRID, teacher_grid=fine)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    loss = relation_loss(coordinate_map(), coordinate_map(fine), boxes, GRID, teacher_grid=fine)
    assert loss.item() == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients, edge cases, precision.

EDGE_BOXES = [boxes_of(box(2, 5, yaw=0.3), box(-4, 2, 4, 2, 1.0)), boxes_of(box(12, 8, 3, 2, -0.4))]


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_map_gradients(loss) -> None:
    teacher = random_maps(3, batch=2, seed=1)
    student = random_maps(3, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: loss(maps, teacher, EDGE_BOXES, GRID), student, atol=1e-5)


def test_response_gradients() -> None:
    teacher = random_heads(batch=2, seed=3)
    student = random_heads(batch=2)
    maps = student.heatmap_BKHW.requires_grad_(), student.regression_BRHW.requires_grad_()
    assert torch.autograd.gradcheck(lambda *each: response_loss(HeadMaps(*each), teacher, EDGE_BOXES, GRID), maps)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = random_maps(3, batch=2).requires_grad_(), random_maps(3, batch=2, seed=1).requires_grad_()
    heads = [HeadMaps(random_maps(3, batch=2, seed=s).requires_grad_(), student) for s in (2, 3)]
    total = sum(loss(student, teacher, EDGE_BOXES, GRID) for loss in MAP_LOSSES)
    (total + response_loss(heads[0], HeadMaps(teacher, teacher), EDGE_BOXES, GRID)).backward()
    assert student.grad is not None and heads[0].heatmap_BKHW.grad is not None
    assert teacher.grad is None


def test_gradient_reaches_only_cells_near_boxes() -> None:
    student = random_maps(3).requires_grad_()
    feature_loss(student, random_maps(3, seed=1), [boxes_of(box(0, 4))], GRID).backward()
    touched = student.grad.abs().sum(dim=(0, 1)) > 0
    assert touched[1, 3] and touched.sum() <= 12


@pytest.mark.parametrize("empty", [[0], [0, 0, 0], [0, 1, 0]])
def test_batches_with_few_or_no_boxes(empty: list[int]) -> None:
    boxes = [boxes_of(*[box(4, 5)] * count) for count in empty]
    student = random_maps(3, batch=len(boxes)).requires_grad_()
    teacher = random_maps(3, batch=len(boxes), seed=1)
    heads = HeadMaps(student, student), HeadMaps(teacher, teacher)
    losses = [loss(student, teacher, boxes, GRID) for loss in MAP_LOSSES] + [response_loss(*heads, boxes, GRID)]
    sum(losses).backward()
    assert student.grad.isfinite().all()
    if not any(empty):
        assert [loss.item() for loss in losses] == [0, 0, 0]
        assert (student.grad == 0).all()
    else:
        assert all(loss > 0 for loss in losses)
        assert (student.grad[[0, 2]] == 0).all()


def test_a_box_half_outside_reads_zero_there() -> None:
    """x = −4 is the left border; of the points at x −6, −4, −2 the first read 0, the second half a cell, the last 1."""
    ones = torch.ones(1, 1, *GRID.shape, dtype=torch.float64)
    loss = feature_loss(torch.zeros_like(ones), ones, [boxes_of(box(-4, 5, 4, 2))], GRID)
    assert loss.item() == pytest.approx((0 + 3 * 0.5 + 3 * 1) / 9, rel=1e-3)


def test_features_of_zero_have_a_finite_relation() -> None:
    student = torch.zeros(1, 3, *GRID.shape).requires_grad_()
    loss = relation_loss(student, random_maps(3).float(), [boxes_of(box(4, 5))], GRID)
    loss.backward()
    assert 0 < loss < 1
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_only_the_rounding_of_the_maps(dtype: torch.dtype) -> None:
    """Half-precision maps under autocast against the same rounded values in float32 without."""
    student, teacher = random_maps(64).to(dtype), random_maps(64, seed=1).to(dtype)
    boxes = [boxes_of(box(4, 5, yaw=0.3), box(0, 4), dtype=torch.float32)]
    plain = [loss(student.float(), teacher.float(), boxes, GRID) for loss in MAP_LOSSES]
    plain.append(response_loss(HeadMaps(student.float(), student.float()), HeadMaps(teacher, teacher), boxes, GRID))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = [loss(student, teacher, boxes, GRID) for loss in MAP_LOSSES]
        mixed.append(response_loss(HeadMaps(student, student), HeadMaps(teacher, teacher), boxes, GRID))
    for a, b in zip(mixed, plain, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from udx.geometry import BevGrid
from udx.models.taps import HeadMaps
from udx.train.losses import feature_loss, relation_loss, response_loss
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
grid = BevGrid(-4.0, 12.0, 2.0, 8.0, 1.0)
maps = torch.randn(2, 2, 3, 6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
row = [4.0, 5.0, 0.0, 2.0, 1.0, 1.5, 0.3, 0.0, 0.0]
boxes = [torch.tensor([row] * 3, dtype=torch.float64), torch.tensor([row], dtype=torch.float64)]
def losses(sample):
    (student, teacher), its = maps[:, sample], boxes[sample]
    heads = HeadMaps(student, student), HeadMaps(teacher, teacher)
    both = feature_loss(student, teacher, its, grid) + relation_loss(student, teacher, its, grid)
    return both + response_loss(*heads, its, grid)
mean = losses(slice(rank, rank + 1)).clone()
dist.all_reduce(mean)
dist.destroy_process_group()
torch.testing.assert_close(mean / 2, losses(slice(0, 2)), rtol=1e-4, atol=0)
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_of_the_whole_batch(tmp_path: Path) -> None:
    """Three boxes on one process, one on the other: each box counts the same, as in a single process."""
    command = [sys.executable, "-c", TWO_PROCESSES]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], env=environment, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()
