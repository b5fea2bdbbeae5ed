"""Ctrl-C, or the request to end that a scheduler or a closing terminal sends, held back until a step has finished."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

HELD_BACK: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; ``kill``, ``timeout`` and schedulers; a terminal that closes; SLURM's ``--signal=USR1@60``."""


@contextmanager
def interruptible() -> Iterator[Callable[[], int | None]]:
    """Hold back the first of these signals, so that no step is cut in two; yield what tells its number, if one came.

    A second one acts at once. SIGHUP stays ignored where it is, as under ``nohup``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may handle signals
        return
    came: int | None = None
    previous = {number: signal.getsignal(number) for number in HELD_BACK}
    if previous[signal.SIGHUP] == signal.SIG_IGN:
        del previous[signal.SIGHUP]

    def hold(number: int, _: FrameType | None) -> None:
        nonlocal came
        came = number
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        for number in previous:
            signal.signal(number, hold)
        yield lambda: came
    finally:
        restore()


@contextmanager
def held_back_from_children() -> Iterator[None]:
    """Let processes that are started here be born with these signals blocked; who sends one now is heard afterwards.

    A signal to the whole process group, as ``timeout`` and systemd send it, would else kill a loader's workers before
    the step that they load for is done.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_worker() -> None:
    """Leave these signals to the parent, whose end is the worker's end."""
    for number in HELD_BACK:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
