"""Worker processes that end with the process that started them."""

import atexit
import os
import threading
from multiprocessing import active_children, parent_process
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


def kill_workers_at_exit() -> None:
    """Kill this process's daemonic children when it exits.

    ``multiprocessing`` sends them SIGTERM at the exit and waits for them. Workers that ignore SIGTERM, so that a signal
    to the whole group leaves a checkpoint, would keep it waiting for ever.
    """
    atexit.unregister(_kill_workers)
    atexit.register(_kill_workers)


def _kill_workers() -> None:
    for child in active_children():
        if child.daemon:
            child.kill()
