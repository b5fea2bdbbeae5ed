"""Where a network's time goes, as the backend's profiler tells it."""

import json
from pathlib import Path

import pytest

from udx.errors import UdxError
from udx.runtime import bench as bench_module
from udx.runtime.bench import bench
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.measure import Protocol
from udx.runtime.onnxruntime_runner import OnnxRuntimeRunner
from udx.runtime.operators import TellsOperators, read_profile

QUICK = Protocol(warmup=1, blocks=2, frames=2, max_minutes=0)


def event(name: str, operator: str, us: float, index: int, cat: str = "Node") -> dict:
    return {"cat": cat, "name": name, "dur": us, "args": {"op_name": operator, "node_index": str(index)}}


def test_times_are_means_without_the_warm_up(tmp_path: Path) -> None:
    events = [event("session_run", "", 9e9, 0, cat="Session"), {"cat": "Node", "name": "a_fence_before", "dur": 9e9}]
    for us in (5000.0, 1000.0, 3000.0):  # the first is the warm-up
        events += [event("a_kernel_time", "Conv", us, 0), event("b_kernel_time", "Add", us / 10, 1)]
    events += [event("inner_kernel_time", "Mul", 100.0, 2)] * 6  # twice a frame, in the body of a loop
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    found = read_profile(path, 2, "a test")
    assert [(node.name, node.operator, node.ms) for node in found.nodes] == [
        ("a", "Conv", pytest.approx(2.0)),
        ("b", "Add", pytest.approx(0.2)),
        ("inner", "Mul", pytest.approx(0.2)),
    ]
    assert found.total_ms == pytest.approx(2.4)
    assert list(found.by_operator()) == ["Conv", "Add", "Mul"]
    assert found.by_operator()["Conv"] == (1, pytest.approx(2.0))


def test_onnxruntime_tells_its_operators(make_engine) -> None:
    path = make_engine(repeats=2)
    runner = open_engine(path, "onnxruntime", 1)
    assert isinstance(runner, TellsOperators)
    frame, _ = generated_frame(runner.manifest, 0)
    found = runner.operator_times([frame()] * 3)
    assert found is not None and found.frames == 2 and "ONNX Runtime" in found.source
    assert any("Conv" in operator for operator in found.by_operator())
    assert found.total_ms > 0
    assert not list(path.parent.glob("*profile*")) and not list(Path.cwd().glob("onnxruntime_profile*"))


def test_a_report_has_them_and_a_failing_profile_costs_nothing_else(make_engine, monkeypatch) -> None:
    found = bench(make_engine(), protocol=QUICK)
    assert found.engine.operators is not None
    assert found.to_json()["engine"]["operators"]["nodes"][0]["ms"] > 0

    for failure in (UdxError("the disk is full"), KeyboardInterrupt()):

        def fail(self, frames, failure=failure):
            raise failure

        monkeypatch.setattr(OnnxRuntimeRunner, "operator_times", fail)
        found = bench(make_engine(), protocol=QUICK)
        assert found.complete and found.engine.operators is None and found.engine.network.n == 4


def test_nothing_is_profiled_before_all_is_measured(make_engine, monkeypatch) -> None:
    order: list[str] = []
    measured, profiled = bench_module.measure, OnnxRuntimeRunner.operator_times
    conditions = bench_module.conditions
    monkeypatch.setattr(bench_module, "measure", lambda *a, **k: (order.append("measure"), measured(*a, **k))[1])
    monkeypatch.setattr(bench_module, "conditions", lambda: (order.append("conditions"), conditions())[1])
    monkeypatch.setattr(OnnxRuntimeRunner, "operator_times", lambda *a: (order.append("profile"), profiled(*a))[1])
    bench(make_engine(), protocol=QUICK)
    assert order == ["conditions", "measure", "conditions", "profile"]
