"""The contract of every runner, and what open_engine refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from udx.data.inputs import Tensors
from udx.errors import UdxError
from udx.runtime import Runner, TensorSpec, open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.onnx_file import expected_inputs, expected_outputs

BACKENDS_HERE = ("onnxruntime",)
"""Backends that run on any machine; each must pass every test of the contract."""


@pytest.fixture(params=[(backend, modality) for backend in BACKENDS_HERE for modality in ("cam", "lidar", "fusion")])
def runner(request: pytest.FixtureRequest, make_engine) -> Runner:
    backend, modality = request.param
    return open_engine(make_engine(modality=modality), backend, threads=1)


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


@pytest.mark.parametrize(
    ("head", "what"), [(b"PK\x03\x04", "a zip file"), (b"ftrt", "a TensorRT plan"), (b"ptrt", "a TensorRT plan")]
)
def test_other_kinds_of_engine_are_told_apart(tmp_path: Path, head: bytes, what: str) -> None:
    path = tmp_path / "student.plan"
    path.write_bytes(head + bytes(100))
    with pytest.raises(UdxError, match=f"{what}; udx reads ONNX engines"):
        open_engine(path)


def test_an_unknown_backend_lists_those_there_are(make_engine) -> None:
    with pytest.raises(UdxError, match="choose one of auto, onnxruntime, onnxruntime-cuda"):
        open_engine(make_engine(), "cuda")


def test_cuda_never_falls_back_to_the_cpu_in_silence(make_engine) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UdxError, match="onnxruntime-gpu"):
        open_engine(make_engine(), "onnxruntime-cuda").activate()


def test_a_runner_needs_a_thread(make_engine) -> None:
    with pytest.raises(UdxError, match="at least one thread"):
        open_engine(make_engine(), threads=0)


def test_the_runtime_imports_no_torch_and_nothing_heavy() -> None:
    code = (
        "import sys, udx.runtime.bench, udx.runtime.predict, udx.runtime.show\n"
        "heavy = {'torch', 'nuscenes', 'onnxruntime', 'onnx', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_measuring_and_predicting_import_no_torch(make_engine) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom udx.runtime.bench import bench\n"
        "from udx.runtime.measure import Protocol\n"
        "report = bench(Path(sys.argv[1]), protocol=Protocol(warmup=1, blocks=2, frames=2))\n"
        "report.to_json()\n"
        "assert 'torch' not in sys.modules and 'nuscenes' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(make_engine())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
