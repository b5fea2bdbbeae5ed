"""The contrastive term: by hand, against NumPy; it tells objects apart, and learns to."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.comparing import BOXES, GRID, compare, coordinate_map, declare, objects_of, taps_of, with_maps
from tests.second_opinion import np_points, np_sample
from udx.geometry import BevGrid
from udx.train.objectives import Pair
from udx.train.objectives.contrastive import Contrastive, info_nce

OBJECTS = [BOXES[0], torch.tensor([[4.0, 1.0, 0, 4, 2, 1, -0.7, 0, 0]])]


def test_info_nce_by_hand() -> None:
    """Similarities 1 / 0 for one object, 1 / 1 for the other, temperature 1 / ln 3: shares 3/4 and 1/2."""
    student = torch.tensor([[2.0, 0.0], [5.0, 5.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    loss = info_nce(student, teacher, 1 / np.log(3.0))
    assert loss.item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2, rel=1e-4)


def test_it_knows_one_object_from_another() -> None:
    teacher = torch.eye(4)
    right, mixed_up = info_nce(teacher, teacher, 0.1), info_nce(teacher.roll(1, 0), teacher, 0.1)
    assert right < 1e-3 and mixed_up > 9
    assert info_nce(teacher[:1], teacher[:1], 0.1) == 0, "one object alone has nothing to be told from"
    assert info_nce(teacher[:0], teacher[:0], 0.1) == 0


def np_project(layers: nn.Sequential, values: np.ndarray) -> np.ndarray:
    first, _, second = layers
    hidden = np.maximum(values @ first.weight.detach().double().numpy().T + first.bias.detach().double().numpy(), 0)
    return hidden @ second.weight.detach().double().numpy().T + second.bias.detach().double().numpy()


@pytest.mark.parametrize("pool", ["centre", "mean"])
def test_agrees_with_numpy(pool) -> None:
    both = Pair(student=declare(high=5), teacher=declare(high=8))
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    torch.manual_seed(0)
    objective = Contrastive(weight=1.0, pool=pool, channels=7, temperature=0.2).build(both)
    embedded = []
    for taps, layers in ((student, objective.project_student), (teacher, objective.project_teacher)):
        features = []
        for sample, rows in enumerate(OBJECTS):
            for row in rows.double().numpy():
                read = [np_sample(taps.high_BCHW[sample].double().numpy(), *point, GRID) for point in np_points(row)]
                features.append(read[-1] if pool == "centre" else np.mean(read, axis=0))
        values = np_project(layers, np.array(features))
        embedded.append(values / np.linalg.norm(values, axis=1, keepdims=True))
    similar = np.exp(embedded[0] @ embedded[1].T / 0.2)
    want = -np.log(np.diag(similar) / similar.sum(axis=1)).sum() / (len(similar) + 1e-4)
    assert compare(objective, student, teacher, OBJECTS).item() == pytest.approx(want, rel=1e-4)


def test_lessons_hold_the_teacher_at_the_objects_before_any_projection() -> None:
    """x and y as features: the mean of the crucial points, as that of the centre, is the centre."""
    other = BevGrid(-8.0, 8.0, -4.0, 4.0, 0.25)
    both = Pair(student=declare(high=3), teacher=declare(high=2, grid=other))
    teacher = with_maps(taps_of(both.teacher, batch=2), high=coordinate_map(other).expand(2, -1, -1, -1))
    for pool in ("centre", "mean"):
        lessons = Contrastive(weight=1.0, pool=pool).build(both).read(teacher, objects_of(OBJECTS))
        for lesson, boxes in zip(lessons, OBJECTS, strict=True):
            torch.testing.assert_close(lesson["objects"], boxes[:, :2])


def test_boxes_that_one_map_holds_in_part_are_no_objects() -> None:
    both = Pair(student=declare(), teacher=declare(grid=BevGrid(-4.0, 4.0, -4.0, 4.0, 0.5)))
    lessons = Contrastive(weight=1.0).build(both).read(taps_of(both.teacher), objects_of(OBJECTS))
    assert [len(lesson["objects"]) for lesson in lessons] == [1, 0]


def test_it_learns() -> None:
    """Both projections and the student's map are trained: the objects become distinct."""
    both = Pair(student=declare(high=5), teacher=declare(high=8))
    torch.manual_seed(0)
    objective = Contrastive(weight=1.0).build(both)
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    optimiser = torch.optim.Adam([student.high_BCHW.requires_grad_(), *objective.parameters()], lr=0.03)
    first = compare(objective, student, teacher, OBJECTS).item()
    for _ in range(100):
        optimiser.zero_grad()
        loss = compare(objective, student, teacher, OBJECTS)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first


@pytest.mark.parametrize(
    ("settings", "message"), [({"channels": 0}, "must be at least 1 "), ({"temperature": 0.0}, "positive")]
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contrastive(weight=1.0, **settings)
