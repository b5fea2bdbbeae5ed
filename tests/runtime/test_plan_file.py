"""Plans of TensorRT: nothing is loaded that is not what its record says, or was made for another machine."""

import json
from dataclasses import replace

import pytest

from tests.runtime.plan_records import GPU, KEY, record_of, write_plan
from udx.errors import UdxError
from udx.runtime.plan_file import read_plan, record_path, require_runnable

PLAN = b"ftrt" + bytes(500)


@pytest.fixture
def plan(tmp_path):
    """A plan and its record."""
    return write_plan(tmp_path / "student.plan", PLAN), record_of(PLAN)


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


def change_in(path, part, **changes):
    change_record(path, **{part: json.loads(record_path(path).read_text())[part] | changes})


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
        (lambda path: change_record(path, inputs=[]), "do not agree on the inputs, as num_points"),
        (lambda path: change_in(path, "structure", macs=1), "was built of another graph than the one"),
        (lambda path: change_in(path, "structure", listing=[]), "lists another graph than the one whose hash"),
        (lambda path: change_in(path, "structure", sha256="0" * 64), "its key is that of another graph"),
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
