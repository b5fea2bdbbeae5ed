"""What TensorRT-RTX compiles for the GPU when an engine is started, kept on disk for the next start.

A file begins with a line of the format and a line with the SHA-256 of what follows. It is written whole or not at all,
and one that is damaged counts for nothing. The library itself refuses what another version, GPU or driver compiled.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from udx.files import cache_folder, write_with
from udx.runtime.cuda_driver import CudaDevice

MAX_BYTES: Final = 2**30
"""Of one cache, and of all together: the least recently used go."""

_FORMAT: Final = b"udx-runtime-cache/1\n"
_HEADER_BYTES: Final = len(_FORMAT) + 65


def cache_path(version: str, gpu: CudaDevice, engine_sha256: str) -> Path:
    """The file for an engine, a version of the library and a kind of GPU."""
    kind = "".join(letter if letter.isalnum() else "-" for letter in gpu.name)
    return cache_folder() / "runtime" / f"tensorrt-rtx-{version}-{kind}-{gpu.arch}" / f"{engine_sha256}.cache"


class RuntimeCache:
    """The runtime cache of one engine, and its file; ``found`` tells whether the file was there and was taken."""

    def __init__(self, cache: Any, path: Path) -> None:
        self._cache = cache
        self._path = path
        content = _read(path)
        self.found = content is not None and bool(cache.deserialize(content))
        self._known = hashlib.sha256(content).digest() if self.found and content is not None else None
        if self.found:
            with suppress(OSError):  # a cache that cannot be written can still be read
                os.utime(path)

    def save(self) -> None:
        """Write what was compiled, if that is not in the file already.

        Raises:
            UdxError: the folder cannot be written.
        """
        content = bytes(memoryview(self._cache.serialize()))
        digest = hashlib.sha256(content)
        if digest.digest() == self._known or len(content) > MAX_BYTES:
            return
        whole = _FORMAT + digest.hexdigest().encode() + b"\n" + content
        write_with(self._path, lambda partial: partial.write_bytes(whole))
        self._known = digest.digest()
        _make_room(self._path)


def _make_room(keep: Path) -> None:
    with suppress(OSError):  # another process may have removed one first
        files = [(path.stat(), path) for path in keep.parents[1].glob("*/*.cache")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda item: item[0].st_mtime_ns):
            if total > MAX_BYTES and path != keep:
                path.unlink()
                total -= stat.st_size


def _read(path: Path) -> bytes | None:
    """What is in a file; None where there is none, or none that is whole."""
    whole = b""
    with suppress(OSError):
        if path.is_file() and path.stat().st_size <= MAX_BYTES + _HEADER_BYTES:
            whole = path.read_bytes()
    digest, content = whole[len(_FORMAT) : _HEADER_BYTES], whole[_HEADER_BYTES:]
    sound = whole.startswith(_FORMAT) and digest == hashlib.sha256(content).hexdigest().encode() + b"\n"
    return content if sound else None
