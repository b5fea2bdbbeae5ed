"""Two processes train as one does, and a killed one loses no more than the steps since the last checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_run
from tests.train.norms import require_equal_norms
from tests.train.together import job_of
from udx.train.logbook import read_log
from udx.train.loop import Job, train
from udx.train.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def teacher(keyframes, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    train(Job(config=tiny_run("lidar", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run


@pytest.fixture(scope="module")
def alone(world_root, teacher, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("alone") / "run")
    train(job_of(world_root, run, teacher))
    return run


@pytest.fixture(scope="module")
def together(world_root, teacher, tmp_path_factory):
    """The same under ``torchrun``, in two processes, the first of which is killed at its fourth step."""
    run = Run(tmp_path_factory.mktemp("together") / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    script = [ROOT / "tests" / "train" / "together.py", world_root, run.folder, teacher.folder]
    # The address by which this machine knows itself may lead nowhere; both processes are on it.
    here = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    said = run.folder.with_name("said.txt")
    with said.open("w") as into:
        # In a file, as processes that outlive their launcher would hold a pipe open.
        launched = subprocess.Popen(
            [*launcher, *map(str, script)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **here},
            stdout=into,
            stderr=subprocess.STDOUT,
        )
        try:
            launched.wait(timeout=900)
        finally:
            launched.terminate()
    assert launched.returncode == 0, said.read_text()[-5000:]
    return run


def test_both_processes_came_to_the_end_though_one_was_killed(together):
    marks = {path.name for path in together.folder.glob("process-*")}
    assert marks == {"process-0-of-2", "process-1-of-2"}
    assert (together.folder / "died").exists()


def test_two_processes_give_the_losses_of_one_with_the_same_batch(alone, together):
    ones, twos = read_log(alone.log), read_log(together.log)
    assert [line["step"] for line in twos] == [line["step"] for line in ones] == list(range(1, 7))
    terms = ones[0].keys() - {"seconds", "memory_mb", "gradient_norm", "dropped_points"}
    assert {"loss", "feature", "spread", "relation", "response", "depth", "heatmap", "detection"} <= terms
    for one, two in zip(ones, twos, strict=True):
        expected = pytest.approx({name: one[name] for name in terms}, rel=1e-5, abs=1e-5)
        assert {name: two[name] for name in terms} == expected
    require_equal_norms(ones, twos)


def test_the_evaluation_is_shared_and_gathered(alone, together):
    one, two = (json.loads(run.metrics_of(2).read_text()) for run in (alone, together))
    assert two["mAP"] == pytest.approx(one["mAP"], abs=1e-3)
    assert two["NDS"] == pytest.approx(one["NDS"], abs=1e-3)
