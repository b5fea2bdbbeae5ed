"""The measured loop: several engines in turn, one frame in flight, on the same frames."""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, runtime_checkable
from typing import Protocol as Interface

import numpy as np

from udx.errors import UdxError
from udx.geometry.arrays import FloatArray
from udx.runtime.frames import Frame
from udx.runtime.runner import Runner

Progress = Callable[[int, int], None]
"""Called with blocks done and blocks in all, as far as is known by then."""

Clock = Literal["wall", "cpu"]

GPU: Final = "gpu_"
"""How the names of stages on the GPU begin."""

LEAST_BLOCKS: Final = 2
"""Blocks without which there is nothing to compute an interval of."""

REOPENED_WARMUP: Final = 3
"""Frames of warm-up after an engine was opened anew: its memory is fresh, the machine is warm already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How to measure: ``warmup`` frames per engine, then blocks of ``frames`` frames per engine.

    Within a block the engines take turns in a random order and then in its reverse (A B B A), half of the frames
    each time, so that a drift of the machine's speed falls on all alike. ``margin`` is the relative difference below
    which two engines count as equivalent, fixed before anything is measured.

    A single engine is measured for ``blocks`` blocks. A comparison goes on from there until its intervals are narrow
    enough for the margin. Both end with the block in which ``max_minutes`` have passed, after two blocks at least;
    0 minutes stand for just ``blocks`` blocks. That the intervals' *width* alone
    decides when to stop, and never where they lie, keeps the tests honest. A round is ``reopen_every`` blocks: then all
    engines are closed and opened again in a random order. Where their memory happens to lie is luck of an opening, and
    would else look like a difference between engines.

    The verdict is on time by ``clock``: ``wall`` is latency; ``cpu`` is the processor time of this process, without
    what it waits for cores that other programs hold: the work, and not the latency. ``core`` is the one that this
    process is pinned to while it measures, if any.
    """

    warmup: int = 10
    blocks: int = 50
    frames: int = 4
    reopen_every: int = 10
    max_minutes: float = 10.0
    margin: float = 0.01
    clock: Clock = "wall"
    core: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 1 or self.blocks < 2 or self.frames < 2 or self.frames % 2:
            raise UdxError(
                f"a measurement needs a warm-up of at least 1 frame, 2 blocks, and an even number of frames in a "
                f"block, not {self.warmup}, {self.blocks} and {self.frames}"
            )
        if self.reopen_every < 1 or not 0 <= self.max_minutes < math.inf:
            raise UdxError(
                f"engines are opened anew every block or less often, and minutes are a number from 0, not every "
                f"{self.reopen_every} blocks and {self.max_minutes}"
            )
        if not 0 < self.margin < 1:
            raise UdxError(f"the margin must lie between 0 and 1 (0.01 is 1 %), not {self.margin}")
        if self.clock not in ("wall", "cpu"):
            raise UdxError(f"there is no clock {self.clock!r}; choose wall (latency) or cpu (processor time)")

    @property
    def judged_stage(self) -> str:
        """The stage whose times the verdict is on."""
        return {"wall": "network", "cpu": "network_cpu"}[self.clock]


@runtime_checkable
class TellsStages(Interface):
    """A runner that knows how long the stages of its last frame took on the GPU, as events there tell it."""

    def stages_ms(self) -> Mapping[str, float]:
        """Milliseconds by stage, the same stages for every frame, one after the other."""


@dataclass(slots=True)
class Timings:
    """One engine's samples in the order taken, milliseconds: of each stage a list of blocks, (F,) each.

    ``inputs`` is everything before the network, ``network`` the runner's ``infer``, ``end_to_end`` both;
    ``network_cpu`` is the processor time that this process spent during ``network``, of all its threads together.
    Stages of ``GPU`` are what a runner tells of the network there.
    """

    stages: dict[str, list[FloatArray]] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """How many blocks were measured."""
        return len(self.stages.get("network", ()))

    def add(self, frames: Sequence[Mapping[str, float]]) -> None:
        """Add a block: milliseconds by stage, frame by frame."""
        for stage in frames[0]:
            self.stages.setdefault(stage, []).append(np.array([frame[stage] for frame in frames]))

    def samples(self, stage: str) -> FloatArray:
        """All of a stage, one after the other."""
        return np.concatenate(self.stages[stage])

    def medians(self, stage: str) -> FloatArray:
        """The median of each block of a stage, (B,)."""
        return np.array([np.median(block) for block in self.stages[stage]])


@dataclass(frozen=True, slots=True)
class Measurement:
    """Timings per engine, in the order given; ``stopped`` says why there are fewer blocks than asked for, if so."""

    timings: tuple[Timings, ...]
    stopped: str | None = None


