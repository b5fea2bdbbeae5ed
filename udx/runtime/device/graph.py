"""What pycuda lacks: capturing a stream into a CUDA graph, and events that a graph records for the outside."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from udx.runtime.device.cuda import Cuda
from udx.runtime.device.memory import Memory


class FrameGraph:
    """What a function enqueues on a stream, recorded once and launched as a whole from then on."""

    def __init__(self, cuda: Cuda, stream: Any, enqueue: Callable[[], None], memory: Memory) -> None:
        """Record; the stream must be idle, and is usable as before if this fails.

        Raises:
            CallError: something that was enqueued cannot be captured.
        """
        self._cuda = cuda
        self._stream = cuda.bindings.CUstream(stream.handle)  # the very stream of pycuda, by its handle
        # What other threads allocate meanwhile is no part of this stream, and no reason to end its capture.
        mode = cuda.bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        cuda.call("cuStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._abandon()
            raise
        graph = cuda.call("cuStreamEndCapture", self._stream)
        memory.on_close(lambda: cuda.call("cuGraphDestroy", graph))
        self._executable = cuda.call("cuGraphInstantiate", graph, 0)
        memory.on_close(lambda: cuda.call("cuGraphExecDestroy", self._executable))
        cuda.call("cuGraphUpload", self._executable, self._stream)

    def launch(self) -> None:
        """Enqueue the whole frame."""
        self._cuda.call("cuGraphLaunch", self._executable, self._stream)

    def _abandon(self) -> None:
        """A stream that is left capturing runs nothing any more."""
        with suppress(Exception):
            graph = self._cuda.call("cuStreamEndCapture", self._stream)
            if graph is not None and int(graph):
                self._cuda.call("cuGraphDestroy", graph)


class StageClock:
    """Events between the stages of a frame, and the times that passed between them on the GPU."""

    def __init__(self, cuda: Cuda, stream: Any, stages: tuple[str, ...], memory: Memory) -> None:
        self._cuda = cuda
        self._stream = cuda.bindings.CUstream(stream.handle)
        self._stages = stages
        self._events = []
        for _ in range(len(stages) + 1):
            event = cuda.call("cuEventCreate", int(cuda.bindings.CUevent_flags.CU_EVENT_DEFAULT))
            memory.on_close(lambda event=event: cuda.call("cuEventDestroy", event))  # type: ignore[misc]
            self._events.append(event)

    def record(self, index: int, *, captured: bool) -> None:
        """Record event ``index`` on the stream: 0 before the first stage, 1 after it, and so on."""
        flags = self._cuda.bindings.CUevent_record_flags
        # Without EXTERNAL a captured event only orders what is captured, and no time can be read from it.
        flag = flags.CU_EVENT_RECORD_EXTERNAL if captured else flags.CU_EVENT_RECORD_DEFAULT
        self._cuda.call("cuEventRecordWithFlags", self._events[index], self._stream, int(flag))

    def times_ms(self) -> dict[str, float]:
        """Milliseconds of every stage of the last frame, which must have ended."""
        pairs = zip(self._stages, self._events, self._events[1:], strict=False)
        return {stage: float(self._cuda.call("cuEventElapsedTime", start, end)) for stage, start, end in pairs}
