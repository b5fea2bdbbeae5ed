"""``udx build``: which backend builds the plan, and for what."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from udx.build.watch import Display
from udx.errors import UdxError
from udx.runtime.cuda_driver import cuda_driver, first_device

if TYPE_CHECKING:
    from udx.build.partitioned import PartitionedBuild
    from udx.build.tensorrt import TensorrtBuild

Target = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
BACKENDS: Final = ("auto", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for; None is the default of whatever builds.

    ``segments`` is what runs the segments of a partitioned plan, if not the backend. ``level``, ``tf32``, ``workspace``
    (GiB) and ``cache`` are for TensorRT alone.
    """

    file: Path
    out: Path
    backend: str = "auto"
    precision: str | None = None
    segments: str | None = None
    arch: str | None = None
    level: int | None = None
    tf32: bool | None = None
    workspace: float | None = None
    cache: bool | None = None

    @property
    def arches(self) -> tuple[int, ...]:
        """Compute capabilities × 10.

        Raises:
            UdxError: they are not numbers separated by commas.
        """
        try:
            return tuple(dict.fromkeys(int(item) for item in self.arch.split(","))) if self.arch else ()
        except ValueError as error:
            raise UdxError(f"--arch {self.arch}: give compute capabilities without the dot, as 86,89") from error


def build(request: Request, display: Display) -> "PartitionedBuild | TensorrtBuild":
    """Build a plan.

    Raises:
        UdxError: the options exclude each other, the file cannot be used, or something is missing that is needed.
    """
    target = target_of(request)
    if target == "tensorrt":
        return _build_tensorrt(request, display)
    for name in ("level", "tf32", "workspace", "cache"):
        if getattr(request, name) is not None:
            raise UdxError(f"--{name} is for --backend tensorrt, and this plan is for {target}; leave it out")
    from udx.build.partitioned import build_partitioned

    return build_partitioned(
        request.file,
        request.out,
        backend=target,
        display=display,
        precision=request.precision,
        arches=request.arches,
    )


def default_plan(file: Path, backend: str, segments: str | None) -> Path:
    """Name a plan after its file and what runs it: ``student.onnx`` becomes ``student.tensorrt.plan``.

    Raises:
        UdxError: as ``target_of``.
    """
    target = target_of(Request(file=file, out=file, backend=backend, segments=segments))
    return Path(f"{file.stem}.{target}.plan")


def target_of(request: Request) -> Target:
    """What the plan is for.

    Raises:
        UdxError: the options exclude each other, or ``auto`` finds nothing installed.
    """
    if request.segments == "onnxruntime":
        if request.backend == "tensorrt":
            raise UdxError("a plan of TensorRT is one engine without segments; leave --segments or --backend out")
        return "onnxruntime"
    if request.backend == "auto":
        return _installed(request)
    assert request.backend in ("tensorrt", "tensorrt-rtx")
    return "tensorrt" if request.backend == "tensorrt" else "tensorrt-rtx"


def _installed(request: Request) -> Target:
    """TensorRT where it can build, or else TensorRT-RTX."""
    if importlib.util.find_spec("tensorrt") is not None and _has_gpu():
        return "tensorrt"
    if importlib.util.find_spec("tensorrt_rtx_bindings") is not None:
        return "tensorrt-rtx"
    raise UdxError(
        f"nothing here builds a plan of {request.file}: install TensorRT-RTX (pip install 'udx[rtx]'), or TensorRT on "
        "a machine with a GPU (pip install 'tensorrt>=10.15'), or give --segments onnxruntime for the CPU"
    )


def _has_gpu() -> bool:
    try:
        first_device(cuda_driver())
    except UdxError:
        return False
    return True


def _build_tensorrt(request: Request, display: Display) -> "TensorrtBuild":
    from udx.build.builder import TensorrtSettings
    from udx.build.cache import EngineCache
    from udx.build.precision import require_precision
    from udx.build.tensorrt import build_tensorrt
    from udx.files import cache_folder
    from udx.runtime.onnx_file import read_onnx

    if request.arch:
        raise UdxError("TensorRT builds for the GPU of this machine and takes no --arch; leave it out")
    chosen = {"level": request.level, "tf32": request.tf32, "workspace_gib": request.workspace}
    settings = TensorrtSettings(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    require_precision(read_onnx(request.file).model, request.file, request.precision)
    cache = EngineCache(cache_folder()) if request.cache is not False else None
    return build_tensorrt(request.file, request.out, display=display, settings=settings, cache=cache)
