"""From a file to a runner."""

from pathlib import Path
from typing import Final

from udx.errors import UdxError
from udx.runtime.bundle import MAGIC
from udx.runtime.onnxruntime_runner import OnnxRuntimeRunner
from udx.runtime.partitioned_runner import PartitionedRunner
from udx.runtime.runner import Runner

BACKENDS: Final = ("auto", "onnxruntime", "onnxruntime-cuda")
_FOREIGN: Final = {b"ftrt": "a TensorRT plan", b"ptrt": "a TensorRT plan"}


def open_engine(path: Path, backend: str = "auto", threads: int | None = None) -> Runner:
    """Open an engine file with the backend that its content asks for.

    ``auto`` runs ONNX files in ONNX Runtime on the CPU; ``onnxruntime-cuda`` on the GPU. Partitioned plans run on what
    they were built for. ``threads`` bounds the CPU threads of one operator; without it the backend decides.

    Raises:
        UdxError: the file is missing, damaged, or of a kind that no backend here reads.
    """
    if backend not in BACKENDS:
        raise UdxError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UdxError(f"cannot read engine {path}: {error.strerror}; check the path") from error
    if head == MAGIC:
        if backend == "onnxruntime-cuda":
            raise UdxError(f"{path} is a partitioned plan, which runs on what it was built for; leave --backend out")
        return PartitionedRunner(path, threads=threads)
    if head in _FOREIGN:
        raise UdxError(f"{path} is {_FOREIGN[head]}; udx reads ONNX engines: give the file that udx export wrote")
    return OnnxRuntimeRunner(path, provider="cuda" if backend == "onnxruntime-cuda" else "cpu", threads=threads)
