"""What holds for every objective, also for the one that was added last: they are found by their configurations."""

import dataclasses
import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.comparing import (
    BOXES,
    DETECTORS,
    NO_BOXES,
    WEAKER,
    compare,
    declare,
    maps_in,
    objects_of,
    sample_of,
    taps_of,
)
from udx.config import from_plain, to_plain
from udx.geometry import BevGrid
from udx.models.taps import DeclaredTaps, EncoderTaps, HeadMaps, PerspectiveTap, Taps
from udx.train.lesson_cache import CacheKey, LessonCache
from udx.train.methods import DistillationConfig
from udx.train.objectives import Objective, ObjectiveConfig, Pair


def names_of(config: type[ObjectiveConfig]) -> list[str]:
    return [item.name for item in dataclasses.fields(config)]


FOUND: Mapping[str, type[ObjectiveConfig]] = {
    config.__dataclass_fields__["kind"].default: config
    for config in ObjectiveConfig.__subclasses__()
    if config.__module__.startswith("udx.train.objectives.")
}
OBJECTIVES: Mapping[str, ObjectiveConfig] = {
    **{kind: config(weight=1.0) for kind, config in FOUND.items()},
    **{f"{kind} at low": config(weight=1.0, at="low") for kind, config in FOUND.items() if "at" in names_of(config)},
}
COMPARE_MORE_THAN_OBJECTS = {"channel_wise", "crucial_response", "perspective_relation", "split_feature"}
NEVER_ZERO = {"contrastive"}
"""Whose loss is no distance."""

TWO_SAMPLES = [
    torch.cat([torch.tensor([[7.0, -3.0, 0, 2, 1, 1, 0.4, 0, 0]]), BOXES[0]]),
    torch.tensor([[3.0, 1.0, 0, 4, 2, 1, -0.7, 0, 0], [-6.0, 2.5, 0, 2, 1, 1.5, 1.0, 0, 0]]),
]
"""The first box is beyond the ground of one of the detectors."""


def seen_in_perspective(declared: DeclaredTaps, channels: int) -> DeclaredTaps:
    frustum = declare(perspective=1).perspective.frustum
    return dataclasses.replace(declared, perspective=PerspectiveTap(channels, frustum))


def pair_of(teacher: str, student: str) -> Pair:
    widths = {"lidar": 3, "cam": 5, "fusion": 4}
    return Pair(
        student=seen_in_perspective(DETECTORS[student], widths[student]),
        teacher=seen_in_perspective(DETECTORS[teacher], widths[teacher]),
        teacher_is_weaker=(teacher, student) in WEAKER,
    )


def equal_pair(**settings: object) -> Pair:
    return Pair(student=declare(perspective=3), teacher=declare(perspective=3), **settings)


def build(name: str, pair: Pair) -> Objective:
    torch.manual_seed(0)
    return OBJECTIVES[name].build(pair)


