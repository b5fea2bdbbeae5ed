"""Records of TensorRT's plans, as a build writes them."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.runtime.conftest import detector_model, manifest_of
from udx.config import to_plain
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.graph import structure_of
from udx.runtime.onnx_file import expected_inputs, expected_outputs, sealed
from udx.runtime.plan_file import EngineKey, PlanRecord, record_path

GPU = CudaDevice(name="Some GPU", compute_capability=(8, 9), multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0")
MODEL = detector_model(manifest_of("lidar"))
MANIFEST = sealed(MODEL, manifest_of("lidar"))
STRUCTURE = structure_of(MODEL)
KEY = EngineKey(
    structure_sha256=STRUCTURE.sha256,
    content_sha256="2" * 64,
    kernels_sha256="3" * 64,
    tensorrt="10.15.1.29",
    udx="0.1.0",
    gpu=GPU.name,
    compute_capability=GPU.compute_capability,
    multiprocessors=GPU.multiprocessors,
    memory_bytes=GPU.memory_bytes,
    settings={"level": 3, "tf32": True, "workspace_gib": None},
)


def record_of(plan: bytes, key: EngineKey = KEY) -> PlanRecord:
    """A record of a plan with this content."""
    return PlanRecord(
        key=key,
        sha256=sha256(plan).hexdigest(),
        bytes=len(plan),
        onnx_sha256="4" * 64,
        structure=STRUCTURE,
        inputs=expected_inputs(MANIFEST),
        outputs=expected_outputs(MANIFEST),
        layers=12,
        plugins={"pool": "UdxBevPool"},
        device_memory_bytes=1 << 20,
        built="2026-01-01T00:00:00+00:00",
        build_seconds=61.5,
        warnings=("slow",),
        manifest=json.loads(MANIFEST.to_json()),
    )


def write_plan(path: Path, plan: bytes, changes: Mapping[str, Any] | None = None) -> Path:
    """A plan and its record, with some of the record's fields changed."""
    path.write_bytes(plan)
    record_path(path).write_text(json.dumps(to_plain(record_of(plan)) | dict(changes or {})))
    return path
