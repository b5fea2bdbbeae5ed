"""Files written whole or not at all, and files from strangers read with care."""

import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from udx.errors import UdxError

MAX_JSON_BYTES: Final = 64 * 2**20
CHUNK_BYTES: Final = 2**20
LEFTOVER_AGE_S: Final = 86400.0
"""A partial folder of another machine is left alone until it is a day old: its lock may not be seen here."""

CACHE_VARIABLE: Final = "UDX_CACHE"
"""Environment variable that names the folder for caches."""

_PARTIAL_NAME: Final = re.compile(r"\.udx-([0-9a-f]{8})-[0-9a-f]{16}\.(part|new)")
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/(?:self|thread-self))/fd/(\d+)")
_STREAMS: Final = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_cleaned: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; move the file to ``path`` if the block ends well.

    A symbolic link stays, and the file that it leads to is replaced. A device, a pipe or an open descriptor
    (``/dev/null``, ``/dev/stdout``, a FIFO) stays too, and is written into when the block has ended. A new file has the
    permissions that the umask gives.

    Raises:
        UdxError: the folder cannot be written, the disk is full, or ``path`` is a folder or a disk; ``path`` is then
            as it was.
    """
    try:
        target = _replaceable(path)
        with _partial_folder(target.parent) if target else _scratch_folder() as folder:
            partial = folder / path.name
            yield partial
            if target is None:
                _copy_into(path, partial)
            else:
                _publish(partial, target, folder)
    except OSError as error:
        raise UdxError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error


def reason_of(error: OSError) -> str:
    """What the system says of an error, without the number and the path."""
    return error.strerror or str(error)


def remedy_of(error: OSError) -> str:
    """What a user can do where a file could not be written."""
    return "free some space or choose another path" if error.errno in (*_NO_SPACE, None) else "choose another path"


def _replaceable(path: Path) -> Path | None:
    """The regular file, there already or not, that a rename may replace; ``None`` for what must be written into."""
    if _descriptor_of(path) is not None:
        return None
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "it is a disk, which would lose what it holds")
    target = Path(os.path.realpath(path))
    # A link of /proc may lead to what has no name any more.
    return target if stat.S_ISREG(mode) and target.is_file() else None


def _descriptor_of(path: Path) -> int | None:
    """The open descriptor that a path such as ``/dev/stdout`` stands for."""
    name = str(path.absolute())
    found = _DESCRIPTOR.fullmatch(name)
    return int(found[1]) if found else _STREAMS.get(name)


@contextmanager
def _partial_folder(parent: Path) -> Iterator[Path]:
    """A locked folder in ``parent`` for one partial file, and for what libraries put beside it while they write.

    The name is random: process numbers are not unique among threads and containers.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if parent not in _cleaned:
        _cleaned.add(parent)
        _remove_leftovers(parent)
    stem = f".udx-{_machine()}-{secrets.token_hex(8)}"
    unlocked, folder = parent / f"{stem}.new", parent / f"{stem}.part"
    unlocked.mkdir()
    try:
        with _locked_folder(unlocked):
            unlocked.rename(folder)
            yield folder
    finally:
        for made in (unlocked, folder):
            shutil.rmtree(made, ignore_errors=True)


@functools.cache
def _machine() -> str:
    """The same for all processes and containers that see each other's locks: those of one running kernel."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        identity = platform.node().encode()
    return hashlib.sha256(identity).hexdigest()[:8]


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="udx-") as folder:
        yield Path(folder)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder; yield whether that succeeded. Not every file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Remove partial files of processes that were killed: nobody holds the lock on those."""
    with suppress(OSError):
        for folder in parent.iterdir():
            name = _PARTIAL_NAME.fullmatch(folder.name)
            if name is not None:
                with suppress(OSError):
                    old = time.time() - folder.lstat().st_mtime > LEFTOVER_AGE_S
                    with _locked_folder(folder) as locked:
                        if locked and (old or (name[1] == _machine() and name[2] == "part")):
                            shutil.rmtree(folder, ignore_errors=True)


def _publish(partial: Path, target: Path, folder: Path) -> None:
    """Make a partial file durable and give it its name; some libraries make files that only the owner can read."""
    partial.chmod(folder.stat().st_mode & 0o666)
    with open(partial, "rb") as written:
        os.fsync(written.fileno())
    partial.replace(target)
    with suppress(OSError):  # not every file system can; then the name lasts as it always did
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _copy_into(path: Path, partial: Path) -> None:
    """Write a file's content into what cannot be replaced."""
    number = _descriptor_of(path)
    if number in (1, 2):  # what was printed before stands before
        sys.stdout.flush()
    opened = os.dup(number) if number is not None else os.open(path, os.O_WRONLY | os.O_TRUNC)
    with open(partial, "rb") as source, open(opened, "wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)


@contextmanager
def lock_file(path: Path, *, wait: Callable[[], object] | None = None, interval_s: float = 0.5) -> Iterator[bool]:
    """Hold a lock file while the block runs; yield whether this process holds it. The file goes when the block ends.

    The lock ends with the process, however that ends. On a file system without locks everybody holds it.

    Args:
        path: file to make; its folder exists.
        wait: called every ``interval_s`` while another process holds the lock; without it nobody waits.
        interval_s: seconds between two attempts.
    """
    descriptor = _take_lock(path)
    while descriptor is None and wait is not None:
        wait()
        time.sleep(interval_s)
        descriptor = _take_lock(path)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _take_lock(path: Path) -> int | None:
    """Open and lock ``path``; ``None`` if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            return descriptor
        # The one before may have removed the file after it was opened here: then the lock is on a file without a name.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then move it to ``path``."""
    with replacing(path) as partial:
        write(partial)


def cache_folder() -> Path:
    """The folder that ``UDX_CACHE`` names, or ``udx`` in the user's folder for caches."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "udx"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; what stands for bytes of a path that is not UTF-8 is written as its escape."""
    write_with(path, lambda partial: partial.write_bytes(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is not JSON and is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        UdxError: the file is missing, larger than ``max_bytes``, or not JSON; NaN and infinite numbers are not.
    """
    try:
        return parse_json(read_bytes(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise UdxError(f"{path} is not valid JSON ({error}); restore or regenerate it") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON whose numbers are finite and fit into 64 bits.

    Raises:
        ValueError: it is not such JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_float=_finite, parse_constant=_finite, parse_int=_countable)


def _countable(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 2**63:
        raise ValueError(f"it holds {text[:40]}, which is no number of 64 bits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text[:40]}, which is no finite number")
    return number


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a whole file of at most ``max_bytes``; a FIFO that nobody writes is empty.

    Raises:
        UdxError: the file is missing, cannot be read, or is larger.
    """
    chunks: list[bytes] = []
    try:
        with open(path, "rb", opener=without_waiting) as file:
            os.set_blocking(file.fileno(), True)
            size, left = os.fstat(file.fileno()).st_size, max_bytes + 1
            while size <= max_bytes and left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                chunks.append(chunk)
                left -= len(chunk)
    except OSError as error:
        raise UdxError(f"cannot read {path}: {reason_of(error)}; check the path") from error
    if size > max_bytes or left <= 0:
        raise UdxError(f"{path} is larger than {_amount(max_bytes)}: not a file udx reads")
    return b"".join(chunks)


def without_waiting(path: str, flags: int) -> int:
    """Open a file for ``open(…, opener=…)``; a FIFO in a stranger's folder would keep the reader waiting for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _amount(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 2**20 else f"{size >> 10} KiB"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
