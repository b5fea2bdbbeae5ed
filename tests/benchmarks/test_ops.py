"""The operators' benchmark on small input: who took part, who is refused, and what is told."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.utils._python_dispatch import TorchDispatchMode

from udx.errors import UdxError
from udx.ops.reference.pillar_features import pillar_features
from udx.ops.reference.voxelize import voxelize

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ["--repetitions", "2", "--points", "400", "--bins", "2", "--channels", "4", "--no-published"]


@pytest.fixture(scope="module")
def ops():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("ops")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def report(ops, tmp_path_factory):
    out = tmp_path_factory.mktemp("ops") / "ops.json"
    result = CliRunner().invoke(ops.main, [*SMALL, "--json", str(out)], catch_exceptions=False)
    assert "saved to" in result.output
    return json.loads(out.read_text())


def test_every_contest_is_held_with_udx_first(report):
    titles = [contest["title"] for contest in report["contests"]]
    assert len(titles) == len(set(titles)) == 12
    for contest in report["contests"]:
        rows = [row for row in contest["contestants"] if "median_ms" in row]
        assert rows[0]["name"] == "udx" and rows[0]["ratio"] == 1.0
        assert len(rows) >= 3
        for row in rows:
            low, high = row["quartiles_ms"]
            assert 0 < low <= row["median_ms"] <= high


def test_spconv_takes_part_or_is_said_not_to(report):
    rows = [row for contest in report["contests"] for row in contest["contestants"] if row["name"].startswith("spconv")]
    assert len(rows) == 4
    for row in rows:
        assert ("median_ms" in row and row["note"].endswith("of the points")) or row["note"] == "not installed"


def test_the_machine_and_the_versions_are_told(report):
    assert report["environment"]["versions"]["torch"] == torch.__version__
    assert report["environment"]["threads"] == torch.get_num_threads()
    assert report["spec"]["points"] == 400


def test_the_minimum_of_bytes_by_hand(report):
    contest = next(item for item in report["contests"] if item["title"].startswith("pillar_scatter, 128×128"))
    assert contest["minimum_bytes"] == 4 * (400 * 64 + 400 + 128 * 128 * 64)


def test_who_does_other_work_is_not_timed_and_the_others_are(ops):
    functions = {"udx": lambda x: 2 * x, "rival": lambda x: 2.1 * x, "twin": lambda x: x + x}
    own, rival, twin = ops._agreeing(functions, [torch.ones(3)], tolerance=1e-3)
    assert isinstance(own, ops.Contestant) and isinstance(twin, ops.Contestant)
    assert isinstance(rival, ops.Absent) and "not timed: it differs by 0.05" in rival.note


def test_what_was_measured_before_an_interruption_is_kept(ops, tmp_path, monkeypatch):
    held = iter(range(3))

    def hold(contest, *_):
        if next(held) == 2:
            raise RuntimeError("the device is gone")
        return {"title": contest.title, "contestants": []}

    monkeypatch.setattr(ops, "_hold", hold)
    out = tmp_path / "ops.json"
    with pytest.raises(RuntimeError, match="the device is gone"):
        CliRunner().invoke(ops.main, [*SMALL, "--json", str(out)], catch_exceptions=False)
    assert len(json.loads(out.read_text())["contests"]) == 2


class DividesByReciprocal(TorchDispatchMode):
    """Divide by a Python scalar as torch's CUDA kernels do: multiply by its reciprocal."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.div.Tensor and not isinstance(args[1], torch.Tensor):
            return args[0] * (1 / torch.full((), args[1], dtype=args[0].dtype))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("grid_name", ["128×128", "180×180"])
def test_cells_do_not_depend_on_how_a_device_divides_by_scalars(ops, grid_name):
    """The benchmark's own points at its own size: rounded once more, some of them change their cell."""
    case = ops.point_case(ops.GRIDS[grid_name], points=300_000, channels=1, device="cpu")
    points_BMF, num_points_B1 = case.points_MF[None], case.num_points[None]
    own_cell_M, own_sums = voxelize(points_BMF, num_points_B1, case.pillars)
    own_features = pillar_features(points_BMF, own_cell_M, own_sums, case.pillars)
    with DividesByReciprocal():
        x_M = case.points_MF[:, 0]
        assert not torch.equal(
            (x_M - case.grid.x_min) / case.grid.cell, (x_M - case.grid.x_min).div(torch.full((), case.grid.cell))
        )
        cell_M = ops.cells_of(case)
        reference_cell_M, reference_sums = voxelize(points_BMF, num_points_B1, case.pillars)
        features = pillar_features(points_BMF, own_cell_M, own_sums, case.pillars)
    assert torch.equal(cell_M.int(), own_cell_M)
    assert torch.equal(reference_cell_M, own_cell_M) and torch.equal(reference_sums, own_sums)
    assert torch.equal(features, own_features)


@pytest.mark.parametrize(
    ("option", "said"), [(["--repetitions", "1"], "at least 2"), (["--device", "cuda"], "no CUDA device")]
)
def test_bad_options_are_refused(ops, monkeypatch, option, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(ops.main, option)
    assert isinstance(result.exception, UdxError) and said in str(result.exception)
