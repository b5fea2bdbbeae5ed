"""A frame as one CUDA graph, and the times that its stages take on the GPU."""

from collections.abc import Callable
from contextlib import suppress

from udx.runtime.device.driver import Driver, Handle
from udx.runtime.device.memory import Memory


class FrameGraph:
    """What a function enqueues on a stream, recorded once and launched as a whole from then on."""

    def __init__(self, driver: Driver, stream: Handle, enqueue: Callable[[], None], memory: Memory) -> None:
        """Record; the stream must be idle, and is usable as before if this fails.

        Raises:
            CallError: the driver's library captures no streams, or something that was enqueued cannot be captured.
        """
        self._graphs = driver.graphs()
        self._stream = stream
        self._graphs.begin_capture(stream)
        try:
            enqueue()
        except BaseException:
            self._abandon()
            raise
        graph = self._graphs.end_capture(stream)
        memory.on_close(lambda: self._graphs.destroy(graph))
        self._executable = self._graphs.instantiate(graph)
        memory.on_close(lambda: self._graphs.destroy_executable(self._executable))
        self._graphs.upload(self._executable, stream)

    def launch(self) -> None:
        """Enqueue the whole frame."""
        self._graphs.launch(self._executable, self._stream)

    def _abandon(self) -> None:
        """A stream that is left capturing runs nothing any more."""
        with suppress(Exception):
            self._graphs.destroy(self._graphs.end_capture(self._stream))


class StageClock:
    """Events between the stages of a frame, and the times that passed between them on the GPU."""

    def __init__(self, driver: Driver, stream: Handle, stages: tuple[str, ...], memory: Memory) -> None:
        self._driver = driver
        self._stream = stream
        self._stages = stages
        self._events = []
        for _ in range(len(stages) + 1):
            event = driver.create_event()
            memory.on_close(lambda event=event: driver.destroy_event(event))  # type: ignore[misc]
            self._events.append(event)

    def record(self, index: int, *, captured: bool) -> None:
        """Record event ``index`` on the stream: 0 before the first stage, 1 after it, and so on."""
        self._driver.record_event(self._events[index], self._stream, captured=captured)

    def times_ms(self) -> dict[str, float]:
        """Milliseconds of every stage of the last frame, which must have ended."""
        pairs = zip(self._stages, self._events, self._events[1:], strict=False)
        return {stage: self._driver.elapsed_ms(start, end) for stage, start, end in pairs}
