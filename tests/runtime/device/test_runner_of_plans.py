"""What a plan needs on a GPU, and what is said where it is not there."""

import dataclasses
import hashlib
import json
import os
import sys

import numpy as np
import onnx
import pytest

from tests.build.detectors import write_detector
from tests.build.plans import rewrite
from tests.runtime.conftest import detector_model, manifest_of
from tests.runtime.device.gpu_stand_in import Gpu, install
from tests.runtime.device.plans import VERSION, compiled, rtx_plan
from tests.runtime.plan_records import record_of
from udx.config import to_plain
from udx.errors import UdxError
from udx.launch import KernelLibrary
from udx.runtime import open_engine
from udx.runtime.device.kernels import candidates
from udx.runtime.frames import generated_frame
from udx.runtime.layers import layers_of
from udx.runtime.partitioned import read_partitioned
from udx.runtime.plan_file import record_path


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return rtx_plan(write_detector(folder / "student.onnx"), folder / "student.plan")


@pytest.fixture
def gpu(monkeypatch, plan) -> Gpu:
    found = Gpu(plan=read_partitioned(plan).plan)
    install(monkeypatch, found)
    return found


def frame_of(manifest):
    return generated_frame(manifest, seed=0)[0]()


def refused(plan, said, *, backend="auto"):
    runner = open_engine(plan, backend)
    with pytest.raises(UdxError, match=said):
        runner.activate()
    runner.deactivate()


def test_opening_touches_no_gpu_and_activating_says_what_is_missing(plan, monkeypatch):
    runner = open_engine(plan)
    assert runner.manifest.spec.modality == "lidar"
    assert runner.settings == {"backend": "tensorrt-rtx", "version": VERSION}
    with pytest.raises(UdxError, match=r"no NVIDIA driver is installed|cuda-bindings|shows no GPU|TensorRT-RTX"):
        runner.activate()
    with pytest.raises(UdxError, match=r"runs on what it was built for \(tensorrt-rtx\) and not on onnxruntime-cuda"):
        open_engine(plan, "onnxruntime-cuda")


def test_what_the_library_made_of_a_plan_is_told(gpu, plan):
    with open_engine(plan) as runner:
        layers = layers_of(runner)
    assert layers is not None and layers.source == "tensorrt-rtx's inspector"
    kernels = [line for line in layers.listing if line.startswith("kernel grid")]
    assert len(kernels) == runner.settings["kernels"] > 0
    assert sum("Tactic: 0x" in line for line in layers.listing) == len(layers.listing) - len(kernels) > 0
    assert all(line == " ".join(line.split()) for line in layers.listing)


