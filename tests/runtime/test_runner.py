"""The contract of every runner: each kind that can run here passes every test, on detectors of all sensors."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.build.exported import MODALITIES, frame_of
from tests.runtime.kinds import ANYWHERE, KINDS, require_runnable, write_onnx
from udx.data.inputs import CALIBRATION
from udx.data.spec import Modality
from udx.errors import UdxError
from udx.export.parity import agreement, compare
from udx.geometry import CameraRig
from udx.runtime import Runner, TensorSpec, open_engine
from udx.runtime.onnx_file import expected_inputs, expected_outputs

TOLERANCE = 2e-4
"""On the CPU: FP32 on both sides, but other orders of summation, which depend on the number of threads."""
SHARE = 0.9
"""On a GPU: flat heatmaps of random weights have near ties, which other sums break otherwise."""


ATOMIC = {"onnxruntime-cuda"}
"""Kinds that add with float atomics: ONNX Runtime's ``ScatterElements(add)``, in the body of ``UdxBevPool``, adds in
another order in every run, so that equal frames give nearly equal outputs."""
ATOMIC_TOLERANCE = 1e-4


ELSEWHERE = sorted(KINDS.keys() - set(ANYWHERE))


@pytest.fixture(
    scope="module", params=[*ANYWHERE, *(pytest.param(kind, marks=pytest.mark.gpu(ask="doctor")) for kind in ELSEWHERE)]
)
def kind(request: pytest.FixtureRequest) -> str:
    require_runnable(request.param)
    return str(request.param)


@pytest.fixture(scope="module", params=MODALITIES)
def runner(request: pytest.FixtureRequest, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return KINDS[kind](tmp_path_factory.mktemp(f"{kind}-{request.param}"), request.param)


@pytest.fixture(scope="module")
def active(runner: Runner):
    with runner:
        yield runner


def turned(rig: CameraRig, turn_rad: float) -> CameraRig:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(turn_rad), -np.sin(turn_rad)], [np.sin(turn_rad), np.cos(turn_rad)]]
    return rig.with_ego_transform(turn)


def without_calibration(frame: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in frame.items() if name not in CALIBRATION}


def assert_repeats(kind: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Compare sorted scores: equal to the bit, but for the kinds that cannot promise it."""
    if kind in ATOMIC:
        np.testing.assert_allclose(found, expected, rtol=0, atol=ATOMIC_TOLERANCE)
    else:
        np.testing.assert_array_equal(found, expected)


def test_who_may_differ_from_run_to_run_and_by_how_much() -> None:
    scores = np.linspace(1, 0, 5, dtype=np.float32)
    assert_repeats("onnxruntime-cuda", scores + np.float32(1e-5), scores)
    for kind, difference in (("onnxruntime-cuda", 1e-3), ("tensorrt", 1e-5), ("onnxruntime", 1e-5)):
        with pytest.raises(AssertionError):
            assert_repeats(kind, scores + np.float32(difference), scores)


def test_inputs_and_outputs_are_those_of_the_manifest(runner: Runner) -> None:
    assert runner.inputs == expected_inputs(runner.manifest)
    assert runner.outputs == expected_outputs(runner.manifest)


def test_outputs_have_the_declared_shapes_and_dtypes(active: Runner) -> None:
    outputs = active.infer(frame_of(active.manifest))
    assert list(outputs) == ["boxes", "scores", "labels"]
    for spec in active.outputs:
        assert TensorSpec(spec.name, outputs[spec.name].shape, outputs[spec.name].dtype.name) == spec


def test_the_boxes_are_those_of_onnx_runtime_on_the_cpu(active: Runner, kind: str, tmp_path: Path) -> None:
    frame = frame_of(active.manifest, seed=1)
    with open_engine(write_onnx(tmp_path, active.manifest.spec.modality), threads=1) as reference:
        expected = reference.detect(frame)
    found = active.detect(frame)
    if kind in ANYWHERE:
        assert compare(expected, found).largest < TOLERANCE
    else:
        assert agreement(expected, found).share > SHARE


def test_equal_frames_give_equal_outputs_and_every_input_is_read(active: Runner, kind: str) -> None:
    frame = frame_of(active.manifest)
    once, again = active.infer(frame)["scores"], active.infer(frame)["scores"]
    assert_repeats(kind, again, once)
    for name in frame:
        changed = frame | {name: np.zeros_like(frame[name])}
        with pytest.raises(AssertionError):
            assert_repeats(kind, active.infer(changed)["scores"], once)


