"""The distiller: weights, warm-up and balance; what it owns, and what it must not own."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.errors import UdxError
from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.taps import DeclaredTaps, HeadMaps, Tap, Taps
from udx.train.distiller import DistillationTerms, Distiller, FrozenTeacher
from udx.train.losses import EPS, Boxes, feature_loss, relation_loss, response_loss
from udx.train.methods import DistillationConfig, paper, unidistill
from udx.train.objectives import Lesson, Objective, ObjectiveConfig, Objects, Pair

GRID = BevGrid(-8.0, 8.0, -4.0, 4.0, 1.0)
BOXES = [torch.tensor([[1.0, 0.5, 0, 2, 1, 1, 0.4, 0, 0], [-3.3, -1.2, 0, 4, 2, 1, 2.0, 0, 0]])]
NO_BOXES = [torch.zeros(0, 9)]
REGRESSIONS = len(TASKS) * REGRESSION_CHANNELS


def declare(low: int = 4, high: int = 6) -> DeclaredTaps:
    heads = Tap(len(CLASSES) + REGRESSIONS, 1)
    return DeclaredTaps(grid=GRID, low=Tap(low, 1), high=Tap(high, 1), heads=heads)


class TinyDetector(nn.Module):
    """One 1 × 1 convolution a tap, with a batch norm that tells train from eval mode."""

    def __init__(self, declared: DeclaredTaps) -> None:
        super().__init__()
        self.taps = declared
        self.low = nn.Sequential(nn.Conv2d(3, declared.low.channels, 1), nn.BatchNorm2d(declared.low.channels))
        self.high = nn.Conv2d(declared.low.channels, declared.high.channels, 1)
        self.heads = nn.Conv2d(declared.high.channels, declared.heads.channels, 1)

    def forward(self, images: Tensor) -> Taps:
        low = self.low(images)
        high = self.high(low)
        heatmap, regression = self.heads(high).split([len(CLASSES), REGRESSIONS], dim=1)
        return Taps(low_BCHW=low, high_BCHW=high, heads=HeadMaps(heatmap, regression))


class Constant(Objective):
    """Raw losses as scripted, one a step; a parameter to have a gradient."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = iter(values)
        self.factor = nn.Parameter(torch.ones(()))

    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        return [{} for _ in objects.boxes]

    def forward(self, student: Taps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        return next(self.values) * self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted(ObjectiveConfig):
    kind: Literal["scripted"] = "scripted"
    objective: Constant

    def build(self, pair: Pair) -> Constant:
        return self.objective


@pytest.fixture
def images() -> Tensor:
    return torch.randn(1, 3, *GRID.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair() -> tuple[TinyDetector, TinyDetector]:
    torch.manual_seed(0)
    return TinyDetector(declare()), TinyDetector(declare(low=5))


def distil(student: TinyDetector, teacher: TinyDetector, normalise: bool = False) -> Distiller:
    config = dataclasses.replace(unidistill(feature=0.2, relation=0.1, response=0.4), ramp=0.0)
    feature = dataclasses.replace(config.objectives["feature"], normalise=normalise)
    config = dataclasses.replace(config, objectives={**config.objectives, "feature": feature})
    return Distiller(config, Pair(student=student.taps, teacher=teacher.taps))


def scripted(weight: float, *values: float, **settings: object) -> Distiller:
    """One scripted term, named a."""
    objectives = {"a": Scripted(weight=weight, objective=Constant(*values))}
    config = DistillationConfig(objectives=objectives, **({"ramp": 0.0} | settings))
    return Distiller(config, Pair(student=declare(), teacher=declare()))


def objects_of(boxes: Boxes) -> Objects:
    return Objects(boxes, [torch.zeros(len(its), dtype=torch.long) for its in boxes])


def teach(
    distiller: Distiller, student: Taps, teacher: Taps, boxes: Boxes, detection: Tensor | None, progress: float = 1.0
) -> DistillationTerms:
    objects = objects_of(boxes)
    return distiller(student, distiller.read(teacher, objects), objects, detection, progress)


def empty_taps() -> Taps:
    empty = torch.zeros(1, 1, *GRID.shape)
    return Taps(low_BCHW=empty, high_BCHW=empty, heads=HeadMaps(empty, empty))


def step(distiller: Distiller, detection: float = 3.0, progress: float = 1.0, boxes: Boxes = BOXES):
    return teach(distiller, empty_taps(), empty_taps(), boxes, torch.tensor(detection), progress)


def test_fixed_weights_multiply_the_raw_losses(images: Tensor) -> None:
    torch.manual_seed(0)
    student, teacher = TinyDetector(declare()), TinyDetector(declare())
    distiller = Distiller(paper("lidar", "cam"), Pair(student=student.taps, teacher=teacher.taps))
    of_student, of_teacher = student(images), FrozenTeacher(teacher)(images)
    terms = teach(distiller, of_student, of_teacher, BOXES, torch.tensor(3.0), 0.0)
    want = {
        "feature": (100, feature_loss(of_student.low_BCHW, of_teacher.low_BCHW, BOXES, GRID)),
        "relation": (40, relation_loss(of_student.high_BCHW, of_teacher.high_BCHW, BOXES, GRID)),
        "response": (10, response_loss(of_student.heads, of_teacher.heads, BOXES, GRID, teacher_temperature=2.0)),
    }
    for name, (weight, raw) in want.items():
        torch.testing.assert_close(terms.raw[name], raw.detach())
        torch.testing.assert_close(terms.weighted[name], weight * raw)
    torch.testing.assert_close(terms.total, sum(weight * raw for weight, raw in want.values()))
    assert not any(raw.requires_grad for raw in terms.raw.values())
    assert distiller.state_dict() == {}


def test_balanced_terms_are_their_share_of_the_detection_loss(pair, images: Tensor) -> None:
    student, teacher = pair
    distiller = distil(student, teacher)
    terms = teach(distiller, student(images), FrozenTeacher(teacher)(images), BOXES, torch.tensor(7.0))
    for name, share in (("feature", 0.2), ("relation", 0.1), ("response", 0.4)):
        assert terms.weighted[name].item() == pytest.approx(share * 7.0, rel=0.01), name
    assert terms.total.item() == pytest.approx(0.7 * 7.0, rel=0.01)


def test_balance_follows_running_means() -> None:
    """Raw losses 1 and 3, detection losses 4 and 8: at the second step 0.5 · 3 · mean(4, 8) / mean(1, 3)."""
    distiller = scripted(0.5, 1.0, 3.0, ema_decay=0.9)
    assert step(distiller, detection=4.0).weighted["a"].item() == pytest.approx(0.5 * 4, rel=1e-3)
    assert step(distiller, detection=8.0).weighted["a"].item() == pytest.approx(0.5 * 3 * 6 / (2 + EPS))


def test_balance_holds_while_losses_drift() -> None:
    """Over a training in which the raw loss falls by ten and the detection loss by three, the mean share is kept."""
    steps = 400
    raw = [10 ** -(i / steps) * (1.0 + 0.3 * (-1) ** i) for i in range(steps)]
    detection = [6 * 3 ** -(i / steps) for i in range(steps)]
    distiller = scripted(0.25, *raw, ema_decay=0.95)
    shares = [step(distiller, d).weighted["a"].item() / d for d in detection]
    assert sum(shares) / steps == pytest.approx(0.25, rel=0.1)
    assert max(shares) < 0.5


def test_balance_is_not_a_path_for_gradients() -> None:
    """d(weighted)/d(factor) = scale · raw; if the scale had a gradient, balance would cancel it to zero."""
    distiller = scripted(0.5, 2.0)
    constant = distiller.objectives["a"]
    detection = torch.tensor(4.0, requires_grad=True)
    teach(distiller, empty_taps(), empty_taps(), BOXES, detection).total.backward()
    assert constant.factor.grad.item() == pytest.approx(2.0, rel=1e-3)
    assert detection.grad is None


def test_balance_leaves_out_empty_and_overflowing_steps() -> None:
    distiller = scripted(0.5, 2.0, 0.0, 2.0, float("nan"), 2.0)
    assert step(distiller, 4.0).weighted["a"].item() == pytest.approx(2.0, rel=1e-3)
    assert step(distiller, 4.0, boxes=NO_BOXES).weighted["a"] == 0
    step(distiller, float("inf"))
    assert step(distiller, 4.0).weighted["a"].isnan()
    assert step(distiller, 4.0).weighted["a"].item() == pytest.approx(2.0, rel=1e-3)


def test_a_term_without_anything_left_to_teach_falls_asleep() -> None:
    distiller = scripted(0.5, 1e-9)
    assert step(distiller, 4.0).weighted["a"] < 1e-4


def test_validation_does_not_move_the_balance() -> None:
    distiller = scripted(0.5, 2.0, 100.0)
    step(distiller, 4.0)
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    distiller.eval()
    step(distiller, 50.0)
    for name, value in distiller.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)])
