"""The settings of a distillation, and the methods known by name."""

import dataclasses
import itertools
from collections.abc import Mapping
from functools import cache

import pytest
import torch

from tests.comparing import WEAKER, objects_of
from tests.tiny import tiny_detector, tiny_inputs, tiny_run
from udx.config import from_plain, to_plain, with_override
from udx.errors import UdxError
from udx.models.detection_loss import DetectionLossConfig, detection_loss
from udx.models.detector import Detector
from udx.models.taps import Taps
from udx.train.distiller import Distiller, FrozenTeacher
from udx.train.logbook import read_log
from udx.train.loop import train
from udx.train.methods import METHODS, PAPER_WEIGHTS, DistillationConfig, paper, unidistill
from udx.train.objectives import Objects, Pair
from udx.train.objectives.feature import Feature
from udx.train.objectives.relation import Relation
from udx.train.objectives.response import Response
from udx.train.run import Run


def test_config_survives_json_and_overrides() -> None:
    config = paper("lidar", "cam")
    assert from_plain(DistillationConfig, to_plain(config), "config.json") == config
    assert with_override(config, "objectives.feature.weight=0").objectives == {
        "feature": Feature(weight=0.0),
        "relation": Relation(weight=40.0),
        "response": Response(weight=10.0, teacher_temperature=2.0),
    }
    assert with_override(config, "adapter=never").adapter == "never"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("objectives.feature.weight=-1", "at least 0"),
        ("objectives.response.weight=Infinity", "finite"),
        ("objectives.feature.ema_decay=1.0", "ema_decay"),
        ("objectives.response.teacher_temperature=0", "temperature"),
        ("objectives.relation.kind=magic", "kind 'magic' is not one of .*feature.*relation.*response"),
        ("objectives={}", "all weights of the distillation losses are 0"),
        ("ramp=1.5", "ramp"),
        ("ema_decay=1.0", "ema_decay"),
        ("encoder_first=1", "encoder_first"),
        ("balance=auto", "'share', 'fixed'"),
        ("adapter=sometimes", "'auto', 'always', 'never'"),
    ],
)
def test_bad_settings_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UdxError, match=message):
        with_override(unidistill(), assignment)


@pytest.mark.parametrize("name", ["heatmap", "offset", "loss", "Feature", "a.b", ""])
def test_names_that_the_log_cannot_tell_apart_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be named '{name}'"):
        DistillationConfig(objectives={name: Feature(weight=1.0)})


def test_some_weight_must_be_left() -> None:
    with pytest.raises(ValueError, match="all weights of the distillation losses are 0"):
        unidistill(feature=0.0, relation=0.0, response=0.0)


def test_the_papers_settings() -> None:
    assert dict(PAPER_WEIGHTS) == {
        ("fusion", "lidar"): (10, 1, 10),
        ("fusion", "cam"): (10, 5, 10),
        ("cam", "lidar"): (10, 5, 1),
        ("lidar", "cam"): (100, 40, 10),
    }
    config = paper("cam", "lidar")
    assert (config.balance, config.ramp) == ("fixed", 0.0)
    assert config.objectives == {
        "feature": Feature(weight=10.0, normalise=False),
        "relation": Relation(weight=5.0),
        "response": Response(weight=1.0, teacher_temperature=2.0),
    }
    with pytest.raises(UdxError, match="no weights for cam → cam"):
        paper("cam", "cam")


# ---------------------------------------------------------------------------------------------------------------------
# Every method on every path.

MODALITIES = ("lidar", "cam", "fusion")
PATHS = list(itertools.product(MODALITIES, MODALITIES))
IMPOSSIBLE: Mapping[str, set[tuple[str, str]]] = {
    "paper": set(PATHS) - set(PAPER_WEIGHTS),
    "monodistill": {path for path in PATHS if "lidar" in path},
}


@cache
def taught_by(modality: str) -> tuple[FrozenTeacher, Taps]:
    """A tiny teacher, wider than its students, and what it says of two samples."""
    torch.manual_seed(7)
    teacher = FrozenTeacher(Detector(tiny_detector(modality, low_channels=12)))
    return teacher, teacher(tiny_inputs())


