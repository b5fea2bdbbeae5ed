"""Watching a builder of engines at work, and stopping it: TensorRT and TensorRT-RTX tell their progress alike."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Event, Lock, Thread
from types import ModuleType
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Display(Protocol):
    """Where phases are shown. A phase may hold others; ``depth`` counts how many it is held by."""

    def start(self, phase: str, depth: int, steps: int) -> None:
        """A phase of so many steps begins."""

    def advance(self, phase: str, done: int) -> None:
        """So many steps of a phase are done."""

    def finish(self, phase: str) -> None:
        """A phase has ended, not always after its last step."""


class Watch:
    """Keeps track of the phases that a builder reports, from any of its threads, and tells it when to stop."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._lock = Lock()
        self._depth: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self.cancelled = False

    def cancel(self) -> None:
        """Let the builder stop at its next step."""
        self.cancelled = True

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, within its parent or by itself."""
        with self._lock:
            self._depth[phase] = 0 if parent is None else self._depth.get(parent, -1) + 1
            self._done[phase] = 0
            self._display.start(phase, self._depth[phase], steps)

    def step(self, phase: str) -> bool:
        """A step is done, in whatever order the builder takes them; the answer is whether to go on."""
        with self._lock:
            if phase in self._done:
                self._done[phase] += 1
                self._display.advance(phase, self._done[phase])
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase has ended."""
        with self._lock:
            if self._depth.pop(phase, None) is not None:
                del self._done[phase]
                self._display.finish(phase)


def monitor(trt: ModuleType, watch: Watch) -> Any:
    """The progress monitor of a build's configuration: it must live as long as the configuration."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            watch.finish(phase_name)

    return Monitor()


def cancellable(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Run ``work`` in another thread, so that Ctrl-C is heard while a library computes; then ``cancel`` is called.

    A second Ctrl-C does not wait for the work to end.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the work has ended since.
    """
    begin, outcome = Event(), Future[T]()

    def run() -> None:
        begin.wait()
        try:
            outcome.set_result(work())
        except BaseException as error:  # raised again below
            outcome.set_exception(error)

    Thread(target=run, name="udx-build", daemon=True).start()
    try:
        begin.set()
        while not outcome.done():
            wait([outcome], timeout=0.2)
    except KeyboardInterrupt:
        cancel()
        begin.set()  # Ctrl-C may have come before the work began
        wait([outcome])
        raise
    return outcome.result()
