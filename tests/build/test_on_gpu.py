"""On a GPU every backend that is found builds the detectors and runs them as ONNX Runtime on the CPU does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_run
from udx import cli
from udx.data.detections import Detections
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.doctor.examine import examine
from udx.export.onnx_export import export_run
from udx.export.parity import compare
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.plan_file import read_plan
from udx.train.loop import Job, train
from udx.train.run import Run

pytestmark = pytest.mark.gpu

MODALITIES = ("cam", "lidar", "fusion")
TOLERANCE = 1e-2
"""FP32 on both sides, but other orders of summation."""


@pytest.fixture(scope="module")
def engines(world_root, tmp_path_factory):
    """Exports of detectors that have learned a little: flat heatmaps have ties, and a tie may fall either way."""
    folder = tmp_path_factory.mktemp("engines")
    keyframes = load_keyframes(open_dataroot(world_root), "train", max_sweeps=1)
    made = {}
    for modality in MODALITIES:
        run = Run(folder / modality)
        train(Job(config=tiny_run(modality, epochs=25), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
        made[modality] = export_run(run, folder / f"{modality}.onnx").path
    return made


@pytest.fixture(scope="module")
def backends():
    """What works on this machine."""
    return {backend.name: backend for backend in examine(lambda done, total: None).backends}


def require(answer):
    """Skip what cannot work here, with the reason and the cure that ``udx doctor`` tells."""
    if answer.verdict == "no":
        pytest.skip(f"{answer.why}: {'; '.join(answer.mend)}")


def udx(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["udx", *map(str, arguments)])
    cli.run()


def frame_of(path):
    with open_engine(path) as runner:
        tensors = dict(generated_frame(runner.manifest, seed=1)[0]())
        return tensors, runner.detect(tensors)


def run_tensorrt(path: Path, tensors) -> Detections:
    """Run a plan as any program would, with torch for memory and stream."""
    import tensorrt as trt

    record = read_plan(path).record
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    memory = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in tensors.items()}
    memory |= {spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)).cuda() for spec in record.outputs}
    for name, tensor in memory.items():
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    boxes, scores, labels = (memory[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
    return Detections(boxes_K9=boxes, scores_K=scores, labels_K=labels)


def test_doctor_knows_the_gpu(monkeypatch, tmp_path):
    udx(monkeypatch, "doctor", "--json", tmp_path / "doctor.json")
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["gpu"]["verdict"] == "yes"
    assert found["gpus"][0]["name"] == torch.cuda.get_device_name(0)


@pytest.mark.parametrize("modality", MODALITIES)
def test_onnx_runtime_on_the_gpu(engines, backends, modality):
    require(backends["onnxruntime-cuda"].run)
    tensors, expected = frame_of(engines[modality])
    with open_engine(engines[modality], "onnxruntime-cuda") as runner:
        assert compare(expected, runner.detect(tensors)).largest < TOLERANCE


@pytest.mark.parametrize("modality", MODALITIES)
def test_tensorrt(engines, backends, modality, monkeypatch, tmp_path):
    require(backends["tensorrt"].build)
    monkeypatch.setenv("UDX_CACHE", str(tmp_path / "cache"))
    plan = tmp_path / "student.plan"
    command = ("build", engines[modality], "--backend", "tensorrt", "--no-tf32", "--out", plan)
    udx(monkeypatch, *command, "--json", tmp_path / "first.json")
    record = read_plan(plan).record
    assert len(record.plugins) == {"cam": 1, "lidar": 5, "fusion": 6}[modality]
    tensors, expected = frame_of(engines[modality])
    first = run_tensorrt(plan, tensors)
    assert compare(expected, first).largest < TOLERANCE
    again = run_tensorrt(plan, tensors)
    assert np.array_equal(first.boxes_K9, again.boxes_K9)
    udx(monkeypatch, *command, "--json", tmp_path / "second.json")
    assert json.loads((tmp_path / "second.json").read_text())["cached"] is True


def test_trtexec_loads_a_plan(engines, backends, monkeypatch, tmp_path):
    require(backends["tensorrt"].build)
    trtexec = shutil.which("trtexec") or shutil.which("/usr/src/tensorrt/bin/trtexec")
    if trtexec is None:
        pytest.skip("trtexec is not on the path: it is part of TensorRT's archive and containers")
    plan = tmp_path / "student.plan"
    udx(monkeypatch, "build", engines["fusion"], "--backend", "tensorrt", "--no-cache", "--out", plan)
    done = subprocess.run([trtexec, f"--loadEngine={plan}", "--iterations=1", "--duration=0"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


@pytest.mark.parametrize("modality", MODALITIES)
def test_tensorrt_rtx(engines, backends, modality, monkeypatch, tmp_path):
    require(backends["tensorrt-rtx"].build)
    plan = tmp_path / "student.plan"
    udx(monkeypatch, "build", engines[modality], "--backend", "tensorrt-rtx", "--out", plan)
    assert plan.stat().st_size > 1000