BlocksNeeded = Callable[[Sequence[Timings]], int]
"""How many blocks would make the result precise enough, judged by those that there are."""


def measure(
    runners: Sequence[Runner],
    frames: Sequence[Frame],
    protocol: Protocol,
    *,
    blocks_needed: BlocksNeeded | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure runners, which are activated and deactivated on the way; with ``blocks_needed`` as a comparison.

    An interruption (Ctrl-C), or an engine that fails, ends the measurement early. If two whole blocks were measured by
    then, they are kept.

    Raises:
        UdxError: an engine cannot be activated or run, or gives no usable boxes, before two blocks were measured.
        KeyboardInterrupt: likewise.
    """
    assert runners and frames
    timings = tuple(Timings() for _ in runners)
    try:
        with _pinned(protocol.core):
            for done, total in _blocks(runners, frames, protocol, timings, blocks_needed):
                if progress is not None:
                    progress(done, total)
    except (KeyboardInterrupt, UdxError) as error:
        if timings[-1].blocks < 2:
            raise
        return Measurement(timings, "it was interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
    return Measurement(timings)


@contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    """Keep this thread, and those that it starts, on one core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if core not in before:
        raise UdxError(f"this process may not run on core {core}, only on {sorted(before)}; choose one of these")
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _blocks(
    runners: Sequence[Runner],
    frames: Sequence[Frame],
    protocol: Protocol,
    timings: Sequence[Timings],
    blocks_needed: BlocksNeeded | None,
) -> Iterator[tuple[int, int]]:
    """Measure block after block into ``timings``; yield how many are done, and how many there will be."""
    rng = np.random.default_rng(protocol.seed)
    began = time.monotonic()
    done, total = 0, protocol.blocks
    while done < total:
        in_this_round = total - done
        if blocks_needed is not None:
            in_this_round = min(in_this_round, protocol.reopen_every)
        with _open(runners, frames, REOPENED_WARMUP if done else protocol.warmup, rng):
            for _ in range(in_this_round):
                for timing, block in zip(timings, _block(runners, frames, protocol, done, rng), strict=True):
                    timing.add(block)
                done += 1
                passed = time.monotonic() - began
                yield done, total
                if done >= LEAST_BLOCKS and 0 < 60 * protocol.max_minutes <= passed:
                    return
        if blocks_needed is not None and done >= protocol.blocks:
            affordable = int(done * 60 * protocol.max_minutes / passed)
            more = max(0, min(blocks_needed(timings), affordable) - done)
            total = done + math.ceil(more / protocol.reopen_every) * protocol.reopen_every  # whole rounds


@contextmanager
def _open(runners: Sequence[Runner], frames: Sequence[Frame], warmup: int, rng: np.random.Generator) -> Iterator[None]:
    """Activate all, in a random order, and warm them up; an engine that gives no boxes is not worth timing."""
    with ExitStack() as stack:
        for position in rng.permutation(len(runners)).tolist():
            stack.enter_context(runners[position])
            runners[position].detect(frames[0]())
        for runner in runners:
            _visit(runner, frames, 0, warmup)
        gc.collect()
        yield


def _block(
    runners: Sequence[Runner], frames: Sequence[Frame], protocol: Protocol, block: int, rng: np.random.Generator
) -> list[list[dict[str, float]]]:
    """Times of each runner's frames; every runner sees the same frames in both of its visits."""
    half = protocol.frames // 2
    order = rng.permutation(len(runners)).tolist()
    measured: list[list[dict[str, float]]] = [[] for _ in runners]
    for turn, position in enumerate([*order, *reversed(order)]):
        first = block * protocol.frames + (half if turn >= len(order) else 0)
        measured[position] += _visit(runners[position], frames, first, half)
    return measured


def _visit(runner: Runner, frames: Sequence[Frame], first: int, count: int) -> list[dict[str, float]]:
    measured = []
    collected = gc.isenabled()
    gc.disable()  # a collection in mid-frame would be charged to that frame
    try:
        for index in range(count):
            frame = frames[(first + index) % len(frames)]
            begin = time.perf_counter_ns()
            tensors = frame()
            ready = time.perf_counter_ns()
            cpu = time.process_time_ns()
            runner.infer(tensors)
            end = time.perf_counter_ns()
            worked = time.process_time_ns() - cpu
            stages = {"inputs": ready - begin, "network": end - ready, "end_to_end": end - begin, "network_cpu": worked}
            told = runner.stages_ms() if isinstance(runner, TellsStages) else {}
            on_gpu = {GPU + name: took for name, took in told.items()}
            measured.append({name: took / 1e6 for name, took in stages.items()} | on_gpu)
    finally:
        if collected:
            gc.enable()
    return measured
