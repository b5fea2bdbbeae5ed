"""Whole plans on the GPU's stand-in: the very bits of the CPU, the order of everything, and nothing that is lost."""

import numpy as np
import pytest

from tests.build.detectors import write_detector
from tests.build.exported import MODALITIES, frame_of
from tests.runtime.device.gpu_stand_in import Gpu, install
from tests.runtime.device.plans import VERSION, rtx_plan
from tests.runtime.kinds import write_onnx
from udx.data.inputs import CALIBRATION
from udx.errors import UdxError
from udx.runtime import open_engine
from udx.runtime.device.runner import DeviceRunner
from udx.runtime.frames import generated_frame
from udx.runtime.partitioned import KernelStep, read_partitioned


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """For each modality an ONNX file and its plan."""
    made = {}
    for modality in MODALITIES:
        folder = tmp_path_factory.mktemp(modality)
        file = write_onnx(folder, modality)
        made[modality] = file, rtx_plan(file, folder / "student.plan")
    return made


@pytest.fixture
def gpu(monkeypatch, plans) -> Gpu:
    """A GPU with the fusion plan's kernels."""
    found = Gpu(plan=read_partitioned(plans["fusion"][1]).plan)
    install(monkeypatch, found)
    return found


@pytest.fixture
def runner(gpu, plans) -> DeviceRunner:
    opened = open_engine(plans["fusion"][1])
    assert isinstance(opened, DeviceRunner)
    return opened


def without_calibration(frame):
    return {name: tensor for name, tensor in frame.items() if name not in CALIBRATION}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_a_plan_has_the_bits_of_the_whole_graph(monkeypatch, plans, modality, graph):
    file, plan = plans[modality]
    gpu = Gpu(plan=read_partitioned(plan).plan, refuses=set() if graph else {"cuStreamBeginCapture"})
    install(monkeypatch, gpu)
    with open_engine(file, threads=1) as whole, open_engine(plan, "tensorrt-rtx") as runner:
        for seed in (0, 1, 0):
            frame = frame_of(whole.manifest, seed=seed, turn_rad=seed / 4)
            expected, found = whole.infer(frame), runner.infer(frame)
            for name, tensor in expected.items():
                np.testing.assert_array_equal(found[name], tensor, err_msg=name)
        said = runner.settings["cuda_graph"]
        assert said == "yes" if graph else "cuStreamBeginCapture failed: operation not permitted" in said
    assert gpu.leaks == {}


def test_a_frame_is_one_graph_and_one_wait_and_takes_nothing(gpu, runner):
    frame = frame_of(runner.manifest)
    rig = runner.manifest.rig
    runner.set_rig(rig)
    with runner:
        for _ in range(3):
            runner.infer(without_calibration(frame))
        before = len(gpu.calls)
        for _ in range(5):
            runner.infer(without_calibration(frame))
        calls = [call[0] for call in gpu.calls[before:]]
        frame_calls = ["cuCtxPushCurrent", "cuEventRecordWithFlags", "cuMemcpyHtoDAsync", "cuGraphLaunch"]
        assert calls == [*frame_calls, "cuStreamSynchronize"] * 5
        assert gpu.current == 0, "others find the context that they left"


def test_everything_is_enqueued_in_the_plan_s_order_with_the_metadata_s_arguments(gpu, runner):
    plan = gpu.plan
    with runner:
        gpu.done.clear()
        frame = frame_of(runner.manifest)
        runner.infer(frame)
        arena = min(gpu.blocks)
        at = {name: arena + tensor.offset for name, tensor in plan.by_name.items()}
        bytes_of = {name: tensor.num_bytes for name, tensor in plan.by_name.items()}
        expected = [("upload", at[name], bytes_of[name]) for name in CALIBRATION]
        expected.append(("upload", at["points"], int(frame["num_points"][0]) * 20))
        sensors = [name for name in plan.inputs if name not in CALIBRATION and name != "points"]
        expected += [("upload", at[name], bytes_of[name]) for name in sensors]
        for step in plan.steps:
            if isinstance(step, KernelStep):
                shapes = step.shapes(plan.by_name)
                arguments = (
                    *(at[name] for name in step.inputs),
                    *step.launch.scalars_for(shapes),
                    *(at[name] for name in step.outputs),
                )
                grid, block = step.launch.grid_for(shapes), (32 * step.launch.num_warps, 1, 1)
                expected.append(("launch", f"{step.launch.kernel}_89", grid, block, arguments, 0))
            else:
                expected.append(("engine", tuple(at[name] for name in (*step.inputs, *step.outputs))))
        expected += [("download", at[name], bytes_of[name]) for name in plan.outputs]
        assert [facts for facts in gpu.done if facts[0] != "event"] == expected
        assert len(gpu.blocks) == 2, "one arena, and one scratch block for all engines"
        assert len(gpu.blocks[arena]) == plan.arena_bytes


