"""TensorRT's plans: a plain serialized engine, which ``trtexec --loadEngine`` loads too, and a record of it beside it.

``student.plan`` has its record in ``student.plan.json``: what it was built from, with what and for which GPU, its
inputs and outputs, and the SHA-256 of the plan. A plan is code for one GPU; without its record udx does not load it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from udx.config import from_plain, to_plain
from udx.errors import UdxError
from udx.files import read_json, sha256_of
from udx.manifest import Manifest
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.graph import Structure, require_structure
from udx.runtime.onnx_file import expected_inputs, expected_outputs
from udx.tensors import TensorSpec

FORMAT: Final = "udx-tensorrt-plan/1"
MAX_PLAN_BYTES: Final = 16 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """All that a plan depends on: equal keys, equal plans.

    ``structure_sha256`` is the graph's without weights, ``content_sha256`` the whole graph's with them,
    ``kernels_sha256`` that of the compiled kernels in it; ``settings`` are the builder's.
    """

    structure_sha256: str
    content_sha256: str
    kernels_sha256: str
    tensorrt: str
    udx: str
    gpu: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the key."""
        return hashlib.sha256(json.dumps(to_plain(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What stands beside a plan.

    ``structure`` is that of the ONNX file. ``plugins`` maps each node of domain ``udx`` to its plugin.
    ``device_memory_bytes`` is what the engine needs while it runs, weights not counted; ``built`` is the time in UTC,
    ``manifest`` the detector's.

    Raises:
        ValueError: the key is that of another structure.
    """

    key: EngineKey
    sha256: str
    bytes: int
    onnx_sha256: str
    structure: Structure
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: int
    plugins: dict[str, str]
    device_memory_bytes: int
    built: str
    build_seconds: float
    warnings: tuple[str, ...]
    manifest: dict[str, Any]
    backend: str = "tensorrt"
    format: str = FORMAT

    def __post_init__(self) -> None:
        if self.structure.sha256 != self.key.structure_sha256:
            raise ValueError("its key is that of another graph")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan whose hash was checked, its record, and its detector's manifest."""

    path: Path
    record: PlanRecord
    manifest: Manifest


def record_path(plan: Path) -> Path:
    """Where the record of a plan is."""
    return plan.with_name(plan.name + ".json")


def has_record(path: Path) -> bool:
    """Whether a record stands beside a file, so that the file is a plan."""
    try:
        value = read_json(record_path(path))
    except UdxError:
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def read_plan(path: Path) -> PlanFile:
    """Read a plan's record and check the plan against it.

    Raises:
        UdxError: plan or record is missing or damaged, or they do not belong together.
    """
    beside = record_path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UdxError(f"cannot read plan {path}: {error.strerror}; check the path") from error
    if not beside.exists():
        raise UdxError(f"{path} has no record {beside.name} beside it; copy both, or build it again with udx build")
    value = read_json(beside)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UdxError(f"{beside} is no record of format {FORMAT!r}; build the plan again")
    record = from_plain(PlanRecord, value, str(beside))
    if size > MAX_PLAN_BYTES or size != record.bytes or sha256_of(path) != record.sha256:
        raise UdxError(f"{path} is not the plan that {beside.name} describes; copy both again or build it again")
    manifest = Manifest.from_fields(record.manifest, str(beside))
    require_structure(record.structure, manifest, beside)
    for what, given, expected in (
        ("inputs", record.inputs, expected_inputs(manifest)),
        ("outputs", record.outputs, expected_outputs(manifest)),
    ):
        if set(given) != set(expected):  # engines list their tensors in any order
            odd = min(str(spec) for spec in set(given) ^ set(expected))
            raise UdxError(f"{beside} and its manifest do not agree on the {what}, as {odd}; build the plan again")
    return PlanFile(path, record, manifest)


def require_runnable(plan: PlanFile, tensorrt: str, device: CudaDevice) -> None:
    """Refuse a plan that was built by another TensorRT or for another GPU than is here.

    Raises:
        UdxError: it was.
    """
    key = plan.record.key
    if key.tensorrt != tensorrt:
        raise UdxError(
            f"{plan.path} was built by TensorRT {key.tensorrt}, and TensorRT {tensorrt} is here; build it again, or "
            f"pip install tensorrt=={key.tensorrt}"
        )
    if (key.gpu, key.compute_capability) != (device.name, device.compute_capability):
        capability = "{}.{}".format(*key.compute_capability)
        raise UdxError(
            f"{plan.path} was built for {key.gpu} (compute capability {capability}), and {device.name} "
            f"({device.capability}) is here; build it on this machine"
        )
