"""Dense feature imitation: by hand, against NumPy, across grids."""

import numpy as np
import pytest
import torch

from tests.comparing import BOXES, GRID, compare, coordinate_map, declare, objects_of, taps_of, with_maps
from tests.second_opinion import np_cells_of_box, np_mask
from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.train.objectives import Pair
from udx.train.objectives.dense_feature import DenseFeature


def test_by_hand() -> None:
    """A box of two cells, x 1 … 2, y 0 … 0.5; the student is off by 3 and by 1 in one of two channels: (9 + 1) / 4."""
    both = Pair(student=declare(2, 2), teacher=declare(2, 2))
    teacher = taps_of(both.teacher, batch=1)
    off = torch.zeros_like(teacher.low_BCHW)
    off[0, 1, 8, 18], off[0, 1, 8, 19] = 3, -1
    off[0, :, 8, 20] = off[0, :, 9, 18] = 99  # beside the box, in x and in y
    student = with_maps(teacher, low=teacher.low_BCHW + off)
    boxes = [torch.tensor([[1.5, 0.25, 0, 1.0, 0.5, 1, 0, 0, 0]])]
    loss = compare(DenseFeature(weight=1.0, at="low", mask="interior").build(both), student, teacher, boxes)
    assert loss.item() == pytest.approx(10 / 4, rel=1e-4)


@pytest.mark.parametrize("at", ["low", "high"])
@pytest.mark.parametrize("mask", ["gaussian", "heatmap", "interior", "size_normalised"])
def test_agrees_with_numpy(at, mask) -> None:
    both = Pair(student=declare(), teacher=declare())
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    arrays = [its.numpy().astype(np.float64) for its in BOXES]
    cells = [[np_cells_of_box(row, GRID).astype(float) for row in rows] for rows in arrays]
    nothing = np.zeros(GRID.shape)
    weight = {
        "gaussian": lambda: np_mask(arrays, GRID),
        "heatmap": lambda: np_mask(arrays, GRID, overlap=0.1, least_radius=2),
        "interior": lambda: np.stack([np.maximum.reduce([*its, nothing]) for its in cells]),
        "size_normalised": lambda: np.stack(
            [np.maximum.reduce([*(each / each.sum() for each in its), nothing]) for its in cells]
        ),
    }[mask]()
    maps = [getattr(taps, f"{at}_BCHW").numpy() for taps in (student, teacher)]
    total = 0.0
    for sample, row, column in np.ndindex(weight.shape):
        difference = maps[0][sample, :, row, column] - maps[1][sample, :, row, column]
        total += weight[sample, row, column] * float(difference @ difference) / len(difference)
    loss = compare(DenseFeature(weight=1.0, at=at, mask=mask).build(both), student, teacher, BOXES)
    assert loss.item() == pytest.approx(total / (weight.sum() + 1e-4), rel=1e-5)


@pytest.mark.parametrize("cell", [0.25, 1.0])
def test_a_teacher_in_other_cells_is_read_in_metres(cell: float) -> None:
    """x and y themselves as features agree wherever cells of both sizes have neighbours to interpolate between."""
    other = BevGrid(-8.0, 8.0, -4.0, 4.0, cell)
    both = Pair(student=declare(2, 2), teacher=declare(2, 2, grid=other))
    student = with_maps(taps_of(both.student, batch=1), high=coordinate_map(GRID))
    teacher = with_maps(taps_of(both.teacher, batch=1), high=coordinate_map(other))
    boxes = [torch.tensor([[3.0, 1.5, 0, 4.0, 2.0, 1, 0.5, 0, 0]])]
    objective = DenseFeature(weight=1.0, mask="interior").build(both)
    assert compare(objective, student, teacher, boxes).item() == pytest.approx(0, abs=1e-9)
    swapped = with_maps(teacher, high=teacher.high_BCHW.flip(1))
    assert compare(objective, student, swapped, boxes) > 1


def test_lessons_hold_the_masked_cells_alone() -> None:
    smaller = declare(grid=BevGrid(-8.0, 0.0, -4.0, 4.0, 0.5))
    both = Pair(student=declare(), teacher=smaller)
    objective = DenseFeature(weight=1.0, mask="interior").build(both)
    within = torch.tensor([[-3.3, -1.2, 0, 4, 2, 1, 0.0, 0, 0]])
    across = torch.tensor([[0.0, 1.0, 0, 2, 1, 1, 0.0, 0, 0]])
    beyond = torch.tensor([[5.0, 1.0, 0, 2, 1, 1, 0.0, 0, 0]])
    lessons = objective.read(taps_of(smaller, batch=3), objects_of([within, across, beyond]))
    assert [tuple(lesson["cells"].shape) for lesson in lessons] == [(32, 8), (4, 8), (0, 8)]


def test_widths_need_an_adapter() -> None:
    both = Pair(student=declare(4, 4), teacher=declare(6, 6), adapter="never")
    with pytest.raises(UdxError, match="set the distillation's adapter to 'auto'"):
        DenseFeature(weight=1.0).build(both)
