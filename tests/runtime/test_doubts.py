"""What a report warns of, and what not."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from udx.runtime.bench import bench
from udx.runtime.conditions import Conditions, GpuState, conditions
from udx.runtime.doubts import doubts_of
from udx.runtime.environment import environment
from udx.runtime.measure import Protocol
from udx.runtime.report import BenchReport
from udx.runtime.show import bench_page
from udx.runtime.statistics import Summary, summarise

QUIET = {"load_1min": 0.1, "governor": "performance", "cores": 8}


@pytest.fixture(scope="module")
def still() -> Conditions:
    return dataclasses.replace(conditions(), clock_s=0.0, busy_s=0.0, own_s=0.0, stolen_s=0.0, throttle_events=0)


@pytest.fixture
def report(make_engine) -> BenchReport:
    return bench(make_engine(), protocol=Protocol(warmup=1, blocks=2, frames=2))


def steady(ms: float) -> Summary:
    return summarise(ms + np.array([0.0, 0.01, -0.01, 0.0] * 10), seed=0)


def said(report: BenchReport, before: Conditions, after: Conditions, stages: dict[str, float], **machine: Any) -> str:
    measured = {"network": 10.0, "inputs": 1.0, "end_to_end": 11.0, "network_cpu": 10.0} | stages
    engine = dataclasses.replace(report.engine, stages={name: steady(ms) for name, ms in measured.items()})
    return "\n".join(doubts_of(dataclasses.replace(environment(), **QUIET | machine), before, after, [engine], None))


def test_nothing_is_said_of_a_quiet_machine(report: BenchReport, still: Conditions) -> None:
    after = dataclasses.replace(still, clock_s=10.0, busy_s=10.5, own_s=10.0, stolen_s=0.1)
    assert said(report, still, after, {}) == ""


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"busy_s": 18.0, "own_s": 10.0}, "Other programs took 0.8 of 8 cores"),
        ({"stolen_s": 1.0}, "took 0.10 cores away"),
        ({"throttle_events": 3}, "throttled for its heat"),
        (
            {"gpus": (GpuState(readings={}, throttled=("software power cap",)),)},
            "GPU 0 was throttled by software power",
        ),
    ],
)
def test_what_disturbs_is_named(report: BenchReport, still: Conditions, change: dict[str, Any], word: str) -> None:
    after = dataclasses.replace(still, **{"clock_s": 10.0, "busy_s": 10.0, "own_s": 10.0} | change)
    assert word in said(report, still, after, {})


def test_others_on_the_gpu_are_those_before_the_start(report: BenchReport, still: Conditions) -> None:
    busy = dataclasses.replace(still, gpu_processes=("4711, python, 3 MiB",))
    after = dataclasses.replace(still, clock_s=10.0)
    assert "4711, python" in said(report, busy, after, {})
    assert said(report, still, dataclasses.replace(after, gpu_processes=busy.gpu_processes), {}) == ""


@pytest.mark.parametrize(("on_gpu", "bound"), [(9.5, False), (7.0, True)])
def test_a_frame_that_waits_for_the_host_is_enqueue_bound(report, still, on_gpu: float, bound: bool) -> None:
    stages = {"gpu_upload": 0.4, "gpu_network": on_gpu - 0.5, "gpu_download": 0.1}
    assert ("enqueue-bound" in said(report, still, dataclasses.replace(still, clock_s=10.0), stages)) == bound


def test_stages_on_the_gpu_are_shown(report: BenchReport) -> None:
    stages = report.engine.stages | {"gpu_upload": steady(0.0)}
    page = bench_page(dataclasses.replace(report, engine=dataclasses.replace(report.engine, stages=stages)))
    assert "GPU upload" in page
