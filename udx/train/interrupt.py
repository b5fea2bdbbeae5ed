"""Ctrl-C that lets a step finish."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C, so that no step is cut in two; yield whether it came. A second one acts at once."""
    came = False

    def hold(_: int, __: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, previous)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    previous = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, previous)