def test_weights_rise_over_the_ramp(progress: float, share: float) -> None:
    distiller = scripted(3.0, 2.0, balance="fixed", ramp=0.2)
    terms = step(distiller, progress=progress)
    assert terms.weighted["a"].item() == pytest.approx(6.0 * share)
    assert terms.raw["a"] == 2.0


def test_a_term_of_weight_zero_does_not_exist(pair) -> None:
    student, teacher = (detector.taps for detector in pair)
    distiller = Distiller(unidistill(feature=0.0, relation=1.0, response=0.0), Pair(student=student, teacher=teacher))
    assert list(distiller.objectives) == ["relation"]
    assert not list(distiller.parameters())


def test_no_boxes_are_worth_nothing_but_keep_the_graph(pair, images: Tensor) -> None:
    student, teacher = pair
    distiller = distil(student, teacher)
    terms = teach(distiller, student(images), FrozenTeacher(teacher)(images), NO_BOXES, torch.tensor(7.0))
    assert terms.total == 0
    terms.total.backward()
    assert all((parameter.grad == 0).all() for parameter in distiller.parameters())


def test_it_owns_adapters_and_means_only(pair, images: Tensor) -> None:
    student, teacher = pair
    distiller = distil(student, teacher, normalise=True)
    distiller.teacher = FrozenTeacher(teacher)  # even when somebody hangs it there
    assert set(distiller.state_dict()) == {
        "objectives.feature.adapter.weight",
        "objectives.feature.adapter.bias",
        "objectives.feature.variance.value",
        "objectives.feature.variance.count",
        "means.value",
        "means.count",
    }
    detectors = {id(parameter) for model in pair for parameter in model.parameters()}
    assert not detectors & {id(parameter) for parameter in distiller.parameters()}
    assert not any(isinstance(module, TinyDetector) for module in distiller.modules())


