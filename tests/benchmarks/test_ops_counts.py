"""What the kernels in plans ask of the memory stays within the aims, counted in the PTX interpreter on small input."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from udx.errors import UdxError
from udx.geometry import BevGrid

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "ops_counts.json"


@pytest.fixture(scope="module")
def ops_counts():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("ops_counts")
    sys.path.remove(str(BENCHMARKS))


def test_pooling_reads_context_again_from_l1_and_keeps_its_lanes_at_work(ops_counts):
    """The crowded middle of the benchmark's map, where cells have most points and a tile touches most rows."""
    near = ops_counts.PoolShape(BevGrid(-28.8, 28.8, -28.8, 28.8, 0.6), bins=59, channels=80)
    case = ops_counts.pooling("near", near, torch.float16)
    counts = ops_counts.count(case, ops_counts.ROOT)
    assert counts.load_bytes_to_minimum < 2.4
    assert counts.gather_lanes_at_work > 0.6
    assert counts.bytes_per_store > 12  # rows of the map leave in 16 bytes; the rest are its last ones


def test_pillars_are_cleared_and_raised_in_whole_sectors(ops_counts):
    clear, raised = (ops_counts.count(case, ops_counts.ROOT) for case in ops_counts.pillars(1000, torch.float32))
    assert clear.bytes_per_store == 16
    # Half of the features are above zero, and 8 values of 4 bytes fill a sector.
    assert raised.values_per_atomic_sector > 3


def test_the_aims_hold_in_the_results_at_full_size():
    for run in json.loads(RESULTS.read_text())["runs"]:
        for case in run["cases"]:
            after = case["after"]
            if case["name"].startswith("bev_pool"):
                assert after["load_bytes_to_minimum"] <= 2
                assert after["gather_lanes_at_work"] >= 0.6
            if case["name"].startswith("pillar_max"):
                assert after["values_per_atomic_sector"] >= 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--case", "bev"], "there is no case 'bev'; choose from bench, v3, wide, pillars"),
        (["--scale", "0"], "--scale divides sizes and must be at least 1, not 0"),
        (["--scale", "7"], "--scale 7 does not divide the grids"),
        (["--before", "no-such-commit"], "--before no-such-commit names no commit"),
    ],
)
def test_bad_options_are_refused(ops_counts, tmp_path, arguments, said):
    result = CliRunner().invoke(ops_counts.main, ["--json", str(tmp_path / "out.json"), *arguments])
    assert isinstance(result.exception, UdxError)
    assert said in str(result.exception)
    assert not (tmp_path / "out.json").exists()
