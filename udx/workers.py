"""Worker processes that end with the process that started them."""

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, in whatever way.

    A worker of a pool waits for work on a pipe that its siblings keep open too: it would outlive a killed parent for
    ever. A process that ``multiprocessing`` did not start has no parent to watch, and nothing happens.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True, name="udx-parent").start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
