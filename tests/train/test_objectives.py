"""Objectives: any pair of detectors, adapters where needed, grids bridged; and the distillation's settings."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from udx.config import from_plain, to_plain, with_override
from udx.errors import UdxError
from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.taps import DeclaredTaps, HeadMaps, Tap, Taps
from udx.train.losses import feature_loss, relation_loss, response_loss
from udx.train.objectives import (
    PAPER_WEIGHTS,
    DistillationConfig,
    FeatureObjective,
    LossWeights,
    Path,
    RelationObjective,
    ResponseObjective,
    teacher_is_weaker,
)

GRID = BevGrid(-8.0, 8.0, -4.0, 4.0, 0.5)
REGRESSIONS = len(TASKS) * REGRESSION_CHANNELS
OBJECTIVES = (FeatureObjective, RelationObjective, ResponseObjective)
BOXES = [
    torch.tensor([[1.0, 0.5, 0, 2, 1, 1, 0.4, 0, 0], [-3.3, -1.2, 0, 4, 2, 1, 2.0, 0, 0]]),
    torch.zeros(0, 9),
]


def declare(
    low: int = 6,
    high: int = 8,
    *,
    strides: tuple[int, int, int] = (1, 1, 1),
    grid: BevGrid = GRID,
    heads: int = len(CLASSES) + REGRESSIONS,
) -> DeclaredTaps:
    channels = (low, high, heads)
    return DeclaredTaps(grid=grid, **dict(zip(("low", "high", "heads"), map(Tap, channels, strides), strict=True)))


def taps_of(declared: DeclaredTaps, seed: int = 0, batch: int = 2) -> Taps:
    generator = torch.Generator().manual_seed(seed)

    def random_map(tap: Tap, channels: int) -> torch.Tensor:
        return torch.randn(batch, channels, *declared.grid.coarsened(tap.stride).shape, generator=generator)

    return Taps(
        random_map(declared.low, declared.low.channels),
        random_map(declared.high, declared.high.channels),
        HeadMaps(random_map(declared.heads, len(CLASSES)), random_map(declared.heads, REGRESSIONS)),
    )


def path(student: DeclaredTaps, teacher: DeclaredTaps, **settings: object) -> Path:
    return Path(student=student, teacher=teacher, **settings)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_equal_detectors_give_the_papers_losses() -> None:
    both = path(declare(), declare())
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    assert FeatureObjective(both)(student, teacher, BOXES) == feature_loss(
        student.low_BCHW, teacher.low_BCHW, BOXES, GRID
    )
    assert RelationObjective(both)(student, teacher, BOXES) == relation_loss(
        student.high_BCHW, teacher.high_BCHW, BOXES, GRID
    )
    warm = ResponseObjective(both, teacher_temperature=2.0)(student, teacher, BOXES)
    assert warm == response_loss(student.heads, teacher.heads, BOXES, GRID, 2.0)
    assert sum(parameters(objective(both)) for objective in OBJECTIVES) == 0


DETECTORS: Mapping[str, DeclaredTaps] = {
    "lidar": declare(6, 8),
    "cam": declare(4, 10, strides=(2, 1, 2)),
    "fusion": declare(8, 8, grid=BevGrid(-10.0, 6.0, -5.0, 5.0, 0.25), strides=(4, 2, 2)),
}


@pytest.mark.parametrize(("teacher", "student"), list(itertools.product(DETECTORS, DETECTORS)))
def test_any_to_any(teacher: str, student: str) -> None:
    """Nine pairs of different widths, strides, cells and ranges: finite losses, gradients to the student alone."""
    both = path(
        DETECTORS[student], DETECTORS[teacher], teacher_is_weaker=teacher_is_weaker(teacher=teacher, student=student)
    )
    of_student, of_teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    for tensor in (of_student, of_teacher):
        for each in (tensor.low_BCHW, tensor.high_BCHW, tensor.heads.heatmap_BKHW, tensor.heads.regression_BRHW):
            each.requires_grad_()
    objectives = nn.ModuleList(objective(both) for objective in OBJECTIVES)
    losses = [objective(of_student, of_teacher, BOXES) for objective in objectives]
    sum(losses).backward()
    assert all(loss > 0 for loss in losses)
    assert of_student.low_BCHW.grad.abs().sum() > 0 and of_student.high_BCHW.grad.abs().sum() > 0
    assert of_student.heads.heatmap_BKHW.grad.abs().sum() > 0
    assert of_teacher.low_BCHW.grad is None and of_teacher.high_BCHW.grad is None
    assert of_teacher.heads.heatmap_BKHW.grad is None and of_teacher.heads.regression_BRHW.grad is None
    assert all(parameter.grad is not None for parameter in objectives.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("teacher", DETECTORS.values(), ids=DETECTORS)
def test_no_boxes_cost_nothing(objective, teacher: DeclaredTaps) -> None:
    both = path(declare(), teacher)
    student = taps_of(both.student)
    maps = student.low_BCHW, student.high_BCHW, student.heads.heatmap_BKHW, student.heads.regression_BRHW
    for each in maps:
        each.requires_grad_()
    loss = objective(both)(student, taps_of(teacher, seed=1), [torch.zeros(0, 9)] * 2)
    loss.backward()
    assert loss == 0
    grads = [each.grad for each in maps if each.grad is not None]
    assert grads and all((grad == 0).all() for grad in grads)


# ---------------------------------------------------------------------------------------------------------------------
# Adapters.


def test_auto_puts_a_1x1_adapter_where_channels_differ() -> None:
    objective = FeatureObjective(path(declare(low=4), declare(low=6)))
    assert isinstance(objective.adapter, nn.Conv2d)
    assert objective.adapter.kernel_size == (1, 1)
    assert parameters(RelationObjective(path(declare(high=4), declare(high=6)))) == 0, "cosines need no equal width"


@pytest.mark.parametrize("objective", [FeatureObjective, RelationObjective])
@pytest.mark.parametrize("settings", [{"teacher_is_weaker": True}, {"adapter": "always"}])
def test_a_weaker_teacher_gets_the_papers_adaptive_layer(objective, settings: dict[str, object]) -> None:
    kinds = [type(layer) for layer in objective(path(declare(), declare(), **settings)).adapter]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    overridden = path(declare(), declare(), teacher_is_weaker=True, adapter="never")
    assert parameters(objective(overridden)) == 0


def test_never_refuses_different_channels() -> None:
    with pytest.raises(UdxError, match=r"4 channels and the teacher's 6.*adapter to 'auto'"):
        FeatureObjective(path(declare(low=4), declare(low=6), adapter="never"))


def test_an_adapter_learns_what_it_can() -> None:
    """A teacher that is a linear image of the student: training the adapter alone removes the loss."""
    torch.manual_seed(0)
    both = path(declare(low=4), declare(low=6))
    student = taps_of(both.student)
    mixed = torch.einsum("oc,bchw->bohw", torch.randn(6, 4), student.low_BCHW)
    teacher = Taps(mixed, student.high_BCHW, student.heads)
    objective = FeatureObjective(both)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
    first = objective(student, teacher, BOXES).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = objective(student, teacher, BOXES)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first


@pytest.mark.parametrize("heads", [len(CLASSES) + REGRESSIONS - 1, 5])
def test_heads_of_other_classes_are_refused(heads: int) -> None:
    with pytest.raises(UdxError, match=f"70 channels and the teacher's {heads}"):
        ResponseObjective(path(declare(), declare(heads=heads)))


# ---------------------------------------------------------------------------------------------------------------------
# The teacher's own spread.


def test_normalised_feature_does_not_depend_on_the_scale_of_maps() -> None:
    both = path(declare(), declare())
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    scale = torch.tensor([1, 10, 100, 0.5, 3, 7.0])[:, None, None]
    scaled = [Taps(each.low_BCHW * scale, each.high_BCHW, each.heads) for each in (student, teacher)]
    plain = FeatureObjective(both, normalise=True)(student, teacher, BOXES)
    # The floor under dead channels depends on the mean spread, so only channels near it are exactly free of scale.
    even = [Taps(each.low_BCHW * 100, each.high_BCHW, each.heads) for each in (student, teacher)]
    torch.testing.assert_close(FeatureObjective(both, normalise=True)(*even, BOXES), plain, rtol=1e-3, atol=0)
    rough = FeatureObjective(both, normalise=True)(*scaled, BOXES)
    assert 0.3 * plain < rough < 1.1 * plain
    assert FeatureObjective(both)(*scaled, BOXES) > 5 * FeatureObjective(both)(student, teacher, BOXES)


def test_normalised_feature_by_hand() -> None:
    """The box reads −2, 2, −2, three times each, so the spread is 4 √2 / 3; the student is off by 3 everywhere."""
    both = path(declare(low=1), declare(low=1))
    x = torch.arange(32) % 2 * 4.0 - 2
    teacher_map = x.expand(1, 1, 16, 32)
    box = [torch.tensor([[0.25, 0.25, 0, 1.0, 1.0, 1, 0, 0, 0]])]
    heads = HeadMaps(teacher_map, teacher_map)
    teacher, student = (Taps(each, each, heads) for each in (teacher_map, teacher_map + 3))
    loss = FeatureObjective(both, normalise=True)(student, teacher, box)
    assert loss.item() == pytest.approx(3 / (4 * 2**0.5 / 3), rel=1e-3)


def test_spread_is_remembered_and_dead_channels_stay_small() -> None:
    both = path(declare(), declare())
    objective = FeatureObjective(both, normalise=True)
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    teacher.low_BCHW[:, 0] = 0.25
    first = objective(student, teacher, BOXES)
    assert first < 20 * feature_loss(student.low_BCHW, teacher.low_BCHW, BOXES, GRID)
    objective.eval()
    before = objective.variance.value.clone()
    objective(student, taps_of(both.teacher, seed=2), BOXES)
    torch.testing.assert_close(objective.variance.value, before)
    objective.train()
    objective(student, taps_of(both.teacher, seed=2), [torch.zeros(0, 9)] * 2)
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
    return Taps(full, full, HeadMaps(heatmap, regression))


@pytest.mark.parametrize("cell", [0.25, 1.0])
def test_response_of_a_teacher_in_other_cells(cell: float) -> None:
    """Heads that say the same in metres agree, whatever the cells: offsets count in cells and are converted."""
    student, teacher = declare(), declare(grid=BevGrid(-8.0, 8.0, -4.0, 4.0, cell))
    boxes = [torch.tensor([[1.0, 0.5, 0, 4.0, 2.0, 1, 0, 0, 0], [-4.0, 2.0, 0, 4.0, 2.0, 1, 0, 0, 0]])]
    objective = ResponseObjective(path(student, teacher))
    loss = objective(ramp_taps(student, (1.2, 0.7)), ramp_taps(teacher, (1.2, 0.7)), boxes)
    assert loss.item() == pytest.approx(0, abs=1e-4)
    # The teacher points 1 m further left: 2 of the student's cells in one of two offsets of 10 channels.
    loss = objective(ramp_taps(student, (1.2, 0.7)), ramp_taps(teacher, (1.2, 1.7)), boxes)
    assert loss.item() == pytest.approx(2 / REGRESSION_CHANNELS, rel=1e-3)


def test_response_beyond_the_teachers_ground_does_not_count() -> None:
    student, teacher = declare(), declare(grid=BevGrid(-8.0, 0.0, -4.0, 4.0, 0.5))
    objective = ResponseObjective(path(student, teacher))
    of_student, of_teacher = taps_of(student, batch=1), taps_of(teacher, seed=1, batch=1)
    beyond = [torch.tensor([[4.0, 0.0, 0, 2, 1, 1, 0, 0, 0]])]
    within = [torch.tensor([[-4.0, 0.0, 0, 2, 1, 1, 0, 0, 0]])]
    assert objective(of_student, of_teacher, beyond) == 0
    assert objective(of_student, of_teacher, within) > 0


def test_the_border_of_a_coarser_teacher_teaches_its_nearest_cell() -> None:
    """The student's outermost centres lie outside the teacher's: no zero logit, that is confidence 0.5, may mix in."""
    student, teacher = declare(), declare(grid=BevGrid(-8.0, 8.0, -4.0, 4.0, 2.0))
    taps = [taps_of(declared, batch=1) for declared in (student, teacher)]
    for each in taps:
        each.heads.heatmap_BKHW.fill_(-5.0)
        each.heads.regression_BRHW.view(1, len(TASKS), REGRESSION_CHANNELS, *each.heads.heatmap_BKHW.shape[2:]).fill_(1)
        each.heads.regression_BRHW.unflatten(1, (len(TASKS), -1))[:, :, :2] = 0
    corner = [torch.tensor([[-7.9, -3.9, 0, 2, 1, 1, 0, 0, 0]])]
    assert ResponseObjective(path(student, teacher))(*taps, corner).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", [FeatureObjective, RelationObjective])
def test_boxes_that_one_map_holds_in_part_do_not_count(objective) -> None:
    smaller = declare(grid=BevGrid(-4.0, 4.0, -4.0, 4.0, 0.5))
    inside, across = ([x, 0.0, 0.0, 2.0, 1.0, 1.0, 0.3, 0.0, 0.0] for x in (1.0, 3.9))
    for both in (path(declare(), smaller), path(smaller, declare())):
        compare = objective(both)
        of_student, of_teacher = taps_of(both.student, batch=1), taps_of(both.teacher, seed=1, batch=1)
        alone = compare(of_student, of_teacher, [torch.tensor([inside])])
        assert alone > 0
        assert compare(of_student, of_teacher, [torch.tensor([inside, across])]) == alone


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_grids_without_common_ground_are_refused(objective) -> None:
    with pytest.raises(UdxError, match="share no ground"):
        objective(path(declare(), declare(grid=BevGrid(8.0, 16.0, -4.0, 4.0, 0.5))))


# ---------------------------------------------------------------------------------------------------------------------
# Settings.


def test_config_survives_json_and_overrides() -> None:
    config = DistillationConfig.paper(teacher="lidar", student="cam")
    assert from_plain(DistillationConfig, to_plain(config), "config.json") == config
    assert with_override(config, "weights.feature=0").weights == LossWeights(feature=0.0, relation=40.0, response=10.0)
    assert with_override(config, "adapter=never").adapter == "never"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("weights.feature=-1", "at least 0"),
        ("weights.response=Infinity", "finite"),
        ("ramp=1.5", "ramp"),
        ("teacher_temperature=0", "temperature"),
        ("ema_decay=1.0", "ema_decay"),
        ("balance=auto", "'share', 'fixed'"),
        ("adapter=sometimes", "'auto', 'always', 'never'"),
    ],
)
def test_bad_settings_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UdxError, match=message):
        with_override(DistillationConfig(), assignment)
    with pytest.raises(ValueError, match="all weights of the distillation losses are 0"):
        LossWeights(feature=0.0, relation=0.0, response=0.0)


def test_the_papers_settings() -> None:
    assert {pair: (w.feature, w.relation, w.response) for pair, w in PAPER_WEIGHTS.items()} == {
        ("fusion", "lidar"): (10, 1, 10),
        ("fusion", "cam"): (10, 5, 10),
        ("cam", "lidar"): (10, 5, 1),
        ("lidar", "cam"): (100, 40, 10),
    }
    config = DistillationConfig.paper(teacher="cam", student="lidar")
    assert (config.balance, config.ramp, config.normalise_feature) == ("fixed", 0.0, False)
    with pytest.raises(UdxError, match="no weights for cam → cam"):
        DistillationConfig.paper(teacher="cam", student="cam")


def test_weaker_teachers() -> None:
    by_modality = {
        pair for pair in itertools.product(DETECTORS, DETECTORS) if teacher_is_weaker(teacher=pair[0], student=pair[1])
    }
    assert by_modality == {("cam", "lidar"), ("cam", "fusion"), ("lidar", "fusion")}
    assert teacher_is_weaker(teacher="lidar", student="cam", teacher_mAP=0.3, student_mAP=0.4)
    assert not teacher_is_weaker(teacher="cam", student="lidar", teacher_mAP=0.5, student_mAP=0.4)
    assert teacher_is_weaker(teacher="cam", student="lidar", teacher_mAP=0.5)
