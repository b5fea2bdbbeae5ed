"""A pytest plugin that writes each test's result as one line of JSON as soon as it is known.

    python -m pytest -p pytest_lines --lines FILE        # with this folder on PYTHONPATH

pytest writes its own reports when a run ends; these lines are there when it does not.
"""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--lines FILE``."""
    parser.addoption("--lines", type=Path, help="Write a line of JSON per test here.")


def pytest_configure(config: pytest.Config) -> None:
    """Write lines, but not in xdist's workers: the process that started them is told all that they report."""
    lines = config.getoption("--lines")
    if lines is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Lines(lines))


class Lines:
    """Writes a line per test that passed, failed or was skipped; a test that fails in its setup failed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a phase of a test: its setup, its call or its teardown."""
        if report.when == "call" or report.outcome != "passed":
            self._write(report.nodeid, report.outcome, report.duration, _reason(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take a module that cannot be imported, or that skips itself."""
        if report.outcome != "passed":
            self._write(report.nodeid, report.outcome, 0.0, _reason(report))

    def _write(self, test: str, outcome: str, seconds: float, why: str) -> None:
        line: dict[str, Any] = {"test": test, "outcome": outcome, "seconds": round(seconds, 3)}
        self.file.write(json.dumps(line | ({"why": why} if why else {})) + "\n")
        self.file.flush()


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped, or the last line of what it failed with."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).splitlines()[0] if crash.message else ""
    lines = str(report.longrepr).strip().splitlines() if report.outcome == "failed" else []
    return lines[-1] if lines else ""
