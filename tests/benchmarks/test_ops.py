"""The operators' benchmark on small input: who took part, who is refused, and what is told."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from udx.errors import UdxError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def ops():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("ops")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def report(ops, tmp_path_factory):
    out = tmp_path_factory.mktemp("ops") / "ops.json"
    small = ["--repetitions", "2", "--points", "400", "--bins", "2", "--channels", "4"]
    result = CliRunner().invoke(ops.main, [*small, "--json", str(out)], catch_exceptions=False)
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


def test_who_does_other_work_is_not_timed(ops):
    functions = {"udx": lambda x: 2 * x, "rival": lambda x: 2.1 * x}
    with pytest.raises(UdxError, match=r"'rival' differs by 0\.05"):
        ops._agreeing(functions, [torch.ones(3)], tolerance=1e-3)


@pytest.mark.parametrize(
    ("option", "said"), [(["--repetitions", "1"], "at least 2"), (["--device", "cuda"], "no CUDA device")]
)
def test_bad_options_are_refused(ops, monkeypatch, option, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(ops.main, option)
    assert isinstance(result.exception, UdxError) and said in str(result.exception)
