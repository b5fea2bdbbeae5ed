"""The process in which ONNX libraries meet a stranger's model first; it is started by ``udx.runtime.isolation``.

Reads requests from standard input, a line of JSON and then the model, and answers each with a line of JSON. It ends
with its standard input, that is with the process that started it.
"""

import json
import os
import sys
from pathlib import Path
from typing import BinaryIO, Final

from udx.errors import UdxError, first_line
from udx.runtime.isolation import TIME_LIMIT_S, Suspect

MAX_MEMORY_BYTES: Final = 24 * 2**30
"""Address space of the worker, which is more than the memory that it takes."""


def main() -> None:
    """Answer requests until there are no more."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print; answers go out alone
    _limit("RLIMIT_AS", MAX_MEMORY_BYTES)
    while header := requests.readline():
        refusal = _refusal(header, requests)
        answers.write(json.dumps({"refusal": refusal}).encode() + b"\n")
        answers.flush()


def _refusal(header: bytes, requests: BinaryIO) -> str | None:
    request = json.loads(header)
    content = requests.read(request["bytes"])
    path = Path(request["path"]) if request["path"] is not None else None
    suspect = Suspect(content=content, source=request["source"], path=path)
    # Should the other process be gone, this one must not compute for ever.
    _limit("RLIMIT_CPU", int(sum(os.times()[:2]) + TIME_LIMIT_S * (os.cpu_count() or 1)) + 1)
    try:
        if request["stage"] == "graph":
            from udx.runtime.onnx_file import check_graph

            check_graph(suspect)
        else:
            from udx.runtime.onnxruntime_runner import run_once

            run_once(suspect)
    except UdxError as error:
        return str(error)
    except MemoryError:
        return f"{suspect.source} needs more memory than its graph declares; do not trust it"
    except Exception as error:
        return f"{suspect.source} is not a valid ONNX model ({first_line(error)}); copy or export it again"
    return None


def _limit(name: str, value: int) -> None:
    """Set a soft limit of this process, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    which = getattr(resource, name)
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, hard))
