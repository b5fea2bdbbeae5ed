"""Build partitioned plans: segments for TensorRT-RTX with compiled kernels, or for ONNX Runtime on the CPU."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import udx
from udx.build.bundle import write_bundle
from udx.build.memory_plan import place_tensors
from udx.build.partition import Kernel, Partition, Segment, partition
from udx.build.plugins import require_operators
from udx.build.precision import require_precision
from udx.build.rtx import build_segment, require_capabilities, tensorrt_rtx
from udx.build.watch import Display, Watch, cancellable
from udx.errors import UdxError
from udx.files import sha256_of
from udx.launch import KernelLibrary, Launch
from udx.runtime.graph import structure_of
from udx.runtime.numpy_kernels import require_kernels
from udx.runtime.onnx_file import OnnxFile, read_onnx, with_weights_inside
from udx.runtime.partitioned import INDEX, KERNELS, PORTABLE, Backend, KernelStep, PartitionedPlan, SegmentStep

ADVICE: Final = {
    "fp32": "TensorRT-RTX is made for 16-bit types, and FP32 is not its fast path: udx export --precision fp16",
    "fp8": "TensorRT-RTX documents FP8 for matrix multiplications alone, and most layers here are convolutions: prefer "
    "FP16 (udx export --precision fp16) or INT8 (udx calibrate)",
}
"""What a user should know of a plan of TensorRT-RTX in a precision of its file, by NVIDIA's documentation."""

