"""A teacher is found by its configuration, and a student's changes reach it as far as they apply."""

import dataclasses
from types import SimpleNamespace

import pytest

from tests.tiny import tiny_run
from udx.config import with_override
from udx.train.checkpoint import CheckpointRecord, TeacherRecord
from udx.train.job import Request, find_alone, teacher_config
from udx.train.matching import shared_overrides, stands_for
from udx.train.recipes import nano

CONFIG = tiny_run("fusion", epochs=3)
TEACHER = TeacherRecord(run="r", modality="fusion", checkpoint_sha256="0" * 64, mAP=None, NDS=None)


def record(config=CONFIG, **changes) -> CheckpointRecord:
    return CheckpointRecord(config=config, step=1, data={"keyframes": "k"}, git_commit="", **changes)


def test_a_run_stands_for_its_own_configuration_alone():
    assert stands_for(record(), CONFIG, "k")
    assert not stands_for(record(), CONFIG, "other")
    assert not stands_for(record(teacher=TEACHER), CONFIG, "k")
    assert not stands_for(record(start_sha256="0" * 64), CONFIG, "k")
    assert not stands_for(record(tiny_run("lidar", epochs=3)), CONFIG, "k")


@pytest.mark.parametrize(
    ("assignment", "same"),
    [
        ("train.epochs=1", False),
        ("train.batch_size=1", False),
        ("train.optimiser.learning_rate=0.1", False),
        ("loss.heatmap=2", False),
        ("detector.low_channels=16", False),
        ("detector.spec.grid.cell=1.6", False),
        ("train.seed=5", True),
        ("train.workers=1", True),
        ("train.checkpoint_every_s=1", True),
        ("train.validate_every=1", True),
        ("distillation.ramp=0.5", True),
    ],
)
def test_what_decides_on_the_weights_tells_runs_apart(assignment, same):
    assert stands_for(record(with_override(CONFIG, assignment)), CONFIG, "k") is same


def test_overrides_reach_the_teacher_as_far_as_they_apply():
    given = [
        "train.epochs=2",
        "distillation.ramp=0.5",
        "detector.spec.camera.frustum.depth_bins=20",
        "detector.spec.lidar.sweeps=3",
        "detector.low_channels=16",
    ]
    assert shared_overrides(nano("lidar"), given) == [given[0], given[3], given[4]]
    assert shared_overrides(nano("cam"), given) == [given[0], given[2], given[4]]
    assert shared_overrides(nano("fusion"), given) == [given[0], *given[2:]]
    together = ["detector.bev_encoder.channels=[8]", "detector.bev_encoder.strides=[1]",
                "detector.bev_encoder.convolutions=[1]", "detector.bev_encoder.out_channels=[8]"]  # fmt: skip
    assert shared_overrides(nano("cam"), together) == together
    config = teacher_config(Request(student="cam", teacher="lidar", epochs=1, seed=4, overrides=tuple(given)), "lidar")
    assert (config.train.epochs, config.train.seed, config.detector.low_channels) == (2, 4, 16)
    assert config.detector.spec.modality == "lidar" and config.detector.spec.lidar.sweeps == 3


def test_the_newest_run_of_another_configuration_does_not_teach(make_job, tmp_path, monkeypatch):
    from udx.train.loop import train

    monkeypatch.chdir(tmp_path)
    data = SimpleNamespace(identity={"keyframes": "tiny"})
    wanted = make_job(tmp_path / "runs" / "wanted", epochs=2)
    trial = make_job(tmp_path / "runs" / "trial", epochs=1)
    for job in (wanted, trial):
        train(job)
        job.run.metrics.write_text('{"mAP": 0.1, "NDS": 0.2}')
    assert find_alone(wanted.config, data).folder.name == "wanted"
    assert find_alone(trial.config, data).folder.name == "trial"
    longer = dataclasses.replace(wanted.config, train=dataclasses.replace(wanted.config.train, epochs=5))
    assert find_alone(longer, data) is None


def test_a_runs_configuration_can_be_given_back(tmp_path, make_job):
    from udx.train.job import configured, resolve_config
    from udx.train.loop import train

    job = make_job(tmp_path / "run", epochs=1)
    train(job)
    given = configured(job.run.config)
    assert given["student"] == "lidar"
    again = resolve_config(Request(**given, epochs=3))
    assert again == dataclasses.replace(job.config, train=dataclasses.replace(job.config.train, epochs=3))


def test_a_finished_run_says_how_to_train_it_further(tmp_path, make_job):
    from udx.errors import UdxError
    from udx.train.loop import train

    job = make_job(tmp_path / "run", epochs=1)
    train(job)
    longer = dataclasses.replace(job.config, train=dataclasses.replace(job.config.train, epochs=3))
    with pytest.raises(UdxError, match=r"another config\.train\.epochs \(1, now 3\).*--init .*run --out NEW"):
        train(dataclasses.replace(job, config=longer, resume=True))
