"""The inner geometry of objects: by hand, against NumPy."""

import numpy as np
import pytest
import torch

from tests.comparing import BOXES, GRID, compare, coordinate_map, declare, objects_of, taps_of, with_maps
from tests.second_opinion import np_sample
from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.train.objectives import Pair
from udx.train.objectives.inner_geometry import InnerGeometry


def test_the_lattice_lies_in_the_box() -> None:
    """x and y as features: 2 × 2 points, a quarter of length and width from the edges, turned left by 90°."""
    both = Pair(student=declare(2, 2), teacher=declare(2, 2))
    box = [torch.tensor([[1.0, -1.0, 0, 4, 2, 1, np.pi / 2, 0, 0]])]
    teacher = with_maps(taps_of(both.teacher, batch=1), high=coordinate_map(GRID))
    (lesson,) = InnerGeometry(weight=1.0, side=2).build(both).read(teacher, objects_of(box))
    points = {(round(x, 4), round(y, 4)) for x, y in lesson["points"][0].tolist()}
    assert points == {(0.5, -2.0), (0.5, 0.0), (1.5, -2.0), (1.5, 0.0)}


def test_by_hand() -> None:
    """The student's two channels are alike everywhere. The teacher's are each other's opposite in sign.

    Between channels two of four cosines are off by 2, so 1; all points resemble each other in both, so 0.
    """
    both = Pair(student=declare(2, 2), teacher=declare(2, 2))
    student = with_maps(taps_of(both.student, batch=1), high=torch.ones(1, 2, *GRID.shape))
    teacher = with_maps(student, high=student.high_BCHW * torch.tensor([1.0, -1.0])[:, None, None])
    box = [torch.tensor([[1.0, -1.0, 0, 2, 2, 1, 0, 0, 0]])]
    objective = InnerGeometry(weight=1.0).build(both)
    assert compare(objective, student, teacher, box).item() == pytest.approx(1, rel=1e-3)
    # The teacher tells front from rear (x above 1), the student does not: half of the points' cosines are off by 2;
    # and so for each of the channels, whose cosines with one another stay 1.
    front = torch.where(coordinate_map(GRID)[:, :1] > 1, 1.0, -1.0).expand(-1, 2, -1, -1)
    loss = compare(objective, student, with_maps(student, high=front.contiguous()), box)
    assert loss.item() == pytest.approx(1, rel=1e-3)
    # Turned by 90° the same box has its front elsewhere, but its points are the same.
    aside = [torch.tensor([[1.0, -1.0, 0, 2, 2, 1, np.pi / 2, 0, 0]])]
    torch.testing.assert_close(compare(objective, student, with_maps(student, high=front.contiguous()), aside), loss)


def np_similarities(features_PC: np.ndarray) -> np.ndarray:
    unit = [row / (np.linalg.norm(row) + 1e-4) for row in features_PC]
    return np.array([[one @ other for other in unit] for one in unit])


@pytest.mark.parametrize("side", [2, 3])
def test_agrees_with_numpy(side: int) -> None:
    fine = BevGrid(-8.0, 8.0, -4.0, 4.0, 0.25)
    both = Pair(student=declare(high=5), teacher=declare(high=5, grid=fine))
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    boxes = [*BOXES[:1], torch.tensor([[3.0, 1.0, 0, 4, 2, 1, -0.7, 0, 0]])]
    losses = []
    steps = (np.arange(side) + 0.5) / side - 0.5
    for sample, rows in enumerate(boxes):
        for x, y, _, length, width, _, yaw, *_ in rows.double().numpy():
            heading, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
            points = [np.array([x, y]) + a * length * heading + b * width * left for a in steps for b in steps]
            maps = [
                np.array([np_sample(taps.high_BCHW[sample].double().numpy(), *point, grid) for point in points])
                for taps, grid in ((student, GRID), (teacher, fine))
            ]
            of_points = np.abs(np_similarities(maps[0]) - np_similarities(maps[1])).mean()
            of_channels = np.abs(np_similarities(maps[0].T) - np_similarities(maps[1].T)).mean()
            losses.append(of_points + of_channels)
    want = sum(losses) / (len(losses) + 1e-4)
    loss = compare(InnerGeometry(weight=1.0, side=side).build(both), student, teacher, boxes)
    assert loss.item() == pytest.approx(want, rel=1e-4)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(UdxError, match="8 channels and the teacher's 5"):
        InnerGeometry(weight=1.0).build(Pair(student=declare(), teacher=declare(high=5), adapter="never"))
    with pytest.raises(ValueError, match="must be at least 2 "):
        InnerGeometry(weight=1.0, side=1)
