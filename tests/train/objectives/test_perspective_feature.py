"""Feature imitation in the cameras' view: which cells count, the loss there, and detectors that cannot be compared."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.comparing import BOXES, NO_BOXES, compare, declare, objects_of, taps_of
from tests.tiny import FRUSTUM
from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.taps import Taps
from udx.train.masks import perspective_foreground
from udx.train.objectives import Pair
from udx.train.objectives.perspective_feature import PerspectiveFeature

BOTH = Pair(student=declare(perspective=3), teacher=declare(perspective=3))


def moved(taps: Taps, off: torch.Tensor) -> Taps:
    return dataclasses.replace(taps, perspective_BNChw=taps.perspective_BNChw + off)


def test_by_hand() -> None:
    """A box ahead of the first camera, 6.5 to 7.5 m away, up to 0.05 m below it: u 31.5 ± 6.2, v from 15.8 to 24.4.

    Cells are 16 pixels, from −0.5 on: row 1, columns 1 and 2. The student is off by 3 in one of three channels of one.
    """
    box = [torch.tensor([[7.0, 0.0, 0.7, 1.0, 2.0, 1.5, 0, 0, 0]])]
    cells = perspective_foreground(objects_of(box), FRUSTUM)[0].nonzero().tolist()
    assert cells == [[0, 1, 1], [0, 1, 2]]
    teacher = taps_of(BOTH.teacher, batch=1)
    off = torch.zeros_like(teacher.perspective_BNChw)
    off[0, 0, 2, 1, 1] = 3.0
    off[0, 0, :, 0] = off[0, 0, :, 1, 3] = off[0, 1] = 99.0  # other rows, other columns, another camera
    loss = compare(PerspectiveFeature(weight=1.0).build(BOTH), moved(teacher, off), teacher, box)
    assert loss.item() == pytest.approx(9 / 3 / 2, rel=1e-4)


def test_agrees_with_numpy() -> None:
    student, teacher = taps_of(BOTH.student), taps_of(BOTH.teacher, seed=1)
    mask = perspective_foreground(objects_of(BOXES), FRUSTUM).numpy()
    assert mask[0].any() and not mask[0].all() and not mask[1].any()
    maps = [taps.perspective_BNChw.numpy() for taps in (student, teacher)]
    errors = [
        ((maps[0][at[0], at[1], :, at[2], at[3]] - maps[1][at[0], at[1], :, at[2], at[3]]) ** 2).mean()
        for at in np.ndindex(mask.shape)
        if mask[at]
    ]
    loss = compare(PerspectiveFeature(weight=1.0).build(BOTH), student, teacher, BOXES)
    assert loss.item() == pytest.approx(sum(errors) / (len(errors) + 1e-4), rel=1e-5)


def test_what_lies_outside_of_the_foreground_does_not_count() -> None:
    student, teacher = taps_of(BOTH.student), taps_of(BOTH.teacher, seed=1)
    outside = ~perspective_foreground(objects_of(BOXES), FRUSTUM)[:, :, None]
    objective = PerspectiveFeature(weight=1.0).build(BOTH)
    want = compare(objective, student, teacher, BOXES)
    assert compare(objective, moved(student, 50.0 * outside), moved(teacher, -50.0 * outside), BOXES) == want
    assert compare(objective, moved(student, 1.0 * ~outside), teacher, BOXES) != want


def test_objects_behind_all_cameras_cost_nothing() -> None:
    student, teacher = taps_of(BOTH.student, batch=1), taps_of(BOTH.teacher, seed=1, batch=1)
    above = [torch.tensor([[1.0, 0.0, 90.0, 1.0, 1.0, 1.5, 0, 0, 0]])]
    assert compare(PerspectiveFeature(weight=1.0).build(BOTH), student, teacher, above) == 0


def test_widths_are_bridged() -> None:
    wider = Pair(student=declare(perspective=3), teacher=declare(perspective=5))
    objective = PerspectiveFeature(weight=1.0).build(wider)
    assert compare(objective, taps_of(wider.student), taps_of(wider.teacher), BOXES) > 0
    assert compare(objective, taps_of(wider.student), taps_of(wider.teacher), NO_BOXES) == 0
    with pytest.raises(UdxError, match="3 channels and the teacher's 5"):
        PerspectiveFeature(weight=1.0).build(dataclasses.replace(wider, adapter="never"))


def test_grids_need_share_no_ground() -> None:
    """Cameras see what they see, whatever the BEV maps hold."""
    elsewhere = Pair(
        student=declare(perspective=3), teacher=declare(perspective=3, grid=BevGrid(50.0, 60.0, -4.0, 4.0, 0.5))
    )
    assert PerspectiveFeature(weight=1.0).build(elsewhere)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (declare(), declare(perspective=3), "the student has no cameras"),
        (declare(perspective=3), declare(), "the teacher has no cameras"),
        (
            declare(perspective=3),
            declare(perspective=3, frustum=dataclasses.replace(FRUSTUM, image_width_px=128)),
            "images are 32×64 in strides of 16 and the teacher's 32×128 in strides of 16",
        ),
        (
            declare(perspective=3),
            declare(perspective=3, frustum=dataclasses.replace(FRUSTUM, stride_px=8)),
            "teacher's 32×64 in strides of 8",
        ),
    ],
)
def test_detectors_without_the_same_view_are_refused(student, teacher, message: str) -> None:
    with pytest.raises(UdxError, match=message):
        PerspectiveFeature(weight=1.0).build(Pair(student=student, teacher=teacher))


def test_depth_bins_may_differ() -> None:
    deeper = dataclasses.replace(FRUSTUM, depth_bins=20, depth_step_m=1.0)
    both = Pair(student=declare(perspective=3), teacher=declare(perspective=3, frustum=deeper))
    assert compare(PerspectiveFeature(weight=1.0).build(both), taps_of(both.student), taps_of(both.teacher), BOXES) == 0
