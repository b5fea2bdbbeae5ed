"""What a backend makes of an engine: its own layers, with the kernels that it chose, where it can tell.

ONNX Runtime tells on the CPU: the graph after its optimisation, where nodes are fused and convolutions have taken the
layout of the machine's vector units. Runners of other backends tell if they are a ``TellsLayers``.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from udx.errors import UdxError, first_line
from udx.runtime.engine_file import read_engine
from udx.runtime.isolation import Suspect, check_in_isolation
from udx.runtime.listing import canonical_listing, structural_hash
from udx.runtime.partitioned import PartitionedFile, SegmentStep
from udx.runtime.runner import Runner


@runtime_checkable
class TellsLayers(Protocol):
    """A runner whose backend can say what it made of an engine."""

    def layers(self) -> Sequence[str]:
        """A line per layer, with its kernel or tactic and without weights' values; the runner is active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """A backend's layers: ``listing`` has a line each; ``source`` says who tells."""

    source: str
    listing: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash of the listing."""
        return structural_hash(self.listing)


def layers_of(runner: Runner) -> Layers | None:
    """The layers of an active runner's engine; None if its backend does not tell.

    Raises:
        UdxError: the file was damaged since it was opened, or the backend refuses it.
    """
    if isinstance(runner, TellsLayers):
        return Layers(source=f"{runner.settings.get('backend')}'s inspector", listing=tuple(runner.layers()))
    if runner.settings.get("provider") != "CPUExecutionProvider":
        return None
    file = read_engine(runner.path)
    if not isinstance(file, PartitionedFile):
        return Layers(source="ONNX Runtime's optimised graph", listing=optimised_listing(runner.path))
    lines: list[str] = []
    for step in file.plan.steps:
        if isinstance(step, SegmentStep):
            lines += (f"{step.name}: {line}" for line in optimised_listing(file.members[step.file]))
        else:
            lines.append(f"kernel {step}")
    return Layers(source="ONNX Runtime's optimised segments and the kernels between them", listing=tuple(lines))


def optimised_listing(model: Path | bytes) -> tuple[str, ...]:
    """The graph that ONNX Runtime runs on this CPU, listed as ``canonical_listing`` does.

    Raises:
        UdxError: ONNX Runtime refuses the model.
    """
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="udx-layers-") as folder:
        target = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(target)
        content, path = (model, None) if isinstance(model, bytes) else (model.read_bytes(), model)
        check_in_isolation(Suspect(content=content, source=str(path or "a segment"), path=path), "run")
        given: Any = content if path is None else str(path)
        try:
            ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes derive from Exception directly
            raise UdxError(f"ONNX Runtime refuses the model ({first_line(error)}); export it again") from error
        return canonical_listing(onnx.load(str(target)))


def layer_differences(one: Layers, other: Layers, limit: int = 10) -> tuple[str, ...]:
    """Say in what lines two listings differ, whatever their order; empty if and only if their hashes are equal."""
    if one.sha256 == other.sha256:
        return ()
    mine, theirs = (Counter(map(_unnumbered, layers.listing)) for layers in (one, other))
    changed = [
        f"{line[:160]}: {mine[line]} against {theirs[line]}"
        for line in sorted(mine | theirs)
        if mine[line] != theirs[line]
    ]
    more = [f"… and {len(changed) - limit} more kinds of layer"] if len(changed) > limit else []
    return (*changed[:limit], *more) or ("the same layers are wired differently",)


def _unnumbered(line: str) -> str:
    """A line of a listing without its number and without the numbers of the layers that it reads."""
    return re.sub(r"%\d+\.\d+\.\d+", "%", re.sub(r"(^|: )\d+ ", r"\1", line))
