"""Ctrl-C, or the request to end that a scheduler sends, held back until a step has finished."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

HELD_BACK: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Hold back the first SIGINT or SIGTERM, so that no step is cut in two; yield whether one came.

    A second one acts at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    came = False
    previous = {number: signal.getsignal(number) for number in HELD_BACK}

    def hold(_: int, __: FrameType | None) -> None:
        nonlocal came
        came = True
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        for number in HELD_BACK:
            signal.signal(number, hold)
        yield lambda: came
    finally:
        restore()
