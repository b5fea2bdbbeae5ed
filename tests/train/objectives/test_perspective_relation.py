"""Relation of places in the cameras' view: by hand, against NumPy."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.comparing import NO_BOXES, compare, declare, objects_of, taps_of
from tests.tiny import FRUSTUM
from udx.data.spec import CAMERAS
from udx.errors import UdxError
from udx.models.taps import Taps
from udx.train.objectives import Pair
from udx.train.objectives.perspective_relation import PerspectiveRelation

BOTH = Pair(student=declare(perspective=3), teacher=declare(perspective=3))


def seeing(maps_NChw: torch.Tensor) -> Taps:
    taps = taps_of(BOTH.student, batch=1)
    return dataclasses.replace(taps, perspective_BNChw=maps_NChw[None])


def test_by_hand() -> None:
    """2 × 4 cells, so two positions. To the student they are alike in all cameras, to the teacher opposite in one.

    Of 6 cameras' 4 entries, two differ by 2.
    """
    student = torch.ones(len(CAMERAS), 3, 2, 4)
    teacher = student.clone()
    teacher[4, :, :, 2:] = -1
    loss = compare(PerspectiveRelation(weight=1.0).build(BOTH), seeing(student), seeing(teacher), NO_BOXES[:1])
    assert loss.item() == pytest.approx(2 * 2 / (6 * 4), rel=1e-3)


def test_left_and_right_are_not_above_and_below() -> None:
    """The teacher tells left from right, one student too, the other top from bottom."""
    right, below = torch.ones(len(CAMERAS), 3, 2, 4), torch.ones(len(CAMERAS), 3, 2, 4)
    right[..., 2:], below[:, :, 1] = -1, -1
    objective = PerspectiveRelation(weight=1.0, pool=1).build(BOTH)
    assert compare(objective, seeing(3 * right), seeing(right), NO_BOXES[:1]) < 1e-3
    assert compare(objective, seeing(below), seeing(right), NO_BOXES[:1]).item() == pytest.approx(1, rel=1e-3)


def np_affinity(maps_Chw: np.ndarray, pool: int) -> np.ndarray:
    _, height, width = maps_Chw.shape
    places = [
        maps_Chw[:, row : row + pool, column : column + pool].mean(axis=(1, 2))
        for row in range(0, height, pool)
        for column in range(0, width, pool)
    ]
    unit = [place / (np.linalg.norm(place) + 1e-4) for place in places]
    return np.array([[one @ other for other in unit] for one in unit])


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_agrees_with_numpy(pool: int) -> None:
    """Also where the last position is cut off at the border."""
    fine = dataclasses.replace(FRUSTUM, stride_px=8)
    both = Pair(student=declare(perspective=3, frustum=fine), teacher=declare(perspective=5, frustum=fine))
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    differences = [
        np.abs(np_affinity(own, pool) - np_affinity(taught, pool)).mean()
        for own, taught in zip(
            student.perspective_BNChw.flatten(0, 1).double().numpy(),
            teacher.perspective_BNChw.flatten(0, 1).double().numpy(),
            strict=True,
        )
    ]
    objective = PerspectiveRelation(weight=1.0, pool=pool).build(both)
    assert not list(objective.parameters()), "cosines need no equal width"
    assert compare(objective, student, teacher, NO_BOXES).item() == pytest.approx(np.mean(differences), rel=1e-5)


def test_lessons_are_as_small_as_pooling_makes_them() -> None:
    for pool, positions in ((1, 8), (2, 2)):
        lessons = (
            PerspectiveRelation(weight=1.0, pool=pool).build(BOTH).read(taps_of(BOTH.teacher), objects_of(NO_BOXES))
        )
        assert [tuple(lesson["affinity"].shape) for lesson in lessons] == [(6, positions, positions)] * 2


def test_a_weaker_teacher_gets_an_adapter() -> None:
    weaker = dataclasses.replace(BOTH, teacher_is_weaker=True)
    assert list(PerspectiveRelation(weight=1.0).build(weaker).parameters())


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(UdxError, match="the teacher has no cameras"):
        PerspectiveRelation(weight=1.0).build(Pair(student=declare(perspective=3), teacher=declare()))
    with pytest.raises(ValueError, match="must be at least 1 "):
        PerspectiveRelation(weight=1.0, pool=0)
