"""A file is described as it is, and only if it is what it says."""

import dataclasses
import json
import subprocess
import sys

import onnx
import pytest

from tests.build.detectors import voxelizing_detector, write_detector
from tests.doctor.test_verdicts import NO_DRIVER, everything, machine
from udx.check.description import describe
from udx.doctor.verdicts import diagnose
from udx.errors import UdxError
from udx.manifest import METADATA_KEY, Manifest
from udx.runtime.identity import identify
from udx.tensors import TensorSpec

DIAGNOSIS = diagnose(machine(), everything(driver=NO_DRIVER))


def here():
    return DIAGNOSIS


def test_everything_is_told(tmp_path):
    path = write_detector(tmp_path / "lidar.onnx")
    found = describe(path, here)
    assert found.identity == identify(path)
    assert [spec.name for spec in (*found.inputs, *found.outputs)] == [
        "points", "num_points", "boxes", "scores", "labels",
    ]  # fmt: skip
    cells, sums = found.nodes
    assert (cells.name, cells.operator, sums.operator) == ("cells", "UdxVoxelCells", "UdxVoxelSums")
    assert cells.inputs == (
        TensorSpec("points_batch", (1, 500, 5), "float32"),
        TensorSpec("count_batch", (1, 1), "int32"),
    )
    assert cells.outputs[0] == TensorSpec("cell", (500,), "int32")
    assert [item.backend for item in found.backends] == list(DIAGNOSIS.backends)
    assert found.disagreements == ()


def test_json_is_plain_and_whole(tmp_path):
    path = write_detector(tmp_path / "lidar.onnx")
    told = json.loads(json.dumps(describe(path, here).to_json(), allow_nan=False))
    assert told["schema"] == "udx-check/1"
    assert told["structure"]["sha256"] == told["structure"]["manifest_sha256"]
    assert told["outputs"][0] == {"name": "boxes", "shape": [7, 9], "dtype": "float32"}
    by_name = {backend["name"]: backend for backend in told["backends"]}
    assert by_name["tensorrt"]["reading"]["plugins"] == {"UdxVoxelCells": 1, "UdxVoxelSums": 1}
    assert by_name["tensorrt-rtx"]["kind"] == "parts"
    assert by_name["tensorrt-rtx"]["run"]["verdict"] == "no"
    assert told["manifest"]["precision"]["precision"] == "fp32"


def test_figures_of_the_manifest_that_are_counted_otherwise_are_told(tmp_path):
    model = voxelizing_detector()
    (entry,) = model.metadata_props
    manifest = Manifest.from_json(entry.value, "it")
    facts = dataclasses.replace(manifest.graph, macs=manifest.graph.macs + 5)
    onnx.helper.set_model_props(model, {METADATA_KEY: dataclasses.replace(manifest, graph=facts).to_json()})
    onnx.save(model, tmp_path / "other.onnx")
    (said,) = describe(tmp_path / "other.onnx", here).disagreements
    assert said == f"macs: the manifest says {facts.macs}, and it is {facts.macs - 5}"


def test_a_file_that_cannot_be_read_is_refused_before_the_machine_is_looked_at(tmp_path):
    def never():
        raise AssertionError

    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(UdxError, match="damaged or not an ONNX file"):
        describe(tmp_path / "noise.onnx", never)


def test_a_plan_is_sent_to_bench(tmp_path, monkeypatch):
    from udx.check import description

    monkeypatch.setattr(description, "read_engine", lambda path: object())
    with pytest.raises(UdxError, match=r"is a plan, and udx check reads ONNX files: .* udx bench --engine"):
        describe(tmp_path / "student.plan", here)


def test_no_torch_is_imported(tmp_path):
    path = write_detector(tmp_path / "lidar.onnx")
    code = (
        "import sys; from pathlib import Path; from udx.check.description import describe; import udx.check.show; "
        "from udx.doctor.diagnosis import Diagnosis; "
        "from types import SimpleNamespace; "
        f"describe(Path({str(path)!r}), lambda: SimpleNamespace(backends=())); "
        "heavy = {'torch', 'onnxruntime', 'nuscenes', 'triton'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