def test_threads_may_share_a_runner(active: Runner) -> None:
    frames = [frame_of(active.manifest, seed=seed) for seed in range(4)]
    expected = [active.infer(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(active.infer, frames * 6))
    for outputs, right in zip(found, expected * 6, strict=True):
        for name, value in outputs.items():
            np.testing.assert_allclose(value, right[name], atol=1e-4)


def test_results_are_the_caller_s_own(active: Runner) -> None:
    first = active.infer(frame_of(active.manifest))
    kept = {name: tensor.copy() for name, tensor in first.items()}
    active.infer(frame_of(active.manifest, seed=1))
    for name, tensor in kept.items():
        np.testing.assert_array_equal(first[name], tensor)


def test_a_new_rig_between_two_frames_equals_a_fresh_start_with_it(active: Runner, kind: str) -> None:
    rig = active.manifest.rig
    if rig is None:
        with pytest.raises(UdxError, match="no cameras"):
            active.set_rig(turned(CameraRig(("A",), np.eye(3)[None], np.eye(4)[None]), 0.1))
        return
    expected = {turn: active.infer(frame_of(active.manifest, turn_rad=turn)) for turn in (0.0, 0.3)}
    sensors = without_calibration(frame_of(active.manifest))
    assert not np.array_equal(expected[0.0]["scores"], expected[0.3]["scores"])
    order = tuple(reversed(rig.names))
    for turn in (0.0, 0.3, 0.0):
        active.set_rig(turned(rig, turn).select(order))
        for _ in range(2):
            found = active.infer(sensors)
            for name in ("scores",) if kind in ATOMIC else found:
                assert_repeats(kind, found[name], expected[turn][name])
    # A frame with a plan of its own is run with that, and the next one with the rig's again.
    moved = active.infer(frame_of(active.manifest, turn_rad=0.3))
    assert_repeats(kind, moved["scores"], expected[0.3]["scores"])
    assert_repeats(kind, active.infer(sensors)["scores"], expected[0.0]["scores"])
    with pytest.raises(UdxError, match="reads inputs"):
        active.infer(sensors | {"pool_index": frame_of(active.manifest)["pool_index"]})


@pytest.mark.parametrize("size", [(0, 0), (0, 900), (1600, 0), (-1, 5), (float("nan"), 1), (10**400, 1)])
def test_the_size_of_no_image_is_refused_and_the_rig_before_stays(active: Runner, size: tuple[int, int]) -> None:
    if active.manifest.rig is None:
        return
    sensors = without_calibration(frame_of(active.manifest))
    active.set_rig(turned(active.manifest.rig, 0.3))
    before = active.infer(sensors)["scores"]
    with pytest.raises(UdxError, match=r"the rig cannot be used .*; give the size of the images"):
        active.set_rig(active.manifest.rig, size)
    np.testing.assert_array_equal(active.infer(sensors)["scores"], before)


def test_a_runner_can_be_activated_again_and_keeps_its_rig(kind: str, tmp_path: Path) -> None:
    runner = KINDS[kind](tmp_path, "cam")
    assert runner.manifest.rig is not None
    sensors = without_calibration(frame_of(runner.manifest))
    with pytest.raises(AssertionError, match="activate"):
        runner.infer(frame_of(runner.manifest))
    runner.set_rig(turned(runner.manifest.rig, 0.3))
    found = []
    for _ in range(2):
        with runner:
            found.append(runner.detect(sensors))
    assert_repeats(kind, found[0].scores_K, found[1].scores_K)
    if kind not in ATOMIC:
        np.testing.assert_array_equal(found[0].boxes_K9, found[1].boxes_K9)
    runner.deactivate()


def test_two_runners_of_one_engine_do_not_meet(active: Runner, kind: str, tmp_path: Path) -> None:
    modality: Modality = active.manifest.spec.modality
    frame, other = frame_of(active.manifest), frame_of(active.manifest, seed=7)
    expected = active.infer(frame)["scores"]
    with KINDS[kind](tmp_path, modality) as second:
        assert not np.array_equal(second.infer(other)["scores"], expected)
        assert_repeats(kind, active.infer(frame)["scores"], expected)
    assert_repeats(kind, active.infer(frame)["scores"], expected)


def test_inputs_that_do_not_fit_are_named_with_expected_and_actual(active: Runner) -> None:
    frame = frame_of(active.manifest)
    name = active.inputs[0].name
    with pytest.raises(UdxError, match="extra"):
        active.infer(frame | {"extra": np.zeros(1)})
    with pytest.raises(UdxError, match=rf"reads {name} .* not {name} .*\[1, "):
        active.infer(frame | {name: frame[name][:1]})
    with pytest.raises(UdxError, match=rf"reads {name} .* not {name} float64"):
        active.infer(frame | {name: frame[name].astype(np.float64)})
    huge = dict.fromkeys(frame, np.zeros((2_000_000, 5), np.float32))
    with pytest.raises(UdxError, match=r"not \w+ float32\[2000000, 5\]"):
        active.infer(huge)


@pytest.mark.parametrize("count", [0, -1, 2_000_000])
def test_counts_of_points_that_cannot_be_read_no_memory_they_should_not(active: Runner, kind: str, count: int) -> None:
    """None at all, and more than the buffer holds: an answer that is a set of boxes, and the next frame unharmed."""
    frame = frame_of(active.manifest)
    if "num_points" not in frame:
        pytest.skip("a camera detector reads no points")
    expected = active.infer(frame)["scores"]
    active.detect(frame | {"num_points": np.array([count], np.int32)})
    assert_repeats(kind, active.infer(frame)["scores"], expected)


def test_settings_name_backend_and_version(runner: Runner, kind: str) -> None:
    backend = {"partitioned": "onnxruntime"}.get(kind, kind.removesuffix("-cuda").removesuffix("-compile"))
    assert runner.settings["backend"] == backend
    assert runner.settings["version"]
