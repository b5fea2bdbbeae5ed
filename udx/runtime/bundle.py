"""Zip files with a hash of every member: written by ``udx build``, read here with the care that strangers' files need.

Members are stored, not compressed, and member ``SHA256SUMS`` lists the others as ``sha256sum`` does, so that
``unzip student.plan -d plan && cd plan && sha256sum --check SHA256SUMS`` checks a plan without udx.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from udx.errors import UdxError

SUMS: Final = "SHA256SUMS"
MAGIC: Final = b"PK\x03\x04"
"""How a zip file begins."""
MAX_BYTES: Final = 8 * 2**30
MAX_MEMBERS: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
"""Relative, no part begins with a dot: no name leaves the folder that it is unpacked in."""
_SUM: Final = re.compile(r"(?P<hash>[0-9a-f]{64})  (?P<name>\S+)")


def is_member_name(name: str) -> bool:
    """Whether a member may have this name."""
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def read_bundle(path: Path) -> dict[str, bytes]:
    """Read all members but the list of hashes, after checking names, sizes and hashes.

    Raises:
        UdxError: the file is missing, no zip, damaged, or anything but what its list of hashes says.
    """
    try:
        with open(path, "rb") as file:
            members = _read_members(file, path)
    except OSError as error:
        raise UdxError(f"cannot read {path}: {error.strerror}; check the path") from error
    _require_hashes(members, path)
    del members[SUMS]
    return members


def _read_members(file: BinaryIO, path: Path) -> dict[str, bytes]:
    size = os.fstat(file.fileno()).st_size
    if size > MAX_BYTES:
        raise UdxError(f"{path} is larger than {MAX_BYTES >> 30} GiB: not a plan of udx")
    try:
        with zipfile.ZipFile(file) as bundle:
            infos = bundle.infolist()
            _require_harmless(infos, size, path)
            return {info.filename: bundle.read(info) for info in infos}
    except UdxError:
        raise
    except Exception as error:  # what zipfile raises on hostile bytes is not documented
        raise UdxError(f"{path} is damaged or no zip file ({error}); copy it again or build it again") from error


def sums_of(members: Mapping[str, bytes]) -> bytes:
    """Text of the list of hashes."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in members.items()]
    return "".join(lines).encode()


def _require_harmless(infos: list[zipfile.ZipInfo], size: int, path: Path) -> None:
    """Before anything is read: names stay inside, nothing is there twice, and nothing is larger than the file."""
    if len(infos) > MAX_MEMBERS:
        raise UdxError(f"{path} has {len(infos)} members: not a plan of udx")
    names = [info.filename for info in infos]
    for name in names:
        if not is_member_name(name):
            raise UdxError(f"{path} has a member named {name[:80]!r}, which a plan never has; do not trust it")
        if names.count(name) > 1:
            raise UdxError(f"{path} has two members named {name}; do not trust it")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise UdxError(f"{path} has the compressed or encrypted member {info.filename}; a plan only stores them")
    if sum(info.file_size for info in infos) > size:
        raise UdxError(f"{path} claims members larger than itself; do not trust it")
    if SUMS not in names:
        raise UdxError(f"{path} is a zip file without {SUMS}, so no plan; give a file that udx build wrote")


def _require_hashes(members: Mapping[str, bytes], path: Path) -> None:
    listed = _listed_hashes(members[SUMS], path)
    for name, content in members.items():
        if name != SUMS and listed.pop(name, None) != hashlib.sha256(content).hexdigest():
            raise UdxError(f"{path} is damaged: {name} is not what {SUMS} says; copy it again or build it again")
    if listed:
        raise UdxError(f"{path} lacks {next(iter(listed))}, which {SUMS} lists; copy it again or build it again")


def _listed_hashes(sums: bytes, path: Path) -> dict[str, str]:
    """Hashes by member."""
    found = [_SUM.fullmatch(line) for line in sums.decode("ascii", errors="replace").splitlines()]
    if not all(found):
        raise UdxError(f"{path} holds a damaged {SUMS}; copy it again or build it again")
    return {line["name"]: line["hash"] for line in found if line}