def test_a_tensorrt_that_is_missing(gpu, plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    refused(plan, "tensorrt-rtx is not installed")
    assert gpu.leaks == {}


def test_memory_that_is_not_there(gpu, plan):
    gpu.free_bytes = 1000
    refused(
        plan,
        r"cuMemAlloc failed: out of memory: 0 MiB for tensors, and 0 MiB free; free memory on the GPU \(nvidia-smi",
    )
    arena = gpu.plan.arena_bytes
    gpu.free_bytes = arena + 100
    refused(plan, "MiB for the engines")
    assert gpu.leaks == {}
    assert gpu.free_bytes == arena + 100


@pytest.mark.parametrize(
    ("call", "failure", "said"),
    [
        ("cuDevicePrimaryCtxRetain", "device(s) is/are busy or unavailable", "another process holds the GPU"),
        ("cuInit", "no CUDA-capable device is detected", "unset CUDA_VISIBLE_DEVICES"),
        ("cuMemHostAlloc", "out of memory", "of page-locked memory .* limit of locked memory"),
        ("execute_async_v3", "unspecified launch failure", "nothing runs on the GPU in this process"),
        ("cuLaunchKernel", "an illegal memory access was encountered", "nothing runs on the GPU in this process"),
        ("deserialize_cuda_engine", "out of memory", "free memory on the GPU"),
        ("deserialize_cuda_engine", "the engine is of another world", "build the plan again on this machine"),
        ("cuStreamSynchronize", "uncorrectable ECC error encountered", "look for Xid"),
    ],
)  # fmt: skip
def test_every_failure_is_one_sentence_with_its_call_and_a_remedy(gpu, plan, call, failure, said):
    with open_engine(plan):
        number = 1 + [name for name, *_ in gpu.calls].index(call)
    gpu.calls.clear()
    gpu.fails = {number: failure}
    runner = open_engine(plan)
    with pytest.raises(UdxError, match=said) as caught:
        runner.activate()
    assert failure in str(caught.value)
    assert "\n" not in str(caught.value)
    assert gpu.leaks == {}


def test_what_is_no_failure_of_the_driver_keeps_its_traceback(gpu, plan, monkeypatch):
    monkeypatch.setattr("udx.runtime.device.frame.load_kernel", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_engine(plan).activate()
    assert gpu.leaks == {}


def test_versions_and_gpus_that_a_plan_was_not_built_for(monkeypatch, plan, tmp_path):
    found = read_partitioned(plan).plan
    install(monkeypatch, Gpu(plan=found, versions={"tensorrt_rtx_bindings": "1.8.0.1"}))
    refused(plan, r"was built by TensorRT-RTX 1\.7\.1\.116, and TensorRT-RTX 1\.8\.0\.1 is here")
    install(monkeypatch, Gpu(plan=found, capability=(7, 5)))
    refused(plan, r"was built for GPUs of compute capability 8\.0, .*\(7\.5\) is here")


def test_a_newer_gpu_takes_the_ptx_and_an_older_of_the_family_the_cubin(monkeypatch, plan):
    found = read_partitioned(plan).plan
    for capability, arch in (((9, 0), 89), ((8, 0), 80), ((8, 7), 86), ((12, 0), 120)):
        gpu = Gpu(plan=found, capability=capability, supported=(80, 87, 90, 120))
        install(monkeypatch, gpu)
        with open_engine(plan) as runner:
            assert len(runner.detect(frame_of(runner.manifest))) == runner.manifest.max_boxes
        launched = {facts[1] for facts in gpu.done if facts[0] == "launch"}
        assert launched == {f"{step.launch.kernel}_{arch}" for step in found.kernel_steps}


def test_a_gpu_that_the_library_does_not_support_is_refused_before_anything_is_loaded(monkeypatch, plan):
    gpu = Gpu(plan=read_partitioned(plan).plan, capability=(9, 0))
    install(monkeypatch, gpu)
    refused(
        plan,
        r"^TensorRT-RTX 1\.7\.1\.116 does not support compute capability 9\.0 \(Some GPU\), only 7\.5, 8\.0, 8\.6, "
        r"8\.9, 12\.0, 12\.1; use --backend tensorrt or --backend onnxruntime-cuda on this GPU$",
    )
    assert gpu.calls == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (2, r"it does not support this GPU's .*; build the plan again without --arch, or use --backend tensorrt or"),
        (1, "is of another version of the library; build the plan again with the TensorRT-RTX that is here"),
        (4, "the NVIDIA driver is too old for it; update the NVIDIA driver"),
        (8, "the CUDA runtime is too old for it; update the NVIDIA driver, and pip install"),
        (16, "the GPU has too little memory; free memory on the GPU"),
        (32, "the engine is damaged; copy the plan again, or build it again"),
        (64, "does not work; see udx doctor"),
        (2 | 32, "or the engine is for others, and the engine is damaged; build the plan again without --arch"),
        (0, "it gives no reason; see udx doctor"),
    ],
)
def test_what_the_library_says_of_an_engine_is_told_with_the_right_advice(gpu, plan, found, said):
    gpu.validity = "INVALID", found
    refused(plan, rf"^segment-\d of .* does not run here, says TensorRT-RTX 1\.7\.1\.116: .*{said}")
    assert "deserialize_cuda_engine" not in [call[0] for call in gpu.calls]
    assert gpu.leaks == {}


