"""The comparison with torch on a tiny detector: everyone is measured, or has a reason."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.tiny import tiny_run
from udx.formats import Request
from udx.runtime.measure import Protocol


@pytest.fixture(scope="module")
def latency():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import latency

        yield latency
    finally:
        sys.path.remove(folder)


def test_everyone_is_measured_or_has_a_reason(latency, tmp_path: Path) -> None:
    run = latency.untrained_run(tiny_run("fusion"), tmp_path)
    request = Request(run=run.folder, threads=1, protocol=Protocol(warmup=1, blocks=2, frames=2))
    opened: list[dict] = []
    found = latency.compare(run, request, compiled=False, keep=opened.append)
    rows = {row["format"]: row for row in found["formats"]}
    for name in ("torch", "ONNX FP32", "ONNX FP16", "partitioned plan"):
        assert rows[name]["reason"] is None
        assert rows[name]["network"]["n"] == 4
        assert rows[name]["end_to_end"]["median"] >= rows[name]["network"]["min"]
        speedup = rows["torch"]["end_to_end"]["median"] / rows[name]["end_to_end"]["median"]
        assert rows[name]["speedup"] == pytest.approx(speedup)
        assert len(rows[name]["cells"]) == len(latency.HEADER) - 1
    assert {one["format"]: one["reason"] for one in opened} == {name: row["reason"] for name, row in rows.items()}
    assert all(one["alone_ms"] > 0 for one in opened if one["reason"] is None)
    assert "ONNX INT8" not in rows  # there is no data to calibrate on
    assert all(row["reason"] for name, row in rows.items() if row.get("network") is None)
    assert "points of a 32-beam LiDAR" in found["frames"] and "images of noise" in found["frames"]
    drawing = latency.picture({"fusion": found})
    shown = {element.text for element in ElementTree.fromstring(drawing).iter() if element.text}
    assert {"fusion, torch", "fusion, ONNX FP32"} <= shown
    assert len(re.findall(r'height="26"', drawing)) == 2 * sum(row["reason"] is None for row in rows.values())
