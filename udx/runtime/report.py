"""What a measurement found, as one value: written as JSON, shown in the terminal, rendered as a page."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from udx.manifest import Manifest
from udx.runtime.environment import Environment
from udx.runtime.equivalence import Equivalence
from udx.runtime.identity import Identity
from udx.runtime.measure import Protocol
from udx.runtime.statistics import Summary

SCHEMA: Final = "udx-bench/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One engine: what it is, how it was run, and the latency of each stage.

    ``inputs`` is everything before the network (decoding, resizing, pooling plan), ``network`` the runner's
    ``infer``, normalisation to decoded boxes; ``end_to_end`` their sum per frame.
    """

    identity: Identity
    settings: dict[str, str | int | None]
    inputs: Summary
    network: Summary
    end_to_end: Summary

    @property
    def stages(self) -> dict[str, Summary]:
        """The three summaries by name."""
        return {"inputs": self.inputs, "network": self.network, "end_to_end": self.end_to_end}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        stages = {name: dataclasses.asdict(summary) for name, summary in self.stages.items()}
        return {"identity": self.identity.to_json(), "settings": dict(self.settings), "stages": stages}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The engine against another: equal structure or not, and equal cost or not or unknown."""

    identical: bool
    differences: tuple[str, ...]
    network: Equivalence
    end_to_end: Equivalence

    def to_json(self, shas: tuple[str, str]) -> dict[str, Any]:
        """Plain values; the verdict is on the network, the stage that distillation could have changed."""
        return {
            "structure": {"identical": self.identical, "sha256": list(shas), "differences": list(self.differences)},
            "equivalence": _equivalence_json(self.network),
            "end_to_end": _equivalence_json(self.end_to_end),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Everything that ``udx bench`` says. ``frames`` describes the input, ``created`` is UTC in ISO 8601."""

    created: str
    complete: bool
    frames: str
    engine: EngineReport
    against: EngineReport | None
    comparison: Comparison | None
    environment: Environment
    protocol: Protocol
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values without NaN, under a schema version; fields may be added, none changes its meaning."""
        comparison: dict[str, Any] = {"structure": None, "equivalence": None, "end_to_end": None}
        if self.comparison and self.against:
            shas = self.engine.identity.structure.sha256, self.against.identity.structure.sha256
            comparison = self.comparison.to_json(shas)
        return {
            "schema": SCHEMA,
            "created": self.created,
            "complete": self.complete,
            "engine": self.engine.to_json(),
            "against": self.against and self.against.to_json(),
            **comparison,
            "environment": dataclasses.asdict(self.environment),
            "protocol": dataclasses.asdict(self.protocol) | {"input": self.frames, "in_flight": 1},
            "warnings": list(self.warnings),
        }


def headline(report: BenchReport) -> str:
    """One sentence: the verdict of a comparison, or the engine's latency."""
    network, whole = report.engine.network, report.engine.end_to_end
    latency = f"{network.median:.2f} ms median network latency, {network.p99:.2f} ms at p99"
    if report.comparison is None or report.against is None:
        return f"{report.engine.identity.file}: {latency}; {whole.median:.2f} ms end to end"
    comparison = report.comparison
    structure = "Identical structure" if comparison.identical else "Different structures"
    joint = "because" if comparison.network.verdict == "cannot tell" else "that is,"
    return f"{structure}; latency: {comparison.network.verdict}, {joint} {comparison.network.reason}."


def title_of(manifest: Manifest) -> str:
    """Name a detector for a heading: student, recipe, teacher."""
    teacher = (manifest.teacher or {}).get("modality")
    distilled = f", distilled from {teacher}" if teacher else ", distilled" if manifest.teacher else ""
    return f"{manifest.spec.modality} student, recipe {manifest.recipe}{distilled}"


def _equivalence_json(equivalence: Equivalence) -> dict[str, Any]:
    """Ratios are engine / against; 1 is equal cost."""
    return {
        "ratio": equivalence.ab.ratio,
        "ci90": list(equivalence.ab.ci90),
        "margin": equivalence.margin,
        "verdict": equivalence.verdict,
        "reason": equivalence.reason,
        "block_ratios": list(equivalence.ab.ratios),
        "aa": {
            "ratio": equivalence.aa.ratio,
            "ci90": list(equivalence.aa.ci90),
            "block_ratios": list(equivalence.aa.ratios),
        },
    }
