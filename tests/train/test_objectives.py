"""UniDistill's objectives: any pair of detectors, adapters where needed, grids bridged."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from tests.comparing import (
    BOXES,
    DETECTORS,
    GRID,
    NO_BOXES,
    REGRESSIONS,
    WEAKER,
    compare,
    declare,
    objects_of,
    sample_of,
    taps_of,
)
from udx.errors import UdxError
from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.taps import DeclaredTaps, HeadMaps, Taps
from udx.train.losses import feature_loss, relation_loss, response_loss
from udx.train.objectives import Pair
from udx.train.objectives.feature import FeatureObjective
from udx.train.objectives.relation import RelationObjective
from udx.train.objectives.response import ResponseObjective

OBJECTIVES = (FeatureObjective, RelationObjective, ResponseObjective)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_equal_detectors_give_the_papers_losses() -> None:
    both = Pair(student=declare(), teacher=declare())
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    assert compare(FeatureObjective(both), student, teacher, BOXES) == feature_loss(
        student.low_BCHW, teacher.low_BCHW, BOXES, GRID
    )
    assert compare(RelationObjective(both), student, teacher, BOXES) == relation_loss(
        student.high_BCHW, teacher.high_BCHW, BOXES, GRID
    )
    warm = compare(ResponseObjective(both, teacher_temperature=2.0), student, teacher, BOXES)
    assert warm == response_loss(student.heads, teacher.heads, BOXES, GRID, 2.0)
    assert sum(parameters(objective(both)) for objective in OBJECTIVES) == 0


@pytest.mark.parametrize(("teacher", "student"), list(itertools.product(DETECTORS, DETECTORS)))
def test_any_to_any(teacher: str, student: str) -> None:
    """Nine pairs of different widths, strides, cells and ranges: finite losses, gradients to the student alone."""
    both = Pair(
        student=DETECTORS[student],
        teacher=DETECTORS[teacher],
        teacher_is_weaker=(teacher, student) in WEAKER,
    )
    of_student, of_teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    for tensor in (of_student, of_teacher):
        for each in (tensor.low_BCHW, tensor.high_BCHW, tensor.heads.heatmap_BKHW, tensor.heads.regression_BRHW):
            each.requires_grad_()
    objectives = nn.ModuleList(objective(both) for objective in OBJECTIVES)
    losses = [compare(objective, of_student, of_teacher, BOXES) for objective in objectives]
    sum(losses).backward()
    assert all(loss > 0 for loss in losses)
    assert of_student.low_BCHW.grad.abs().sum() > 0 and of_student.high_BCHW.grad.abs().sum() > 0
    assert of_student.heads.heatmap_BKHW.grad.abs().sum() > 0
    assert of_teacher.low_BCHW.grad is None and of_teacher.high_BCHW.grad is None
    assert of_teacher.heads.heatmap_BKHW.grad is None and of_teacher.heads.regression_BRHW.grad is None
    assert all(parameter.grad is not None for parameter in objectives.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("teacher", DETECTORS.values(), ids=DETECTORS)
def test_lessons_of_a_batch_are_those_of_its_samples(objective, teacher: DeclaredTaps) -> None:
    built = objective(Pair(student=declare(), teacher=teacher))
    of_teacher, objects = taps_of(teacher, seed=1), objects_of([BOXES[0], BOXES[0][:1]])
    lessons = built.read(of_teacher, objects)
    for sample, lesson in enumerate(lessons):
        (alone,) = built.read(sample_of(of_teacher, sample), objects.of([sample]))
        assert lesson.keys() == alone.keys()
        for name in alone:
            torch.testing.assert_close(lesson[name], alone[name], rtol=0, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("teacher", DETECTORS.values(), ids=DETECTORS)
def test_no_boxes_cost_nothing(objective, teacher: DeclaredTaps) -> None:
    both = Pair(student=declare(), teacher=teacher)
    student = taps_of(both.student)
    maps = student.low_BCHW, student.high_BCHW, student.heads.heatmap_BKHW, student.heads.regression_BRHW
    for each in maps:
        each.requires_grad_()
    loss = compare(objective(both), student, taps_of(teacher, seed=1), NO_BOXES)
    loss.backward()
    assert loss == 0
    grads = [each.grad for each in maps if each.grad is not None]
    assert grads and all((grad == 0).all() for grad in grads)


# ---------------------------------------------------------------------------------------------------------------------
# Adapters.


def test_auto_puts_a_1x1_adapter_where_channels_differ() -> None:
    objective = FeatureObjective(Pair(student=declare(low=4), teacher=declare(low=6)))
    assert isinstance(objective.adapter, nn.Conv2d)
    assert objective.adapter.kernel_size == (1, 1)
    assert parameters(RelationObjective(Pair(student=declare(high=4), teacher=declare(high=6)))) == 0, (
        "cosines need no equal width"
    )


@pytest.mark.parametrize("objective", [FeatureObjective, RelationObjective])
@pytest.mark.parametrize("settings", [{"teacher_is_weaker": True}, {"adapter": "always"}])
def test_a_weaker_teacher_gets_the_papers_adaptive_layer(objective, settings: dict[str, object]) -> None:
    kinds = [type(layer) for layer in objective(Pair(student=declare(), teacher=declare(), **settings)).adapter]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    overridden = Pair(student=declare(), teacher=declare(), teacher_is_weaker=True, adapter="never")
    assert parameters(objective(overridden)) == 0


def test_never_refuses_different_channels() -> None:
    with pytest.raises(UdxError, match=r"4 channels and the teacher's 6.*adapter to 'auto'"):
        FeatureObjective(Pair(student=declare(low=4), teacher=declare(low=6), adapter="never"))


def test_an_adapter_learns_what_it_can() -> None:
    """A teacher that is a linear image of the student: training the adapter alone removes the loss."""
    torch.manual_seed(0)
    both = Pair(student=declare(low=4), teacher=declare(low=6))
    student = taps_of(both.student)
    mixed = torch.einsum("oc,bchw->bohw", torch.randn(6, 4), student.low_BCHW)
    teacher = dataclasses.replace(student, low_BCHW=mixed)
    objective = FeatureObjective(both)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
    first = compare(objective, student, teacher, BOXES).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = compare(objective, student, teacher, BOXES)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first


@pytest.mark.parametrize("heads", [len(CLASSES) + REGRESSIONS - 1, 5])
def test_heads_of_other_classes_are_refused(heads: int) -> None:
    with pytest.raises(UdxError, match=f"70 channels and the teacher's {heads}"):
        ResponseObjective(Pair(student=declare(), teacher=declare(heads=heads)))


# ---------------------------------------------------------------------------------------------------------------------
# The teacher's own spread.


def test_normalised_feature_does_not_depend_on_the_scale_of_maps() -> None:
    both = Pair(student=declare(), teacher=declare())
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    scale = torch.tensor([1, 10, 100, 0.5, 3, 7.0])[:, None, None]
    scaled = [dataclasses.replace(each, low_BCHW=each.low_BCHW * scale) for each in (student, teacher)]
    plain = compare(FeatureObjective(both, normalise=True), student, teacher, BOXES)
    # The floor under dead channels depends on the mean spread, so only channels near it are exactly free of scale.
    even = [dataclasses.replace(each, low_BCHW=each.low_BCHW * 100) for each in (student, teacher)]
    torch.testing.assert_close(compare(FeatureObjective(both, normalise=True), *even, BOXES), plain, rtol=1e-3, atol=0)
    rough = compare(FeatureObjective(both, normalise=True), *scaled, BOXES)
    assert 0.3 * plain < rough < 1.1 * plain
    assert compare(FeatureObjective(both), *scaled, BOXES) > 5 * compare(
        FeatureObjective(both), student, teacher, BOXES
    )


def test_normalised_feature_by_hand() -> None:
    """The box reads −2, 2, −2, three times each, so the spread is 4 √2 / 3; the student is off by 3 everywhere."""
    both = Pair(student=declare(low=1), teacher=declare(low=1))
    x = torch.arange(32) % 2 * 4.0 - 2
    teacher_map = x.expand(1, 1, 16, 32)
    box = [torch.tensor([[0.25, 0.25, 0, 1.0, 1.0, 1, 0, 0, 0]])]
    heads = HeadMaps(teacher_map, teacher_map)
    teacher, student = (Taps(low_BCHW=each, high_BCHW=each, heads=heads) for each in (teacher_map, teacher_map + 3))
    loss = compare(FeatureObjective(both, normalise=True), student, teacher, box)
    assert loss.item() == pytest.approx(3 / (4 * 2**0.5 / 3), rel=1e-3)


def test_spread_is_remembered_and_dead_channels_stay_small() -> None:
    both = Pair(student=declare(), teacher=declare())
    objective = FeatureObjective(both, normalise=True)
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    teacher.low_BCHW[:, 0] = 0.25
    first = compare(objective, student, teacher, BOXES)
    assert first < 20 * feature_loss(student.low_BCHW, teacher.low_BCHW, BOXES, GRID)
    objective.eval()
    before = objective.variance.value.clone()
    compare(objective, student, taps_of(both.teacher, seed=2), BOXES)
    torch.testing.assert_close(objective.variance.value, before)
    objective.train()
    compare(objective, student, taps_of(both.teacher, seed=2), NO_BOXES)
    torch.testing.assert_close(objective.variance.value, before)


# ---------------------------------------------------------------------------------------------------------------------
# Different grids.


def ramp_taps(declared: DeclaredTaps, target_xy: tuple[float, float]) -> Taps:
    """Heads in which every cell points at ``target_xy`` and the first logit falls with the distance from it along x."""
    grid = declared.grid.coarsened(declared.heads.stride)
    height, width = grid.shape
    x = (grid.x_min + (torch.arange(width) + 0.5) * grid.cell).expand(height, width)
    y = (grid.y_min + (torch.arange(height) + 0.5) * grid.cell)[:, None].expand(height, width)
    regression = torch.ones(1, REGRESSIONS, height, width)
    for task in range(len(TASKS)):
        regression[:, task * REGRESSION_CHANNELS] = (target_xy[0] - x) / grid.cell
        regression[:, task * REGRESSION_CHANNELS + 1] = (target_xy[1] - y) / grid.cell
    heatmap = torch.full((1, len(CLASSES), height, width), -5.0)
    heatmap[0, 0] = (target_xy[0] - x) * 0.2
    full = torch.zeros(1, 1, 1, 1)
    return Taps(low_BCHW=full, high_BCHW=full, heads=HeadMaps(heatmap, regression))


@pytest.mark.parametrize("cell", [0.25, 1.0])
def test_response_of_a_teacher_in_other_cells(cell: float) -> None:
    """Heads that say the same in metres agree, whatever the cells: offsets count in cells and are converted."""
    student, teacher = declare(), declare(grid=BevGrid(-8.0, 8.0, -4.0, 4.0, cell))
    boxes = [torch.tensor([[1.0, 0.5, 0, 4.0, 2.0, 1, 0, 0, 0], [-4.0, 2.0, 0, 4.0, 2.0, 1, 0, 0, 0]])]
    objective = ResponseObjective(Pair(student=student, teacher=teacher))
    loss = compare(objective, ramp_taps(student, (1.2, 0.7)), ramp_taps(teacher, (1.2, 0.7)), boxes)
    assert loss.item() == pytest.approx(0, abs=1e-4)
    # The teacher points 1 m further left: 2 of the student's cells in one of two offsets of 10 channels.
    loss = compare(objective, ramp_taps(student, (1.2, 0.7)), ramp_taps(teacher, (1.2, 1.7)), boxes)
    assert loss.item() == pytest.approx(2 / REGRESSION_CHANNELS, rel=1e-3)


def test_response_beyond_the_teachers_ground_does_not_count() -> None:
    student, teacher = declare(), declare(grid=BevGrid(-8.0, 0.0, -4.0, 4.0, 0.5))
    objective = ResponseObjective(Pair(student=student, teacher=teacher))
    of_student, of_teacher = taps_of(student, batch=1), taps_of(teacher, seed=1, batch=1)
    beyond = [torch.tensor([[4.0, 0.0, 0, 2, 1, 1, 0, 0, 0]])]
    within = [torch.tensor([[-4.0, 0.0, 0, 2, 1, 1, 0, 0, 0]])]
    assert compare(objective, of_student, of_teacher, beyond) == 0
    assert compare(objective, of_student, of_teacher, within) > 0


def test_the_border_of_a_coarser_teacher_teaches_its_nearest_cell() -> None:
    """The student's outermost centres lie outside the teacher's: no zero logit, that is confidence 0.5, may mix in."""
    student, teacher = declare(), declare(grid=BevGrid(-8.0, 8.0, -4.0, 4.0, 2.0))
    taps = [taps_of(declared, batch=1) for declared in (student, teacher)]
    for each in taps:
        each.heads.heatmap_BKHW.fill_(-5.0)
        each.heads.regression_BRHW.view(1, len(TASKS), REGRESSION_CHANNELS, *each.heads.heatmap_BKHW.shape[2:]).fill_(1)
        each.heads.regression_BRHW.unflatten(1, (len(TASKS), -1))[:, :, :2] = 0
    corner = [torch.tensor([[-7.9, -3.9, 0, 2, 1, 1, 0, 0, 0]])]
    assert compare(ResponseObjective(Pair(student=student, teacher=teacher)), *taps, corner).item() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("objective", [FeatureObjective, RelationObjective])
def test_boxes_that_one_map_holds_in_part_do_not_count(objective) -> None:
    smaller = declare(grid=BevGrid(-4.0, 4.0, -4.0, 4.0, 0.5))
    inside, across = ([x, 0.0, 0.0, 2.0, 1.0, 1.0, 0.3, 0.0, 0.0] for x in (1.0, 3.9))
    for both in (Pair(student=declare(), teacher=smaller), Pair(student=smaller, teacher=declare())):
        built = objective(both)
        of_student, of_teacher = taps_of(both.student, batch=1), taps_of(both.teacher, seed=1, batch=1)
        alone = compare(built, of_student, of_teacher, [torch.tensor([inside])])
        assert alone > 0
        assert compare(built, of_student, of_teacher, [torch.tensor([inside, across])]) == alone


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_grids_without_common_ground_are_refused(objective) -> None:
    with pytest.raises(UdxError, match="share no ground"):
        objective(Pair(student=declare(), teacher=declare(grid=BevGrid(8.0, 16.0, -4.0, 4.0, 0.5))))
