"""What a measurement found, as one value: written as JSON, shown in the terminal, rendered as a page."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from udx.data.evaluation import Metrics
from udx.manifest import Manifest
from udx.runtime.conditions import Conditions, interference
from udx.runtime.environment import Environment
from udx.runtime.equivalence import Equivalence, Ratio
from udx.runtime.identity import Identity
from udx.runtime.layers import Layers
from udx.runtime.measure import Protocol
from udx.runtime.operators import OperatorTimes
from udx.runtime.statistics import Summary

SCHEMA: Final = "udx-bench/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """nuScenes' metrics of the measured file itself, on a split of a dataroot."""

    data: str
    split: str
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One engine: what it is, what its backend made of it, and the latency of each stage.

    ``stages`` has ``inputs``, which is everything before the network (decoding, resizing, pooling plan), ``network``,
    the runner's ``infer`` from normalisation to decoded boxes, ``end_to_end``, their sum per frame, ``network_cpu``,
    the processor time of the network, and whatever parts of the network the runner tells.
    """

    identity: Identity
    settings: dict[str, str | int | None]
    stages: dict[str, Summary]
    layers: Layers | None
    accuracy: Accuracy | None = None
    operators: OperatorTimes | None = None

    @property
    def inputs(self) -> Summary:
        """Before the network."""
        return self.stages["inputs"]

    @property
    def network(self) -> Summary:
        """The network itself, boxes decoded."""
        return self.stages["network"]

    @property
    def end_to_end(self) -> Summary:
        """Both."""
        return self.stages["end_to_end"]

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the layers their number and hash. Operators are those of a profiled run of its own."""
        layers = self.layers
        accuracy = self.accuracy
        return {
            "identity": self.identity.to_json(),
            "settings": dict(self.settings),
            "layers": layers and {"source": layers.source, "count": len(layers.listing), "sha256": layers.sha256},
            "accuracy": accuracy and {"data": accuracy.data, "split": accuracy.split} | accuracy.metrics.to_json(),
            "operators": self.operators and dataclasses.asdict(self.operators),
            "stages": {name: dataclasses.asdict(summary) for name, summary in self.stages.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """What the backend made of two engines: its layers, their number and hash, and in what they differ."""

    source: str
    counts: tuple[int, int]
    sha256: tuple[str, str]
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether the backend runs the same layers with the same kernels."""
        return self.sha256[0] == self.sha256[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The engine against another in three layers: structure, the backend's layers, and cost.

    ``layers`` is None where the backend does not tell. ``stages`` has a verdict on each stage, ``judged`` names the
    one that counts. ``about_positive`` says what the positive control is, or why there is none.
    """

    identical: bool
    differences: tuple[str, ...]
    layers: LayerComparison | None
    stages: dict[str, Equivalence]
    judged: str
    about_positive: str

    @property
    def equivalence(self) -> Equivalence:
        """The verdict that counts: on the stage that distillation could have changed."""
        return self.stages[self.judged]

    def to_json(self, shas: tuple[str, str]) -> dict[str, Any]:
        """Plain values."""
        layers = self.layers
        return {
            "structure": {"identical": self.identical, "sha256": list(shas), "differences": list(self.differences)},
            "layers": layers and dataclasses.asdict(layers) | {"identical": layers.identical},
            "equivalence": self._equivalence_json(self.judged) | {"stage": self.judged},
            "equivalence_by_stage": {stage: self._equivalence_json(stage) for stage in self.stages},
        }

    def _equivalence_json(self, stage: str) -> dict[str, Any]:
        """Ratios are engine / against, of the controls second copy / engine and dearer engine / engine."""
        found = self.stages[stage]
        ab, aa, positive = (_ratio_json(ratio) for ratio in (found.ab, found.aa, found.positive))
        return {
            **(ab or {}),
            "margin": found.margin,
            "verdict": found.verdict,
            "reason": found.reason,
            "aa": aa,
            "positive": (positive or {"ratio": None, "ci90": None}) | {"about": self.about_positive},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Everything that ``udx bench`` says.

    ``created`` is UTC in ISO 8601, ``stopped`` why the measurement ended early, if it did, ``blocks`` how many were
    measured, ``frames`` describes the input, ``before`` and ``after`` the machine then. ``command`` is the command
    line that measured, if one did.
    """

    created: str
    stopped: str | None
    blocks: int
    frames: str
    engine: EngineReport
    against: EngineReport | None
    comparison: Comparison | None
    environment: Environment
    before: Conditions
    after: Conditions
    protocol: Protocol
    warnings: tuple[str, ...]
    command: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the measurement went on to its end."""
        return self.stopped is None

    def to_json(self) -> dict[str, Any]:
        """Plain values without NaN, under a schema version; fields may be added, none changes its meaning."""
        comparison: dict[str, Any] = dict.fromkeys(("structure", "layers", "equivalence", "equivalence_by_stage"))
        if self.comparison and self.against:
            shas = self.engine.identity.structure.sha256, self.against.identity.structure.sha256
            comparison = self.comparison.to_json(shas)
        others = interference(self.before, self.after)
        environment = dataclasses.asdict(self.environment) | {
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "interference": others and dataclasses.asdict(others),
        }
        measured = {"blocks_measured": self.blocks, "input": self.frames, "in_flight": 1}
        return {
            "schema": SCHEMA,
            "created": self.created,
            "command": self.command,
            "complete": self.complete,
            "stopped": self.stopped,
            "engine": self.engine.to_json(),
            "against": self.against and self.against.to_json(),
            **comparison,
            "environment": environment,
            "protocol": dataclasses.asdict(self.protocol) | measured,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one detector has more than another, in points (per cent) of nuScenes' metrics on the same split."""

    mean_ap: float
    nds: float
    split: str


def gain_of(report: BenchReport) -> Gain | None:
    """Return what the engine gained over the other; None unless both files were measured on the same data."""
    mine = report.engine.accuracy
    theirs = report.against.accuracy if report.against else None
    if mine is None or theirs is None or (mine.data, mine.split) != (theirs.data, theirs.split):
        return None
    return Gain(
        mean_ap=100 * (mine.metrics.mean_ap - theirs.metrics.mean_ap),
        nds=100 * (mine.metrics.nds - theirs.metrics.nds),
        split=mine.split,
    )


def known_of(comparison: Comparison, gain: Gain | None) -> str:
    """Say in one line what is known of two engines: accuracy where it was measured, graph, kernels, latency.

    ``equivalent`` is the verdict's word and is said only where the verdict is.
    """
    layers = comparison.layers
    graph = "identical graph" if comparison.identical else "different graph"
    told = [f"{'an' if comparison.identical else 'a'} {graph}"]
    if layers is not None:
        told.append("identical kernels" if layers.identical else "different kernels")
    verdict = comparison.equivalence.verdict
    if verdict != "cannot tell":
        told.append(f"{verdict} {'latency' if comparison.judged == 'network' else 'processor time'}")
    joined = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    if gain is not None:
        return f"{gain.mean_ap:+.1f} mAP at {joined}".replace("-", "\N{MINUS SIGN}", 1)
    joined = joined.partition(" ")[2]
    return joined[0].upper() + joined[1:]


def headline(report: BenchReport) -> str:
    """One sentence: what is known of two engines and the verdict, or the engine's latency."""
    network, whole = report.engine.network, report.engine.end_to_end
    latency = f"{network.median:.2f} ms median network latency, {network.p99:.2f} ms at p99"
    if report.comparison is None or report.against is None:
        return f"{report.engine.identity.file}: {latency}; {whole.median:.2f} ms end to end"
    comparison = report.comparison
    found = comparison.equivalence
    what = "latency" if comparison.judged == "network" else "processor time"
    joint = "because" if found.verdict == "cannot tell" else "that is,"
    return f"{known_of(comparison, gain_of(report))}; {what}: {found.verdict}, {joint} {found.reason}."


def title_of(manifest: Manifest) -> str:
    """Name a detector for a heading: student, recipe, teacher."""
    teacher = (manifest.teacher or {}).get("modality")
    distilled = f", distilled from {teacher}" if teacher else ", distilled" if manifest.teacher else ""
    return f"{manifest.spec.modality} student, recipe {manifest.recipe}{distilled}"


def _ratio_json(ratio: Ratio | None) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {"ratio": ratio.ratio, "ci90": list(ratio.ci90), "block_ratios": list(ratio.ratios)}
