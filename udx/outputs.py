"""Files that a command is to write: none may be one that it reads, and all are tried before any work is done."""

import tempfile
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Final

from udx.errors import UdxError

RUN_FILES: Final = frozenset(
    {"config.json", "log.jsonl", "metrics.json", "checkpoint.safetensors", "state.pt", "splits.json"}
)
"""What a run folder holds; nobody means to write a report over these."""

DATA_FOLDERS: Final = frozenset({"samples", "sweeps", "maps", "epochs", "best", "broken"})


def check_outputs(outputs: Mapping[str, Path], inputs: Mapping[str, Path]) -> None:
    """Refuse outputs that would overwrite an input or each other, or that cannot be written.

    Args:
        outputs: paths to write, by the option that names them.
        inputs: files and folders that are read, by the option that names them.

    Raises:
        UdxError: one of them collides, is a folder, or is in a folder where nothing can be written.
    """
    for option, output in outputs.items():
        for other, given in inputs.items():
            if _is_same(output, given):
                raise UdxError(f"{option} {output} is the file that {other} reads; choose another file for {option}")
            if _belongs_to(output, given):
                raise UdxError(f"{option} {output} is part of {other} {given}; choose another file for {option}")
    for (option, output), (other, second) in combinations(outputs.items(), 2):
        if _is_same(output, second):
            raise UdxError(f"{option} and {other} both name {output}; choose two files")
    for option, output in outputs.items():
        require_writable(output, option)


def require_writable(path: Path, option: str) -> None:
    """Try to write where a file is to stand; nothing is left there.

    Raises:
        UdxError: it is a folder, or nothing can be written beside it.
    """
    if path.is_dir():
        raise UdxError(f"{option} {path} is a folder; name a file in it")
    if path.exists() and (not path.is_file() or path.parts[:2] in (("/", "dev"), ("/", "proc"))):
        return  # a device, a pipe or an open descriptor: trying it would be using it
    require_writable_folder(path.parent, option)


def require_writable_folder(folder: Path, option: str) -> None:
    """Try to write in a folder, or in the nearest one above it that is there already.

    Raises:
        UdxError: nothing can be written there.
    """
    there = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UdxError(f"{option}: cannot write into {there}: {reason}; choose another path") from error


def overwritten(outputs: Iterable[Path], inputs: Iterable[Path]) -> Path | None:
    """The first output that exists and is one of the inputs."""
    given = [path for path in inputs if path.exists()]
    return next((path for path in outputs if path.exists() and any(path.samefile(one) for one in given)), None)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file: by name, through links, or as two names of it."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _belongs_to(path: Path, folder: Path) -> bool:
    """Whether an existing file is one of those that a run or a dataroot consists of."""
    if not folder.is_dir() or not path.is_file():
        return False
    try:
        first, *rest = path.resolve().relative_to(folder.resolve()).parts
    except ValueError:
        return False
    return first in RUN_FILES if not rest else first in DATA_FOLDERS or first.startswith("v1.0-")