def test_training_reaches_student_and_adapters_and_never_the_teacher(pair, images: Tensor) -> None:
    student, teacher = pair
    frozen, distiller = FrozenTeacher(teacher), distil(student, teacher)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()  # as a careless loop would
    teach(distiller, student(images), frozen(images), BOXES, torch.tensor(7.0)).total.backward()
    assert not teacher.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, before[name])
    trained = [*student.parameters(), *distiller.parameters()]
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained if parameter.dim() > 1
    )


def test_its_state_resumes(pair, images: Tensor) -> None:
    student, teacher = pair
    first, second = (
        distil(student, teacher, normalise=True),
        distil(student, teacher, normalise=True),
    )
    frozen = FrozenTeacher(teacher)
    with torch.no_grad():
        for detection in (5.0, 6.0):
            teach(first, student(images), frozen(images), BOXES, torch.tensor(detection))
        second.load_state_dict(first.state_dict())
        again = [
            teach(each, student(images), frozen(images), BOXES, torch.tensor(4.0)).total for each in (first, second)
        ]
    assert again[0] == again[1]


def test_the_encoder_alone_is_taught_what_it_yields(pair, images: Tensor) -> None:
    """Without a detection loss: the feature term at its weight, gradients to the encoder and its adapter only."""
    student, teacher = pair
    distiller = distil(student, teacher)
    terms = teach(distiller, student(images), FrozenTeacher(teacher)(images), BOXES, None, 0.0)
    assert list(terms.weighted) == ["feature"]
    torch.testing.assert_close(terms.weighted["feature"].detach(), 0.2 * terms.raw["feature"])
    terms.total.backward()
    assert student.low[0].weight.grad.abs().sum() > 0
    assert student.high.weight.grad is None and student.heads.weight.grad is None
    assert distiller.means.count == 0, "there was nothing to balance"


def test_an_encoder_cannot_be_taught_without_a_loss_that_looks_at_it() -> None:
    config = dataclasses.replace(unidistill(feature=0.0), encoder_first=0.3)
    with pytest.raises(UdxError, match=r"encoder_first 0\.3 needs a loss that looks at the encoder alone"):
        Distiller(config, Pair(student=declare(), teacher=declare()))


def test_lessons_of_a_batch_are_those_of_its_samples(pair) -> None:
    """So that they can be remembered one by one; and comparing needs nothing else of the teacher."""
    student, teacher = pair
    distiller, frozen = distil(student, teacher), FrozenTeacher(teacher)
    images = torch.randn(3, 3, *GRID.shape, generator=torch.Generator().manual_seed(1))
    boxes = [BOXES[0], torch.zeros(0, 9), BOXES[0][:1] + 0.7]
    together = distiller.read(frozen(images), objects_of(boxes))
    alone = [distiller.read(frozen(images[at : at + 1]), objects_of(boxes[at : at + 1]))[0] for at in range(3)]
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys() == {"feature", "relation", "response"}
        for name in one:
            torch.testing.assert_close(dict(one[name]), dict(other[name]))
    terms = distiller(student(images), alone, objects_of(boxes), torch.tensor(3.0), 1.0)
    again = distil(student, teacher)(student(images), together, objects_of(boxes), torch.tensor(3.0), 1.0)
    torch.testing.assert_close(terms.raw["response"], again.raw["response"])
    torch.testing.assert_close(terms.raw["relation"], again.raw["relation"])
