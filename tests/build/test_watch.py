"""Phases of a builder, heard and stopped; and Ctrl-C while a library computes."""

import threading
from types import ModuleType

import pytest

from udx.build.watch import Watch, cancellable, monitor


class Recorder:
    """A display that keeps what it was told."""

    def __init__(self):
        self.told = []

    def start(self, phase, depth, steps):
        self.told.append(("start", phase, depth, steps))

    def advance(self, phase, done):
        self.told.append(("advance", phase, done))

    def finish(self, phase):
        self.told.append(("finish", phase))


@pytest.fixture
def watch():
    return Watch(Recorder())


def told(watch):
    return watch._display.told


def test_phases_within_phases(watch):
    watch.start("engine", None, 2)
    watch.start("tactics", "engine", 9)
    watch.start("timing", "tactics", 4)
    assert watch.step("timing")
    watch.finish("timing")
    watch.finish("tactics")
    watch.finish("engine")
    assert told(watch) == [
        ("start", "engine", 0, 2),
        ("start", "tactics", 1, 9),
        ("start", "timing", 2, 4),
        ("advance", "timing", 1),
        ("finish", "timing"),
        ("finish", "tactics"),
        ("finish", "engine"),
    ]


def test_phases_may_overlap_and_end_out_of_order(watch):
    watch.start("outer", None, 2)
    watch.start("inner", "outer", 1)
    watch.finish("outer")
    assert watch.step("outer")
    watch.step("inner")
    watch.finish("inner")
    watch.finish("outer")
    assert told(watch)[2:] == [("finish", "outer"), ("advance", "inner", 1), ("finish", "inner")]


def test_a_cancelled_build_is_told_to_stop_at_its_next_step(watch):
    watch.start("engine", None, 3)
    assert watch.step("engine") is True
    watch.cancel()
    assert watch.step("engine") is False
    assert watch.step("unknown") is False


def test_steps_of_many_threads_are_all_counted(watch):
    watch.start("engine", None, 8 * 500)
    threads = [threading.Thread(target=lambda: [watch.step("engine") for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(watch)[-1] == ("advance", "engine", 4000)
    assert [done for kind, _, done in told(watch)[1:]] == list(range(1, 4001))


def test_a_monitor_is_what_tensorrt_calls(watch):
    class IProgressMonitor:
        def __init__(self):
            self.initialised = True

    trt = ModuleType("tensorrt")
    trt.IProgressMonitor = IProgressMonitor
    heard = monitor(trt, watch)
    assert isinstance(heard, IProgressMonitor) and heard.initialised
    heard.phase_start("engine", None, 2)
    heard.phase_start("tactics", "engine", 1)
    assert heard.step_complete("tactics", 0) is True
    heard.phase_finish("tactics")
    watch.cancel()
    assert heard.step_complete("engine", 0) is False
    assert told(watch)[:2] == [("start", "engine", 0, 2), ("start", "tactics", 1, 1)]


def test_work_gives_its_result_or_its_error():
    assert cancellable(lambda: 7, lambda: None) == 7
    with pytest.raises(ZeroDivisionError):
        cancellable(lambda: 1 // 0, lambda: None)


def test_ctrl_c_cancels_and_waits_for_the_work_to_end(press_ctrl_c):
    asked = threading.Event()
    ended = []

    def work():
        press_ctrl_c()
        assert asked.wait(30)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        cancellable(work, asked.set)
    assert ended == [True]
