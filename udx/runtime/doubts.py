"""What makes the figures of a measurement less trustworthy, a sentence each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from udx.runtime.conditions import Conditions, interference
from udx.runtime.environment import Environment
from udx.runtime.measure import GPU
from udx.runtime.report import EngineReport
from udx.runtime.statistics import Summary

NOISY_COV: Final = 0.10
DRIFTING: Final = 0.5
BUSY_LOAD_PER_CORE: Final = 0.5
OTHERS_CORES: Final = 0.2
STOLEN_CORES: Final = 0.05
ENQUEUE_BOUND: Final = 0.25
"""Share of a frame's time outside of the GPU from which on launching work, and not the work, is what takes long."""


def doubts_of(
    machine: Environment, before: Conditions, after: Conditions, engines: Sequence[EngineReport], stopped: str | None
) -> tuple[str, ...]:
    """Say what makes the figures less trustworthy."""
    return doubts_of_stages(
        machine, before, after, [(engine.identity.file, engine.stages) for engine in engines], stopped
    )


def doubts_of_stages(
    machine: Environment,
    before: Conditions,
    after: Conditions,
    measured: Sequence[tuple[str, Mapping[str, Summary]]],
    stopped: str | None,
) -> tuple[str, ...]:
    """Say what makes the figures less trustworthy.

    Args:
        machine: as it was before the measurement.
        before: its state then.
        after: its state after the measurement.
        measured: names, each with the latency by stage; ``network`` is one of the stages.
        stopped: why the measurement ended early, if it did.

    Returns:
        A sentence for each doubt.
    """
    said = [f"The measurement ended early: {stopped}."] if stopped else []
    said += _of_the_machine(machine, before, after)
    for name, stages in measured:
        said += _of_an_engine(name, stages)
    return tuple(said)


def _of_the_machine(machine: Environment, before: Conditions, after: Conditions) -> Iterator[str]:
    if machine.load_1min is not None and machine.load_1min > BUSY_LOAD_PER_CORE * machine.cores:
        yield (
            f"The machine was busy before the start: load {machine.load_1min:.1f} on {machine.cores} cores. "
            "Stop other programs and measure again."
        )
    others = interference(before, after)
    if others and others.others_cores > OTHERS_CORES:
        yield f"Other programs took {others.others_cores:.1f} of {machine.cores} cores meanwhile; stop them."
    if others and others.stolen_cores > STOLEN_CORES:
        yield f"The host of this virtual machine took {others.stolen_cores:.2f} cores away meanwhile."
    if machine.governor not in (None, "performance"):
        yield f"The CPU governor is {machine.governor!r}: clocks vary. Set it to performance."
    if (after.throttle_events or 0) > (before.throttle_events or 0):
        yield "The CPU was throttled for its heat meanwhile; cool it, and measure again."
    for index, gpu in enumerate(after.gpus):
        if gpu.throttled:
            yield (
                f"GPU {index} was throttled by {' and '.join(gpu.throttled)}; cool it, raise its power limit, or lock "
                "its clocks lower (nvidia-smi --lock-gpu-clocks)."
            )
    if before.gpu_processes:
        yield f"Other programs compute on the GPU: {'; '.join(before.gpu_processes[:5])}."


def _of_an_engine(name: str, stages: Mapping[str, Summary]) -> Iterator[str]:
    network = stages["network"]
    if network.cov > NOISY_COV:
        yield f"{name} is noisy: the standard deviation is {network.cov:.0%} of the mean (limit {NOISY_COV:.0%})."
    if network.autocorrelation > DRIFTING:
        yield (
            f"{name} drifts: neighbouring frames correlate by {network.autocorrelation:.2f} (limit {DRIFTING}); "
            "the machine's speed changes while it is measured."
        )
    on_gpu = sum(summary.median for stage, summary in stages.items() if stage.startswith(GPU))
    if on_gpu and network.median - on_gpu > ENQUEUE_BOUND * network.median:
        yield (
            f"{name} is enqueue-bound: of {network.median:.2f} ms only {on_gpu:.2f} ms pass on the GPU; have the frame "
            "captured as a CUDA graph, or give the host a faster core."
        )
