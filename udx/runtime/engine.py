"""From a file to a runner."""

from pathlib import Path
from typing import Final

from udx.errors import UdxError
from udx.runtime.engine_file import read_engine
from udx.runtime.onnx_file import OnnxFile
from udx.runtime.onnxruntime_runner import OnnxRuntimeRunner
from udx.runtime.partitioned import PartitionedFile
from udx.runtime.partitioned_runner import PartitionedRunner
from udx.runtime.plan_file import PlanFile
from udx.runtime.runner import Runner

BACKENDS: Final = ("auto", "onnxruntime", "onnxruntime-cuda")


def open_engine(path: Path, backend: str = "auto", threads: int | None = None) -> Runner:
    """Open an engine file with the backend that its content asks for.

    ``auto`` runs ONNX files in ONNX Runtime on the CPU; ``onnxruntime-cuda`` on the GPU. Plans run on what they were
    built for. ``threads`` bounds the CPU threads of one operator; without it the backend decides.

    Raises:
        UdxError: the file is missing, damaged, or of a kind that no backend here reads.
    """
    if backend not in BACKENDS:
        raise UdxError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    match read_engine(path):
        case OnnxFile() as file:
            return OnnxRuntimeRunner(file, provider="cuda" if backend == "onnxruntime-cuda" else "cpu", threads=threads)
        case PartitionedFile() as file:
            if backend == "onnxruntime-cuda":
                said = f"{path} is a partitioned plan, which runs on what it was built for"
                raise UdxError(f"{said}; leave --backend out")
            return PartitionedRunner(file, threads=threads)
        case PlanFile():
            raise UdxError(f"{path} is a TensorRT plan; udx reads ONNX engines: give the file that udx export wrote")
