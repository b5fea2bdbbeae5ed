"""Files written whole or not at all, and files from strangers read with care."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from udx.errors import UdxError

MAX_JSON_BYTES = 4 * 2**30  # nuScenes' largest table is 1.6 GB


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block ends well.

    Raises:
        UdxError: the folder cannot be written or the disk is full; ``path`` is then as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UdxError(f"cannot write {path}: {reason}; free some space or choose another path") from error
    finally:
        with suppress(OSError):  # a folder that could not be made holds no partial file
            partial.unlink()


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then move it to ``path``."""
    with replacing(path) as partial:
        write(partial)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    write_with(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is not JSON and is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UdxError: the file is missing, too large, or not JSON.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UdxError(f"{path} is larger than {MAX_JSON_BYTES >> 30} GiB: not a file udx reads")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UdxError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UdxError(f"{path} is not valid JSON ({error}); restore or regenerate it") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
