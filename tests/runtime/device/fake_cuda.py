"""The library that ``fake_cuda.c`` makes, a ``libcuda.so.1`` without a GPU, and programs that run on it."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("fake_cuda.c")
ROOT = Path(__file__).resolve().parents[3]
NAME = "libcuda.so.1"


@cache
def folder_of_library() -> Path:
    """Compile the library, once a process; skip the test where there is no compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("the fake CUDA driver is compiled, and there is no C compiler on this Linux (cc, gcc or clang)")
    folder = Path(mkdtemp(prefix="udx-fake-cuda-"))
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{NAME}")
    command = [compiler, *options, "-o", str(folder / NAME), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run_on_fake(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments where the fake driver is the one that is found."""
    folder = folder_of_library()
    variables = os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=300)


class Fake:
    """The library from within a program that runs on it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(NAME)
        self.library.fake_report.restype = ctypes.c_char_p

    def report(self) -> dict[str, Any]:
        """What is held, and what happened since the last report."""
        found: dict[str, Any] = json.loads(self.library.fake_report())
        return found

    def fail(self, function: str, *, nth: int = 1, status: int = 999) -> None:
        """Let a call fail; its status is "unknown error" unless another is given."""
        self.library.fake_fail(function.encode(), nth, status)

    def current(self) -> int:
        """The current context of this thread."""
        context = ctypes.c_void_p()
        assert self.library.cuCtxGetCurrent(ctypes.byref(context)) == 0
        return context.value or 0


def require_clean(report: dict[str, Any]) -> None:
    """Nothing is held, nothing was wrong, and no context is left."""
    assert report["violations"] == []
    assert not any(report["held"].values()), report["held"]
    assert (report["retained"], report["depth"]) == (0, 0)