def test_there_is_a_test_for_every_kind(request: pytest.FixtureRequest) -> None:
    of_unidistill = {"feature", "relation", "response"}
    tested = {path.stem.removeprefix("test_") for path in request.path.parent.glob("test_*.py")}
    assert set(FOUND) - of_unidistill <= tested


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_settings_survive_json(name: str) -> None:
    config = DistillationConfig(objectives={"it": OBJECTIVES[name]})
    assert from_plain(DistillationConfig, to_plain(config), "config.json") == config


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("teacher", "student"), list(itertools.product(DETECTORS, DETECTORS)))
def test_any_to_any(name: str, teacher: str, student: str) -> None:
    """Different widths, strides, cells and ranges: a loss, with gradients to student and adapter and no one else."""
    both = pair_of(teacher, student)
    objective = build(name, both)
    of_student, of_teacher = taps_of(both.student), taps_of(both.teacher, seed=1)
    for each in maps_in(of_student) + maps_in(of_teacher):
        each.requires_grad_()
    loss = compare(objective, of_student, of_teacher, TWO_SAMPLES)
    loss.backward()
    assert loss.shape == () and loss.dtype == torch.float32 and loss > 0
    reached = [each.grad for each in maps_in(of_student) if each.grad is not None]
    assert reached and all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in reached)
    assert all(each.grad is None for each in maps_in(of_teacher))
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in objective.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("teacher", DETECTORS)
def test_lessons_of_a_batch_are_those_of_its_samples(name: str, teacher: str) -> None:
    """And of nothing that is learned: the objective may change between."""
    both = pair_of(teacher, "lidar")
    objective = build(name, both)
    of_teacher, objects = taps_of(both.teacher, seed=1), objects_of(TWO_SAMPLES)
    lessons = objective.read(of_teacher, objects)
    assert len(lessons) == 2
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(1.0)
    for sample, lesson in enumerate(lessons):
        (alone,) = objective.read(sample_of(of_teacher, sample), objects.of([sample]))
        assert lesson.keys() == alone.keys()
        for key, tensor in alone.items():
            torch.testing.assert_close(lesson[key], tensor, rtol=1e-6, atol=1e-6)
            assert not lesson[key].requires_grad


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("boxes", [TWO_SAMPLES, NO_BOXES], ids=["boxes", "none"])
def test_lessons_teach_the_same_from_the_cache(name: str, boxes: list[Tensor], tmp_path) -> None:
    both = pair_of("fusion", "lidar")
    objective = build(name, both)
    student, objects = taps_of(both.student), objects_of(boxes)
    lessons = objective.read(taps_of(both.teacher, seed=1), objects)
    digest = "0" * 64
    key = CacheKey(
        teacher_sha256=digest,
        dataset_sha256=digest,
        augmentation=None,
        augmentation_seed=None,
        objectives={},
        student={},
        teacher={},
        precision="no",
        device="cpu",
    )
    cache = LessonCache.open(tmp_path / "cache", key)
    for position, lesson in enumerate(lessons):
        cache.add(position, 0, {"it": lesson})
    cache.flush()
    remembered = [cache.lookup(position)["it"] for position in range(len(lessons))]
    assert objective(student, remembered, objects) == objective(student, lessons, objects)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=10)
@given(order=st.permutations(range(3)))
def test_the_order_of_boxes_does_not_matter(name: str, order: list[int]) -> None:
    both = equal_pair()
    objective = build(name, both)
    rows = torch.cat([BOXES[0], TWO_SAMPLES[1][:1]])
    maps = taps_of(both.student, batch=1), taps_of(both.teacher, seed=1, batch=1)
    torch.testing.assert_close(compare(objective, *maps, [rows[order]]), compare(objective, *maps, [rows]))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("teacher", DETECTORS)
def test_without_boxes_it_is_well_defined(name: str, teacher: str) -> None:
    both = pair_of(teacher, "lidar")
    student = taps_of(both.student)
    for each in maps_in(student):
        each.requires_grad_()
    objective = build(name, both)
    loss = compare(objective, student, taps_of(both.teacher, seed=1), NO_BOXES)
    loss.backward()
    grads = [each.grad for each in maps_in(student) if each.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in objective.parameters())
    if OBJECTIVES[name].kind in COMPARE_MORE_THAN_OBJECTS:
        assert loss > 0
    else:
        assert loss == 0
        assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("name", [name for name, its in OBJECTIVES.items() if its.kind not in NEVER_ZERO])
