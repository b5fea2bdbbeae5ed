"""The measured loop: several engines in turn, one frame in flight, on the same frames."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from udx.errors import UdxError
from udx.geometry.arrays import FloatArray
from udx.runtime.frames import Frame
from udx.runtime.runner import Runner

Progress = Callable[[int, int], None]
"""Called with blocks done and blocks in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How to measure: ``warmup`` frames per engine, then ``blocks`` blocks of ``frames`` frames per engine.

    Within a block the engines take turns in a random order and then in its reverse (A B B A), half of the frames
    each time, so that a drift of the machine's speed falls on all alike. ``margin`` is the relative
    difference below which two engines count as equivalent, fixed before anything is measured.
    """

    warmup: int = 10
    blocks: int = 50
    frames: int = 6
    margin: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 1 or self.blocks < 2 or self.frames < 2 or self.frames % 2:
            raise UdxError(
                f"a measurement needs a warm-up of at least 1 frame, 2 blocks, and an even number of frames in a "
                f"block, not {self.warmup}, {self.blocks} and {self.frames}"
            )
        if not 0 < self.margin < 1:
            raise UdxError(f"the margin must lie between 0 and 1 (0.01 is 1 %), not {self.margin}")


@dataclass(slots=True)
class Timings:
    """One engine's samples in the order taken, milliseconds: a list per block and stage."""

    inputs: list[FloatArray] = field(default_factory=list)
    network: list[FloatArray] = field(default_factory=list)
    end_to_end: list[FloatArray] = field(default_factory=list)

    def add(self, stamps_ns_F3: FloatArray) -> None:
        """Add a block of frames, each with the times before, between and after its two stages."""
        self.inputs.append((stamps_ns_F3[:, 1] - stamps_ns_F3[:, 0]) / 1e6)
        self.network.append((stamps_ns_F3[:, 2] - stamps_ns_F3[:, 1]) / 1e6)
        self.end_to_end.append((stamps_ns_F3[:, 2] - stamps_ns_F3[:, 0]) / 1e6)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Timings per engine, in the order given; not ``complete`` if it was interrupted after two blocks or more."""

    timings: tuple[Timings, ...]
    complete: bool


def measure(
    runners: Sequence[Runner], frames: Sequence[Frame], protocol: Protocol, progress: Progress | None = None
) -> Measurement:
    """Measure active runners.

    An interruption (Ctrl-C) after at least two whole blocks ends the measurement early and keeps them.
    """
    assert runners and frames
    timings = tuple(Timings() for _ in runners)
    rng = np.random.default_rng(protocol.seed)
    for runner in runners:
        _visit(runner, frames, 0, protocol.warmup)
    try:
        for block in range(protocol.blocks):
            for timing, stamps in zip(timings, _block(runners, frames, protocol, block, rng), strict=True):
                timing.add(stamps)
            if progress is not None:
                progress(block + 1, protocol.blocks)
    except KeyboardInterrupt:
        if len(timings[-1].end_to_end) < 2:
            raise
        return Measurement(timings, complete=False)
    return Measurement(timings, complete=True)


def _block(
    runners: Sequence[Runner], frames: Sequence[Frame], protocol: Protocol, block: int, rng: np.random.Generator
) -> list[FloatArray]:
    """Stamps (F, 3) of each runner; every runner sees the same frames in both of its visits."""
    gc.collect()
    half = protocol.frames // 2
    order = rng.permutation(len(runners)).tolist()
    visits: list[list[FloatArray]] = [[] for _ in runners]
    for turn, position in enumerate([*order, *reversed(order)]):
        first = block * protocol.frames + (half if turn >= len(order) else 0)
        visits[position].append(_visit(runners[position], frames, first, half))
    return [np.concatenate(both) for both in visits]


def _visit(runner: Runner, frames: Sequence[Frame], first: int, count: int) -> FloatArray:
    stamps = np.empty((count, 3))
    collected = gc.isenabled()
    gc.disable()  # a collection in mid-frame would be charged to that frame
    try:
        for index in range(count):
            frame = frames[(first + index) % len(frames)]
            begin = time.perf_counter_ns()
            tensors = frame()
            ready = time.perf_counter_ns()
            runner.infer(tensors)
            stamps[index] = begin, ready, time.perf_counter_ns()
    finally:
        if collected:
            gc.enable()
    return stamps
