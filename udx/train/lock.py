"""One training a run folder: whoever trains in it holds a lock that ends with the process, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from udx import processes
from udx.errors import UdxError

LOCK: Final = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is not there; the first of several processes holds it.

    Raises:
        UdxError: another process trains in the folder, or it cannot be made; in all processes alike.
    """
    held: tuple[int, bool] | None = None
    fault = None
    if processes.is_main():
        try:
            held = _hold(folder)
        except UdxError as error:
            fault = str(error)
    fault = processes.of_main(fault)
    try:
        if fault is not None:
            raise UdxError(fault)
        yield
    finally:
        if held is not None:
            _release(folder, *held)


def _hold(folder: Path) -> tuple[int, bool]:
    """Lock the folder; return the descriptor that holds the lock, and whether the folder is new."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            # A record lock: it is not inherited, so workers that outlive a killed process do not hold it.
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still(folder / LOCK, descriptor):
                    return descriptor, new
            except BlockingIOError as error:
                os.close(descriptor)
                raise UdxError(
                    f"another process trains in {folder} just now; wait for its end, or choose another --out"
                ) from error
            os.close(descriptor)  # the last holder removed the file in between
    except OSError as error:
        raise UdxError(f"cannot write {folder}: {error.strerror or error}; choose another --out") from error


def _is_still(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _release(folder: Path, descriptor: int, new: bool) -> None:
    with suppress(OSError):
        (folder / LOCK).unlink()
    os.close(descriptor)
    if new:
        with suppress(OSError):  # not empty: something was trained
            folder.rmdir()
