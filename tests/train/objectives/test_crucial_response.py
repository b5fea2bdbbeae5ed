"""Response on crucial samples: what is crucial, and the loss there, by hand and against NumPy."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.comparing import GRID, NO_BOXES, compare, declare, objects_of, taps_of
from udx.errors import UdxError
from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASK_OF_CLASS
from udx.models.taps import HeadMaps, Taps
from udx.train.objectives import Pair
from udx.train.objectives.crucial_response import CrucialResponse, l1, quality_focal

BOTH = Pair(student=declare(), teacher=declare())
ONE = [torch.zeros(0, 9)]
HEIGHT, WIDTH = GRID.shape


def silent(declared=BOTH.teacher) -> Taps:
    """Heads that see nothing anywhere: all logits −5, so a confidence of 0.0067."""
    taps = taps_of(declared, batch=1)
    return dataclasses.replace(
        taps,
        heads=HeadMaps(torch.full_like(taps.heads.heatmap_BKHW, -5.0), torch.zeros_like(taps.heads.regression_BRHW)),
    )


def sigmoid(logit: float) -> float:
    return 1 / (1 + np.exp(-logit))


def test_quality_focal_by_hand() -> None:
    """Logit 0 against 0.8: (0.3)² · ln 2; agreement costs nothing, and the least is there."""
    loss = quality_focal(torch.zeros(1), torch.tensor([0.8]))
    assert loss.item() == pytest.approx(0.09 * np.log(2), rel=1e-5)
    logits = torch.tensor([np.log(4.0), np.log(4.0) + 0.1, np.log(4.0) - 0.1])
    losses = quality_focal(logits, torch.full((3,), 0.8, dtype=torch.float64))
    assert losses[0].item() == pytest.approx(0, abs=1e-12) and (losses[1:] > 1e-5).all()
    assert l1(torch.zeros(1), torch.tensor([0.8])).item() == pytest.approx(0.3)


def test_the_surest_entries_are_taught_with_the_regression_of_their_task() -> None:
    """A truck (logit 2) and a pedestrian (logit 1) at the same cell, something (−3) too faint to be sure of."""
    teacher, student = silent(), silent()
    truck, pedestrian = CLASSES.index("truck"), CLASSES.index("pedestrian")
    teacher.heads.heatmap_BKHW[0, truck, 3, 20] = 2.0
    teacher.heads.heatmap_BKHW[0, pedestrian, 3, 20] = 1.0
    teacher.heads.heatmap_BKHW[0, 0, 9, 9] = -3.0
    regression = teacher.heads.regression_BRHW.unflatten(1, (-1, REGRESSION_CHANNELS))
    regression[0, TASK_OF_CLASS[truck], 4, 3, 20] = 5.0  # one of ten channels
    regression[0, TASK_OF_CLASS[CLASSES.index("bus")], :, 3, 20] = 77.0  # of a task that sees nothing here
    objective = CrucialResponse(weight=1.0, disagreeing=0).build(BOTH)
    (lesson,) = objective.read(teacher, objects_of(ONE))
    assert lesson.keys() == {"entry", "confidence", "regression"}
    assert lesson["entry"].tolist() == [(truck * HEIGHT + 3) * WIDTH + 20, (pedestrian * HEIGHT + 3) * WIDTH + 20]
    assert lesson["confidence"].tolist() == pytest.approx([sigmoid(2), sigmoid(1)])
    by_l1 = CrucialResponse(weight=1.0, disagreeing=0, confidence_loss="l1").build(BOTH)
    classes = (sigmoid(2) + sigmoid(1) - 2 * sigmoid(-5)) / 2
    boxes = sigmoid(2) * 5 / REGRESSION_CHANNELS / (sigmoid(2) + sigmoid(1))
    assert compare(by_l1, student, teacher, ONE).item() == pytest.approx(classes + boxes, rel=1e-3)


def test_confident_counts_by_sample() -> None:
    teacher = taps_of(BOTH.teacher)
    objective = CrucialResponse(weight=1.0, confident=7, least_confidence=0.0).build(BOTH)
    for lesson, logits in zip(objective.read(teacher, objects_of(NO_BOXES)), teacher.heads.heatmap_BKHW, strict=True):
        assert sorted(lesson["entry"].tolist()) == sorted(logits.flatten().argsort(descending=True)[:7].tolist())
        assert (lesson["heatmap"][0] == logits.sigmoid()).all()


def test_what_the_student_alone_sees_is_crucial_too() -> None:
    """The student dreams of a bus where the teacher sees nothing: found only if disagreement counts."""
    teacher, student = silent(), silent()
    teacher.heads.heatmap_BKHW[0, 0, 3, 20] = student.heads.heatmap_BKHW[0, 0, 3, 20] = 2.0
    student.heads.heatmap_BKHW[0, 2, 5, 6] = 3.0
    blind = CrucialResponse(weight=1.0, disagreeing=0, confidence_loss="l1").build(BOTH)
    assert compare(blind, student, teacher, ONE).item() == pytest.approx(0, abs=1e-6)
    seeing = CrucialResponse(weight=1.0, disagreeing=3, confidence_loss="l1").build(BOTH)
    want = (sigmoid(3) - sigmoid(-5)) / (
        1 + 3
    )  # one surest entry that agrees, three disagreeing ones, two of them by 0
    assert compare(seeing, student, teacher, ONE).item() == pytest.approx(want, rel=1e-3)


def test_a_teacher_that_is_sure_of_nothing() -> None:
    student = silent()
    student.heads.heatmap_BKHW.requires_grad_()
    loss = compare(CrucialResponse(weight=1.0, disagreeing=0).build(BOTH), student, silent(), ONE)
    loss.backward()
    assert loss == 0 and (student.heads.heatmap_BKHW.grad == 0).all()


@pytest.mark.parametrize("confidence_loss", ["quality_focal", "l1"])
def test_agrees_with_numpy(confidence_loss) -> None:
    config = CrucialResponse(
        weight=1.0, confident=20, disagreeing=15, least_confidence=0.9, confidence_loss=confidence_loss
    )
    student, teacher = taps_of(BOTH.student), taps_of(BOTH.teacher, seed=1)
    losses, regressions, weights = [], [], []
    for sample in range(2):
        heat = [sigmoid(taps.heads.heatmap_BKHW[sample].double().numpy()) for taps in (student, teacher)]
        regression = [
            taps.heads.regression_BRHW[sample].double().numpy().reshape(-1, REGRESSION_CHANNELS, HEIGHT, WIDTH)
            for taps in (student, teacher)
        ]
        entries = sorted(np.ndindex(heat[0].shape), key=lambda at: -heat[1][at])[:20]
        entries = [at for at in entries if heat[1][at] >= 0.9]
        for label, row, column in entries:
            values = [each[TASK_OF_CLASS[label], :, row, column] for each in regression]
            regressions.append(heat[1][label, row, column] * np.abs(values[0] - values[1]).mean())
            weights.append(heat[1][label, row, column])
        others = [at for at in np.ndindex(heat[0].shape) if at not in set(entries)]
        disputed = sorted(others, key=lambda at: -abs(heat[0][at] - heat[1][at]))[:15]
        for at in (*entries, *disputed):
            p, target = heat[0][at], heat[1][at]
            entropy = -target * np.log(p) - (1 - target) * np.log(1 - p)
            losses.append((p - target) ** 2 * entropy if confidence_loss == "quality_focal" else abs(p - target))
    want = sum(losses) / (len(losses) + 1e-4) + sum(regressions) / (sum(weights) + 1e-4)
    assert compare(config.build(BOTH), student, teacher, NO_BOXES).item() == pytest.approx(want, rel=1e-4)


def test_a_teacher_in_other_cells() -> None:
    """Its cells are twice as large: an offset of 0.5 of its cells is one of the student's, and nothing is disputed."""
    both = Pair(student=declare(), teacher=declare(grid=BevGrid(-8.0, 8.0, -4.0, 4.0, 1.0)))
    teacher, student = silent(both.teacher), silent()
    teacher.heads.heatmap_BKHW[0, 0] = 2.0
    teacher.heads.regression_BRHW[:, 0] = 0.5
    student.heads.heatmap_BKHW[0, 0] = 2.0
    student.heads.regression_BRHW[:, 0] = 1.0
    objective = CrucialResponse(weight=1.0).build(both)
    assert compare(objective, student, teacher, ONE).item() == pytest.approx(0, abs=1e-6)
    student.heads.regression_BRHW[:, 0] = 0.5
    assert compare(objective, student, teacher, ONE).item() == pytest.approx(0.5 / REGRESSION_CHANNELS, rel=1e-3)


def test_nothing_is_crucial_beyond_the_teachers_ground() -> None:
    both = Pair(student=declare(), teacher=declare(grid=BevGrid(-8.0, 0.0, -4.0, 4.0, 0.5)))
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    objective = CrucialResponse(weight=1.0, confident=10_000, disagreeing=10_000, least_confidence=0.0).build(both)
    beyond = torch.zeros_like(student.heads.heatmap_BKHW)
    beyond[..., 16:] = 9.0
    moved = HeadMaps(student.heads.heatmap_BKHW + beyond, student.heads.regression_BRHW)
    want = compare(objective, student, teacher, NO_BOXES)
    assert compare(objective, dataclasses.replace(student, heads=moved), teacher, NO_BOXES) == want > 0


def test_heads_of_other_classes_are_refused() -> None:
    with pytest.raises(UdxError, match="70 channels and the teacher's 5"):
        CrucialResponse(weight=1.0).build(Pair(student=declare(), teacher=declare(heads=5)))


@pytest.mark.parametrize("settings", [{"confident": 0}, {"disagreeing": -1}, {"least_confidence": 1.0}])
def test_bad_settings_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1 confident|\[0, 1\)"):
        CrucialResponse(weight=1.0, **settings)
