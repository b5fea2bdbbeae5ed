"""``udx bench``: the latency of an engine, and whether it costs more than another."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from udx.errors import UdxError
from udx.files import write_json, write_text
from udx.geometry.arrays import FloatArray
from udx.runtime.conditions import conditions
from udx.runtime.doubts import doubts_of
from udx.runtime.engine import open_engine
from udx.runtime.engine_file import read_engine
from udx.runtime.environment import environment
from udx.runtime.equivalence import Equivalence, Ratio, judge, paired_ratio
from udx.runtime.extra_layer import write_with_extra_layer
from udx.runtime.frames import Frame, generated_frame
from udx.runtime.graph import differences
from udx.runtime.identity import Identity, identify
from udx.runtime.layers import Layers, layer_differences, layers_of
from udx.runtime.measure import Measurement, Progress, Protocol, Timings, measure
from udx.runtime.onnx_file import OnnxFile
from udx.runtime.operators import PROFILED_FRAMES, OperatorTimes, TellsOperators
from udx.runtime.report import BenchReport, Comparison, EngineReport, LayerComparison
from udx.runtime.runner import Runner
from udx.runtime.show import bench_page
from udx.runtime.statistics import summarise

EXTRA_SHARE: Final = 8.0
"""Multiply-accumulates of the positive control's extra layer, in margins: small, and yet to be seen."""

JUDGED: Final = ("network", "network_cpu", "end_to_end")
"""The stages that two engines are compared in."""


