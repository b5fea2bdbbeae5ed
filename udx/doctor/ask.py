"""Ask every library about itself, each in a process of its own and with a time limit: whatever breaks is an answer."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import udx
from udx.doctor.probes import MARK

TIME_LIMIT_S: Final = 60.0

MODULES: Final = {
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx_bindings",
    "triton": "triton",
    "pycuda": "pycuda",
    "cuda_bindings": "cuda.bindings",
}
"""For each probe the module without which there is nothing to ask."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found, or why it found nothing; what is not installed was not asked."""

    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    installed: bool = True


def ask_all(ticked: Callable[[int, int], None], limit_s: float = TIME_LIMIT_S) -> dict[str, Probed]:
    """Run every probe whose module is installed, several at a time."""
    names = ["driver", *MODULES]
    found = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = [(name, pool.submit(_ask_if_installed, name, limit_s)) for name in names]
        for done, (name, answer) in enumerate(asked, start=1):
            found[name] = answer.result()
            ticked(done, len(names))
    return found


def _ask_if_installed(name: str, limit_s: float) -> Probed:
    if name in MODULES and not is_installed(MODULES[name]):
        return Probed(failure="it is not installed", installed=False)
    return ask(probe_command(name), limit_s)


def probe_command(name: str) -> list[str]:
    """How a probe is started; ``-P`` keeps Python from importing what lies in the current folder."""
    return [sys.executable, "-P", "-m", "udx.doctor.probes", name]


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported, only the packages that it is in."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def ask(command: list[str], limit_s: float) -> Probed:
    """Run a probe and read its last line."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s, env=_environment()
        )
    except subprocess.TimeoutExpired:
        return Probed(failure=f"it gives no answer within {limit_s:g} s")
    except OSError as error:
        return Probed(failure=f"it cannot be asked: {error}")
    facts = _facts(done.stdout.splitlines())
    return Probed(facts) if facts is not None else Probed(failure=_ending(done.returncode, done.stderr.splitlines()))


def _environment() -> dict[str, str]:
    """This environment, with this udx found before any other."""
    root = str(Path(udx.__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def _facts(lines: Iterable[str]) -> dict[str, Any] | None:
    marked = [line for line in lines if line.startswith(MARK)]
    return json.loads(marked[-1].removeprefix(MARK)) if marked else None


def _ending(status: int, errors: list[str]) -> str:
    """How a process ended that gave no answer: its last words, or the signal that ended it."""
    if status < 0:
        return f"it crashes ({signal.Signals(-status).name}) when it is loaded"
    said = [line.strip() for line in errors if line.strip()]
    return said[-1][:300] if said else f"it ends with status {status} when it is loaded"
