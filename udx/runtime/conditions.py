"""What changes while an engine is measured: load, clocks, temperature, power, and what other programs take."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from udx.runtime.nvidia_smi import REASONS, query_gpus, query_processes

GPU_FIELDS: Final = (
    "name",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "memory.used",
    "utilization.gpu",
)
THROTTLING: Final = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons that mean slower than the GPU could be; its others (idle, settings) do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """A GPU at one moment, as nvidia-smi tells it; ``readings`` are its own words, ``throttled`` by what."""

    readings: dict[str, str]
    throttled: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The machine at one moment; ``None`` is what it does not tell.

    ``busy_s`` and ``stolen_s`` are seconds of all cores since the start of the machine: at work for any program, and
    taken by the host of a virtual machine. ``own_s`` is the processor time of this process, ``throttle_events`` how
    often a core was slowed down for its heat. ``gpu_processes`` are the programs that compute on the GPUs.
    """

    clock_s: float
    load_1min: float | None
    cpu_mhz: tuple[float, ...]
    busy_s: float | None
    stolen_s: float | None
    own_s: float
    throttle_events: int | None
    gpus: tuple[GpuState, ...]
    gpu_processes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """How many cores were busy for others between two moments, on average: other programs, and the machine's host."""

    others_cores: float
    stolen_cores: float


def conditions() -> Conditions:
    """Read everything now; takes some milliseconds, with a GPU some hundred."""
    busy_s, stolen_s = _core_seconds()
    mhz = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _text_of(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return Conditions(
        clock_s=time.monotonic(),
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        cpu_mhz=tuple(map(float, mhz)),
        busy_s=busy_s,
        stolen_s=stolen_s,
        own_s=time.process_time(),
        throttle_events=_throttle_events(),
        gpus=gpu_states(),
        gpu_processes=_gpu_processes(),
    )


def interference(before: Conditions, after: Conditions) -> Interference | None:
    """What others took meanwhile; None where the machine does not tell."""
    passed = after.clock_s - before.clock_s
    if None in (before.busy_s, after.busy_s) or passed <= 0:
        return None
    assert before.busy_s is not None and after.busy_s is not None
    assert before.stolen_s is not None and after.stolen_s is not None
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return Interference(
        others_cores=max(others, 0.0) / passed, stolen_cores=(after.stolen_s - before.stolen_s) / passed
    )


def gpu_states() -> tuple[GpuState, ...]:
    """Ask nvidia-smi; empty where it is absent or fails."""
    return tuple(
        GpuState(
            readings={name: value for name, value in gpu.items() if name != REASONS}, throttled=throttling(gpu[REASONS])
        )
        for gpu in query_gpus(GPU_FIELDS)
    )


def throttling(mask: str) -> tuple[str, ...]:
    """Name the bits of a mask of reasons, as ``0x0000000000000004``, that mean throttling."""
    try:
        bits = int(mask, 16)
    except ValueError:  # "[N/A]" on GPUs that do not tell
        return ()
    return tuple(name for bit, name in THROTTLING.items() if bits & bit)


def _gpu_processes() -> tuple[str, ...]:
    return tuple(", ".join(row) for row in query_processes() if row[0] != str(os.getpid()))


def _core_seconds() -> tuple[float, float] | tuple[None, None]:
    """Seconds of all cores at work and stolen, from ``/proc/stat``."""
    line = (_text_of(Path("/proc/stat")) or "").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None, None
    user, nice, system, _, _, interrupts, soft, stolen = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line[1:9])
    return user + nice + system + interrupts + soft, stolen


def _throttle_events() -> int | None:
    folder = Path("/sys/devices/system/cpu")
    counts = [_text_of(path) for path in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    numbers = [int(count) for count in counts if count and count.strip().isdigit()]
    return sum(numbers) if numbers else None


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
