"""Where a network's time goes: milliseconds of each operator, from the backend's own profiler.

Profiling slows a network down, so that it runs in a session of its own, after everything is measured.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from udx.data.inputs import Tensors

PROFILED_FRAMES: Final = 3
_KERNEL: Final = "_kernel_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """A node of the graph as the backend runs it: its name, its operator, and its mean time a frame."""

    name: str
    operator: str
    ms: float

    def __post_init__(self) -> None:
        if self.ms < 0:
            raise ValueError(f"a time is not negative: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTimes:
    """All operators of an engine, the slowest first, over ``frames`` frames; ``source`` says who tells."""

    source: str
    frames: int
    nodes: tuple[OperatorTime, ...]

    @property
    def total_ms(self) -> float:
        """Return the sum over all nodes, a frame."""
        return sum(node.ms for node in self.nodes)

    def by_operator(self) -> dict[str, tuple[int, float]]:
        """Return the number of nodes and their milliseconds a frame by operator, the slowest first."""
        found: dict[str, tuple[int, float]] = {}
        for node in self.nodes:
            count, ms = found.get(node.operator, (0, 0.0))
            found[node.operator] = (count + 1, ms + node.ms)
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))


@runtime_checkable
class TellsOperators(Protocol):
    """A runner whose backend can say how long each operator takes."""

    def operator_times(self, frames: Sequence[Tensors]) -> OperatorTimes | None:
        """Run frames under the backend's profiler, the first as warm-up; the runner is not active.

        Returns:
            None where its figures would mislead.
        """


def read_profile(path: Path, frames: int, source: str) -> OperatorTimes:
    """Read a profile of ONNX Runtime that holds a warm-up run and ``frames`` runs after it.

    Args:
        path: the profiler's JSON: a list of Chrome trace events.
        frames: how many runs to average over, the last ones.
        source: who profiled, for the report.
    """
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return OperatorTimes(source=source, frames=frames, nodes=tuple(_mean_times(events, frames)))


def _mean_times(events: Iterable[dict[str, Any]], frames: int) -> list[OperatorTime]:
    times: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        name, told = event.get("name", ""), event.get("args", {})
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            key = (str(told.get("node_index", "")), name.removesuffix(_KERNEL), str(told.get("op_name", "")))
            times.setdefault(key, []).append(event["dur"] / 1e3)
    # A node of a loop's body runs more than once a frame: sum all its times but the share of the warm-up.
    nodes = [
        OperatorTime(name=name, operator=operator, ms=sum(all_ms[-(len(all_ms) * frames // (frames + 1)) :]) / frames)
        for (_, name, operator), all_ms in times.items()
        if len(all_ms) > frames
    ]
    return sorted(nodes, key=lambda node: (-node.ms, node.name))
