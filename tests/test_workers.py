"""Workers of a pool end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

from udx.workers import end_with_parent

PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from udx.workers import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        {submitted}
        print(*pool._processes, flush=True)
        time.sleep(600)
"""
IDLE = "list(pool.map(abs, range(2)))"
BUSY = "pool.submit(abs, 1).result(), pool.submit(time.sleep, 600), pool.submit(time.sleep, 600), time.sleep(1)"


def is_running(process: int) -> bool:
    """Whether it is there and more than a name that nobody has asked for."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def workers_of_a_killed_parent(tmp_path, submitted: str) -> list[int]:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(submitted=submitted))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(is_running(worker) for worker in workers)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    return workers


def require_end(workers: list[int], timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < end, "a worker goes on without its parent"
        time.sleep(0.05)


def test_idle_workers_end_when_the_parent_is_killed(tmp_path):
    require_end(workers_of_a_killed_parent(tmp_path, IDLE))


def test_busy_workers_end_when_the_parent_is_killed(tmp_path):
    require_end(workers_of_a_killed_parent(tmp_path, BUSY))


def test_a_process_that_is_no_worker_goes_on():
    end_with_parent()
    assert is_running(os.getpid())


def test_a_worker_that_ignores_sigterm_does_not_keep_a_process_from_its_end():
    code = """
import multiprocessing, signal, time
from udx.workers import kill_workers_at_exit

def work(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(600)

context = multiprocessing.get_context("fork")
ready = context.Event()
kill_workers_at_exit()
context.Process(target=work, args=(ready,), daemon=True).start()
ready.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == 0
