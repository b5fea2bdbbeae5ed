"""On a GPU every backend that is found builds the detectors and runs them as ONNX Runtime on the CPU does.

Needs neither data nor training. What a backend lacks is a reason to skip, in the words of ``udx doctor``.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.build.exported import MODALITIES, exported_model, frame_of, write_fp16, write_sealed
from udx import cli
from udx.data.detections import Detections
from udx.doctor.diagnosis import Answer, Backend
from udx.doctor.examine import examine
from udx.export.parity import agreement
from udx.runtime.engine import open_engine
from udx.runtime.plan_file import read_plan

pytestmark = pytest.mark.gpu

SHARE = 0.95
"""Of the boxes: what is left may have fallen behind the last that is kept, for its score is nearly that one's."""
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}
"""Of the scores: other orders of summation, and in FP16 10 bits of mantissa."""
PLUGINS = {"cam": 1, "lidar": 5, "fusion": 6}


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Exports of every detector, in FP32 and FP16."""
    folder, made = tmp_path_factory.mktemp("engines"), {}
    for modality in MODALITIES:
        for precision, write in (("fp32", write_sealed), ("fp16", write_fp16)):
            model, manifest = exported_model("tiny", modality)
            made[modality, precision] = write(folder / f"{modality}-{precision}.onnx", model, manifest)
    return made


@pytest.fixture(scope="module")
def backends() -> dict[str, Backend]:
    """What works on this machine."""
    return {backend.name: backend for backend in examine(lambda done, total: None).backends}


def require(answer: Answer) -> None:
    """Skip what cannot work here; what was never tried is tried."""
    if answer.verdict == "no":
        pytest.skip(f"{answer.why}: {'; '.join(answer.mend)}")


def udx(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["udx", *map(str, arguments)])
    cli.run()


def expected_of(path: Path) -> tuple[dict[str, np.ndarray], Detections]:
    """A frame, and what ONNX Runtime on the CPU finds in it."""
    with open_engine(path) as runner:
        frame = frame_of(runner.manifest, seed=1)
        return frame, runner.detect(frame)


def require_agreement(expected: Detections, found: Detections, precision: str) -> None:
    agreed = agreement(expected, found)
    assert agreed.boxes > 10
    assert agreed.share >= SHARE, agreed
    assert agreed.score_max <= TOLERANCE[precision], agreed


def run_tensorrt(path: Path, frame: Mapping[str, np.ndarray]) -> Detections:
    """Run a plan as any program would, with torch for memory and stream."""
    import tensorrt as trt
    import torch

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    context = runtime.deserialize_cuda_engine(path.read_bytes()).create_execution_context()
    memory = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in frame.items()}
    memory |= {
        spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)).cuda()
        for spec in read_plan(path).record.outputs
    }
    for name, tensor in memory.items():
        assert context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    boxes, scores, labels = (memory[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
    return Detections(boxes_K9=boxes, scores_K=scores, labels_K=labels)


def test_doctor_knows_the_gpu(monkeypatch, tmp_path):
    import torch

    udx(monkeypatch, "doctor", "--json", tmp_path / "doctor.json")
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["gpu"]["verdict"] == "yes"
    assert found["gpus"][0]["name"] == torch.cuda.get_device_name(0)
    assert tuple(found["gpus"][0]["compute_capability"]) == torch.cuda.get_device_capability(0)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_on_the_gpu(engines, backends, modality, precision):
    require(backends["onnxruntime-cuda"].run)
    frame, expected = expected_of(engines[modality, precision])
    with open_engine(engines[modality, precision], "onnxruntime-cuda") as runner:
        require_agreement(expected, runner.detect(frame), precision)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt(engines, backends, modality, precision, monkeypatch, tmp_path):
    require(backends["tensorrt"].build)
    monkeypatch.setenv("UDX_CACHE", str(tmp_path / "cache"))
    plan = tmp_path / "student.plan"
    command = ("build", engines[modality, precision], "--backend", "tensorrt", "--no-tf32", "--out", plan)
    udx(monkeypatch, *command, "--json", tmp_path / "first.json")
    assert len(read_plan(plan).record.plugins) == PLUGINS[modality]
    frame, expected = expected_of(engines[modality, precision])
    first = run_tensorrt(plan, frame)
    require_agreement(expected, first, precision)
    np.testing.assert_array_equal(run_tensorrt(plan, frame).boxes_K9, first.boxes_K9)
    udx(monkeypatch, *command, "--json", tmp_path / "second.json")
    assert json.loads((tmp_path / "second.json").read_text())["cached"] is True
    require(backends["tensorrt"].run)
    with open_engine(plan) as runner:
        require_agreement(expected, runner.detect(frame), precision)


def test_trtexec_loads_a_plan(engines, backends, monkeypatch, tmp_path):
    require(backends["tensorrt"].build)
    trtexec = shutil.which("trtexec") or shutil.which("/usr/src/tensorrt/bin/trtexec")
    if trtexec is None:
        pytest.skip("trtexec is not on the path: it is part of TensorRT's archive and containers")
    plan = tmp_path / "student.plan"
    udx(monkeypatch, "build", engines["fusion", "fp32"], "--backend", "tensorrt", "--no-cache", "--out", plan)
    done = subprocess.run([trtexec, f"--loadEngine={plan}", "--iterations=1", "--duration=0"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx(engines, backends, modality, precision, monkeypatch, tmp_path):
    require(backends["tensorrt-rtx"].build)
    plan = tmp_path / "student.plan"
    udx(monkeypatch, "build", engines[modality, precision], "--backend", "tensorrt-rtx", "--out", plan)
    require(backends["tensorrt-rtx"].run)
    frame, expected = expected_of(engines[modality, precision])
    with open_engine(plan) as runner:
        require_agreement(expected, runner.detect(frame), precision)
        again = runner.detect(frame)
        np.testing.assert_array_equal(again.boxes_K9, runner.detect(frame).boxes_K9)


@pytest.mark.parametrize("modality", MODALITIES)
def test_partitioned_plans_run_on_this_machine_s_cpu(engines, modality, monkeypatch, tmp_path):
    """The same partition without a GPU's libraries: what differs on the GPU is then not the partition."""
    plan = tmp_path / "student.plan"
    udx(monkeypatch, "build", engines[modality, "fp32"], "--segments", "onnxruntime", "--out", plan)
    frame, expected = expected_of(engines[modality, "fp32"])
    with open_engine(plan) as runner:
        require_agreement(expected, runner.detect(frame), "fp32")
