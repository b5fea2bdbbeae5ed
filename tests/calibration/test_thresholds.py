"""Histograms of magnitudes, and what the methods make of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.calibration.activations import BINS, Magnitudes
from udx.calibration.insert import LARGEST
from udx.calibration.thresholds import METHODS, rounded, thresholds


def seen(*frames: np.ndarray) -> Magnitudes:
    magnitudes = Magnitudes()
    for frame in frames:
        magnitudes.observe(np.asarray(frame, np.float32))
    return magnitudes


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
def test_nothing_is_lost_however_ranges_grow(frames):
    arrays = [np.float32(frame) for frame in frames]
    found = seen(*arrays)
    everything = np.abs(np.concatenate(arrays))
    assert found.counts_B.sum() == everything.size
    assert found.seen == everything.max()
    assert found.top >= found.seen
    if found.top:
        expected = np.minimum((everything * (BINS / found.top)).astype(int), BINS - 1)
        # Bins that were doubled on the way round as those that were wide at once, but that a value at an edge of theirs
        # may be counted one bin lower or higher: what lies below a bin is between the neighbours' counts.
        wide, grown = np.cumsum(np.bincount(expected, minlength=BINS)), np.cumsum(found.counts_B)
        lower, higher = np.concatenate([[0], wide[:-1]]), np.concatenate([wide[1:], [wide[-1]]])
        assert ((lower <= grown) & (grown <= higher)).all()


def test_values_at_the_edge_of_a_bin_are_counted_beside_it_at_most():
    assert seen([1.0, 1.0, 1.0], [2.0]).counts_B[1023:1025].sum() == 3


def test_zeros_first_are_counted():
    found = seen(np.zeros(5), np.float32([3.0]))
    assert (found.counts_B[0], found.counts_B[-1], found.seen) == (5, 1, 3.0)


def test_max_keeps_everything_and_the_others_cut_an_outlier():
    rng = np.random.default_rng(0)
    frame = np.append(rng.normal(0, 1, 200_000), 40.0)
    found = {"x": seen(frame)}
    chosen = {method: thresholds(found, method, "int8")["x"] for method in METHODS}
    assert chosen["max"] == 40.0
    for method in ("entropy", "mse", "percentile"):
        assert 2.0 < chosen[method] < 25.0, (method, chosen[method])


def test_the_percentile_is_a_percentile():
    found = {"x": seen(np.arange(100_000) / 1000)}
    assert thresholds(found, "percentile", "int8")["x"] == pytest.approx(99.99, abs=0.1)


def test_mse_is_best_among_its_candidates():
    rng = np.random.default_rng(1)
    frame = rng.laplace(0, 1, 50_000)
    found = seen(frame)
    best = thresholds({"x": found}, "mse", "int8")["x"]

    def error(largest: float) -> float:
        return float(((rounded(frame, largest, "int8") - frame) ** 2).mean())

    assert error(best) <= 1.01 * min(error(largest) for largest in np.linspace(0.1, 1, 40) * found.seen)
    assert error(best) < 0.95 * error(found.seen)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frame", [np.ones(100), np.float32([1e-20] * 10), np.eye(3)])
def test_every_method_bears_odd_distributions(method, frame):
    chosen = thresholds({"x": seen(frame)}, method, "int8")["x"]
    assert 0 < chosen <= np.abs(frame).max()


def test_rounding_to_fp8_keeps_small_values_that_int8_loses():
    values = np.float64([0.001, 1.0])
    assert rounded(values, 1.0, "int8")[0] == 0.0
    assert rounded(values, 1.0, "fp8")[0] == pytest.approx(0.001, rel=0.07)
    assert LARGEST["fp8"] == 448.0
