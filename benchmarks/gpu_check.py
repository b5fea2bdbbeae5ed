"""Everything that needs a GPU, in one go: what works here, the tests marked gpu, and the benchmarks that use one.

    python benchmarks/gpu_check.py [--out DIR] [--minutes 9]

It runs in whatever Python it is started with; ``make gpu-check GPU_PYTHON=python3`` uses one that has torch already. A
test whose backend is missing is skipped, and the reason says what to install. A step that fails, or takes longer than
it may, does not keep the others from running. What was found is shown as a table and kept in ``gpu_check.json``.
"""

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from udx.console import say, table, ticking
from udx.doctor.examine import examine
from udx.doctor.show import show
from udx.entry import run_command
from udx.errors import UdxError
from udx.files import write_json
from udx.runtime.environment import environment

ROOT: Final = Path(__file__).resolve().parents[1]
MARK: Final = re.compile(r"\bmark\.gpu\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program to run from the repository's root, and the longest that it may take; pytest writes to ``junit``."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    junit: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step ended; ``skipped`` counts tests by their reason, ``failed`` names them."""

    name: str
    ended: str
    seconds: float
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: dict[str, int]

    @property
    def told(self) -> str:
        """What the table says besides."""
        counts = {"passed": self.passed, "failed": len(self.failed), "skipped": sum(self.skipped.values())}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def steps_for(out: Path, scratch: Path) -> tuple[Step, ...]:
    """What is run, the most important first."""
    junit = scratch / "tests.xml"
    tests = ("-m", "pytest", "-m", "gpu", "-rs", "--durations=8", f"--junitxml={junit}", *marked_tests(ROOT / "tests"))
    return (
        Step(name="tests", command=tests, limit_s=270, junit=junit),
        Step(
            name="operators",
            command=("benchmarks/ops.py", "--device", "cuda", "--json", str(out / "ops_cuda.json")),
            limit_s=90,
        ),
        Step(
            name="latency",
            command=(
                *("benchmarks/latency.py", "--device", "cuda", "--student", "cam", "--blocks", "20"),
                *("--out", str(out / "latency_cuda.json")),
            ),
            limit_s=120,
        ),
        Step(
            name="synthetic world",
            command=("benchmarks/synth_speed.py", "--device", "cuda", "--json", str(out / "synth_speed_cuda.json")),
            limit_s=60,
        ),
    )


def marked_tests(tests: Path) -> list[str]:
    """Files with tests marked gpu, and the folders of such fixtures: only these need to be importable here."""
    marked = [path for path in sorted(tests.rglob("*.py")) if MARK.search(path.read_text(encoding="utf-8"))]
    folders = [path.parent for path in marked if path.name == "conftest.py" and path.parent != tests]
    files = [path for path in marked if path.name.startswith("test_") and not {*path.parents} & {*folders}]
    return [str(path.relative_to(tests.parent)) for path in (*folders, *files)]


def run_step(step: Step, left_s: float) -> Outcome:
    """Run a step within its time and what is left of the whole; what it prints goes to the terminal."""
    limit_s = min(step.limit_s, left_s)
    if limit_s <= 0:
        return Outcome(name=step.name, ended="no time left", seconds=0.0, skipped={})
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, *step.command], cwd=ROOT, env=_environment(), start_new_session=True)
    try:
        status = process.wait(timeout=limit_s)
        ended = "passed" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {limit_s:.0f} s"
    finally:
        _end_group(process)
    seconds = round(time.monotonic() - begun, 1)
    return _with_tests(step, ended, seconds)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End the step and whatever it has started, workers included."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    """This environment, with this checkout found before an installed udx."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def _with_tests(step: Step, ended: str, seconds: float) -> Outcome:
    if step.junit is None or not step.junit.is_file():
        return Outcome(name=step.name, ended=ended, seconds=seconds, skipped={})
    cases = list(ElementTree.parse(step.junit).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case.find("skipped") for case in cases]
    reasons = Counter(item.get("message", "no reason") for item in skipped if item is not None)
    return Outcome(
        name=step.name,
        ended=ended,
        seconds=seconds,
        passed=len(cases) - len(failed) - reasons.total(),
        failed=tuple(f"{case.get('classname')}::{case.get('name')}" for case in failed),
        skipped=dict(reasons.most_common()),
    )


def run_all(steps: Sequence[Step], budget_s: float, run: Callable[[Step, float], Outcome] = run_step) -> list[Outcome]:
    """Run the steps one after the other, within the budget."""
    end = time.monotonic() + budget_s
    outcomes = []
    for step in steps:
        say(f"── {step.name}")
        outcomes.append(run(step, end - time.monotonic()))
    return outcomes


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
def main(out: Path, minutes: float) -> None:
    """Run everything that needs a GPU."""
    with ticking("asking") as tick:
        diagnosis = examine(tick)
    show(diagnosis)
    if diagnosis.gpu.verdict != "yes":
        raise UdxError(f"there is no GPU to check: {diagnosis.gpu.why}; {'; '.join(diagnosis.gpu.mend)}")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="udx-gpu-check-") as scratch:
        outcomes = run_all(steps_for(out, Path(scratch)), minutes * 60)
    write_json(out / "gpu_check.json", report_of(diagnosis.to_json(), outcomes))
    tell(outcomes)
    if any(outcome.ended != "passed" for outcome in outcomes):
        sys.exit(1)


def tell(outcomes: Sequence[Outcome]) -> None:
    """Print the table, then what failed and why tests were skipped."""
    rows = [[outcome.name, outcome.ended, f"{outcome.seconds:.0f}", outcome.told] for outcome in outcomes]
    table("GPU check", ["step", "ended", "s", "tests"], rows)
    for outcome in outcomes:
        for name in outcome.failed:
            say(f"failed: {name}")
        for reason, count in outcome.skipped.items():
            say(f"skipped {count}: {reason}")


if __name__ == "__main__":
    run_command(main)
