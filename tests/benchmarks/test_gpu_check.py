"""The GPU's check without a GPU: steps that pass, fail and hang, and what is told of them."""

import ast
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


def test_a_step_that_does_not_heed_an_interruption_is_killed(gpu_check, monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE_S", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    (outcome,) = gpu_check.run_all([step(gpu_check, deaf, limit_s=2)], 60)
    assert outcome.ended == "stopped after 2 s"


def test_a_step_that_must_end_may_save_what_it_has(gpu_check, tmp_path):
    kept = tmp_path / "kept"
    program = (
        "import pathlib, time\n"
        "try:\n    time.sleep(600)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path({str(kept)!r}).write_text('half of it')\n"
    )
    gpu_check.run_step(step(gpu_check, program, limit_s=8), 60)
    assert kept.read_text() == "half of it"


def test_tests_that_ended_before_the_time_was_over_are_kept(gpu_check, tmp_path, monkeypatch):
    """Even if pytest hangs in a call that no signal interrupts."""
    monkeypatch.setattr(gpu_check, "GRACE_S", 0.5)
    (tmp_path / "test_some.py").write_text(
        "import signal, time\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_hanging():\n    signal.signal(signal.SIGINT, signal.SIG_IGN)\n    time.sleep(600)\n"
    )
    outcome = gpu_check.run_step(step_of_tests(tmp_path, limit_s=15), 60)
    assert (outcome.ended, outcome.passed) == ("stopped after 15 s", 1)
    assert [name.endswith("test_bad: assert 1 == 2") for name in outcome.failed] == [True]


def step_of_tests(folder: Path, limit_s: float = 60):
    import gpu_check

    lines = folder / "lines.jsonl"
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_lines", "--lines", str(lines))
    return gpu_check.Step(name="tests", command=(*command, str(folder / "test_some.py")), limit_s=limit_s, lines=lines)


def test_outcomes_are_kept_after_every_step(gpu_check):
    kept = []
    steps = [step(gpu_check, "pass"), step(gpu_check, "raise SystemExit(1)")]
    gpu_check.run_all(steps, 60, keep=lambda outcomes: kept.append([outcome.ended for outcome in outcomes]))
    assert kept == [["passed"], ["passed", "failed with status 1"]]


def test_tests_are_counted_and_reasons_told(gpu_check, tmp_path, capsys):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "@pytest.mark.parametrize('at', [1, 2])\n"
        "def test_missing(at): pytest.skip('pip install something')\n"
        "@pytest.fixture\n"
        "def broken(): raise RuntimeError('no device')\n"
        "def test_without_its_fixture(broken): pass\n"
    )
    outcome = gpu_check.run_step(step_of_tests(tmp_path), 60)
    assert (outcome.ended, outcome.passed) == ("failed with status 1", 1)
    assert [name.rpartition("::")[2] for name in outcome.failed] == [
        "test_bad: assert 0",
        "test_without_its_fixture: RuntimeError: no device",
    ]
    assert outcome.skipped == {"pip install something": 2}
    gpu_check.tell([outcome])
    told = capsys.readouterr().out
    assert "1 passed, 2 failed, 2 skipped" in told
    assert "skipped 2: pip install something" in told
    assert json.dumps(gpu_check.report_of({}, [outcome]))


def test_every_marked_test_is_found(gpu_check):
    found = gpu_check.marked_tests(ROOT / "tests")
    assert {"tests/ops", "tests/build/test_on_gpu.py", "tests/models/test_on_gpu.py"} <= set(found)
    assert not [path for path in found if path.startswith("tests/ops/")]
    assert "tests/test_cli.py" not in found


def test_the_steps_fit_into_the_time_that_there_is(gpu_check, tmp_path):
    steps = gpu_check.steps_for(tmp_path)
    assert sum(one.limit_s for one in steps) <= 9 * 60
    assert len({one.name for one in steps}) == len(steps)
    for one in steps:
        assert one.command[0] == "-m" or (ROOT / one.command[0]).is_file()


def test_every_marked_file_is_in_a_step_and_the_compiler_waits(gpu_check, tmp_path):
    steps = {one.name: one for one in gpu_check.steps_for(tmp_path)}
    for path in gpu_check.marked_tests(ROOT / "tests"):
        assert any(path in one.command for one in steps.values()), path
    assert "not torch-compile" in steps["engines"].command
    assert list(steps)[-1] == "torch.compile" and "torch-compile" in steps["torch.compile"].command


def test_what_a_machine_lacks_is_said_and_fails_nothing(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name, path=None: None)
    memcheck = gpu_check.sanitizer_step("memcheck", tmp_path)
    outcome = gpu_check.run_step(memcheck, 60)
    assert outcome.absent and "compute-sanitizer is not installed" in outcome.ended


def test_the_sanitizer_runs_the_tests_of_the_shipped_kernels(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name, path=None: "/opt/compute-sanitizer")
    racecheck = gpu_check.sanitizer_step("racecheck", tmp_path)
    assert racecheck.program[:3] == ("/opt/compute-sanitizer", "--tool", "racecheck")
    assert racecheck.program[-1] == sys.executable and gpu_check.SHIPPED in racecheck.command


def test_without_a_gpu_there_is_one_sentence_and_the_diagnosis_is_kept(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = started("gpu_check.py", "--out", str(tmp_path / "results"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("udx: there is no GPU to check: ")
    kept = json.loads((tmp_path / "results" / "gpu_check.json").read_text())
    assert kept["steps"] == [] and kept["doctor"]["gpu"]["verdict"] == "no"


@pytest.mark.parametrize("program", ["gpu_check.py", "small_gain.py"])
def test_a_folder_that_cannot_be_written_is_said_first(program, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = started(program, "--out", str(tmp_path / "file" / "results"), cwd=tmp_path)
    assert done.returncode == 2
    assert "results cannot be written to" in done.stderr and "RESULTS=FOLDER" in done.stderr


def test_what_is_gained_needs_the_devkit_and_says_so_first(tmp_path):
    """Before the world is rendered and three detectors are trained."""
    hidden = (
        "import importlib.util, runpy, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'nuscenes' else found(name, *rest)\n"
        "program, *sys.argv[1:] = sys.argv[1:]\n"
        "sys.path.insert(0, program.rpartition('/')[0])\n"
        "runpy.run_path(program, run_name='__main__')\n"
    )
    program = ROOT / "benchmarks" / "small_gain.py"
    command = [sys.executable, "-c", hidden, str(program), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "nuscenes-devkit" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def started(program: str, *arguments: str, cwd: Path):
    command = [sys.executable, str(ROOT / "benchmarks" / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("program", ["gpu_check.py", "small_gain.py"])
def test_udx_need_not_be_installed(program):
    """The first import of the programs finds udx in the checkout; without site-packages it is nowhere else."""
    tree = ast.parse((ROOT / "benchmarks" / program).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    first = next(index for index, name in enumerate(names) if name.split(".")[0] == "udx")
    assert names.index("checkout") < first
    code = "import sys; sys.path.insert(0, sys.argv[1]); import checkout, udx; print(udx.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT / "benchmarks")], capture_output=True, text=True
    )
    assert done.stdout.strip() == str(ROOT / "udx" / "__init__.py"), done.stderr