def bench(
    engine: Path,
    *,
    against: Path | None = None,
    positive: Path | None = None,
    backend: str = "auto",
    threads: int | None = None,
    frames: Sequence[Frame] | None = None,
    frames_are: str = "frames given by the caller",
    protocol: Protocol | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure an engine, alone or interleaved with another that reads the same inputs.

    ``frames`` produce real input and are timed as stage ``inputs``; without them one frame is generated from
    the manifest. ``frames_are`` describes them. With ``against``, two controls are measured along: ``engine`` opened a
    second time, and ``positive``, an engine known to cost more, or else ``engine`` with a convolution more, which can
    be made of ONNX files only. When all is measured, a few frames run under the backend's profiler, where it has one.

    Raises:
        UdxError: an engine cannot be opened or run, or they read different inputs.
    """
    protocol = protocol or Protocol()
    machine = environment()
    identities = [identify(path) for path in (engine, against) if path]
    with _lineup(engine, against, positive, backend, threads, protocol) as lineup:
        if frames is None:
            frame, frames_are = generated_frame(lineup.engine.manifest, protocol.seed)
            frames = [frame]
        before = conditions()  # before anything of this process is on a GPU: who computes there is another
        layers = [_layers_of(runner) for runner in (lineup.engine, lineup.against) if runner]
        measured = measure(
            lineup.runners,
            frames,
            protocol,
            blocks_needed=(lambda timings: _blocks_needed(timings, protocol)) if against else None,
            progress=progress,
        )
        after = conditions()
        compared = [runner for runner in (lineup.engine, lineup.against) if runner]
        operators = _operators_of(compared if measured.stopped is None else [], frames)
    reports = [
        EngineReport(
            identity=identity,
            settings=dict(runner.settings),
            stages={name: summarise(timings.samples(name), protocol.seed) for name in timings.stages},
            layers=made,
            operators=profiled,
        )
        for identity, runner, timings, made, profiled in zip(
            identities, lineup.runners, measured.timings, layers, operators or [None, None], strict=False
        )
    ]
    return BenchReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        stopped=measured.stopped,
        blocks=measured.timings[0].blocks,
        frames=frames_are,
        engine=reports[0],
        against=reports[1] if against else None,
        comparison=_compare(identities, layers, measured, lineup, protocol) if against else None,
        environment=machine,
        before=before,
        after=after,
        protocol=protocol,
        warnings=(
            *_cut_short(measured, protocol),
            *doubts_of(machine, before, after, reports, measured.stopped),
        ),
    )


def _cut_short(measured: Measurement, protocol: Protocol) -> Iterator[str]:
    """Say so where time was up before the least number of blocks."""
    blocks = measured.timings[0].blocks
    if measured.stopped is None and blocks < protocol.blocks:
        yield (
            f"Time was up after {blocks} of {protocol.blocks} blocks: intervals are wide. Allow more than "
            f"{protocol.max_minutes:g} minutes (--max-minutes)."
        )


def write_report(report: BenchReport, *, json: Path | None = None, html: Path | None = None) -> None:
    """Write a report as JSON, as a self-contained page, or both.

    Raises:
        UdxError: a file cannot be written.
    """
    if json is not None:
        write_json(json, report.to_json())
    if html is not None:
        write_text(html, bench_page(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """Who is measured: the engine, and what a comparison adds; ``about_positive`` says what it is, or why it lacks."""

    engine: Runner
    against: Runner | None = None
    control: Runner | None = None
    positive: Runner | None = None
    about_positive: str = ""

    @property
    def runners(self) -> list[Runner]:
        """In the order of the fields, without those that there are not."""
        return [runner for runner in (self.engine, self.against, self.control, self.positive) if runner]


@contextmanager
def _lineup(
    engine: Path, against: Path | None, positive: Path | None, backend: str, threads: int | None, protocol: Protocol
) -> Iterator[Lineup]:
    """Open all; an engine that is made for the positive control lasts as long as the block."""
    first = open_engine(engine, backend, threads)
    if against is None:
        yield Lineup(engine=first)
        return
    with tempfile.TemporaryDirectory(prefix="udx-bench-") as folder:
        made, about = _positive_of(engine, positive, Path(folder), protocol)
        lineup = Lineup(
            engine=first,
            against=open_engine(against, backend, threads),
            control=open_engine(engine, backend, threads),
            positive=open_engine(made, backend, threads) if made else None,
            about_positive=about,
        )
        for runner in lineup.runners:
            _require_same_inputs(first, runner)
        yield lineup


def _positive_of(engine: Path, positive: Path | None, folder: Path, protocol: Protocol) -> tuple[Path | None, str]:
    """The engine for the positive control, as given or made, and what it is; or None, and why not."""
    if positive is not None:
        return positive, f"{positive.name}, as given"
    if not isinstance(read_engine(engine), OnnxFile):
        return None, "a plan cannot be changed; give an engine that is known to cost more with --positive"
    made = folder / f"dearer-{engine.name}"
    try:
        layer = write_with_extra_layer(engine, made, EXTRA_SHARE * protocol.margin)
    except UdxError as error:
        return None, str(error)
    return made, f"{engine.name} with {layer}"


def _require_same_inputs(one: Runner, other: Runner) -> None:
    if one.inputs != other.inputs:
        mine, theirs = (", ".join(map(str, runner.inputs)) for runner in (one, other))
        raise UdxError(
            f"{one.path} reads {mine} but {other.path} reads {theirs}; compare students of one recipe and modality"
        )


def _layers_of(runner: Runner) -> Layers | None:
    with runner:
        return layers_of(runner)


def _operators_of(runners: Sequence[Runner], frames: Sequence[Frame]) -> list[OperatorTimes | None]:
    """Profile a few frames; what was measured is worth more than a profile that fails or is interrupted."""
    found: list[OperatorTimes | None] = [None] * len(runners)
    if not any(isinstance(runner, TellsOperators) for runner in runners):
        return found
    try:
        tensors = [frames[at % len(frames)]() for at in range(PROFILED_FRAMES + 1)]
        for at, runner in enumerate(runners):
            found[at] = runner.operator_times(tensors) if isinstance(runner, TellsOperators) else None
    except (UdxError, KeyboardInterrupt):
        return [None] * len(runners)
    return found


def _compare(
    identities: Sequence[Identity],
    layers: Sequence[Layers | None],
    measured: Measurement,
    lineup: Lineup,
    protocol: Protocol,
) -> Comparison:
    one, two = (identity.structure for identity in identities)
    return Comparison(
        identical=one.sha256 == two.sha256,
        differences=differences(one, two),
        layers=_compare_layers(*layers),
        stages={stage: _judge(measured.timings, stage, protocol) for stage in JUDGED},
        judged=protocol.judged_stage,
        about_positive=lineup.about_positive,
    )


def _compare_layers(one: Layers | None, two: Layers | None) -> LayerComparison | None:
    if one is None or two is None:
        return None
    return LayerComparison(
        source=one.source,
        counts=(len(one.listing), len(two.listing)),
        sha256=(one.sha256, two.sha256),
        differences=layer_differences(one, two),
    )


def _judge(timings: Sequence[Timings], stage: str, protocol: Protocol) -> Equivalence:
    ab, aa, positive = _ratios(timings, stage, protocol)
    return judge(ab, aa, positive, protocol.margin)


def _ratios(timings: Sequence[Timings], stage: str, protocol: Protocol) -> tuple[Ratio, Ratio, Ratio | None]:
    """Of timings in the order of ``Lineup.runners``: engine / against, control / engine, positive / engine."""
    mine, theirs, control, *dearer = (timing.medians(stage) for timing in timings)

    def ratio(one: FloatArray, other: FloatArray) -> Ratio:
        return paired_ratio(one, other, protocol.seed, together=protocol.reopen_every)

    return ratio(mine, theirs), ratio(control, mine), ratio(dearer[0], mine) if dearer else None


def _blocks_needed(timings: Sequence[Timings], protocol: Protocol) -> int:
    ab, aa, _ = _ratios(timings, protocol.judged_stage, protocol)
    return max(ratio.blocks_needed(protocol.margin) for ratio in (ab, aa))