def test_identical_maps_cost_nothing(name: str) -> None:
    both = equal_pair()
    maps = taps_of(both.student)
    assert compare(build(name, both), maps, maps, TWO_SAMPLES).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "name", [name for name, its in OBJECTIVES.items() if its.kind not in COMPARE_MORE_THAN_OBJECTS]
)
def test_values_far_from_any_object_do_not_matter(name: str) -> None:
    """On BEV maps: at x above 3 m there is no box, and none of the Gaussians reaches beyond 6 m."""
    both = equal_pair()
    objective = build(name, both)
    student, teacher = taps_of(both.student), taps_of(both.teacher, seed=1)

    def changed(taps: Taps, by: float) -> Taps:
        def far(map_BCHW: Tensor) -> Tensor:
            return torch.cat([map_BCHW[..., :28], map_BCHW[..., 28:] * 3 + by], dim=-1)  # x ≥ 6

        return dataclasses.replace(
            taps,
            low_BCHW=far(taps.low_BCHW),
            high_BCHW=far(taps.high_BCHW),
            heads=HeadMaps(far(taps.heads.heatmap_BKHW), far(taps.heads.regression_BRHW)),
        )

    want = compare(objective, student, teacher, BOXES)
    torch.testing.assert_close(compare(objective, changed(student, 50.0), changed(teacher, -50.0), BOXES), want)
    beside = dataclasses.replace(
        student,
        **{name: getattr(student, name) + 1 for name in ("low_BCHW", "high_BCHW", "perspective_BNChw")},
        heads=HeadMaps(student.heads.heatmap_BKHW + 1, student.heads.regression_BRHW * 2),
    )
    assert compare(objective, beside, teacher, BOXES) != want, "near the objects they do"


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if build(name, equal_pair()).of_encoder])
def test_what_teaches_an_encoder_needs_no_more_than_its_taps(name: str) -> None:
    both = pair_of("fusion", "cam")
    objective = build(name, both)
    student, objects = taps_of(both.student), objects_of(TWO_SAMPLES)
    lessons = objective.read(taps_of(both.teacher, seed=1), objects)
    encoded = EncoderTaps(low_BCHW=student.low_BCHW, perspective_BNChw=student.perspective_BNChw)
    assert objective(encoded, lessons, objects) == objective(student, lessons, objects)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_changes_only_the_rounding_of_the_maps(name: str) -> None:
    """Half-precision maps under autocast against the same rounded values in float32 without."""
    both = equal_pair()
    objective = build(name, both).eval()

    def cast(taps: Taps, dtype: torch.dtype) -> Taps:
        heads = HeadMaps(taps.heads.heatmap_BKHW.to(dtype), taps.heads.regression_BRHW.to(dtype))
        names = ("low_BCHW", "high_BCHW", "perspective_BNChw")
        return dataclasses.replace(taps, heads=heads, **{name: getattr(taps, name).to(dtype) for name in names})

    half = [cast(taps_of(both.student, seed=seed), torch.bfloat16) for seed in (0, 1)]
    plain = compare(objective, *(cast(each, torch.float32) for each in half), TWO_SAMPLES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = compare(objective, *half, TWO_SAMPLES)
    assert mixed.dtype == torch.float32
    # What is learned, here the projections of the contrastive term, computes in half precision.
    learned = any(True for _ in objective.parameters())
    torch.testing.assert_close(mixed, plain, rtol=3e-2 if learned else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients(name: str) -> None:
    """Against finite differences in float64, boxes half outside and a sample without any among them."""
    grid = BevGrid(-2.0, 4.0, -1.0, 3.0, 1.0)
    boxes = [torch.tensor([[1.0, 0.5, 0, 2, 1, 1, 0.4, 0, 0], [4.0, 3.0, 0.5, 3, 2, 2, -1.0, 0, 0]]).double()]
    objects = objects_of([*boxes, torch.zeros(0, 9).double()])
    both = Pair(student=declare(3, 4, grid=grid, perspective=2), teacher=declare(4, 3, grid=grid, perspective=3))
    objective = build(name, both).double()
    lessons = objective.read(taps_of(both.teacher, seed=1, dtype=torch.float64), objects)
    student = taps_of(both.student, dtype=torch.float64)

    def loss(low: Tensor, high: Tensor, heatmap: Tensor, regression: Tensor, perspective: Tensor) -> Tensor:
        heads = HeadMaps(heatmap, regression)
        taps = Taps(low_BCHW=low, high_BCHW=high, heads=heads, perspective_BNChw=perspective)
        return objective(taps, lessons, objects)

    inputs = [each.requires_grad_() for each in maps_in(student)]
    assert loss(*inputs) > 0
    assert torch.autograd.gradcheck(loss, inputs, atol=1e-5, fast_mode=True)
