"""Build a plan with TensorRT 10.15 or later, or 11: one engine, with the operators' kernels in it as plugins.

The network is strongly typed: precision is what the ONNX file says, tensor by tensor. Every node of domain ``udx``
must become a plugin, or there is no plan (``udx.build.plugins``). What TensorRT measures of its kernels is kept between
builds, and so are plans: a second build of the same engine is a copy.

The flow is tested with a stand-in that answers as TensorRT does, and its parser, builder, progress and cancelling with
TensorRT-RTX, which has the same; what ran where is in ``docs/hardware-status.md``.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import udx
from udx.build.builder import EngineFacts, TensorrtSettings, engine_facts, serialized_engine
from udx.build.cache import EngineCache, deliver
from udx.build.content import content_hash
from udx.build.network import logger
from udx.build.plugins import PluginLayer, plugin_layers, plugin_nodes, require_operators, require_plugins
from udx.build.shapes import launches_of, with_sizes
from udx.build.watch import Display, Watch, cancellable
from udx.config import to_plain
from udx.errors import UdxError
from udx.files import sha256_of, write_json, write_with
from udx.launch import Launch
from udx.runtime.cuda_driver import CudaDevice, cuda_driver, first_device
from udx.runtime.graph import Structure, structure_of
from udx.runtime.onnx_file import OnnxFile, largest_inputs, read_onnx
from udx.runtime.plan_file import EngineKey, PlanRecord, record_path
from udx.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx

OLDEST: Final = (10, 15)
INSTALL: Final = "pip install 'tensorrt>=10.15'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtBuild:
    """A plan that was written, with its record; ``cached`` if it was built earlier."""

    path: Path
    record: PlanRecord
    cached: bool

    def to_json(self) -> dict[str, Any]:
        """What ``udx build --json`` writes."""
        return {"path": str(self.path), "cached": self.cached} | to_plain(self.record)

    def summary(self) -> str:
        """One line for the terminal."""
        record, key = self.record, self.record.key
        source = f"from the cache, built {record.built}" if self.cached else f"built in {record.build_seconds:.0f} s"
        return (
            f"{self.path}: {record.bytes / 2**20:.1f} MiB for {key.gpu}, TensorRT {key.tensorrt}, {record.layers} "
            f"layers with {len(record.plugins)} plugins of udx, {record.device_memory_bytes / 2**20:.0f} MiB while it "
            f"runs; {source}"
        )


def build_tensorrt(
    path: Path,
    out: Path,
    *,
    display: Display,
    settings: TensorrtSettings | None = None,
    cache: EngineCache | None = None,
) -> TensorrtBuild:
    """Build an exported detector's plan for this machine's first GPU; without ``cache`` nothing is kept or reused.

    Shapes are fixed: dimensions that the file leaves open are at their largest, for kernels have them as constants.
    Ctrl-C stops the builder at its next step; nothing is written then but what was measured, to the cache.

    Raises:
        UdxError: the file cannot be used, TensorRT or a GPU is missing, TensorRT refuses the graph or does not take
            our plugins, or ``out`` cannot be written.
    """
    file = read_onnx(path)
    require_operators(file.manifest, path)
    nodes = plugin_nodes(file.model, path)
    trt, device = _requirements(path)
    watch = Watch(display)
    job = _Job(
        file, with_sizes(file.model, file.manifest.dynamic), nodes, trt, device, settings or TensorrtSettings(), watch
    )
    key = job.key()
    if cache is not None and (found := cache.find(key)) is not None:
        record = replace(found.record, onnx_sha256=sha256_of(path), manifest=job.manifest)
        deliver(found.path, record, out)
        return TensorrtBuild(path=out, record=record, cached=True)
    timings = cache.timings(key.tensorrt, device) if cache is not None else None
    begun = time.monotonic()
    plan, facts = cancellable(lambda: job.run(timings), watch.cancel)
    record = job.record(key, plan, facts, time.monotonic() - begun)
    write_with(out, lambda partial: partial.write_bytes(plan))
    write_json(record_path(out), to_plain(record))
    if cache is not None:
        record = _kept(cache, out, record)
    return TensorrtBuild(path=out, record=record, cached=False)


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """One build: what of, with what, for which GPU; ``model`` is the file's, dimensions that it leaves open fixed."""

    file: OnnxFile
    model: "onnx.ModelProto"
    nodes: tuple[PluginLayer, ...]
    trt: ModuleType
    device: CudaDevice
    settings: TensorrtSettings
    watch: Watch

    @property
    def manifest(self) -> dict[str, Any]:
        """The detector's manifest; the plan leaves no dimension open."""
        fields: dict[str, Any] = json.loads(replace(self.file.manifest, dynamic={}).to_json())
        return fields

    @property
    def structure(self) -> Structure:
        """The structure of the file's graph."""
        return structure_of(self.file.model, self.file.manifest.dynamic)

    def key(self) -> EngineKey:
        """All that the plan depends on; compiles the kernels, which the plan will hold."""
        return EngineKey(
            structure_sha256=self.structure.sha256,
            content_sha256=content_hash(self.model, self.file.path.resolve().parent),
            kernels_sha256=_kernels_hash(launches_of(self.model), self.watch),
            tensorrt=self.trt.__version__,
            udx=udx.__version__,
            gpu=self.device.name,
            compute_capability=self.device.compute_capability,
            multiprocessors=self.device.multiprocessors,
            memory_bytes=self.device.memory_bytes,
            settings=asdict(self.settings),
        )

    def run(self, timings: Path | None) -> tuple[bytes, EngineFacts]:
        """Build the engine, and load it once to see that it can be."""
        path = self.file.path
        if self.nodes:
            from udx.ops.tensorrt_plugins import register_plugins

            register_plugins()
        plan = serialized_engine(
            self.trt,
            self.model.SerializeToString(),
            path,
            settings=self.settings,
            watch=self.watch,
            check=lambda network: require_plugins(self.nodes, plugin_layers(self.trt, network), path),
            timings=timings,
        )
        facts = engine_facts(self.trt, plan, path)
        _require_same(facts.inputs, largest_inputs(self.file.manifest), path)
        _require_same(facts.outputs, self.file.outputs, path)
        return plan, facts

    def record(self, key: EngineKey, plan: bytes, facts: EngineFacts, seconds: float) -> PlanRecord:
        """What is written beside the plan."""
        return PlanRecord(
            key=key,
            sha256=sha256(plan).hexdigest(),
            bytes=len(plan),
            onnx_sha256=sha256_of(self.file.path),
            structure=self.structure,
            inputs=facts.inputs,
            outputs=facts.outputs,
            layers=facts.layers,
            plugins={node.name: node.plugin.name for node in self.nodes},
            device_memory_bytes=facts.device_memory_bytes,
            built=datetime.now(UTC).isoformat(timespec="seconds"),
            build_seconds=round(seconds, 3),
            warnings=tuple(logger(self.trt)[1].warnings),
            manifest=self.manifest,
        )