def two_samples() -> Objects:
    boxes = torch.tensor([[8.0, 3.0, 0.5, 4.0, 2.0, 1.5, 0.4, 1.0, 0.0], [-9.0, -4.0, 0.0, 6.0, 2.5, 2.0, 2.0, 0, 0]])
    return objects_of([boxes, boxes[1:]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("teacher", "student"), PATHS)
def test_a_step_of_every_method_on_every_path(method: str, teacher: str, student: str) -> None:
    """One step of a tiny student moves encoder and adapters by finite amounts, each term at its share."""
    if (teacher, student) in IMPOSSIBLE.get(method, ()):
        with pytest.raises(UdxError, match=f"{teacher} → {student}.*--method"):
            METHODS[method](teacher, student)
        return
    config = METHODS[method](teacher, student)
    assert from_plain(DistillationConfig, to_plain(config), "config.json") == config
    torch.manual_seed(0)
    detector = Detector(tiny_detector(student))
    frozen, taught = taught_by(teacher)
    pair = Pair(student=detector.taps, teacher=frozen.detector.taps, teacher_is_weaker=(teacher, student) in WEAKER)
    distiller = Distiller(config, pair)
    objects = two_samples()
    taps = detector(tiny_inputs())
    detection = torch.stack(
        list(
            detection_loss(
                taps.heads, list(objects.boxes), list(objects.labels), detector.config.spec.grid, DetectionLossConfig()
            ).values()
        )
    ).sum()
    terms = distiller(taps, distiller.read(taught, objects), objects, detection, 1.0)
    assert terms.weighted.keys() == config.objectives.keys()
    for name, objective in config.objectives.items():
        assert terms.raw[name] > 0, name
        if config.balance == "share":
            assert terms.weighted[name].item() == pytest.approx(objective.weight * detection.item(), rel=0.02), name
    trained = [*detector.parameters(), *distiller.parameters()]
    before = [parameter.detach().clone() for parameter in trained]
    terms.total.backward()
    torch.optim.AdamW(trained, 1e-3).step()
    assert all(parameter.isfinite().all() for parameter in trained)
    moved = [not torch.equal(old, new) for old, new in zip(before, trained, strict=True) if new.grad is not None]
    assert sum(moved) > 10
    assert all(parameter.grad is not None for parameter in distiller.parameters())
    assert all(parameter.grad is None for parameter in frozen.detector.parameters())


def test_all_methods_train_together_and_from_the_cache(make_job, tmp_path) -> None:
    """A whole training with every objective there is, online and out of a cache: the same losses but for rounding."""
    teacher = Run(tmp_path / "teacher")
    train(make_job(teacher.folder, "fusion", epochs=1))
    methods = {name: method("fusion", "cam") for name, method in METHODS.items()}
    every = DistillationConfig(
        objectives={
            f"{name}_{term}": objective for name, its in methods.items() for term, objective in its.objectives.items()
        },
        ramp=0.0,
    )
    still = tiny_run("cam", epochs=2, augmentation=None)
    config = dataclasses.replace(still, distillation=every)
    cache = tmp_path / "cache"
    jobs = {
        "online": make_job(tmp_path / "online", config=config, teacher=teacher),
        "filling": make_job(tmp_path / "filling", config=config, teacher=teacher, teacher_cache=cache),
        "cached": make_job(tmp_path / "cached", config=config, teacher=teacher, teacher_cache=cache),
    }
    logs = {}
    for name, job in jobs.items():
        train(job)
        logs[name] = read_log(job.run.log)
    for step, (online, filling, cached) in enumerate(zip(*logs.values(), strict=True)):
        for term in every.objectives:
            assert online[f"{term}_raw"] > 0
            # What is remembered is exact; the threads' order of adding is not, and steps carry its rounding on.
            rounding = 1e-3 if step else 1e-6
            assert cached[f"{term}_raw"] == pytest.approx(filling[f"{term}_raw"], rel=rounding), term
            # The entries that the teacher is surest of may change places where confidences are all but equal.
            assert filling[f"{term}_raw"] == pytest.approx(online[f"{term}_raw"], rel=1e-3), term
