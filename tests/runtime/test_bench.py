"""The bench from file to report: complete, honest, free of NaN."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from udx.errors import UdxError
from udx.files import sha256_of
from udx.runtime.bench import bench, write_report
from udx.runtime.measure import Protocol
from udx.runtime.report import BenchReport, headline

QUICK = Protocol(warmup=1, blocks=4, frames=2, max_minutes=0)


@pytest.fixture
def report(make_engine) -> BenchReport:
    return bench(make_engine("a.onnx", seed=0), against=make_engine("b.onnx", seed=1), protocol=QUICK, threads=1)


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
def test_one_engine(make_engine, modality: str) -> None:
    path = make_engine(modality=modality)
    steps: list[tuple[int, int]] = []
    found = bench(path, protocol=QUICK, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.complete and found.comparison is None and found.against is None
    assert {name: summary.n for name, summary in found.engine.stages.items()} == {
        "inputs": 8,
        "network": 8,
        "end_to_end": 8,
        "network_cpu": 8,
    }
    assert found.engine.identity.sha256 == sha256_of(path)
    whole = np.array(found.engine.inputs.samples_ms) + np.array(found.engine.network.samples_ms)
    assert found.engine.end_to_end.samples_ms == pytest.approx(whole)
    assert ("points" in found.frames) == (modality != "cam")


def test_two_engines_of_one_architecture(report: BenchReport) -> None:
    assert report.comparison is not None and report.against is not None
    assert report.comparison.identical
    assert report.comparison.differences == ()
    assert report.engine.identity.sha256 != report.against.identity.sha256
    found = report.comparison.equivalence
    assert found.positive is not None
    assert found.ab.blocks == found.aa.blocks == found.positive.blocks == report.blocks == 4
    assert report.comparison.layers is not None and report.comparison.layers.identical
    assert "convolution" in report.comparison.about_positive


def test_a_deeper_engine_is_another_structure(make_engine) -> None:
    found = bench(make_engine("a.onnx", repeats=2), against=make_engine("b.onnx"), protocol=QUICK)
    assert found.comparison is not None
    assert not found.comparison.identical
    assert "Conv: 2 against 1 nodes" in found.comparison.differences
    assert found.comparison.layers is not None and not found.comparison.layers.identical
    assert any("Conv" in line for line in found.comparison.layers.differences)
    assert headline(found).startswith("Different graph")


def test_engines_with_other_inputs_are_not_compared(make_engine) -> None:
    with pytest.raises(UdxError, match="compare students of one recipe and modality"):
        bench(make_engine("a.onnx"), against=make_engine("b.onnx", modality="lidar"), protocol=QUICK)


def test_json_is_plain_and_has_what_readers_rely_on(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, json=tmp_path / "bench.json", html=tmp_path / "bench.html")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads((tmp_path / "bench.json").read_text(), parse_constant=refuse)
    assert found["schema"] == "udx-bench/2"
    assert found["structure"]["identical"] is True
    assert len(set(found["structure"]["sha256"])) == 1
    assert found["equivalence"].keys() >= {"ratio", "ci90", "margin", "verdict", "aa", "positive"}
    assert found["equivalence"]["margin"] == 0.01
    assert found["equivalence"]["positive"]["ci90"][0] <= found["equivalence"]["positive"]["ratio"]
    assert found["equivalence_by_stage"].keys() == {"network", "network_cpu", "end_to_end"}
    assert found["layers"]["identical"] is True and min(found["layers"]["counts"]) > 5
    assert found["environment"]["after"]["own_s"] >= found["environment"]["before"]["own_s"]
    assert len(found["engine"]["stages"]["network"]["samples_ms"]) == 8
    assert found["engine"]["identity"]["manifest"]["checkpoint_sha256"] == "0" * 64
    assert "listing" not in found["engine"]["identity"]["structure"]
    assert found["environment"]["versions"]["numpy"] == np.__version__
    assert found["protocol"]["in_flight"] == 1


def test_frames_of_the_caller_are_timed_and_every_engine_sees_the_same(make_engine) -> None:
    from udx.runtime.frames import generated_frame
    from udx.runtime.onnx_file import read_onnx

    path = make_engine()
    frame, _ = generated_frame(read_onnx(path).manifest, 0)
    calls: list[int] = []

    def numbered(number: int):
        def build():
            calls.append(number)
            return frame()

        return build

    protocol = Protocol(warmup=1, blocks=4, frames=2, reopen_every=2, max_minutes=0)
    found = bench(
        path,
        against=path,
        positive=path,
        frames=[numbered(index) for index in range(5)],
        frames_are="mine",
        protocol=protocol,
    )
    assert found.frames == "mine"
    # Two openings: four engines, each checked and warmed up on frame 0, for one frame and then for three.
    first, second = [0] * 4 + [0] * 4, [0] * 4 + [0, 1, 2] * 4
    # Each block: four visits to one half of its frames, then four to the other; frames go round.
    assert calls == [
        *first,
        *([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4),
        *second,
        *([4] * 4 + [0] * 4 + [1] * 4 + [2] * 4),
        *(0, 1, 2, 3),  # for the profile of both, after everything is measured
    ]


def test_an_interruption_keeps_whole_blocks(make_engine) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    found = bench(make_engine(), protocol=QUICK, progress=interrupt)
    assert not found.complete
    assert found.engine.network.n == 6
    assert any("interrupted" in line for line in found.warnings)


def test_an_interruption_at_the_start_is_one(make_engine) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(make_engine(), protocol=QUICK, progress=interrupt)


def test_a_busy_machine_is_warned_of(make_engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from udx.runtime import bench as module
    from udx.runtime.environment import environment

    busy = dataclasses.replace(environment(), load_1min=7.0, cores=2, governor="powersave")
    monkeypatch.setattr(module, "environment", lambda: busy)
    found = module.bench(make_engine(), protocol=QUICK)
    assert any("load 7.0 on 2 cores" in line for line in found.warnings)
    assert any("'powersave'" in line for line in found.warnings)


def test_an_engine_that_fails_midway_leaves_what_was_measured(make_engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from udx.runtime.onnxruntime_runner import OnnxRuntimeRunner

    runs: list[int] = []
    infer = OnnxRuntimeRunner._infer

    def lost(self, tensors):
        runs.append(1)
        if len(runs) > 8:
            raise UdxError("the GPU is lost; see its log")
        return infer(self, tensors)

    monkeypatch.setattr(OnnxRuntimeRunner, "_infer", lost)
    found = bench(make_engine(), protocol=QUICK)
    assert found.stopped == "the GPU is lost; see its log"
    assert found.blocks == 3 and found.engine.network.n == 6
    assert "The measurement ended early: the GPU is lost; see its log." in found.warnings
    with pytest.raises(UdxError, match="GPU is lost"):  # nothing was measured at all
        bench(make_engine(), protocol=QUICK)


def test_without_a_positive_control_nothing_is_equivalent(make_engine) -> None:
    lidar = make_engine(modality="lidar")  # has no convolution
    found = bench(lidar, against=lidar, protocol=QUICK)
    assert found.comparison is not None and found.comparison.equivalence.positive is None
    assert found.comparison.equivalence.verdict != "equivalent"
    assert found.to_json()["equivalence"]["positive"]["about"] == found.comparison.about_positive


def test_a_comparison_goes_on_until_it_is_precise(make_engine) -> None:
    """Two blocks at least; the margin is so wide that few more are needed."""
    path = make_engine()
    steps: list[tuple[int, int]] = []
    protocol = Protocol(warmup=1, blocks=2, frames=2, reopen_every=2, max_minutes=0.05, margin=0.9)
    found = bench(
        path, against=path, protocol=protocol, progress=lambda done, total: steps.append((done, total)), threads=1
    )
    assert found.blocks == steps[-1][0] >= 2
    assert found.comparison is not None
    if found.comparison.equivalence.ab.blocks_needed(0.9) <= found.blocks:
        assert found.complete


def test_the_verdict_can_be_on_processor_time(make_engine) -> None:
    path = make_engine()
    protocol = Protocol(warmup=1, blocks=4, frames=2, max_minutes=0, clock="cpu")
    found = bench(path, against=path, protocol=protocol)
    assert found.comparison is not None
    assert found.comparison.equivalence is found.comparison.stages["network_cpu"]
    assert found.to_json()["equivalence"]["stage"] == "network_cpu"
    assert "processor time" in headline(found)
