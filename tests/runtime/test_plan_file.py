"""Plans of TensorRT: nothing is loaded that is not what its record says, or was made for another machine."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from udx.config import to_plain
from udx.errors import UdxError
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.plan_file import EngineKey, PlanRecord, read_plan, record_path, require_runnable
from udx.tensors import TensorSpec

PLAN = b"ftrt" + bytes(500)
GPU = CudaDevice(name="Some GPU", compute_capability=(8, 9), multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0")
KEY = EngineKey(
    structure_sha256="1" * 64,
    content_sha256="2" * 64,
    kernels_sha256="3" * 64,
    tensorrt="10.15.1.29",
    udx="0.1.0",
    gpu="Some GPU",
    compute_capability=(8, 9),
    multiprocessors=58,
    memory_bytes=16 << 30,
    settings={"level": 3, "tf32": True, "workspace_gib": None},
)


@pytest.fixture
def plan(tmp_path, make_manifest):
    """A plan and its record."""
    record = PlanRecord(
        key=KEY,
        sha256=sha256(PLAN).hexdigest(),
        bytes=len(PLAN),
        onnx_sha256="4" * 64,
        inputs=(TensorSpec("points", (500, 5), "float32"),),
        outputs=(TensorSpec("scores", (7,), "float32"),),
        layers=12,
        plugins={"pool": "UdxBevPool"},
        device_memory_bytes=1 << 20,
        built="2026-01-01T00:00:00+00:00",
        build_seconds=61.5,
        warnings=("slow",),
        manifest=json.loads(make_manifest("lidar").to_json()),
    )
    path = tmp_path / "student.plan"
    path.write_bytes(PLAN)
    record_path(path).write_text(json.dumps(to_plain(record)))
    return path, record


def test_a_record_comes_back_as_it_was_written(plan):
    path, record = plan
    found = read_plan(path)
    assert found.record == record
    assert found.manifest.spec.modality == "lidar"
    assert record_path(path).name == "student.plan.json"


def test_every_part_of_a_key_changes_its_digest():
    changes = {
        "structure_sha256": "0" * 64, "content_sha256": "0" * 64, "kernels_sha256": "0" * 64, "tensorrt": "11.0",
        "udx": "0.2", "gpu": "Other", "compute_capability": (9, 0), "multiprocessors": 1, "memory_bytes": 1,
        "settings": {"level": 4},
    }  # fmt: skip
    assert set(changes) == set(KEY.__slots__)
    digests = {replace(KEY, **{name: value}).digest for name, value in changes.items()}
    assert len(digests) == len(changes) and KEY.digest not in digests
    assert replace(KEY).digest == KEY.digest


def change_record(path, **changes):
    beside = record_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(PLAN[:-1]), "is not the plan that student.plan.json describes"),
        (lambda path: path.write_bytes(PLAN[:-1] + b"!"), "is not the plan that student.plan.json describes"),
        (lambda path: path.unlink(), "cannot read plan"),
        (lambda path: record_path(path).unlink(), "has no record student.plan.json beside it; copy both"),
        (lambda path: record_path(path).write_text("{"), "is not valid JSON"),
        (lambda path: record_path(path).write_text("[]"), "is no record of format"),
        (lambda path: change_record(path, format="udx-tensorrt-plan/9"), "is no record of format"),
        (lambda path: change_record(path, bytes="many"), "does not hold a valid PlanRecord"),
        (lambda path: change_record(path, extra=1), "does not hold a valid PlanRecord"),
        (lambda path: change_record(path, manifest={}), "damaged udx manifest"),
    ],
)
def test_what_does_not_belong_together_is_refused(plan, damage, said):
    damage(plan[0])
    with pytest.raises(UdxError, match=said) as refused:
        read_plan(plan[0])
    assert "\n" not in str(refused.value)


def test_a_plan_runs_where_it_was_built(plan):
    require_runnable(read_plan(plan[0]), "10.15.1.29", GPU)


def test_a_plan_of_another_version_or_gpu_is_refused(plan):
    found = read_plan(plan[0])
    with pytest.raises(UdxError, match=r"built by TensorRT 10\.15\.1\.29, and TensorRT 11\.1\.0 is here"):
        require_runnable(found, "11.1.0", GPU)
    with pytest.raises(UdxError, match=r"built for Some GPU .compute capability 8\.9., and Other GPU .9\.0. is here"):
        require_runnable(found, "10.15.1.29", replace(GPU, name="Other GPU", compute_capability=(9, 0)))
