"""From a file, or the folder of a run, to a runner."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from udx.errors import UdxError, unknown_name
from udx.runtime.device.runner import open_bundle, open_plan
from udx.runtime.engine_file import read_engine
from udx.runtime.onnx_file import OnnxFile
from udx.runtime.onnxruntime_runner import OnnxRuntimeRunner
from udx.runtime.partitioned import PartitionedFile
from udx.runtime.partitioned_runner import PartitionedRunner
from udx.runtime.plan_file import PlanFile
from udx.runtime.runner import Runner
from udx.runtime.torch_runner import TorchRunner

Source = TypeVar("Source")

_ONNX: Final[Mapping[str, Callable[[OnnxFile, int | None], Runner]]] = {
    "onnxruntime": lambda file, threads: OnnxRuntimeRunner(file, "cpu", threads),
    "onnxruntime-cuda": lambda file, threads: OnnxRuntimeRunner(file, "cuda", threads),
}
_RUN: Final[Mapping[str, Callable[[Path, int | None], Runner]]] = {
    "torch": lambda folder, threads: TorchRunner(folder, "cpu", threads),
    "torch-cuda": lambda folder, threads: TorchRunner(folder, "cuda", threads),
    "torch-compile": lambda folder, threads: TorchRunner(folder, "cpu", threads, compiled=True),
    "torch-compile-cuda": lambda folder, threads: TorchRunner(folder, "cuda", threads, compiled=True),
}

BACKENDS: Final = ("auto", *_ONNX, "tensorrt", "tensorrt-rtx", *_RUN)


def open_engine(path: str | Path, backend: str = "auto", threads: int | None = None) -> Runner:
    """Open an engine file, or the folder of a run, with the backend that its content asks for.

    ``auto`` runs ONNX files in ONNX Runtime on the CPU and runs in torch on the CPU: on a GPU only if that is asked
    for. Plans run on what they were built for, and need nothing of a GPU before they are activated. ``threads`` bounds
    the CPU threads of one operator; without it the backend decides.

    Raises:
        UdxError: the file is missing, damaged, or of a kind that the backend does not run.
    """
    path = Path(path)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if path.is_dir():
        return _chosen(_RUN, backend, f"{path} is a run")(path, threads)
    match read_engine(path):
        case OnnxFile() as file:
            return _chosen(_ONNX, backend, f"{path} is an ONNX file")(file, threads)
        case PartitionedFile() as file:
            own = file.plan.backend
            _require_own(own, backend, f"{path} is a partitioned plan")
            return PartitionedRunner(file, threads) if own == "onnxruntime" else open_bundle(file)
        case PlanFile() as file:
            _require_own("tensorrt", backend, f"{path} is a TensorRT plan")
            return open_plan(file)


def _chosen(
    openers: Mapping[str, Callable[[Source, int | None], Runner]], backend: str, what: str
) -> Callable[[Source, int | None], Runner]:
    """The backend that was asked for, or else the first."""
    if backend != "auto" and backend not in openers:
        raise UdxError(f"{what}, which {backend} does not run; choose one of {', '.join(openers)}")
    return openers[next(iter(openers)) if backend == "auto" else backend]


def _require_own(own: str, backend: str, what: str) -> None:
    if backend not in ("auto", own):
        raise UdxError(f"{what}, which runs on what it was built for ({own}) and not on {backend}; leave --backend out")
