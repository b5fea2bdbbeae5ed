"""``udx build`` from its options to what it says: which backend, and every mistake in one sentence."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from tests.build.detectors import write_detector
from tests.runtime.conftest import manifest_of
from udx import cli
from udx.build import job
from udx.build.job import Request, default_plan, target_of
from udx.errors import UdxError
from udx.runtime.onnx_file import sealed
from udx.runtime.partitioned import read_partitioned


def request(**options) -> Request:
    return Request(file=Path("student.onnx"), out=Path("student.plan"), **options)


@pytest.mark.parametrize(
    ("options", "installed", "gpu", "target"),
    [
        ({"backend": "tensorrt"}, (), False, "tensorrt"),
        ({"backend": "tensorrt-rtx"}, (), False, "tensorrt-rtx"),
        ({"segments": "onnxruntime"}, (), False, "onnxruntime"),
        ({"segments": "onnxruntime", "backend": "tensorrt-rtx"}, (), False, "onnxruntime"),
        ({}, ("tensorrt", "tensorrt_rtx_bindings"), True, "tensorrt"),
        ({}, ("tensorrt", "tensorrt_rtx_bindings"), False, "tensorrt-rtx"),
        ({}, ("tensorrt_rtx_bindings",), True, "tensorrt-rtx"),
    ],
)
def test_the_backend_follows_from_options_and_machine(monkeypatch, options, installed, gpu, target):
    monkeypatch.setattr(job.importlib.util, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(job, "_has_gpu", lambda: gpu)
    assert target_of(request(**options)) == target


def test_a_machine_with_nothing_installed_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(job.importlib.util, "find_spec", lambda name: "tensorrt" if name == "tensorrt" else None)
    monkeypatch.setattr(job, "_has_gpu", lambda: False)
    with pytest.raises(UdxError, match=r"install TensorRT-RTX \(pip install 'udx\[rtx\]'\)"):
        target_of(request())


def test_default_names_of_plans_do_not_collide():
    names = [
        default_plan(Path(f"folder/{stem}.onnx"), backend, segments)
        for stem in ("student", "student-lidar", "student.int8")
        for backend, segments in (("tensorrt", None), ("tensorrt-rtx", None), ("auto", "onnxruntime"))
    ]
    assert names[0] == Path("student.tensorrt.plan") and names[-1] == Path("student.int8.onnxruntime.plan")
    assert len(set(names)) == len(names)


def test_architectures_are_numbers():
    assert request(arch="86, 89,86").arches == (86, 89)
    assert request().arches == ()
    with pytest.raises(UdxError, match=r"--arch 8\.6: give compute capabilities without the dot"):
        request(arch="8.6").arches  # noqa: B018


def udx(capsys, monkeypatch, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["udx", "build", *map(str, arguments)])
    try:
        cli.run()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.fixture
def detector(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_detector(tmp_path / "student.onnx")


def test_a_plan_is_built_and_described(capsys, monkeypatch, detector):
    status, said = udx(capsys, monkeypatch, detector.name, "--segments", "onnxruntime", "--json", "build.json")
    assert status == 0, said
    assert "1 segment for onnxruntime" in said
    plan = read_partitioned(Path("student.onnxruntime.plan")).plan
    described = json.loads(Path("build.json").read_text())
    assert described["backend"] == "onnxruntime"
    assert described["precision"] == "fp32"
    assert described["structure_sha256"] == plan.structure.sha256
    assert described["memory"]["arena_bytes"] == plan.arena_bytes
    assert [step["name"] for step in described["steps"]] == ["cells", "sums", "segment-0"]
    assert described["steps"][1]["outputs"] == ["sums int32[65, 4]"]
    assert described["steps"][2]["bytes"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere.onnx", "--segments", "onnxruntime"), "cannot read engine nowhere.onnx"),
        (("nowhere.onnx", "--backend", "tensorrt"), "cannot read engine nowhere.onnx"),
        (("student.onnx", "--backend", "tensorrt", "--segments", "onnxruntime"), "one engine without segments"),
        (("student.onnx", "--backend", "tensorrt", "--arch", "86"), "takes no --arch"),
        (("student.onnx", "--segments", "onnxruntime", "--arch", "86"), "run on the CPU and take no --arch"),
        (("student.onnx", "--backend", "tensorrt-rtx", "--arch", "90"), "builds no plans for --arch 90, only for 80"),
        (("student.onnx", "--backend", "tensorrt-rtx", "--arch", "x"), "without the dot"),
        (("student.onnx", "--segments", "onnxruntime", "--precision", "fp16"), "computes in fp32, not in fp16"),
        (("student.onnx", "--backend", "tensorrt", "--precision", "int8"), "computes in fp32, not in int8"),
        (("student.onnx", "--segments", "torch"), "'torch' is not"),
        (("student.onnx", "--precision", "fp64"), "'fp64' is not one of"),
        (("student.onnx", "--segments", "onnxruntime", "--out", "student.onnx/plan"), "cannot write"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(capsys, monkeypatch, detector, options, said):
    before = sorted(Path().iterdir())
    status, output = udx(capsys, monkeypatch, *options)
    assert status == 2
    assert said in output
    assert "Traceback" not in output
    assert sorted(Path().iterdir()) == before


def test_a_failing_build_leaves_the_old_plan(capsys, monkeypatch, detector):
    Path("student.onnxruntime.plan").write_text("old")
    content = detector.read_bytes()
    detector.write_bytes(content[: len(content) // 2])
    status, output = udx(capsys, monkeypatch, "student.onnx", "--segments", "onnxruntime")
    assert status == 2
    assert "damaged" in output
    assert Path("student.onnxruntime.plan").read_text() == "old"


def test_a_node_of_another_udx_is_one_sentence(capsys, monkeypatch, detector):
    model = onnx.load(detector)
    assert (model.graph.node[2].op_type, model.functions[0].name) == ("UdxVoxelCells", "UdxVoxelCells")
    model.graph.node[2].op_type = model.functions[0].name = "UdxVoxelThings"
    sealed(model, manifest_of("lidar"))
    onnx.save(model, detector)
    status, output = udx(capsys, monkeypatch, "student.onnx", "--segments", "onnxruntime")
    assert status == 2
    assert "is a UdxVoxelThings, which this udx does not know" in output
    assert not Path("student.onnxruntime.plan").exists()
