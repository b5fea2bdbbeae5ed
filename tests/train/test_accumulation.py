"""Gradients accumulated over micro-batches are those of one large batch; steps, epochs and resuming count steps."""

import dataclasses
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_run
from tests.train.norms import require_equal_norms
from udx.data.augment import AugmentationConfig, BevAugmentation
from udx.errors import Interrupted
from udx.train.learner import Learner
from udx.train.logbook import read_log
from udx.train.loop import Job, train
from udx.train.rehearsal import steps_of
from udx.train.run import Run

TURN = AugmentationConfig(bev=BevAugmentation(mirror_y_probability=0.5, rotation_rad=(-0.2, 0.2)))


@pytest.fixture(scope="module")
def teacher(keyframes, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    train(Job(config=tiny_run("fusion", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run


def without_boxes(keyframe):
    return dataclasses.replace(keyframe, annotations=keyframe.annotations[keyframe.annotations.labels_N < 0])


@pytest.fixture
def many(keyframes):
    """Keyframes of which every third has no boxes, so that micro-batches differ in what they are normalised by."""
    return [without_boxes(its) if at % 3 == 1 else its for at, its in enumerate([*keyframes] * 4)][:8]


def job_of(keyframes, run, batch_size, accumulate, teacher=None, **given):
    config = tiny_run("cam", epochs=2, batch_size=batch_size, accumulate=accumulate, augmentation=TURN)
    optimiser = dataclasses.replace(config.train.optimiser, learning_rate=1e-6)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, optimiser=optimiser, gradient_norms_every=0),
        distillation=dataclasses.replace(config.distillation, balance="fixed", ramp=0.0),
    )
    return Job(config=config, keyframes=keyframes, data={"keyframes": "m"}, run=run, teacher=teacher, **given)


@pytest.mark.parametrize("taught", [False, True])
def test_accumulated_it_is_one_large_batch(many, teacher, tmp_path, monkeypatch, taught):
    # Batch norms see each micro-batch apart: with their running means there is no other difference.
    monkeypatch.setattr(Learner, "train", lambda self: self.student.eval())
    jobs = [
        job_of(many, Run(tmp_path / f"{size}x{number}"), size, number, teacher if taught else None)
        for size, number in ((4, 1), (2, 2), (1, 4))
    ]
    for job in jobs:
        train(job)
    whole, *cut = (read_log(job.run.log) for job in jobs)
    assert len(whole) == 4
    terms = whole[0].keys() - {"seconds", "memory_mb", "gradient_norm"}
    assert {"depth", "heatmap", "velocity"} <= terms and ("relation" in terms) is taught
    for log in cut:
        assert len(log) == len(whole)
        for one, other in zip(whole, log, strict=True):
            expected = pytest.approx({name: one[name] for name in terms}, rel=1e-5, abs=1e-6)
            assert {name: other[name] for name in terms} == expected
        require_equal_norms(whole, log)


def test_interrupted_and_resumed_it_is_the_unbroken_run(many, teacher, tmp_path):
    whole = job_of(many, Run(tmp_path / "whole"), 1, 3, teacher)
    train(whole)
    assert len(read_log(whole.run.log)) == steps_of(whole.config, many) == 2 * (len(many) // 3)

    def stop(progress):
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    broken = dataclasses.replace(whole, run=Run(tmp_path / "broken"), watch=stop)
    with pytest.raises(Interrupted):
        train(broken)
    train(dataclasses.replace(broken, resume=True, watch=lambda progress: None))
    ours, theirs = load_file(broken.run.checkpoint), load_file(whole.run.checkpoint)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [line["loss"] for line in read_log(broken.run.log)] == [line["loss"] for line in read_log(whole.run.log)]
