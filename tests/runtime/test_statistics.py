"""Against numbers worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.runtime.statistics import (
    autocorrelation,
    block_length,
    bootstrap_interval,
    histogram,
    means,
    medians,
    summarise,
)


def test_summary_of_one_to_hundred() -> None:
    summary = summarise(np.arange(1.0, 101.0), seed=0)
    assert summary.n == 100
    assert (summary.min, summary.median, summary.mean, summary.max) == (1.0, 50.5, 50.5, 100.0)
    # Type 7: the value at 1 + 0.9 · 99 = 90.1, and so on.
    assert summary.p90 == pytest.approx(90.1)
    assert summary.p95 == pytest.approx(95.05)
    assert summary.p99 == pytest.approx(99.01)
    assert summary.p99_9 == pytest.approx(99.901)
    # Σ (x − x̄)² = n (n² − 1) / 12 = 83325; / 99
    assert summary.std == pytest.approx(np.sqrt(83325 / 99))
    assert summary.cov == pytest.approx(np.sqrt(83325 / 99) / 50.5)
    assert summary.samples_ms[:3] == (1.0, 2.0, 3.0)


def test_a_constant_series() -> None:
    summary = summarise(np.full(20, 3.5), seed=0)
    assert summary.std == 0 and summary.cov == 0 and summary.autocorrelation == 0
    assert summary.median_ci95 == summary.mean_ci95 == (3.5, 3.5)
    assert sum(summary.histogram.counts) == 20


def test_autocorrelation_by_hand() -> None:
    # centred: −1.5 −0.5 0.5 1.5; products 0.75 − 0.25 + 0.75 = 1.25; energy 5
    assert autocorrelation(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.25)
    # centred: ±1 in turn; five products of −1; energy 6
    assert autocorrelation(np.array([1.0, 3.0] * 3)) == pytest.approx(-5 / 6)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (8, 2), (9, 3), (1000, 10), (1001, 11)])
def test_block_length_is_the_cube_root_rounded_up(count: int, length: int) -> None:
    assert block_length(count) == length


def test_interval_of_the_mean_is_near_the_normal_one() -> None:
    samples = np.random.default_rng(3).normal(100, 10, 400)
    low, high = bootstrap_interval(samples, means, level=0.95, seed=1, block=1)
    error = 1.96 * samples.std(ddof=1) / 20
    assert low == pytest.approx(samples.mean() - error, abs=0.15)
    assert high == pytest.approx(samples.mean() + error, abs=0.15)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(5, 1, 60), medians, level=0.90, seed=trial, block=1)
        covered += low <= 5 <= high
    assert 165 <= covered <= 195


def test_blocks_widen_the_interval_of_a_correlated_series() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(size=2000)
    series = np.zeros(2000)
    for index in range(1, 2000):
        series[index] = 0.9 * series[index - 1] + noise[index]
    naive = bootstrap_interval(series, means, level=0.95, seed=0, block=1)
    honest = bootstrap_interval(series, means, level=0.95, seed=0, block=50)
    assert honest[1] - honest[0] > 2 * (naive[1] - naive[0])


def test_the_same_seed_gives_the_same_interval() -> None:
    samples = np.random.default_rng(6).exponential(size=50)
    assert bootstrap_interval(samples, medians, level=0.9, seed=7, block=3) == bootstrap_interval(
        samples, medians, level=0.9, seed=7, block=3
    )


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=60))
def test_every_sample_is_counted_once(values: list[float]) -> None:
    found = histogram(np.array(values))
    assert sum(found.counts) + found.beyond == len(values)
    assert len(found.edges_ms) == len(found.counts) + 1
    assert list(found.edges_ms) == sorted(found.edges_ms)


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=40))
def test_a_summary_is_ordered(values: list[float]) -> None:
    summary = summarise(np.array(values), seed=0)
    ordered = [summary.min, summary.median, summary.p90, summary.p95, summary.p99, summary.p99_9, summary.max]
    assert all(low <= high * (1 + 1e-12) for low, high in itertools.pairwise(ordered))
    assert summary.median_ci95[0] <= summary.median_ci95[1]
