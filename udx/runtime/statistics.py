"""Summaries of latency samples: pure functions on numbers, no clock in sight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udx.geometry.arrays import FloatArray

RESAMPLES: Final = 2000
Interval = tuple[float, float]
Statistic = Callable[[FloatArray], FloatArray]
"""Maps (R, n) resamples to (R,) values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts in equal bins between ``edges_ms[0]`` and ``edges_ms[-1]``; ``beyond`` samples are larger still."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]
    beyond: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One stage's latency, milliseconds.

    ``std`` is the sample standard deviation, ``cov`` its ratio to the mean. Percentiles interpolate linearly
    (Hyndman and Fan's type 7). The 95 % intervals come from a circular block bootstrap, which respects that
    neighbouring frames are alike. ``autocorrelation`` is that of neighbours (lag 1), 0 for a constant series.
    """

    n: int
    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float
    std: float
    cov: float
    median_ci95: Interval
    mean_ci95: Interval
    autocorrelation: float
    histogram: Histogram
    samples_ms: tuple[float, ...]


def summarise(samples_ms: FloatArray, seed: int) -> Summary:
    """Summarise at least two finite samples, in the order in which they were taken."""
    assert samples_ms.ndim == 1 and len(samples_ms) >= 2 and np.isfinite(samples_ms).all()
    mean, std = float(samples_ms.mean()), float(samples_ms.std(ddof=1))
    p90, p95, p99, p99_9 = np.percentile(samples_ms, [90, 95, 99, 99.9]).tolist()
    block = block_length(len(samples_ms))
    return Summary(
        n=len(samples_ms),
        min=float(samples_ms.min()),
        mean=mean,
        median=float(np.median(samples_ms)),
        p90=p90,
        p95=p95,
        p99=p99,
        p99_9=p99_9,
        max=float(samples_ms.max()),
        std=std,
        cov=std / mean if mean > 0 else 0.0,
        median_ci95=bootstrap_interval(samples_ms, medians, level=0.95, seed=seed, block=block),
        mean_ci95=bootstrap_interval(samples_ms, means, level=0.95, seed=seed, block=block),
        autocorrelation=autocorrelation(samples_ms),
        histogram=histogram(samples_ms),
        samples_ms=tuple(samples_ms.tolist()),
    )


def medians(samples_Rn: FloatArray) -> FloatArray:
    """Median of each row."""
    result: FloatArray = np.median(samples_Rn, axis=1)
    return result


def means(samples_Rn: FloatArray) -> FloatArray:
    """Mean of each row."""
    result: FloatArray = samples_Rn.mean(axis=1)
    return result


def block_length(count: int) -> int:
    """⌈n^(1/3)⌉: the rate at which a block bootstrap's blocks grow with the series (Künsch 1989)."""
    return max(1, int(np.ceil(round(count ** (1 / 3), 9))))


def bootstrap_interval(samples: FloatArray, statistic: Statistic, *, level: float, seed: int, block: int) -> Interval:
    """Percentile interval of ``statistic`` under a circular block bootstrap (Politis and Romano 1992).

    ``block`` neighbours are drawn together, wrapping round at the end; 1 is the ordinary bootstrap.
    """
    count = len(samples)
    rng = np.random.default_rng(seed)
    at_once = max(1, 2**22 // count)  # keeps long runs from taking gigabytes
    values = np.concatenate(
        [
            statistic(samples[_circular_picks(rng, min(at_once, RESAMPLES - done), count, block)])
            for done in range(0, RESAMPLES, at_once)
        ]
    )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def _circular_picks(rng: np.random.Generator, rows: int, count: int, block: int) -> NDArray[np.int64]:
    """Indices (rows, count) of one resample a row."""
    starts = rng.integers(count, size=(rows, -(-count // block)))
    picks: NDArray[np.int64] = (starts[:, :, None] + np.arange(block)).reshape(rows, -1)[:, :count] % count
    return picks


def autocorrelation(samples: FloatArray) -> float:
    """Correlation of neighbours (lag 1): Σ (xₜ − x̄)(xₜ₊₁ − x̄) / Σ (xₜ − x̄)², 0 for a constant series."""
    centred = samples - samples.mean()
    energy = float(centred @ centred)
    if energy <= 1e-24 * max(1.0, float(samples @ samples)):
        return 0.0
    return float(centred[:-1] @ centred[1:]) / energy


def histogram(samples_ms: FloatArray, bins: int = 40) -> Histogram:
    """Count samples in equal bins from the smallest to the 99th percentile, so that one outlier cannot flatten it."""
    low, high = float(samples_ms.min()), float(np.percentile(samples_ms, 99))
    if high <= low:
        low, high = low * 0.95, max(low * 1.05, low + 1e-6)
    counts, edges = np.histogram(samples_ms, bins=bins, range=(low, high))
    return Histogram(
        edges_ms=tuple(edges.tolist()), counts=tuple(counts.tolist()), beyond=int((samples_ms > high).sum())
    )
