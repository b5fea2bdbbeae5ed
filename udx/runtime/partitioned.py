"""Partitioned plans: engine segments and kernels between them, one after the other, on one arena of memory.

The graph of an exported detector is cut at its nodes of domain ``udx``. What is left are *segments*, each an engine
of its own; every node is a *kernel*, launched as ``udx.launch`` says. All run in the order of ``steps`` on one
stream. Every tensor that passes between them, and every input and output, lies at a fixed offset of one arena, so
that nothing is allocated for a frame and a CUDA graph may hold all of it. Memory that is no longer read is used again;
inputs keep theirs, so that a calibration is uploaded once and stays.

The file is a zip (``udx.runtime.bundle``) of ``plan.json``, which is a ``PartitionedPlan``, and of the engines and
kernels. Engines of TensorRT-RTX are built without memory of their own (``REQUIRE_USER_ALLOCATION``): whoever runs them
gives all of them one and the same scratch memory, as large as the one that asks for most.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from udx.config import from_plain, to_plain
from udx.errors import UdxError
from udx.files import parse_json
from udx.launch import KernelFile, KernelLibrary, Launch
from udx.manifest import Manifest
from udx.runtime.arena import ALIGNMENT, PlacedTensor, Step, require_sound_memory
from udx.runtime.bundle import read_bundle
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.graph import Structure, require_structure
from udx.runtime.onnx_file import expected_inputs, expected_outputs

FORMAT: Final = "udx-plan/1"
INDEX: Final = "plan.json"
KERNELS: Final = "kernels/"
"""Folder of the kernels within the zip."""

PORTABLE: Final = (80, 86, 89, 120)
"""Compute capabilities (× 10) that the kernels of portable plans are compiled for; later GPUs take their PTX.