def _requirements(path: Path) -> tuple[ModuleType, CudaDevice]:
    """TensorRT and the GPU, or one sentence about whatever of them is missing."""
    missing = []
    trt, device = None, None
    try:
        trt = _tensorrt()
    except UdxError as error:
        missing.append(str(error))
    try:
        device = first_device(cuda_driver())
    except UdxError as error:
        missing.append(str(error))
    if trt is None or device is None:
        raise UdxError(
            f"no TensorRT engine of {path} can be built here: {'; and '.join(missing)}; engines of TensorRT-RTX are "
            "built on any machine: --backend tensorrt-rtx"
        )
    return trt, device


def _tensorrt() -> ModuleType:
    try:
        import tensorrt
    except ImportError as error:
        raise UdxError(f"TensorRT is not installed, {INSTALL}") from error
    version = tuple(int(part) for part in re.findall(r"\d+", tensorrt.__version__)[:2])
    if version < OLDEST:
        raise UdxError(f"TensorRT {tensorrt.__version__} embeds no compiled plugins, {INSTALL}")
    module: ModuleType = tensorrt
    return module


def _kernels_hash(launches: Sequence[Launch], watch: Watch) -> str:
    """SHA-256 over the PTX of every kernel."""
    digest = sha256()
    if launches:
        from udx.ops.tensorrt_plugins import portable

        phase = "compiling kernels"
        watch.start(phase, None, len(launches))
        for launch in launches:
            digest.update(portable(launch).ptx)
            watch.step(phase)
        watch.finish(phase)
    return digest.hexdigest()


def _require_same(found: Sequence[TensorSpec], wanted: Sequence[TensorSpec], path: Path) -> None:
    """Engines may list their tensors in any order."""
    odd = sorted(set(map(str, found)) ^ set(map(str, wanted)))
    if odd:
        raise UdxError(f"TensorRT's engine of {path} and its manifest do not agree on {odd[0]}; export it again")


def _kept(cache: EngineCache, plan: Path, record: PlanRecord) -> PlanRecord:
    """Keep a plan; a folder that cannot be written is a warning, for the plan is there."""
    try:
        cache.store(plan, record)
    except UdxError as error:
        return replace(record, warnings=(*record.warnings, f"the plan was not kept in the cache: {error}"))
    return record
