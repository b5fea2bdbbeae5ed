"""Ctrl-C as a terminal sends it."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def press_ctrl_c() -> Iterator[Callable[[], None]]:
    """A function that any thread may call; processes in the background ignore Ctrl-C, these tests do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)
