"""What a latency figure depends on besides the engine: the machine, its load, and the versions."""

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

import udx
from udx.runtime.nvidia_smi import query_gpus

GPU_FIELDS: Final = (
    "name",
    "uuid",
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.max.sm",
    "power.limit",
    "temperature.gpu",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine before the first measured frame; ``None`` is what it does not tell.

    ``cores`` are those this process may use; ``load_1min`` is the system's, before warm-up.
    """

    cpu: str | None
    cores: int
    governor: str | None
    load_1min: float | None
    memory_gib: float | None
    os: str
    python: str
    versions: dict[str, str]
    git_commit: str | None
    gpus: tuple[dict[str, str], ...] | None


def environment() -> Environment:
    """Describe this machine now."""
    return Environment(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        governor=_text_of(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_gib=_memory_gib(),
        os=platform.platform(),
        python=sys.version.split()[0],
        versions={"udx": udx.__version__, "numpy": np.__version__}
        | _installed("onnx", "onnxruntime", "onnxruntime-gpu"),
        git_commit=git_commit(),
        gpus=gpus(),
    )


def git_commit() -> str | None:
    """Return the commit of the checkout that udx runs from, with ``+changes`` if files differ; None if installed."""
    root = Path(udx.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    commit = _output_of("git", "-C", str(root), "rev-parse", "HEAD")
    changes = _output_of("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return commit and commit.strip() + ("+changes" if changes else "")


def gpus() -> tuple[dict[str, str], ...] | None:
    """Ask for every GPU's name, clocks, limits and temperature; None where nvidia-smi is absent or fails."""
    return tuple(query_gpus(GPU_FIELDS)) or None


def _output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _cpu_model() -> str | None:
    found = re.search(r"^model name\s*:\s*(.+)$", _text_of(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine() or None


def _memory_gib() -> float | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _text_of(Path("/proc/meminfo")) or "", re.MULTILINE)
    return round(int(found.group(1)) / 2**20, 1) if found else None


def _installed(*distributions: str) -> dict[str, str]:
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