On which GPUs a portable engine runs the library says: see ``udx.runtime.rtx``.
"""

Backend = Literal["onnxruntime", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStep(Step):
    """An engine: member ``file`` of the zip, whose inputs and outputs have the names of the plan's tensors.

    ``sha256`` is the engine's own: segments of one shape cannot be taken for each other.
    """

    file: str
    sha256: str
    kind: Literal["segment"] = "segment"

    def in_place(self) -> Mapping[str, str]:
        """Engines write to memory of their own."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelStep(Step):
    """A kernel: its arguments are ``inputs``, the launch's scalars, and ``outputs``."""

    launch: Launch
    kind: Literal["kernel"] = "kernel"

    def __post_init__(self) -> None:
        if (len(self.inputs), len(self.outputs)) != (len(self.launch.inputs), len(self.launch.outputs)):
            raise ValueError(f"kernel {self.name} has another number of arguments than {self.launch.kernel}")

    def in_place(self) -> Mapping[str, str]:
        """As the launch says."""
        given = dict(zip((tensor.name for tensor in self.launch.inputs), self.inputs, strict=True))
        outputs = zip(self.outputs, self.launch.outputs, strict=True)
        return {name: given[output.aliases] for name, output in outputs if output.aliases}

    def shapes(self, tensors: Mapping[str, PlacedTensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs by the names that the launch's sizes use."""
        names = (tensor.name for tensor in self.launch.inputs)
        return {name: tensors[given].shape for name, given in zip(names, self.inputs, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionedPlan:
    """What stands in ``plan.json``; one that would read or write wrong memory cannot be made.

    ``backend`` runs the segments, in the version that built them. ``capabilities`` are the GPUs that the engines were
    built for (compute capability × 10; none for the CPU), ``kernels`` the compiled kernels, ``source_sha256`` and
    ``structure`` those of the ONNX file, ``precision`` what its layers compute in. ``manifest`` is the detector's.

    Raises:
        ValueError: a step reads what is not there (any more), or a tensor is not what a step takes it for.
    """

    backend: Backend
    backend_version: str
    udx_version: str
    precision: str
    source_sha256: str
    manifest: dict[str, Any]
    structure: Structure
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arena_bytes: int
    tensors: tuple[PlacedTensor, ...]
    steps: tuple[Step, ...]
    capabilities: tuple[int, ...] = ()
    kernels: KernelLibrary | None = None
    format: str = FORMAT

    def __post_init__(self) -> None:
        tensors = self.by_name
        if len(tensors) != len(self.tensors):
            raise ValueError("two tensors have one name")
        used = [name for step in self.steps for name in (*step.inputs, *step.outputs)]
        unknown = sorted({*self.inputs, *self.outputs, *used} - set(tensors))
        if unknown:
            raise ValueError(f"there is no tensor {unknown[0]!r}")
        if max((tensor.end for tensor in self.tensors), default=0) > self.arena_bytes:
            raise ValueError(f"a tensor lies outside of the {self.arena_bytes} bytes of memory")
        for step in self.kernel_steps:
            _require_launchable(step, tensors)
        require_sound_memory(tensors, self.inputs, self.outputs, self.steps)
        self._require_no_more_than_used()
        if self.backend == "tensorrt-rtx":
            self._require_compiled()

    def _require_no_more_than_used(self) -> None:
        """Memory is asked for before anything runs: only as much as the steps use."""
        used = {name for step in self.steps for name in (*step.inputs, *step.outputs)} | {*self.inputs, *self.outputs}
        unused = sorted(set(self.by_name) - used - {tensor.view_of for tensor in self.tensors})
        if unused:
            raise ValueError(f"nothing uses tensor {unused[0]}")
        end = max((tensor.end for tensor in self.tensors), default=0)
        if self.arena_bytes - end >= ALIGNMENT:
            raise ValueError(f"its tensors end at byte {end} of {self.arena_bytes}")

    def _require_compiled(self) -> None:
        compiled = [kernel.launch for kernel in self.kernels.kernels] if self.kernels else []
        for step in self.kernel_steps:
            if step.launch not in compiled:
                raise ValueError(f"kernel {step.name} is compiled for no GPU")

    @property
    def by_name(self) -> dict[str, PlacedTensor]:
        """The tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def segments(self) -> tuple[SegmentStep, ...]:
        """The steps that are engines."""
        return tuple(step for step in self.steps if isinstance(step, SegmentStep))

    @property
    def kernel_steps(self) -> tuple[KernelStep, ...]:
        """The steps that are kernels."""
        return tuple(step for step in self.steps if isinstance(step, KernelStep))

    @property
    def unshared_bytes(self) -> int:
        """Memory that would be needed if none were used twice."""
        in_place = {name for step in self.steps for name in step.in_place()}
        own = (tensor for tensor in self.tensors if tensor.view_of is None and tensor.name not in in_place)
        return sum(tensor.num_bytes for tensor in own)

    def to_json(self) -> str:
        """Text of ``plan.json``."""
        return json.dumps(to_plain(self), indent=1, allow_nan=False) + "\n"


def _require_launchable(step: KernelStep, tensors: Mapping[str, PlacedTensor]) -> None:
    """The launch must take just these inputs, and give outputs of just these types and shapes."""
    given = [tensors[name] for name in step.inputs]
    wanted = [tensor.dtype for tensor in step.launch.inputs]
    if [tensor.dtype for tensor in given] != wanted:
        found = ", ".join(str(tensor.spec) for tensor in given)
        raise ValueError(f"kernel {step.name} takes {', '.join(wanted)}, not {found}")
    try:
        shapes = step.shapes(tensors)
        step.launch.grid_for(shapes)
        made = step.launch.outputs_for(shapes)
    except UdxError as error:
        raise ValueError(f"kernel {step.name}: {error}") from error
    for name, output, shape in zip(step.outputs, step.launch.outputs, made, strict=True):
        if (tensors[name].dtype, tensors[name].shape) != (output.dtype, shape):
            raise ValueError(f"kernel {step.name} gives {output.dtype}{list(shape)}, not {tensors[name].spec}")


@dataclass(frozen=True, eq=False, slots=True)
class PartitionedFile:
    """A plan, its detector's manifest, and the members of its file, whose hashes were checked."""

    path: Path
    plan: PartitionedPlan
    manifest: Manifest
    members: Mapping[str, bytes]

    def image(self, file: KernelFile) -> bytes:
        """PTX or cubin of a compiled kernel."""
        return self.members[KERNELS + file.name]


def read_partitioned(path: Path) -> PartitionedFile:
    """Read and check a plan.

    Raises:
        UdxError: the file is missing, damaged or no plan of this format, holds other than its index says, or its
            inputs and outputs are not those of its manifest.
    """
    members = read_bundle(path)
    if INDEX not in members:
        raise UdxError(f"{path} is a zip file without {INDEX}, so no plan; give a file that udx build wrote")
    plan = _parse(members[INDEX], path)
    odd = sorted({INDEX, *_files_of(plan)} ^ set(members))
    if odd:
        said = "holds an unexpected" if odd[0] in members else "lacks"
        raise UdxError(f"{path} {said} {odd[0]}; copy it again or build it again")
    for name, sha256 in _files_of(plan).items():
        if hashlib.sha256(members[name]).hexdigest() != sha256:
            raise UdxError(f"{path} holds another {name} than its {INDEX} tells of; build it again")
    manifest = Manifest.from_fields(plan.manifest, str(path))
    require_structure(plan.structure, manifest, path)
    for what, names, expected in (
        ("inputs", plan.inputs, expected_inputs(manifest)),
        ("outputs", plan.outputs, expected_outputs(manifest)),
    ):
        found = tuple(plan.by_name[name].spec for name in names)
        if found != expected:
            listed = [", ".join(map(str, specs)) for specs in (found, expected)]
            raise UdxError(f"{path} has {what} {listed[0]} where its manifest asks for {listed[1]}; build it again")
    return PartitionedFile(path, plan, manifest, members)


def _files_of(plan: PartitionedPlan) -> dict[str, str]:
    """Members that a plan of this index has besides it, and their SHA-256."""
    kernels = plan.kernels.kernels if plan.kernels else ()
    images = {KERNELS + file.name: file.sha256 for kernel in kernels for file in (kernel.ptx, kernel.cubin)}
    return {step.file: step.sha256 for step in plan.segments} | images


def require_runnable(file: PartitionedFile, version: str, device: CudaDevice) -> None:
    """Refuse a plan of TensorRT-RTX that was built by another version, or for other GPUs than is here.

    Raises:
        UdxError: it was.
    """
    plan = file.plan
    if plan.backend != "tensorrt-rtx":
        raise UdxError(f"{file.path} is a plan for the CPU; for GPUs build one with udx build --backend tensorrt-rtx")
    if plan.backend_version != version:
        raise UdxError(
            f"{file.path} was built by TensorRT-RTX {plan.backend_version}, and TensorRT-RTX {version} is here; build "
            "it again"
        )
    portable = plan.capabilities == PORTABLE and device.arch > min(PORTABLE)
    if device.arch not in plan.capabilities and not portable:
        known = ", ".join(f"{arch // 10}.{arch % 10}" for arch in plan.capabilities)
        raise UdxError(
            f"{file.path} was built for GPUs of compute capability {known}, and {device.name} ({device.capability}) is "
            "here; build it without --arch, or with --backend tensorrt"
        )


def _parse(content: bytes, path: Path) -> PartitionedPlan:
    try:
        value = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise UdxError(f"{path} holds a damaged {INDEX} ({error}); copy it again or build it again") from error
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        raise UdxError(f"{path} is a plan of format {found!r}, this udx reads {FORMAT!r}; build it again")
    return from_plain(PartitionedPlan, value, f"{INDEX} of {path}")