def test_an_engine_that_would_be_faster_if_it_were_built_here_runs_and_is_told(gpu, plan):
    gpu.validity = "SUBOPTIMAL", 0
    with open_engine(plan) as runner:
        assert runner.settings["engines"] == "suboptimal"


def test_what_tensorrt_rtx_compiled_is_kept_for_the_next_start(monkeypatch, gpu, plan, cache):
    def started(gpu: Gpu) -> tuple[str, int]:
        before = len(gpu.compiled)
        with open_engine(plan) as runner:
            assert len(runner.detect(frame_of(runner.manifest))) == runner.manifest.max_boxes
            return runner.settings["runtime_cache"], len(gpu.compiled) - before

    segments = len(gpu.plan.segments)
    assert started(gpu) == ("compiled", segments)
    assert started(gpu) == started(gpu) == ("found", 0)
    files = sorted(cache.rglob("*.cache"))
    assert [path.parent.name for path in files] == ["tensorrt-rtx-1.7.1.116-Some-GPU-89"] * segments
    for damage in (lambda whole: whole[:-3], lambda whole: whole[:40], lambda whole: b"", lambda whole: whole + b"x"):
        whole = files[0].read_bytes()
        files[0].write_bytes(damage(whole))
        assert started(gpu) == ("compiled", 1)
        assert files[0].read_bytes() == whole, "and is mended"
    other = Gpu(plan=gpu.plan, capability=(8, 6))
    install(monkeypatch, other)
    for path in files:  # of another GPU, under this one's name: it is the library that refuses
        there = path.parent.with_name("tensorrt-rtx-1.7.1.116-Some-GPU-86") / path.name
        there.parent.mkdir(exist_ok=True)
        there.write_bytes(path.read_bytes())
    assert started(other) == ("compiled", segments)


def test_a_cache_that_cannot_be_written_stops_nothing(gpu, plan, cache):
    cache.mkdir()
    (cache / "runtime").write_text("no folder")
    with open_engine(plan) as runner:
        assert runner.settings["runtime_cache"].startswith("not kept: cannot write ")
        assert runner.settings["cuda_graph"] == "yes"
    assert gpu.leaks == {}


def test_caches_make_room(gpu, plan, cache, monkeypatch):
    old = cache / "runtime" / "tensorrt-rtx-1.6.0-Some-GPU-89" / "0.cache"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(1000))
    os.utime(old, (1, 1))
    monkeypatch.setattr("udx.runtime.device.runtime_cache.MAX_BYTES", 1000)
    with open_engine(plan) as runner:
        assert runner.settings["runtime_cache"] == "compiled"
    assert not old.exists()
    assert len(list(cache.rglob("*.cache"))) == len(gpu.plan.segments)


def test_an_engine_that_cannot_be_captured_is_asked_before_and_enqueued_step_by_step(gpu, plan):
    with open_engine(plan) as runner:
        frame = frame_of(runner.manifest)
        expected = runner.infer(frame)["scores"]
    gpu.capturable = False
    begun = len(gpu.calls)
    with open_engine(plan) as runner:
        assert runner.settings["cuda_graph"] == "no: TensorRT-RTX says that segment-0 cannot be captured"
        np.testing.assert_array_equal(runner.infer(frame)["scores"], expected)
    assert "cuStreamBeginCapture" not in [call[0] for call in gpu.calls[begun:]]
    assert gpu.leaks == {}


