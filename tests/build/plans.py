"""Partitioned plans for the CPU, and the same plans with something changed in them."""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from udx.build.bundle import write_bundle
from udx.build.partitioned import PartitionedBuild, build_partitioned
from udx.runtime.bundle import read_bundle
from udx.runtime.partitioned import INDEX, Backend


class Silent:
    """A display that shows nothing."""

    def start(self, phase: str, depth: int, steps: int) -> None: ...

    def advance(self, phase: str, done: int) -> None: ...

    def finish(self, phase: str) -> None: ...


def build_plan(file: Path, out: Path, backend: Backend = "onnxruntime", **options: Any) -> PartitionedBuild:
    return build_partitioned(file, out, backend=backend, display=Silent(), **options)


def rewrite(plan: Path, change: Callable[[dict[str, Any]], object], members: dict[str, bytes] | None = None) -> Path:
    """Change the index of a plan, and members beside it, and seal it again: every hash is right."""
    found = read_bundle(plan)
    index = bound(json.loads(found[INDEX]), members or {})
    change(index)
    out = plan.with_name(f"changed-{plan.name}")
    write_bundle(out, found | (members or {}) | {INDEX: json.dumps(index).encode()})
    return out


def bound(index: dict[str, Any], members: Mapping[str, bytes]) -> dict[str, Any]:
    """The index with the hashes of these engines in it."""
    for step in index["steps"]:
        if step.get("file") in members:
            step["sha256"] = sha256(members[step["file"]]).hexdigest()
    return index
