"""What a run survives: interruptions at any step, full disks, signals, losses that are no numbers."""

import dataclasses
import os
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

from udx.data.augment import AugmentationConfig, BevAugmentation
from udx.data.evaluation import Metrics
from udx.errors import UdxError
from udx.geometry import CLASSES
from udx.train.checkpoint import read_checkpoint
from udx.train.logbook import read_log
from udx.train.loop import Job, Validation, train
from udx.train.run import Run

TURN = AugmentationConfig(bev=BevAugmentation(mirror_y_probability=0.5, rotation_rad=(-0.2, 0.2)))
DROPPING = {
    "hidden_sizes": [16, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3"],
    "drop_path_rate": 0.5,
}


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """Handle SIGINT as a terminal's process does: one started in the background ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="module")
def teacher(keyframes, tmp_path_factory):
    from tests.tiny import tiny_run

    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    train(Job(config=tiny_run("fusion", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run


def everything(config):
    """A configuration in which whatever can be lost at an interruption is in use."""
    camera = dataclasses.replace(config.detector.camera, backbone="convnext", settings=DROPPING)
    return dataclasses.replace(
        config,
        detector=dataclasses.replace(config.detector, camera=camera),
        train=dataclasses.replace(
            config.train,
            batch_size=1,
            workers=1,
            augmentation=TURN,
            class_balanced=True,
            ema_decay=0.9,
            keep_epochs=1,
            validate_every=1,
        ),
        distillation=dataclasses.replace(config.distillation, ramp=0.7),
    )


def few_classes(keyframe):
    """Leave the objects of two classes: the fewer classes, the shorter a class-balanced epoch."""
    annotations = keyframe.annotations
    return dataclasses.replace(keyframe, annotations=annotations[annotations.labels_N % 5 == 0])


def validation(detector) -> Validation:
    """A figure that only these very weights have."""
    value = min(0.999, float(torch.cat([weight.flatten() for weight in detector.parameters()]).abs().mean()))
    return Validation(Metrics(mean_ap=value, nds=value, per_class=dict.fromkeys(CLASSES, value), tp_errors={}))


def signal_at(step: int, number: int = signal.SIGTERM):
    def watch(progress):
        if progress.step == step:
            os.kill(os.getpid(), number)

    return watch


def lines(run: Run) -> list[dict[str, float]]:
    volatile = {"seconds", "memory_mb"}
    return [{name: value for name, value in line.items() if name not in volatile} for line in read_log(run.log)]


def same_tensors(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(keyframes, teacher, tmp_path_factory):
    from tests.tiny import tiny_run

    run = Run(tmp_path_factory.mktemp("runs") / "whole")
    job = Job(
        config=everything(tiny_run("cam", epochs=2)),
        keyframes=[few_classes(keyframe) for keyframe in keyframes],
        data={"keyframes": "tiny"},
        run=run,
        teacher=teacher,
        validate=validation,
    )
    train(job)
    return job


def test_the_run_that_is_interrupted_has_all_that_can_be_lost(whole):
    log = lines(whole.run)
    per_epoch = len(log) // 2
    assert per_epoch >= 3, "an epoch has a middle"
    assert whole.run.metrics_of(1).is_file() and whole.run.metrics_of(2).is_file()
    assert not same_tensors(load_file(whole.run.checkpoint), torch.load(whole.run.state)["learner"]["detector"])


@pytest.mark.parametrize("where", ["in the middle of an epoch", "after an epoch"])
def test_interrupted_and_resumed_it_is_bit_for_bit_the_unbroken_run(whole, tmp_path, where):
    per_epoch = len(read_log(whole.run.log)) // 2
    step = per_epoch - 1 if where == "in the middle of an epoch" else per_epoch
    broken = dataclasses.replace(whole, run=Run(tmp_path / "run"), watch=signal_at(step))
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    assert read_checkpoint(broken.run.checkpoint)[0].step == step
    torch.rand(3)  # a resumed process has drawn other numbers before
    train(dataclasses.replace(broken, resume=True, watch=lambda progress: None))
    assert lines(broken.run) == lines(whole.run)
    assert same_tensors(load_file(broken.run.checkpoint), load_file(whole.run.checkpoint))
    for epoch in (1, 2):
        assert broken.run.metrics_of(epoch).read_text() == whole.run.metrics_of(epoch).read_text()
    assert same_tensors(load_file(broken.run.best.checkpoint), load_file(whole.run.best.checkpoint))


def test_ctrl_c_and_a_schedulers_request_to_end_both_save(make_job, tmp_path):
    for name, number in (("interrupt", signal.SIGINT), ("terminate", signal.SIGTERM)):
        job = make_job(tmp_path / name, watch=signal_at(1, number))
        with pytest.raises(KeyboardInterrupt):
            train(job)
        assert read_checkpoint(job.run.checkpoint)[0].step == 1


def test_the_weights_of_the_last_epochs_are_kept_and_those_before_removed(make_job, tmp_path):
    config = make_job(tmp_path, epochs=4).config
    kept = dataclasses.replace(config, train=dataclasses.replace(config.train, keep_epochs=2))
    job = make_job(tmp_path / "run", config=kept)
    train(job)
    epochs = sorted(path.name for path in (job.run.folder / "epochs").glob("*.safetensors"))
    assert epochs == ["003.safetensors", "004.safetensors"]
    assert same_tensors(load_file(job.run.checkpoint_of(4)), load_file(job.run.checkpoint))


def test_the_epoch_with_the_best_score_is_kept_as_a_run_of_its_own(make_job, tmp_path):
    scores = iter([0.2, 0.5, 0.3])
    weights = []

    def validate(detector):
        value = next(scores)
        weights.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
        return Validation(Metrics(mean_ap=0.0, nds=value, per_class=dict.fromkeys(CLASSES, 0.0), tp_errors={}))

    config = make_job(tmp_path, epochs=3).config
    every = dataclasses.replace(config, train=dataclasses.replace(config.train, validate_every=1))
    job = make_job(tmp_path / "run", config=every, validate=validate)
    train(job)
    assert job.run.best.read_metrics()["NDS"] == 0.5
    assert job.run.best.read_metrics()["epoch"] == 2
    assert same_tensors(load_file(job.run.best.checkpoint), weights[1])
    assert not same_tensors(load_file(job.run.checkpoint), weights[1])


@pytest.fixture
def small_files():
    """Let no file grow beyond what a tiny checkpoint needs: the write itself fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(num_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(make_job, tmp_path, small_files):
    job = make_job(tmp_path / "run", epochs=3, watch=signal_at(1))
    with pytest.raises(KeyboardInterrupt):
        train(job)
    before = {path: path.read_bytes() for path in (job.run.state, job.run.checkpoint)}

    def fill(progress):
        small_files(20_000)

    with pytest.raises(UdxError, match=r"cannot write .*state\.pt.*; free some space"):
        train(dataclasses.replace(job, resume=True, watch=fill))
    small_files(resource.RLIM_INFINITY)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(job.run.folder.glob(".*"))
    train(dataclasses.replace(job, resume=True, watch=lambda progress: None))
    assert len(read_log(job.run.log)) == 3


def test_too_little_space_is_said_before_the_first_step(make_job, tmp_path, monkeypatch):
    import shutil

    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda at: usage)
    with pytest.raises(UdxError, match=r"has 0\.0 GiB left, checkpoint and state need"):
        train(make_job(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_state_may_be_resumed_with_other_batches_of_as_many_samples_a_step(make_job, tmp_path):
    job = make_job(tmp_path / "run", watch=signal_at(1))
    with pytest.raises(KeyboardInterrupt):
        train(job)
    train_config = dataclasses.replace(job.config.train, workers=1, checkpoint_every_s=1.0)
    config = dataclasses.replace(job.config, train=train_config)
    train(dataclasses.replace(job, resume=True, watch=lambda progress: None, config=config))
    smaller = dataclasses.replace(job.config.train, batch_size=1)
    with pytest.raises(UdxError, match="begun with another samples_per_step"):
        train(dataclasses.replace(job, resume=True, config=dataclasses.replace(job.config, train=smaller)))
