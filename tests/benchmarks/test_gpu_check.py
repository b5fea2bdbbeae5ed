"""The GPU's check without a GPU: steps that pass, fail and hang, and what is told of them."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gpu_check():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu_check")
    sys.path.remove(str(ROOT / "benchmarks"))


def step(gpu_check, code: str, limit_s: float = 60, **options):
    return gpu_check.Step(name="step", command=("-c", code), limit_s=limit_s, **options)


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(gpu_check, tmp_path):
    """Its own child would go on if only the step itself were ended."""
    child = tmp_path / "child"
    hanging = (
        "import pathlib, subprocess, sys, time\n"
        "process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(process.pid))\n"
        "time.sleep(600)"
    )
    steps = [
        step(gpu_check, "raise SystemExit(3)"),
        step(gpu_check, hanging, limit_s=4),
        step(gpu_check, "import udx"),
    ]
    outcomes = gpu_check.run_all(steps, 60)
    assert [outcome.ended for outcome in outcomes] == ["failed with status 3", "stopped after 4 s", "passed"]
    for _ in range(100):
        if not runs(int(child.read_text())):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the step's child runs on")


def runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_whole_ends_when_its_time_is_over(gpu_check):
    given = []

    def run(one, left_s):
        given.append(left_s)
        return gpu_check.run_step(one, left_s - 100)

    (outcome,) = gpu_check.run_all([step(gpu_check, "raise SystemExit(1)")], 90, run)
    assert 80 < given[0] <= 90
    assert (outcome.ended, outcome.seconds) == ("no time left", 0.0)


def test_tests_are_counted_and_reasons_told(gpu_check, tmp_path, capsys):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "@pytest.mark.parametrize('at', [1, 2])\n"
        "def test_missing(at): pytest.skip('pip install something')\n"
    )
    junit = tmp_path / "tests.xml"
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", str(tmp_path / "test_some.py"))
    outcome = gpu_check.run_step(gpu_check.Step(name="tests", command=command, limit_s=60, junit=junit), 60)
    assert (outcome.ended, outcome.passed) == ("failed with status 1", 1)
    assert [name.rpartition("::")[2] for name in outcome.failed] == ["test_bad"]
    assert outcome.skipped == {"pip install something": 2}
    gpu_check.tell([outcome])
    told = capsys.readouterr().out
    assert "1 passed, 1 failed, 2 skipped" in told
    assert "skipped 2: pip install something" in told
    assert json.dumps(gpu_check.report_of({}, [outcome]))


def test_every_marked_test_is_found(gpu_check):
    found = gpu_check.marked_tests(ROOT / "tests")
    assert {"tests/ops", "tests/build/test_on_gpu.py", "tests/models/test_on_gpu.py"} <= set(found)
    assert not [path for path in found if path.startswith("tests/ops/")]
    assert "tests/test_cli.py" not in found


def test_the_steps_fit_into_the_time_that_there_is(gpu_check, tmp_path):
    steps = gpu_check.steps_for(tmp_path, tmp_path)
    assert sum(one.limit_s for one in steps) <= 9 * 60
    for one in steps[1:]:
        assert (ROOT / one.command[0]).is_file()


def test_without_a_gpu_there_is_one_sentence(gpu_check):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.startswith("udx: there is no GPU to check: ")
