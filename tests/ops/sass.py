"""Machine code of a compiled kernel, as the disassembler that Triton carries shows it."""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_REGISTERS = re.compile(r"\bREG:(\d+)")


def instructions(cubin: bytes) -> Counter[str]:
    """How often each instruction stands in a cubin, by its name with all of its modifiers."""
    found = Counter(_INSTRUCTION.findall(_cuobjdump(cubin, "-sass")))
    assert found, "the disassembler shows no instruction"
    return found


def registers(cubin: bytes) -> int:
    """Registers of a thread."""
    found = _REGISTERS.search(_cuobjdump(cubin, "-res-usage"))
    assert found is not None
    return int(found.group(1))


def spills(found: Counter[str]) -> list[str]:
    """Instructions that use local memory: what does not fit into registers."""
    return [name for name in found if name.split(".")[0] in ("LDL", "STL")]


def _cuobjdump(cubin: bytes, option: str) -> str:
    import triton

    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, option, file.name], capture_output=True, text=True, check=True).stdout
