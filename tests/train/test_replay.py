"""A step without a finite loss: it ends training, is kept whole, and breaks again where it broke."""

import dataclasses
import math

import pytest
import torch

from udx.errors import UdxError
from udx.train.loop import Job, train
from udx.train.replay import Breakage, broken_file, replay
from udx.train.run import Run


@pytest.fixture(scope="module")
def teacher(keyframes, tmp_path_factory):
    from tests.tiny import tiny_run

    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    train(Job(config=tiny_run("lidar", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run


@pytest.fixture
def poisoned(monkeypatch):
    """Let an infinite weight come into the second stage of the BEV encoder when a training has made a step."""
    from udx.train import learner

    honest = learner.Learner.__call__

    def call(self, batch, step):
        if step == 1:
            with torch.no_grad():
                self.detector.bev_encoder.stages[1][0][0].weight[0, 0, 0, 0] = math.inf
        return honest(self, batch, step)

    monkeypatch.setattr(learner.Learner, "__call__", call)
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("taught", [False, True])
def test_a_broken_step_is_replayed_from_what_was_saved(make_job, tmp_path, monkeypatch, teacher, poisoned, taught):
    job = make_job(tmp_path / "run", "cam", epochs=3, teacher=teacher if taught else None)
    with pytest.raises(UdxError, match=r"loss is nan at step 2 of .*; udx replay .*run tells where it breaks"):
        train(job)
    monkeypatch.undo()
    saved = Breakage.read(broken_file(job.run))
    assert saved.step == 1 and len(saved.batch.tokens) == 2
    found = replay(job.run)
    assert found.step == 2
    assert found.weights == ["bev_encoder.stages.1.0.0.weight"]
    assert found.module == "bev_encoder.stages.1.0.0"
    assert not math.isfinite(found.losses["heatmap"])
    assert ("feature" in found.losses) is taught
    assert "bev_encoder.stages.1.0.0" in "\n".join(found.lines())


def test_gradients_that_are_not_finite_never_reach_the_weights(make_job, tmp_path, monkeypatch):
    from udx.train import learner

    honest = learner.detection_loss

    def steep(heads, *others):
        losses = honest(heads, *others)
        # The root of 0 is 0, its slope is infinite.
        return losses | {"offset": (heads.heatmap_BKHW * 0).abs().sqrt().sum()}

    monkeypatch.setattr(learner, "detection_loss", steep)
    job = make_job(tmp_path / "run", epochs=1)
    with pytest.raises(UdxError, match="norm of the gradients is nan at step 1"):
        train(job)
    found = replay(job.run)
    assert found.module is None and not found.weights
    assert "head.shared.0.weight" in found.gradients
    monkeypatch.undo()
    healed = replay(job.run)
    assert not healed.gradients
    assert "everything is finite here" in healed.lines()[-1]


def test_a_replay_computes_the_very_losses_of_the_step(make_job, tmp_path, monkeypatch):
    """Augmentation, dropped paths and weights are those of the step itself."""
    from udx.train import loop

    seen = {}

    def note(terms):
        seen.update({name: float(loss.detach()) for name, loss in terms.losses.items()})
        return {"loss": math.nan}

    monkeypatch.setattr(loop, "_over_processes", note)
    job = make_job(tmp_path / "run", "cam", epochs=1)
    camera = dataclasses.replace(
        job.config.detector.camera,
        backbone="convnext",
        settings={
            "hidden_sizes": [16, 16, 16, 16],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3"],
            "drop_path_rate": 0.5,
        },
    )
    config = dataclasses.replace(job.config, detector=dataclasses.replace(job.config.detector, camera=camera))
    with pytest.raises(UdxError, match="loss is nan"):
        train(dataclasses.replace(job, config=config))
    assert replay(job.run).losses == seen


def test_what_cannot_be_replayed_is_said(make_job, tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(UdxError, match="has no broken step to replay"):
        replay(run)
    run.broken.mkdir(parents=True)
    (run.broken / "step-0000001-0.pt").write_bytes(b"no such thing")
    with pytest.raises(UdxError, match="holds no broken step that can be read"):
        replay(run)
