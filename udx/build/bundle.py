"""Write plans as zip files: the same members give the same bytes."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from udx.files import write_with
from udx.runtime.bundle import SUMS, is_member_name, sums_of

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip file can tell."""


def write_bundle(path: Path, members: Mapping[str, bytes]) -> None:
    """Write members and the list of their hashes.

    Raises:
        UdxError: the file cannot be written; what was at ``path`` is then as it was.
    """
    assert SUMS not in members and all(map(is_member_name, members))
    content = dict(sorted(members.items()))

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as bundle:
            for name, data in {SUMS: sums_of(content), **content}.items():
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3  # Unix, on whatever system this runs
                info.external_attr = 0o644 << 16
                bundle.writestr(info, data)

    write_with(path, write)
