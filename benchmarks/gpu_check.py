"""Everything that needs a GPU, in one go: what works here, the tests marked gpu, and the benchmarks that use one.

    python benchmarks/gpu_check.py [--out DIR] [--minutes 9] [--only STEP]

It runs in whatever Python it is started with, in which udx need not be installed, and writes to DIR alone, so that the
checkout may be read-only: ``make gpu-check GPU_PYTHON=python3 RESULTS=/tmp/results``. A test whose backend is missing
is skipped, and the reason says what to install. The most valuable steps come first. A step that fails, or takes longer
than it may, does not keep the others from running, and what it had found is kept: tests are written down one by one,
benchmarks write after every contestant, and a step that must end is interrupted before it is killed.
``gpu_check.json`` is written after every step.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import checkout
import click

from udx.console import say, table, ticking
from udx.doctor.examine import examine
from udx.doctor.show import show
from udx.entry import run_command
from udx.errors import UdxError
from udx.files import write_json
from udx.runtime.environment import environment

ROOT: Final = checkout.ROOT
MARK: Final = re.compile(r"\bmark\.gpu\b")
GRACE_S: Final = 15.0
WORKERS: Final = 8
SHIPPED: Final = "tests/runtime/device/test_shipped_kernels.py"
"""Tests that launch the kernels as a plan holds them, one after the other and in a captured graph."""
COMPILER: Final = "torch-compile"
"""What the names of the tests hold that wait for torch's compiler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program to run, and the longest that it may take.

    ``lines``: where its tests are written down one by one. ``absent``: why it cannot run here. The command's first
    word is an argument of this Python, or of ``program`` if that is given.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    lines: Path | None = None
    program: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step ended; ``skipped`` counts tests by their reason, ``failed`` names them with what they said.

    ``absent``: it could not be begun for want of something, which ``ended`` names.
    """

    name: str
    ended: str
    absent: bool = False
    seconds: float
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: dict[str, int]

    @property
    def told(self) -> str:
        """What the table says besides."""
        counts = {"passed": self.passed, "failed": len(self.failed), "skipped": sum(self.skipped.values())}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


# -- the steps ---------------------------------------------------------------------------------------------------------


def steps_for(out: Path) -> tuple[Step, ...]:
    """What is run, the most valuable first."""
    files = marked_tests(ROOT / "tests")
    operators = [path for path in files if path.startswith("tests/ops")]
    others = [path for path in files if path not in operators and path != SHIPPED]
    return (
        tests_step("shipped kernels", [SHIPPED], out, limit_s=60, workers=0, absent=_absent_file(SHIPPED)),
        tests_step("operators", operators, out, limit_s=100),
        Step(
            name="operators timed",
            command=("benchmarks/ops.py", "--device", "cuda", "--json", str(out / "ops_cuda.json")),
            limit_s=80,
        ),
        tests_step("engines", others, out, "-k", f"not {COMPILER}", limit_s=70),
        *(sanitizer_step(tool, out) for tool in ("memcheck", "racecheck")),
        latency_step("latency", out / "latency_cuda.json", "--no-compile", limit_s=60),
        Step(
            name="synthetic world",
            command=("benchmarks/synth_speed.py", "--device", "cuda", "--json", str(out / "synth_speed_cuda.json")),
            limit_s=25,
        ),
        tests_step("torch.compile", others, out, "-k", COMPILER, limit_s=75, workers=3),
    )


def tests_step(
    name: str,
    files: Sequence[str],
    out: Path,
    *selection: str,
    limit_s: float,
    workers: int = WORKERS,
    program: tuple[str, ...] = (),
    absent: str = "",
) -> Step:
    """Run the tests marked gpu of some files, in several processes where pytest-xdist is installed.

    Args:
        name: of the step; its tests are written down in ``out``, in a file of this name.
        files: files and folders of tests.
        out: folder of the results.
        selection: more arguments of pytest.
        limit_s: the longest that it may take, seconds.
        workers: processes; 0 runs the tests in pytest's own.
        program: what Python is run by.
        absent: why it cannot run here.
    """
    lines = out / f"tests_{name.replace(' ', '_').replace('.', '_')}.jsonl"
    parallel = ("-n", str(workers)) if workers and importlib.util.find_spec("xdist") else ()
    command = (
        *("-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_lines", "--lines", str(lines), *parallel),
        *("-q", "-m", "gpu", "-rs", "--durations=8", *selection, *files),
    )
    return Step(name=name, command=command, limit_s=limit_s, lines=lines, program=program, absent=absent)


def sanitizer_step(tool: str, out: Path) -> Step:
    """Run the tests of the shipped kernels under NVIDIA's compute-sanitizer; what it finds fails the step."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    absent = _absent_file(SHIPPED)
    if program is None:
        absent = "compute-sanitizer is not installed; it comes with the CUDA toolkit"
    wrapped = (program or "", "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", sys.executable)
    small = ("-k", "not whole_frame")
    return tests_step(tool, [SHIPPED], out, *small, limit_s=35, workers=0, program=wrapped, absent=absent)


def latency_step(name: str, out: Path, *options: str, limit_s: float) -> Step:
    """Measure a camera detector in every format that runs on the device."""
    command = ("benchmarks/latency.py", "--device", "cuda", "--student", "cam", "--blocks", "20", *options)
    return Step(name=name, command=(*command, "--out", str(out)), limit_s=limit_s)