SUFFIXES: Final[Mapping[Backend, str]] = {"onnxruntime": "onnx", "tensorrt-rtx": "engine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionedBuild:
    """A plan that was written."""

    path: Path
    plan: PartitionedPlan
    engine_bytes: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """What ``udx build --json`` writes."""
        plan = self.plan
        return {
            "path": str(self.path),
            "sha256": sha256_of(self.path),
            "bytes": self.path.stat().st_size,
            "backend": plan.backend,
            "backend_version": plan.backend_version,
            "precision": plan.precision,
            "advice": self.advice,
            "onnx_sha256": plan.source_sha256,
            "structure_sha256": plan.structure.sha256,
            "capabilities": list(plan.capabilities),
            "memory": {"arena_bytes": plan.arena_bytes, "without_reuse_bytes": plan.unshared_bytes},
            "steps": [self._step(step) for step in plan.steps],
        }

    def _step(self, step: Any) -> dict[str, Any]:
        tensors = self.plan.by_name
        described: dict[str, Any] = {"name": step.name, "kind": step.kind}
        if isinstance(step, SegmentStep):
            described |= {"file": step.file, "bytes": self.engine_bytes[step.file]}
        else:
            described |= {"kernel": step.launch.kernel}
        for what, names in (("inputs", step.inputs), ("outputs", step.outputs)):
            described[what] = [str(tensors[name].spec) for name in names]
        return described

    @property
    def advice(self) -> str | None:
        """One sentence on the precision of the file, if the backend is made for others."""
        return ADVICE.get(self.plan.precision) if self.plan.backend == "tensorrt-rtx" else None

    def summary(self) -> str:
        """One line for the terminal, and the advice if there is any."""
        plan = self.plan
        where = f" for compute capability {', '.join(map(_dotted, plan.capabilities))}" if plan.capabilities else ""
        return (
            f"{self.path}: {self.path.stat().st_size / 2**20:.1f} MiB, {plan.precision}, "
            f"{_counted(len(plan.segments), 'segment')} for {plan.backend} {plan.backend_version} and "
            f"{_counted(len(plan.kernel_steps), 'kernel')}{where}; "
            f"{plan.arena_bytes / 2**20:.1f} MiB of memory for their tensors"
            + (f"\n{self.advice}" if self.advice else "")
        )


def build_partitioned(
    path: Path,
    out: Path,
    *,
    backend: Backend,
    display: Display,
    precision: str | None = None,
    arches: Sequence[int] = (),
) -> PartitionedBuild:
    """Cut an exported detector at its udx nodes, build every part, and write all of it as one zip plan.

    Shapes are fixed: dimensions that the file leaves open are at their largest.
    ``arches`` are compute capabilities (× 10) to build for; without them engines are portable. Nothing is written
    unless everything is built; Ctrl-C stops the builder at its next step.

    Raises:
        UdxError: the file cannot be used or computes in another precision, a library is missing, a segment or kernel
            cannot be built, or ``out`` cannot be written.
    """
    if backend == "onnxruntime" and arches:
        raise UdxError("plans of ONNX Runtime run on the CPU and take no --arch; leave it out")
    if backend == "onnxruntime":
        version = metadata.version("onnxruntime")
    else:
        library = tensorrt_rtx()
        require_capabilities(library, arches)
        version = library.__version__
    file = read_onnx(path)
    found = require_precision(file.model, path, precision)
    if backend != "onnxruntime":
        require_operators(file.manifest, path)
    cut = partition(with_weights_inside(file), file.manifest.dynamic)
    if backend == "onnxruntime":
        require_kernels([kernel.launch for kernel in cut.kernels], str(path))
    watch = Watch(display)
    capabilities = () if backend == "onnxruntime" else tuple(arches) or PORTABLE
    kernels, members = _kernels(cut, capabilities, watch)
    engines = cancellable(lambda: _engines(file, cut, backend, arches, watch), watch.cancel)
    plan = _plan(
        file,
        cut,
        engines,
        backend=backend,
        backend_version=version,
        precision=found,
        capabilities=capabilities,
        kernels=kernels,
    )
    files = {step.file: engines[step.name] for step in plan.segments}
    write_bundle(out, {INDEX: plan.to_json().encode()} | members | files)
    return PartitionedBuild(path=out, plan=plan, engine_bytes={name: len(engine) for name, engine in files.items()})


def _plan(
    file: OnnxFile, cut: Partition, engines: Mapping[str, bytes], *, backend: Backend, **built: Any
) -> PartitionedPlan:
    steps = tuple(_step(step, engines, backend) for step in cut.steps)
    try:
        tensors, arena_bytes = place_tensors(cut.tensors, cut.views, cut.inputs, cut.outputs, steps)
        return PartitionedPlan(
            backend=backend,
            udx_version=udx.__version__,
            source_sha256=sha256_of(file.path),
            manifest=json.loads(replace(file.manifest, dynamic={}).to_json()),
            structure=structure_of(file.model, file.manifest.dynamic),
            inputs=cut.inputs,
            outputs=cut.outputs,
            arena_bytes=arena_bytes,
            tensors=tensors,
            steps=steps,
            **built,
        )
    except ValueError as error:
        raise UdxError(f"{file.path} cannot be cut at its udx nodes: {error}; export it again") from error


def _step(step: Segment | Kernel, engines: Mapping[str, bytes], backend: Backend) -> SegmentStep | KernelStep:
    if isinstance(step, Kernel):
        return KernelStep(name=step.name, inputs=step.inputs, outputs=step.outputs, launch=step.launch)
    return SegmentStep(
        name=step.name,
        inputs=step.inputs,
        outputs=step.outputs,
        file=f"segments/{step.name}.{SUFFIXES[backend]}",
        sha256=sha256(engines[step.name]).hexdigest(),
    )


def _kernels(
    cut: Partition, capabilities: Sequence[int], watch: Watch
) -> tuple[KernelLibrary | None, dict[str, bytes]]:
    """Every kernel for every GPU, and the members of the zip that hold them; none for the CPU."""
    launches = _distinct([kernel.launch for kernel in cut.kernels])
    jobs = [(launch, arch) for launch in launches for arch in capabilities]
    if not jobs:
        return None, {}
    from udx.ops.aot import compiled

    phase = "compiling kernels"
    watch.start(phase, None, len(jobs))
    images = []
    for image in compiled(jobs):
        images.append(image)
        watch.step(phase)
    watch.finish(phase)
    members: dict[str, bytes] = {}
    for image in images:
        members |= {KERNELS + image.kernel.ptx.name: image.ptx, KERNELS + image.kernel.cubin.name: image.cubin}
    kernels = tuple(image.kernel for image in images)
    return KernelLibrary(triton=metadata.version("triton"), kernels=kernels), members


def _distinct(launches: Sequence[Launch]) -> list[Launch]:
    """Launches without repetition; their constants are dicts, so they cannot be hashed."""
    found: list[Launch] = []
    for launch in launches:
        if launch not in found:
            found.append(launch)
    return found


def _engines(file: OnnxFile, cut: Partition, backend: Backend, arches: Sequence[int], watch: Watch) -> dict[str, bytes]:
    """The engine of every segment, by the segment's name."""
    engines = {}
    for segment in cut.segments:
        if backend == "onnxruntime":
            engines[segment.name] = segment.model.SerializeToString(deterministic=True)
            continue
        inputs, outputs = ([cut.tensors[name] for name in names] for names in (segment.inputs, segment.outputs))
        engines[segment.name] = build_segment(segment, inputs, outputs, source=file.path, arches=arches, watch=watch)
    return engines


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
