"""What a GPU is given to run: engines and kernels in their order, and the memory between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from udx.errors import UdxError
from udx.launch import KernelFile, KernelLibrary
from udx.runtime.arena import ALIGNMENT, PlacedTensor, Step
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.device.engines import Library
from udx.runtime.partitioned import PartitionedFile, SegmentStep
from udx.runtime.partitioned import require_runnable as require_runnable_bundle
from udx.runtime.plan_file import PlanFile
from udx.runtime.plan_file import require_runnable as require_runnable_plan
from udx.runtime.rtx import require_supported
from udx.tensors import TensorSpec


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Program:
    """A plan in memory.

    ``engines`` are serialized, by the ``file`` of their step; ``image`` gives a file of ``kernels``; ``require``
    refuses a library and a GPU that the plan was not built for.
    """

    path: Path
    library: Library
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, PlacedTensor]
    arena_bytes: int
    steps: tuple[Step, ...]
    engines: Mapping[str, bytes]
    kernels: KernelLibrary | None
    image: Callable[[KernelFile], bytes]
    require: Callable[[ModuleType, CudaDevice], None]


def program_of_bundle(file: PartitionedFile) -> Program:
    """A partitioned plan of TensorRT-RTX, as it is."""
    plan = file.plan
    return Program(
        path=file.path,
        library="tensorrt-rtx",
        inputs=plan.inputs,
        outputs=plan.outputs,
        tensors=plan.by_name,
        arena_bytes=plan.arena_bytes,
        steps=plan.steps,
        engines={step.file: file.members[step.file] for step in plan.segments},
        kernels=plan.kernels,
        image=file.image,
        require=lambda library, device: _require_bundle(file, library, device),
    )


def program_of_plan(file: PlanFile) -> Program:
    """A plan of TensorRT: one engine, its inputs and outputs one behind the other in memory.

    Raises:
        UdxError: the plan cannot be read.
    """
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (file.record.inputs, file.record.outputs))
    tensors, arena_bytes = _in_a_row({**inputs, **outputs})
    step = SegmentStep(
        name="engine",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        file=file.path.name,
        sha256=file.record.sha256,
    )
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise UdxError(f"cannot read plan {file.path}: {error.strerror}; check the path") from error

    def no_image(file: KernelFile) -> bytes:
        raise AssertionError(f"the kernels of such a plan are in its engine, not in {file.name}")

    return Program(
        path=file.path,
        library="tensorrt",
        inputs=step.inputs,
        outputs=step.outputs,
        tensors=tensors,
        arena_bytes=arena_bytes,
        steps=(step,),
        engines={step.file: content},
        kernels=None,
        image=no_image,
        require=lambda library, device: require_runnable_plan(file, library.__version__, device),
    )


def _require_bundle(file: PartitionedFile, library: ModuleType, device: CudaDevice) -> None:
    require_supported(library, device.arch, device.name)
    require_runnable_bundle(file, library.__version__, device)


def _in_a_row(specs: Mapping[str, TensorSpec]) -> tuple[dict[str, PlacedTensor], int]:
    placed, offset = {}, 0
    for name, spec in specs.items():
        placed[name] = PlacedTensor(name=name, dtype=spec.dtype, shape=spec.shape, offset=offset)
        offset = -(-placed[name].end // ALIGNMENT) * ALIGNMENT
    return placed, offset