def marked_tests(tests: Path) -> list[str]:
    """Files with tests marked gpu, and the folders of such fixtures: only these need to be importable here."""
    marked = [path for path in sorted(tests.rglob("*.py")) if MARK.search(path.read_text(encoding="utf-8"))]
    folders = [path.parent for path in marked if path.name == "conftest.py" and path.parent != tests]
    files = [path for path in marked if path.name.startswith("test_") and not {*path.parents} & {*folders}]
    return [str(path.relative_to(tests.parent)) for path in (*folders, *files)]


def _absent_file(path: str) -> str:
    return "" if (ROOT / path).is_file() else f"this checkout has no {path}"


# -- running them ------------------------------------------------------------------------------------------------------


def run_step(step: Step, left_s: float) -> Outcome:
    """Run a step within its time and what is left of the whole; what it prints goes to the terminal."""
    limit_s = min(step.limit_s, left_s - GRACE_S)
    if step.absent or limit_s <= 0:
        ended = step.absent or "no time left"
        return Outcome(name=step.name, ended=ended, absent=bool(step.absent), seconds=0.0, skipped={})
    begun = time.monotonic()
    command = [*(step.program or (sys.executable,)), *step.command]
    with TemporaryDirectory(prefix="udx-gpu-check-") as scratch:
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(Path(scratch)), start_new_session=True)
        try:
            status = process.wait(timeout=limit_s)
            ended = "passed" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit_s:.0f} s"
            _interrupt(process)
        finally:
            _end_group(process)
    return _with_tests(step, ended, round(time.monotonic() - begun, 1))


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Ask a step to end as Ctrl-C does, so that it saves what it has; it has a while for that."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End the step and whatever it has started, workers included."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(scratch: Path) -> dict[str, str]:
    """This environment, with this checkout found before an installed udx, and nothing written into it."""
    here = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, here)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAXTYPING_DISABLE": "1",  # what `make test` checks needs no device
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
    }


def _with_tests(step: Step, ended: str, seconds: float) -> Outcome:
    """Add the tests that were written down, be the step ended as it may."""
    written = list(_written(step.lines)) if step.lines is not None and step.lines.is_file() else []
    failed = [f"{one['test']}: {one.get('why', '')}" for one in written if one["outcome"] == "failed"]
    reasons = Counter(one.get("why", "no reason") for one in written if one["outcome"] == "skipped")
    return Outcome(
        name=step.name,
        ended=ended,
        seconds=seconds,
        passed=sum(one["outcome"] == "passed" for one in written),
        failed=tuple(failed),
        skipped=dict(reasons.most_common()),
    )


def _written(lines: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a run of pytest, of which the last may be cut off."""
    for line in lines.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def run_all(
    steps: Sequence[Step],
    budget_s: float,
    run: Callable[[Step, float], Outcome] = run_step,
    keep: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """Run the steps one after the other, within the budget; ``keep`` is given the outcomes after each."""
    end = time.monotonic() + budget_s
    outcomes: list[Outcome] = []
    for step in steps:
        say(f"── {step.name}")
        outcomes.append(run(step, end - time.monotonic()))
        keep(outcomes)
    return outcomes


# -- telling -----------------------------------------------------------------------------------------------------------


def report_of(diagnosis: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What ``gpu_check.json`` holds."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": asdict(environment()),
        "doctor": diagnosis,
        "steps": [asdict(outcome) for outcome in outcomes],
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results", show_default=True)
@click.option("--minutes", default=9.0, show_default=True, help="Time for everything.")
@click.option("--only", multiple=True, metavar="STEP", help="Run this step alone; repeatable.")
def main(out: Path, minutes: float, only: tuple[str, ...]) -> None:
    """Run everything that needs a GPU."""
    began = time.monotonic()
    out = checkout.require_writable(out)
    steps = chosen(steps_for(out), only)
    with ticking("asking") as tick:
        diagnosis = examine(tick)
    show(diagnosis)

    def keep(outcomes: Sequence[Outcome]) -> None:
        write_json(out / "gpu_check.json", report_of(diagnosis.to_json(), outcomes))

    keep([])
    if diagnosis.gpu.verdict != "yes":
        raise UdxError(f"there is no GPU to check: {diagnosis.gpu.why}; {'; '.join(diagnosis.gpu.mend)}")
    outcomes = run_all(steps, minutes * 60 - (time.monotonic() - began), keep=keep)
    tell(outcomes)
    if any(outcome.ended != "passed" and not outcome.absent for outcome in outcomes):
        sys.exit(1)


def chosen(steps: Sequence[Step], only: Sequence[str]) -> list[Step]:
    """Return the steps of these names, or all if none is named.

    Raises:
        UdxError: there is no step of a name.
    """
    names = [step.name for step in steps]
    for name in only:
        if name not in names:
            raise UdxError(f"there is no step {name!r}; the steps are {', '.join(names)}")
    return [step for step in steps if not only or step.name in only]


def tell(outcomes: Sequence[Outcome]) -> None:
    """Print the table, then what failed and why tests were skipped."""
    rows = [
        [outcome.name, "absent" if outcome.absent else outcome.ended, f"{outcome.seconds:.0f}", outcome.told]
        for outcome in outcomes
    ]
    table("GPU check", ["step", "ended", "s", "tests"], rows)
    for outcome in outcomes:
        if outcome.absent:
            say(f"absent: {outcome.name}: {outcome.ended}")
        for name in outcome.failed:
            say(f"failed: {name}")
        for reason, count in outcome.skipped.items():
            say(f"skipped {count}: {reason}")


if __name__ == "__main__":
    run_command(main)