def test_targets_with_a_letter_run_on_their_own_architecture_alone(plan):
    launch = read_partitioned(plan).plan.kernel_steps[0].launch
    made = [compiled(launch, 80)[0], compiled(launch, 90, "sm_90a")[0]]
    library = KernelLibrary(triton="3.6.0", kernels=tuple(made))

    def files(arch: int) -> list[str]:
        return [f"{kernel.arch} {file.name.rpartition('.')[2]}" for kernel, file in candidates(library, launch, arch)]

    assert files(90) == ["90 cubin", "90 ptx", "80 ptx"]
    assert files(86) == ["80 cubin", "80 ptx"]
    assert files(120) == ["80 ptx"]
    assert files(75) == []


def test_no_file_of_a_kernel_runs_here(monkeypatch, plan, gpu):
    gpu.refuses = {"cuModuleLoadData"}
    refused(
        plan, r"does not run on a GPU of compute capability 8\.9 \(sm_89/voxel_cells_kernel.*update the NVIDIA driver"
    )
    assert gpu.leaks == {}


def test_more_shared_memory_than_usual_is_asked_for(monkeypatch, tmp_path):
    plan = rtx_plan(write_detector(tmp_path / "student.onnx"), tmp_path / "student.plan", shared=100_000)
    gpu = Gpu(plan=read_partitioned(plan).plan)
    install(monkeypatch, gpu)
    with open_engine(plan) as runner:
        runner.infer(frame_of(runner.manifest))
    asked = [call[1:] for call in gpu.calls if call[0] == "cuFuncSetAttribute"]
    assert asked == [(100_000,)] * 2


def test_an_engine_with_other_tensors_than_the_plan_s(gpu, plan):
    member = "segments/segment-0.onnx"
    model = onnx.load_from_string(read_partitioned(plan).members[member])
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value += 1
    changed = rewrite(plan, lambda index: None, {member: model.SerializeToString()})
    gpu.plan = read_partitioned(changed).plan
    refused(changed, "segment-0 of .* and its plan do not agree on|ONNX Runtime refuses")
    assert gpu.leaks == {}


def test_a_plan_that_is_replaced_while_it_is_open_is_noticed(gpu, plan, tmp_path):
    mine = tmp_path / "mine.plan"
    mine.write_bytes(plan.read_bytes())
    runner = open_engine(mine)
    mine.write_bytes(rewrite(plan, lambda index: index.update(udx_version="other")).read_bytes())
    with pytest.raises(UdxError, match=r"mine\.plan has been replaced since it was opened"):
        runner.activate()


def test_a_plan_of_tensorrt_is_one_engine_on_the_same_layer(monkeypatch, tmp_path):
    model = detector_model(manifest_of("lidar"))
    content = model.SerializeToString()
    path = tmp_path / "student.plan"
    path.write_bytes(content)
    record_path(path).write_text(json.dumps(to_plain(record_of(content))))
    gpu = Gpu(versions={"tensorrt": record_of(content).key.tensorrt})
    install(monkeypatch, gpu)
    onnx_path = tmp_path / "student.onnx"
    onnx.save(model, str(onnx_path))
    frame = frame_of(manifest_of("lidar"))
    with open_engine(onnx_path) as reference, open_engine(path) as runner:
        expected, found = reference.infer(frame), runner.infer(frame)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor)
        assert (runner.settings["backend"], runner.settings["segments"], runner.settings["kernels"]) == (
            "tensorrt",
            1,
            0,
        )
        with pytest.raises(UdxError, match=r"not on onnxruntime; leave --backend out"):
            open_engine(path, "onnxruntime")
    assert gpu.leaks == {}
    record = dataclasses.replace(record_of(content), sha256=hashlib.sha256(b"").hexdigest())
    record_path(path).write_text(json.dumps(to_plain(record)))
    with pytest.raises(UdxError, match="is not the plan that"):
        runner.activate()
    install(monkeypatch, Gpu(versions={"tensorrt": "11.4.0.106"}))
    record_path(path).write_text(json.dumps(to_plain(record_of(content))))
    refused(path, r"was built by TensorRT 10\.15\.1\.29, and TensorRT 11\.4\.0\.106 is here")
