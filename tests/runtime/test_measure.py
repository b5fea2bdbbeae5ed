"""A protocol must be able to find something out."""

import itertools
import os
import time

import pytest

from udx.errors import UdxError
from udx.runtime.measure import Protocol, measure


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 1},
        {"frames": 3},
        {"frames": 0},
        {"warmup": 0},
        {"margin": 0.0},
        {"reopen_every": 0},
        {"max_minutes": -1.0},
        {"max_minutes": float("inf")},
        {"clock": "sun"},
    ],
)
def test_a_protocol_that_measures_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(UdxError):
        Protocol(**change)  # type: ignore[arg-type]


class Parted:
    """A runner that sleeps for a millisecond, and says what its frame consisted of."""

    path = None

    def __init__(self) -> None:
        self.active = 0
        self.opened = 0

    def __enter__(self) -> "Parted":
        self.active += 1
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.active -= 1

    def detect(self, tensors: object) -> None:
        assert self.active == 1

    def infer(self, tensors: object) -> None:
        assert self.active == 1
        time.sleep(0.001)

    def stages_ms(self) -> dict[str, float]:
        return {"upload": 0.5, "network": 0.25}


def test_stages_on_the_gpu_stand_beside_the_others() -> None:
    runner = Parted()
    protocol = Protocol(warmup=1, blocks=3, frames=4)
    (timings,) = measure([runner], [dict], protocol).timings  # type: ignore[list-item]
    assert runner.opened == 1 and runner.active == 0
    assert timings.blocks == 3
    assert timings.samples("gpu_upload").tolist() == [0.5] * 12
    assert timings.medians("gpu_network").tolist() == [0.25] * 3
    assert timings.medians("network").min() >= 1.0
    assert (timings.samples("network_cpu") < timings.samples("network")).all()  # sleeping is no work
    assert timings.samples("end_to_end") == pytest.approx(timings.samples("inputs") + timings.samples("network"))


def test_a_comparison_opens_its_engines_anew_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second a block: fourteen seconds allow for fourteen."""
    seconds = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    runners = [Parted(), Parted()]
    protocol = Protocol(warmup=1, blocks=4, frames=2, reopen_every=2, max_minutes=14 / 60)
    steps = []
    measured = measure(
        runners,  # type: ignore[arg-type]
        [dict],
        protocol,
        blocks_needed=lambda timings: timings[0].blocks + 1,  # never enough
        progress=lambda done, total: steps.append((done, total)),
    )
    assert measured.stopped is None
    assert [timings.blocks for timings in measured.timings] == [14, 14]
    assert [runner.opened for runner in runners] == [7, 7]
    assert steps[:6] == [(1, 4), (2, 4), (3, 4), (4, 4), (5, 6), (6, 6)]
    assert steps[-1] == (14, 14)


@pytest.mark.parametrize(("minutes", "blocks"), [(6 / 60, 6), (0.5 / 60, 2), (0, 40), (1, 40)])
@pytest.mark.parametrize("comparison", [True, False])
def test_the_limit_holds_before_the_least_number_of_blocks_is_measured(monkeypatch, minutes, blocks, comparison):
    """A clock that goes on by a second a block."""
    seconds = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    protocol = Protocol(warmup=1, blocks=40, frames=2, max_minutes=minutes)
    needed = (lambda timings: 0) if comparison else None
    measured = measure([Parted()], [dict], protocol, blocks_needed=needed)  # type: ignore[list-item]
    assert measured.stopped is None
    assert measured.timings[0].blocks == blocks


def test_a_core_that_is_not_there_is_refused() -> None:
    with pytest.raises(UdxError, match="may not run on core 100000"):
        measure([Parted()], [dict], Protocol(core=100000))  # type: ignore[list-item]


def test_a_pinned_measurement_stays_on_its_core_and_lets_go() -> None:
    cores = os.sched_getaffinity(0)
    core = min(cores)
    seen = []

    class Where(Parted):
        def infer(self, tensors: object) -> None:
            seen.append(os.sched_getaffinity(0))

    measure([Where()], [dict], Protocol(warmup=1, blocks=2, frames=2, core=core))  # type: ignore[list-item]
    assert all(where == {core} for where in seen) and seen
    assert os.sched_getaffinity(0) == cores
