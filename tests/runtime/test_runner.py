"""The contract of every runner."""

from pathlib import Path

import numpy as np
import pytest

from tests.build.plans import build_plan
from udx.data.inputs import Tensors
from udx.errors import UdxError
from udx.runtime import Runner, TensorSpec, open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.onnx_file import expected_inputs, expected_outputs

RUNNERS_HERE = ("onnxruntime", "partitioned")
"""What runs on any machine; each must pass every test of the contract."""


@pytest.fixture(params=[(kind, modality) for kind in RUNNERS_HERE for modality in ("cam", "lidar", "fusion")])
def runner(request: pytest.FixtureRequest, make_engine, tmp_path: Path) -> Runner:
    kind, modality = request.param
    engine = make_engine(modality=modality)
    if kind == "partitioned":
        engine = build_plan(engine, tmp_path / "student.plan").path
    return open_engine(engine, threads=1)


def frame_of(runner: Runner) -> Tensors:
    frame, _ = generated_frame(runner.manifest, seed=0)
    return frame()


def test_inputs_and_outputs_are_those_of_the_manifest(runner: Runner) -> None:
    assert runner.inputs == expected_inputs(runner.manifest)
    assert runner.outputs == expected_outputs(runner.manifest)


def test_outputs_have_the_declared_shapes_and_dtypes(runner: Runner) -> None:
    with runner:
        outputs = runner.infer(frame_of(runner))
    assert list(outputs) == ["boxes", "scores", "labels"]
    for spec in runner.outputs:
        assert TensorSpec(spec.name, outputs[spec.name].shape, outputs[spec.name].dtype.name) == spec


def test_equal_frames_give_equal_outputs_and_every_input_is_read(runner: Runner) -> None:
    frame = dict(frame_of(runner))
    with runner:
        once, again = runner.infer(frame)["scores"], runner.infer(frame)["scores"]
        np.testing.assert_array_equal(once, again)
        for name in frame:
            changed = frame | {name: np.zeros_like(frame[name])}
            assert not np.array_equal(runner.infer(changed)["scores"], once), name


def test_a_runner_can_be_activated_again(runner: Runner) -> None:
    with runner:
        first = runner.detect(frame_of(runner))
    with runner:
        second = runner.detect(frame_of(runner))
    np.testing.assert_array_equal(first.boxes_K9, second.boxes_K9)
    with pytest.raises(AssertionError, match="activate"):
        runner.infer(frame_of(runner))


def test_inputs_that_do_not_fit_are_named_with_expected_and_actual(runner: Runner) -> None:
    frame = dict(frame_of(runner))
    name = runner.inputs[0].name
    with runner:
        with pytest.raises(UdxError, match="not \\[\\]"):
            runner.infer({})
        with pytest.raises(UdxError, match="extra"):
            runner.infer(frame | {"extra": np.zeros(1)})
        with pytest.raises(UdxError, match=rf"reads {name} .* not {name} .*\[1, "):
            runner.infer(frame | {name: frame[name][:1]})
        with pytest.raises(UdxError, match=rf"reads {name} .* not {name} float64"):
            runner.infer(frame | {name: frame[name].astype(np.float64)})


def test_settings_name_the_backend(runner: Runner) -> None:
    assert runner.settings["backend"] == "onnxruntime"
    assert runner.settings["threads"] == 1
