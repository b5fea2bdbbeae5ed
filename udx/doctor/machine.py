"""What a machine tells without any library being loaded."""

import importlib.util
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from udx.runtime.environment import environment

DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The computer, Python, and what is installed; ``torch_cuda`` is the CUDA that torch was built for."""

    os: str
    python: str
    cpu: str | None
    cores: int
    memory_gib: float | None
    versions: dict[str, str]
    torch_cuda: str | None


def this_machine() -> Machine:
    """Describe this machine."""
    found = environment()
    return Machine(
        os=found.os,
        python=found.python,
        cpu=found.cpu,
        cores=found.cores,
        memory_gib=found.memory_gib,
        versions=found.versions | _installed(),
        torch_cuda=_torch_cuda(),
    )


def _installed() -> dict[str, str]:
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _torch_cuda() -> str | None:
    """Read, not imported: importing torch takes seconds."""
    try:
        spec = importlib.util.find_spec("torch")
        folder = Path(spec.origin).parent if spec and spec.origin else None
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace") if folder else ""
    except (ImportError, ValueError, OSError):
        return None
    found = re.search(r"^cuda\s*(?::[^=]*)?=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None
