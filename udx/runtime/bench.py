"""``udx bench``: the latency of an engine, and whether it costs more than another."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from udx.errors import UdxError
from udx.files import write_json, write_text
from udx.geometry.arrays import FloatArray
from udx.runtime.engine import open_engine
from udx.runtime.environment import Environment, environment
from udx.runtime.equivalence import Equivalence, judge, paired_ratio
from udx.runtime.frames import Frame, generated_frame
from udx.runtime.graph import differences
from udx.runtime.identity import Identity, identify
from udx.runtime.measure import Measurement, Progress, Protocol, Timings, measure
from udx.runtime.report import BenchReport, Comparison, EngineReport
from udx.runtime.runner import Runner
from udx.runtime.show import bench_page
from udx.runtime.statistics import summarise

NOISY_COV: Final = 0.10
DRIFTING: Final = 0.5
BUSY_LOAD_PER_CORE: Final = 0.5


def bench(
    engine: Path,
    *,
    against: Path | None = None,
    backend: str = "auto",
    threads: int | None = None,
    frames: Sequence[Frame] | None = None,
    frames_are: str = "frames given by the caller",
    protocol: Protocol | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure an engine, alone or interleaved with another that reads the same inputs.

    ``frames`` produce real input and are timed as stage ``inputs``; without them one frame is generated from
    the manifest. ``frames_are`` describes them. With ``against``, ``engine`` is opened twice: its second copy
    is the control.

    Raises:
        UdxError: an engine cannot be opened or run, or the two read different inputs.
    """
    protocol = protocol or Protocol()
    before = environment()
    identities = [identify(path) for path in (engine, against) if path]
    paths = [engine] if against is None else [engine, engine, against]
    runners = [open_engine(path, backend, threads) for path in paths]
    _require_same_inputs(runners[0], runners[-1])
    if frames is None:
        frame, frames_are = generated_frame(runners[0].manifest, protocol.seed)
        frames = [frame]
    with ExitStack() as stack:
        for runner in runners:
            stack.enter_context(runner)
            runner.detect(frames[0]())  # an engine that gives no boxes is not worth timing
        measured = measure(runners, frames, protocol, progress)
    reports = [
        _engine_report(identity, runner, timings, protocol)
        for identity, runner, timings in zip(
            identities, (runners[0], runners[-1]), (measured.timings[0], measured.timings[-1]), strict=False
        )
    ]
    return BenchReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=measured.complete,
        frames=frames_are,
        engine=reports[0],
        against=reports[1] if against else None,
        comparison=_compare(identities, measured, protocol) if against else None,
        environment=before,
        protocol=protocol,
        warnings=_warnings(before, reports, complete=measured.complete),
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


def _require_same_inputs(one: Runner, other: Runner) -> None:
    if one.inputs != other.inputs:
        mine, theirs = (", ".join(map(str, runner.inputs)) for runner in (one, other))
        raise UdxError(
            f"{one.path} reads {mine} but {other.path} reads {theirs}; compare students of one recipe and modality"
        )


def _engine_report(identity: Identity, runner: Runner, timings: Timings, protocol: Protocol) -> EngineReport:
    return EngineReport(
        identity=identity,
        settings=dict(runner.settings),
        inputs=summarise(np.concatenate(timings.inputs), protocol.seed),
        network=summarise(np.concatenate(timings.network), protocol.seed),
        end_to_end=summarise(np.concatenate(timings.end_to_end), protocol.seed),
    )


def _compare(identities: Sequence[Identity], measured: Measurement, protocol: Protocol) -> Comparison:
    first, second, other = measured.timings
    one, two = (identity.structure for identity in identities)
    return Comparison(
        identical=one.sha256 == two.sha256,
        differences=differences(one, two),
        network=_judge(first.network, second.network, other.network, protocol),
        end_to_end=_judge(first.end_to_end, second.end_to_end, other.end_to_end, protocol),
    )


def _judge(
    first: list[FloatArray], second: list[FloatArray], other: list[FloatArray], protocol: Protocol
) -> Equivalence:
    mine, control, theirs = (np.array([np.median(block) for block in blocks]) for blocks in (first, second, other))
    ab = paired_ratio(mine, theirs, protocol.seed)
    aa = paired_ratio(control, mine, protocol.seed)
    return judge(ab, aa, protocol.margin)


def _warnings(machine: Environment, reports: Sequence[EngineReport], *, complete: bool) -> tuple[str, ...]:
    """Say what makes the figures less trustworthy."""
    said = []
    if not complete:
        said.append("The measurement was interrupted: it holds fewer blocks than the protocol says.")
    if machine.load_1min is not None and machine.load_1min > BUSY_LOAD_PER_CORE * machine.cores:
        said.append(
            f"The machine was busy before the start: load {machine.load_1min:.1f} on {machine.cores} cores. "
            "Stop other programs and measure again."
        )
    if machine.governor not in (None, "performance"):
        said.append(f"The CPU governor is {machine.governor!r}: clocks vary. Set it to performance.")
    for report in reports:
        name, network = report.identity.file, report.network
        if network.cov > NOISY_COV:
            said.append(
                f"{name} is noisy: the standard deviation is {network.cov:.0%} of the mean (limit {NOISY_COV:.0%})."
            )
        if network.autocorrelation > DRIFTING:
            said.append(
                f"{name} drifts: neighbouring frames correlate by {network.autocorrelation:.2f} (limit {DRIFTING}); "
                "the machine's speed changes while it is measured."
            )
    return tuple(said)
