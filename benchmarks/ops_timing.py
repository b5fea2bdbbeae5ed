"""Fair timing of several ways to do the same: they take turns, and every figure is compared within its turn."""

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

COPY_BYTES: Final = 2**30
CACHE_BYTES: Final = 2**28
"""More than any GPU's second-level cache: writing as much empties it."""


class Clock(ABC):
    """Times one call."""

    @abstractmethod
    def milliseconds(self, call: Callable[[], object]) -> float:
        """Duration of ``call``."""


class ProcessorClock(Clock):
    """Wall time of a call on the CPU."""

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Duration of ``call``; no garbage collection falls into it."""
        began = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - began) / 1e6


class CudaClock(Clock):
    """Time between two events around a call, with a cold cache.

    The device sleeps first, so that the host has enqueued the whole call before its first kernel starts: what is
    measured is the device's time, unless the call itself waits for the device.
    """

    SLEEP_CYCLES = 5_000_000

    def __init__(self) -> None:
        self._cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Duration of ``call`` on the current stream."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cache.zero_()
        torch.cuda._sleep(self.SLEEP_CYCLES)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def copy_bytes_per_s(self, repetitions: int) -> float:
        """Bytes read and written a second by a device-to-device copy of 1 GiB: the memory's practical limit."""
        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").zero_()
        target = torch.empty_like(source)
        times_ms = [self.milliseconds(lambda: target.copy_(source)) for _ in range(repetitions + 2)][2:]
        return 2 * COPY_BYTES / (float(np.median(times_ms)) / 1e3)


@dataclass(frozen=True, slots=True)
class Timing:
    """One contestant: median and quartiles of its milliseconds, and of its time as a multiple of the first's."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]


def take_turns(
    clock: Clock, calls: Sequence[Callable[[], object]], repetitions: int, done: Callable[[], None]
) -> list[Timing]:
    """Time all calls once per repetition, in random order; one untimed round comes first."""
    rng = np.random.default_rng(0)
    times_ms = np.empty((repetitions, len(calls)))
    for call in calls:
        call()
    for repetition in range(repetitions):
        gc.collect()
        gc.disable()  # a collection in mid-call would be charged to it
        try:
            for position in rng.permutation(len(calls)).tolist():
                times_ms[repetition, position] = clock.milliseconds(calls[position])
        finally:
            gc.enable()
        done()
    ratios = times_ms / times_ms[:, :1]
    return [
        Timing(*_median_and_quartiles(column), *_median_and_quartiles(ratio))
        for column, ratio in zip(times_ms.T, ratios.T, strict=True)
    ]


def _median_and_quartiles(values: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    low, middle, high = (float(quantile) for quantile in np.quantile(values, [0.25, 0.5, 0.75]))
    return middle, (low, high)
