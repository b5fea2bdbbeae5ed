"""Imported first by a program of this folder, it finds this checkout's ``udx`` where udx is not installed."""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def require_writable(out: Path) -> Path:
    """Return a folder's full path once a file was written there.

    Raises:
        UdxError: none can be written.
    """
    from udx.errors import UdxError

    probe = out / ".udx-probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UdxError(
            f"results cannot be written to {out} ({error.strerror}): name another folder with --out, "
            "or with make's RESULTS=FOLDER"
        ) from error
    return out.resolve()
