"""Let the ONNX libraries look at a stranger's model in a process of its own.

ONNX's checker and shape inference and ONNX Runtime are C++: on some damaged models they abort, hang, or take all
memory. A worker process (``udx.runtime.isolation_worker``) meets the model first. If it dies, the model is refused with
one sentence and this process goes on. What passed once is remembered, in this process and in the user's cache folder,
by the hash of the model and the versions of the libraries.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from udx.errors import UdxError
from udx.files import cache_folder

TIME_LIMIT_S: Final = 600.0
Stage = Literal["graph", "run"]
"""``graph``: checker and shape inference; ``run``: a session in ONNX Runtime and one frame of zeros."""

_passed: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A model that was not checked yet.

    Attributes:
        content: the serialized ``ModelProto``.
        source: its name in errors.
        path: the file that it came from, whose folder may hold its weights; None if it came from inside another file.
    """

    content: bytes
    source: str
    path: Path | None = None


def check_in_isolation(suspect: Suspect, stage: Stage, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Let a worker process check a model, unless it passed before.

    Args:
        suspect: the model.
        stage: what the libraries do with it.
        time_limit_s: seconds until a worker that does not answer is ended.

    Raises:
        UdxError: the libraries refuse the model, or the worker crashed, took too much memory or too long.
    """
    key = _key_of(suspect, stage)
    if key in _passed or _is_remembered(key):
        _passed.add(key)
        return
    refusal = _worker().ask(suspect, stage, time_limit_s)
    if refusal is not None:
        raise UdxError(refusal)
    _passed.add(key)
    _remember(key)


def _key_of(suspect: Suspect, stage: Stage) -> str:
    digest = hashlib.sha256(suspect.content).hexdigest()
    return hashlib.sha256(f"{stage} {_versions()} {digest}".encode()).hexdigest()


@cache
def _versions() -> str:
    import udx

    found = [f"udx {udx.__version__}"]
    for name in ("onnx", "onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def _memory_of(key: str) -> Path:
    return cache_folder() / "checked" / key


def _is_remembered(key: str) -> bool:
    try:
        return _memory_of(key).read_text(encoding="utf-8").strip() == key
    except (OSError, ValueError):
        return False


def _remember(key: str) -> None:
    path = _memory_of(key)
    with suppress(OSError):  # a cache folder that cannot be written costs time, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key + "\n", encoding="utf-8")  # half of it is no key, and counts for nothing


class _Worker:
    """A process that answers one request at a time; a new one is started where the last one died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, suspect: Suspect, stage: Stage, time_limit_s: float) -> str | None:
        """Return None if the model passed, or the sentence that refuses it."""
        request = {
            "stage": stage,
            "source": suspect.source,
            "path": str(suspect.path.resolve()) if suspect.path is not None else None,
            "bytes": len(suspect.content),
        }
        with self._lock:
            process = self._running()
            timed_out = threading.Event()

            def end() -> None:
                timed_out.set()
                process.kill()

            timer = threading.Timer(time_limit_s, end)
            timer.daemon = True
            timer.start()
            try:
                line = _exchange(process, json.dumps(request).encode() + b"\n", suspect.content)
            finally:
                timer.cancel()
            if line:
                answer: dict[str, Any] = json.loads(line)
                refusal: str | None = answer["refusal"]
                return refusal
            self._process = None
            ending = process.wait()
            if timed_out.is_set():
                return f"{suspect.source} keeps the ONNX libraries busy for over {time_limit_s:g} s; do not trust it"
            return f"{suspect.source} makes the ONNX libraries crash ({_ending(ending)}); do not trust it"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = _started()
        return self._process


def _exchange(process: subprocess.Popen[bytes], header: bytes, content: bytes) -> bytes:
    """Send a request and read one line; nothing if the worker dies on the way."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(header)
        process.stdin.write(content)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()


def _started() -> subprocess.Popen[bytes]:
    # -P keeps the current folder off the path, because files of strangers may lie in it. This udx is found either way.
    root = str(Path(__file__).resolve().parents[2])
    program = f"import sys; sys.path.append({root!r}); from udx.runtime.isolation_worker import main; main()"
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise UdxError(
            f"cannot start {sys.executable or 'Python'} to check a model in a process of its own: "
            f"{error.strerror or error}; free some memory or processes"
        ) from error


def _ending(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return f"exit status {status}"


_workers: dict[int, _Worker] = {}


def _worker() -> _Worker:
    """Return this process's worker: a forked process must not share the pipes of its parent."""
    return _workers.setdefault(os.getpid(), _Worker())