def test_only_the_filled_rows_of_the_point_buffer_are_uploaded(gpu, runner, plans):
    frame = frame_of(runner.manifest)
    capacity = len(frame["points"])
    at = gpu.plan.by_name["points"]

    def of(count: int, claimed: int | None = None) -> dict[str, np.ndarray]:
        points = np.zeros_like(frame["points"])
        points[:count] = frame["points"][:1]
        return frame | {"points": points, "num_points": np.array([count if claimed is None else claimed], np.int32)}

    def uploaded() -> list[int]:
        found = [facts[2] // 20 for facts in gpu.done if facts[:2] == ("upload", min(gpu.blocks) + at.offset)]
        gpu.done.clear()
        return found

    frames = [of(300), of(10), of(10), of(0), of(0), of(capacity, 10**6), of(5, -1), of(7)]
    rows = [[300], [300], [10], [10], [], [capacity], [capacity], [7]]
    with open_engine(plans["fusion"][0], threads=1) as whole, runner:
        uploaded()
        for given, wanted in zip(frames, rows, strict=True):
            found = runner.infer(given)
            assert uploaded() == wanted
            held = gpu.view(min(gpu.blocks) + at.offset, at.dtype, at.shape)
            filled = min(max(int(given["num_points"][0]), 0), capacity)
            np.testing.assert_array_equal(held[:filled], given["points"][:filled])
            assert not held[filled:].any(), "what the frame before left"
            for name, tensor in whole.infer(given).items():
                np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_a_frame_that_fails_leaves_no_points_to_the_next(gpu, runner):
    frame = frame_of(runner.manifest)
    fewer = frame | {"points": np.zeros_like(frame["points"]), "num_points": np.zeros(1, np.int32)}
    at = gpu.plan.by_name["points"]
    with runner:
        runner.infer(frame)
        for call in ("cuMemcpyHtoDAsync", "cuGraphLaunch"):
            gpu.refuses = {call}
            with pytest.raises(UdxError):
                runner.infer(fewer)
            gpu.refuses = set()
            runner.infer(fewer)
            assert not gpu.view(min(gpu.blocks) + at.offset, at.dtype, at.shape).any()
            runner.infer(frame)


def test_a_calibration_is_uploaded_when_it_is_new_and_stays(gpu, runner):
    frame = frame_of(runner.manifest)
    sensors = without_calibration(frame)
    uploaded = gpu.plan.by_name["pool_index"].offset

    def uploads() -> int:
        arena = min(gpu.blocks)
        found = sum(facts[:2] == ("upload", arena + uploaded) for facts in gpu.done)
        gpu.done.clear()
        return found

    runner.set_rig(runner.manifest.rig)
    with runner:
        uploads()
        assert [(runner.infer(sensors), uploads())[1] for _ in range(3)] == [1, 0, 0]
        runner.set_rig(runner.manifest.rig)
        assert [(runner.infer(sensors), uploads())[1] for _ in range(2)] == [1, 0]
        assert [(runner.infer(frame), uploads())[1] for _ in range(2)] == [1, 1]
        assert [(runner.infer(sensors), uploads())[1] for _ in range(2)] == [1, 0]
    with runner:
        uploads()
        runner.infer(sensors)
        assert uploads() == 1, "new memory holds no calibration"


def test_whatever_call_of_activation_fails_everything_is_given_back(monkeypatch, tmp_path):
    plan = rtx_plan(write_detector(tmp_path / "student.onnx"), tmp_path / "student.plan", shared=100_000)
    gpu = Gpu(plan=read_partitioned(plan).plan)
    install(monkeypatch, gpu)
    runner = open_engine(plan)
    frame = generated_frame(runner.manifest, seed=0)[0]()
    with runner:
        taken = len(gpu.calls)
        expected = runner.infer(frame)["scores"]
    assert gpu.leaks == {}
    assert taken > 30
    refused = 0
    for number in range(1, taken + 1):
        gpu.calls.clear()
        gpu.fails = {number: "invalid argument"}
        try:
            runner.activate()
        except UdxError as error:
            refused += 1
            assert any(said in str(error) for said in ("invalid argument", "gives no reason"))
        else:  # a frame that cannot be captured is enqueued step by step, and a cubin that cannot be loaded has a PTX
            gpu.fails = {}
            np.testing.assert_array_equal(runner.infer(frame)["scores"], expected)
        runner.deactivate()
        assert gpu.leaks == {}, gpu.calls[number - 1]
        assert gpu.current == 0
    gpu.fails = {}
    assert refused > taken / 2
    with runner:
        np.testing.assert_array_equal(runner.infer(frame)["scores"], expected)


@pytest.mark.parametrize("graph", [True, False])
def test_whatever_call_of_a_frame_fails_the_next_frame_is_right(gpu, runner, graph):
    gpu.refuses = set() if graph else {"cuGraphInstantiate"}
    frame = frame_of(runner.manifest)
    with runner:
        start = len(gpu.calls)
        expected = runner.infer(frame)
        calls = len(gpu.calls) - start
        for number in range(1, calls + 1):
            gpu.fails = {len(gpu.calls) + number: "invalid argument"}
            with pytest.raises(UdxError, match=r"invalid argument\)?; see udx doctor"):
                runner.infer(frame)
            gpu.fails = {}
            np.testing.assert_array_equal(runner.infer(frame)["scores"], expected["scores"])
    assert gpu.leaks == {}


def test_a_gpu_that_is_lost_in_mid_run(gpu, runner):
    with runner:
        runner.infer(frame_of(runner.manifest))
        gpu.lost = "unknown error"
        for _ in range(2):
            with pytest.raises(UdxError, match="failed: unknown error; the GPU is lost: look for Xid"):
                runner.infer(frame_of(runner.manifest))
    assert gpu.retained == 0
    with pytest.raises(UdxError, match="cuInit failed: unknown error"):
        runner.activate()


def test_an_interrupted_frame_ends_before_the_next_begins(gpu, runner, monkeypatch):
    frame, other = frame_of(runner.manifest), frame_of(runner.manifest, seed=5)
    with runner:
        expected = runner.infer(frame)["scores"]
        stream = next(iter(gpu.streams.values()))
        waits = type(stream).synchronize
        monkeypatch.setattr(type(stream), "synchronize", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            runner.infer(other)
        monkeypatch.setattr(type(stream), "synchronize", waits)
        np.testing.assert_array_equal(runner.infer(frame)["scores"], expected)
    assert gpu.leaks == {}


def test_two_runners_share_the_context_and_nothing_else(gpu, plans):
    frame, other = frame_of(open_engine(plans["fusion"][1]).manifest), None
    with open_engine(plans["fusion"][1]) as one:
        expected = one.infer(frame)["scores"]
        gpu.blocks, mine = {}, gpu.blocks  # the stand-in finds the arena as the first block
        with open_engine(plans["fusion"][1]) as two:
            other = two.infer(frame)["scores"]
            assert gpu.retained == 2
        assert gpu.blocks == {}
        gpu.blocks = mine
        np.testing.assert_array_equal(one.infer(frame)["scores"], expected)
        np.testing.assert_array_equal(other, expected)
    assert gpu.leaks == {}


def test_stages_are_timed_on_the_gpu(gpu, runner):
    with runner:
        runner.infer(frame_of(runner.manifest))
        times = runner.stages_ms()
    assert list(times) == ["upload", "network", "download"]
    assert all(time > 0 for time in times.values())


def test_settings_tell_what_ran(gpu, runner):
    with runner:
        assert runner.settings == {
            "backend": "tensorrt-rtx", "version": VERSION, "device": "Some GPU", "driver": "a stand-in",
            "cuda_graph": "yes", "engines": "valid", "runtime_cache": "compiled",
            "segments": len(gpu.plan.segments), "kernels": len(gpu.plan.kernel_steps),
            "arena_bytes": gpu.plan.arena_bytes, "scratch_bytes": max(map(len, list(gpu.blocks.values())[1:])),
        }  # fmt: skip
    assert runner.settings["cuda_graph"] == "yes"
