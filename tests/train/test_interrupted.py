"""Signals to a training with all its workers, two trainings in one folder, states and logs that were altered."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from udx.errors import Interrupted, UdxError
from udx.train.checkpoint import read_checkpoint
from udx.train.lock import LOCK, locked
from udx.train.logbook import read_log
from udx.train.loop import train
from udx.train.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@contextmanager
def group_of(world_root, folder: Path, *options: str):
    """A training in a process group of its own, as ``timeout`` and systemd start one."""
    script = [sys.executable, str(ROOT / "tests/train/in_group.py"), str(world_root), str(folder), *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with folder.with_name("said.txt").open("w") as said:
        process = subprocess.Popen(script, env=env, start_new_session=True, stdout=said, stderr=said)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_steps(run: Run, process: subprocess.Popen, steps: int) -> None:
    while not (run.log.is_file() and len(read_log(run.log)) >= steps):
        assert process.poll() is None, run.folder.with_name("said.txt").read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint(world_root, tmp_path, number):
    run = Run(tmp_path / "run")
    with group_of(world_root, run.folder) as process:
        wait_for_steps(run, process, 3)
        os.killpg(process.pid, number)
        assert process.wait(timeout=120) == 128 + number
    said = (tmp_path / "said.txt").read_text()
    assert "Traceback" not in said and "--resume" in said
    assert read_checkpoint(run.checkpoint)[0].step == len(read_log(run.log)) >= 3
    assert run.state.is_file()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closing_terminal_and_slurm_are_heard(make_job, tmp_path, number):
    job = make_job(tmp_path / "run", watch=lambda progress: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as caught:
        train(job)
    assert caught.value.number == number
    assert read_checkpoint(job.run.checkpoint)[0].step == 1


def test_under_nohup_the_terminal_may_close(make_job, tmp_path):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        job = make_job(tmp_path / "run", watch=lambda progress: os.kill(os.getpid(), signal.SIGHUP))
        train(job)
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert len(read_log(job.run.log)) == 2


def test_a_second_training_in_one_folder_is_refused_and_a_killed_one_holds_nothing(world_root, make_job, tmp_path):
    run = Run(tmp_path / "run")
    with group_of(world_root, run.folder) as process:
        wait_for_steps(run, process, 1)
        with pytest.raises(UdxError, match=r"another process trains in .*run just now"):
            train(make_job(run.folder, resume=True))
        with pytest.raises(UdxError, match="another process trains"), locked(run.folder):
            pass
        before = len(read_log(run.log))
        wait_for_steps(run, process, before + 2)
        process.kill()  # its workers live on for some seconds
        process.wait()
        with locked(run.folder):
            pass
    assert not (run.folder / LOCK).exists()


def test_a_folder_in_which_nothing_came_about_is_left_as_it_was(tmp_path):
    with locked(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run" / LOCK).exists()
    assert not (tmp_path / "deep" / "run").exists()


@pytest.fixture
def interrupted(make_job, tmp_path):
    job = make_job(tmp_path / "run", epochs=3, watch=lambda progress: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(job)
    return dataclasses.replace(job, resume=True, watch=lambda progress: None)


def at(state, *path):
    for name in path[:-1]:
        state = state[name]
    return state, path[-1]


ENTRIES = [
    ("step",), ("validated",), ("best_nds",), ("log_bytes",), ("learner",), ("learner", "detector"),
    ("learner", "detector", "head.shared.0.weight"), ("average",), ("optimiser",), ("optimiser", "state"),
    ("optimiser", "state", 0), ("optimiser", "state", 0, "exp_avg"), ("optimiser", "state", 0, "step"),
    ("optimiser", "param_groups"), ("optimiser", "param_groups", 0), ("optimiser", "param_groups", 0, "lr"),
    ("optimiser", "param_groups", 0, "params"), ("schedule",), ("schedule", "last_epoch"),
    ("schedule", "base_lrs"), ("scaler",), ("rng",), ("rng", 0), ("rng", 0, "torch"), ("rng", 0, "python"),
    ("identity",), ("format",),
]  # fmt: skip
VALUES = ["text", -5, 10**12, float("nan"), [], {}, {0: {}}, torch.zeros(3), None]


def test_a_state_with_a_damaged_entry_is_refused_in_one_sentence(interrupted):
    state_file = interrupted.run.state
    whole = torch.load(state_file)
    for number, path in enumerate(ENTRIES):
        for value in ("missing", VALUES[number % len(VALUES)], VALUES[(number + 4) % len(VALUES)]):
            state = _copy(whole)
            container, name = at(state, *path)
            if isinstance(value, dict) and isinstance(container[name], dict) and container[name].keys() == value.keys():
                continue  # no damage
            if path == ("log_bytes",) and type(value) is int and value > 0:
                continue  # what a log says that is shorter than it was
            if isinstance(value, str) and value == "missing":
                del container[name]
            else:
                container[name] = value
            torch.save(state, state_file)
            with pytest.raises(UdxError) as caught:
                train(interrupted)
                pytest.fail(f"{path} {value}")
            assert "\n" not in str(caught.value)
    torch.save(whole, state_file)
    train(interrupted)
    assert len(read_log(interrupted.run.log)) == 3


def _copy(value):
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


@pytest.mark.parametrize("left", [None, b"", b'{"step": 1, "lo'])
def test_a_log_shorter_than_the_state_says_is_gone_on_with_from_its_last_whole_line(interrupted, left):
    warnings = []
    if left is None:
        interrupted.run.log.unlink()
    else:
        interrupted.run.log.write_bytes(left)
    train(dataclasses.replace(interrupted, warn=warnings.append))
    assert b"\0" not in interrupted.run.log.read_bytes()
    assert [line["step"] for line in read_log(interrupted.run.log)] == [2, 3]
    assert any("has lost lines" in warning for warning in warnings)


def test_a_disk_that_fills_up_under_the_log_is_one_sentence_of_no_thread(make_job, tmp_path, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    try:
        with pytest.raises(UdxError, match=r"cannot write the log in .*run: .*; free some space"):
            train(make_job(tmp_path / "run", epochs=3, watch=fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err
