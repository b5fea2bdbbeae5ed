"""Training: interrupted and resumed it ends where it would have ended; distillation leaves no trace in the student."""

import dataclasses
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from udx.errors import UdxError
from udx.models.detector import Detector
from udx.train.interrupt import interruptible
from udx.train.logbook import read_log
from udx.train.loop import train
from udx.train.run import Run
from udx.train.schedule import one_cycle


def same_weights(one: Run, other: Run) -> bool:
    first, second = load_file(one.checkpoint), load_file(other.checkpoint)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def ctrl_c_raises():
    """Handle SIGINT as a terminal's process does: one started in the background ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def stop_at(step: int):
    def watch(progress):
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return watch


@pytest.fixture(scope="module")
def teacher(keyframes, tmp_path_factory):
    from tests.tiny import tiny_run
    from udx.train.loop import Job

    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    config = tiny_run("fusion", epochs=1)
    train(Job(config=config, keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(make_job, tmp_path):
    jobs = [make_job(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    for job in jobs:
        train(job)
    a, b, c = (job.run for job in jobs)
    assert same_weights(a, b)
    assert not same_weights(a, c)


@pytest.mark.parametrize("step", [1, 2])
def test_ctrl_c_then_resume_ends_where_an_unbroken_run_ends(make_job, tmp_path, teacher, step):
    whole = make_job(tmp_path / "whole", "cam", epochs=3, teacher=teacher)
    train(whole)
    broken = make_job(tmp_path / "broken", "cam", epochs=3, teacher=teacher, watch=stop_at(step))
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    assert len(read_log(broken.run.log)) == step
    train(dataclasses.replace(broken, resume=True, watch=lambda progress: None))
    assert same_weights(whole.run, broken.run)
    losses = [[line["loss"] for line in read_log(run.log)] for run in (whole.run, broken.run)]
    assert losses[0] == losses[1]


def test_a_distilled_checkpoint_has_the_weights_of_its_student_and_no_other(make_job, tmp_path, teacher):
    job = make_job(tmp_path / "student", "cam", epochs=1, teacher=teacher)
    train(job)
    bare = Detector(job.config.detector).state_dict()
    assert load_file(job.run.checkpoint).keys() == bare.keys()
    record = job.run.record()
    assert record.teacher is not None
    assert record.teacher.modality == "fusion"
    assert len(record.teacher.checkpoint_sha256) == 64


def test_the_log_names_every_term(make_job, tmp_path, teacher):
    job = make_job(tmp_path / "student", "cam", epochs=1, teacher=teacher)
    train(job)
    (line,) = read_log(job.run.log)
    expected = {"step", "lr", "loss", "detection", "heatmap", "offset", "velocity", "feature", "relation", "response"}
    assert expected <= line.keys()
    terms = ["heatmap", "offset", "z", "log_size", "heading", "velocity", "feature", "relation", "response"]
    terms += ["depth"] if "depth" in line else []
    assert line["loss"] == pytest.approx(sum(line[name] for name in terms), rel=1e-5)
    assert {"seconds", "memory_mb", "gradient_norm", "dropped_points", "feature_raw"} <= line.keys()


def test_the_lidar_supervises_depth_only_if_asked(make_job, tmp_path):
    config = make_job(tmp_path, "cam", epochs=1).config
    supervised = dataclasses.replace(config, loss=dataclasses.replace(config.loss, depth=2.0))
    unsupervised = dataclasses.replace(config, loss=dataclasses.replace(config.loss, depth=0.0))
    lines = {}
    for name, chosen in (("with", supervised), ("without", unsupervised)):
        job = make_job(tmp_path / name, config=chosen)
        train(job)
        (lines[name],) = read_log(job.run.log)
    assert lines["with"]["depth"] > 0
    assert "depth" not in lines["without"]


def test_the_teacher_is_left_as_it_was(make_job, tmp_path, teacher):
    before = teacher.checkpoint.read_bytes()
    train(make_job(tmp_path / "student", "lidar", epochs=1, teacher=teacher))
    assert teacher.checkpoint.read_bytes() == before


def test_a_start_gives_its_weights(make_job, tmp_path):
    first = make_job(tmp_path / "first", epochs=1)
    train(first)
    # With a rate of zero nothing but the batch norms' running statistics moves.
    config = first.config
    still = dataclasses.replace(config.train, optimiser=dataclasses.replace(config.train.optimiser, learning_rate=0.0))
    second = make_job(tmp_path / "second", config=dataclasses.replace(config, train=still), start=first.run)
    train(second)
    begun, ended = load_file(first.run.checkpoint), load_file(second.run.checkpoint)
    assert all(torch.equal(begun[name], ended[name]) for name in begun if "running" not in name and "num_" not in name)


def test_a_start_of_another_detector_is_refused(make_job, tmp_path, teacher):
    with pytest.raises(UdxError, match=r"of another detector: .* missing|unknown"):
        train(make_job(tmp_path / "student", "lidar", start=teacher))


def test_a_run_is_neither_overwritten_nor_resumed_as_another(make_job, tmp_path):
    job = make_job(tmp_path / "run", epochs=1)
    train(job)
    before = job.run.checkpoint.read_bytes()
    with pytest.raises(UdxError, match="holds a run already"):
        train(make_job(tmp_path / "run", epochs=1))
    with pytest.raises(UdxError, match=r"begun with another config\.train\.epochs"):
        train(make_job(tmp_path / "run", epochs=2, resume=True))
    assert job.run.checkpoint.read_bytes() == before


def test_a_run_that_broke_off_before_its_first_checkpoint_can_be_resumed(make_job, tmp_path):
    job = make_job(tmp_path / "run", epochs=1)
    train(job)
    for path in (job.run.state, job.run.checkpoint):
        path.unlink()
    with pytest.raises(UdxError, match="continue it with --resume"):
        train(job)
    train(dataclasses.replace(job, resume=True))
    assert [line["step"] for line in read_log(job.run.log)] == [1]


def test_a_damaged_state_is_one_sentence(make_job, tmp_path):
    job = make_job(tmp_path / "run", epochs=1)
    train(job)
    job.run.state.write_bytes(job.run.state.read_bytes()[:1000])
    with pytest.raises(UdxError, match=r"state\.pt cannot be read"):
        train(dataclasses.replace(job, resume=True))


def test_a_loss_that_is_no_number_ends_training(make_job, tmp_path, monkeypatch):
    import udx.train.learner as learner

    def broken(*args):
        return {"heatmap": torch.tensor(float("nan"), requires_grad=True)}

    monkeypatch.setattr(learner, "detection_loss", broken)
    with pytest.raises(UdxError, match="loss is nan at step 1"):
        train(make_job(tmp_path / "run"))


def test_config_and_board_stand_beside_the_checkpoint(make_job, tmp_path):
    job = make_job(tmp_path / "run", epochs=1)
    train(job)
    config = json.loads(job.run.config.read_text())
    assert config["config"]["recipe"] == "nano"
    assert list(job.run.folder.glob("events.out.tfevents.*"))
    assert not list(job.run.folder.glob(".*"))  # no half-written file


def test_a_process_may_train_in_one_precision_after_another(make_job, tmp_path):
    for precision in ("no", "bf16"):
        config = make_job(tmp_path, epochs=1).config
        chosen = dataclasses.replace(config, train=dataclasses.replace(config.train, precision=precision))
        job = make_job(tmp_path / precision, config=chosen)
        train(job)
        assert job.run.record().config.train.precision == precision


def test_worker_processes_change_nothing(make_job, tmp_path):
    jobs = [make_job(tmp_path / str(workers), workers=workers, epochs=1) for workers in (0, 2)]
    for job in jobs:
        train(job)
    losses = [[line["loss"] for line in read_log(job.run.log)] for job in jobs]
    assert losses[0] == losses[1]


def test_one_cycle_rises_and_falls():
    factors = [one_cycle(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 25)
    assert max(factors) == factors[10] == 1
    assert factors[100] == pytest.approx(0)
    assert factors[55] == pytest.approx(0.5)


def test_the_second_ctrl_c_acts_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)
