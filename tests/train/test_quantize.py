"""Training under quantization: gradients by hand, torch against the quantized graph, and the road to a file."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.build.exported import config_of, exported_model, frame_of, random_detector
from udx.calibration.activations import record, values
from udx.calibration.insert import Scales, quantize
from udx.calibration.job import Request, calibrate
from udx.calibration.placement import place
from udx.calibration.thresholds import thresholds
from udx.errors import UdxError
from udx.export.deploy import DeployableDetector
from udx.export.onnx_export import export_run
from udx.export.precision import last_layers
from udx.models.detector import DetectorInputs
from udx.runtime.onnx_file import read_onnx
from udx.train.checkpoint import load_detector
from udx.train.loop import train
from udx.train.quantize import FakeQuantizer, FakeWeight, quantized
from udx.train.run import Run


@contextlib.contextmanager
def silent(title: str) -> Iterator:
    yield lambda done, total: None


def test_rounding_and_its_gradients_by_hand():
    """Scale 0.1: 0.24 is 2 steps, 100 saturates at 127."""
    quantizer = FakeQuantizer(12.7)
    values = torch.tensor([0.24, 100.0, -0.06], requires_grad=True)
    rounded = quantizer(values)
    torch.testing.assert_close(rounded, torch.tensor([0.2, 12.7, -0.1]))
    rounded.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 0.0, 1.0]))
    # d/ds: rounding error in steps, or the largest level; times s, for it is the logarithm that is learned.
    expected = 0.1 * ((2 - 2.4) + 127 + (-1 + 0.6))
    assert float(quantizer.log_scale.grad) == pytest.approx(expected, rel=1e-4)
    assert quantizer.largest == pytest.approx(12.7)


def test_each_channel_of_a_weight_has_its_scale():
    weight = torch.tensor([[1.27, 0.504], [0.0, 0.0]])
    torch.testing.assert_close(FakeWeight(0)(weight), torch.tensor([[1.27, 0.5], [0.0, 0.0]]))
    torch.testing.assert_close(FakeWeight(1)(weight)[0], weight[0])


@pytest.mark.parametrize("modality", ["lidar", "cam"])
def test_torch_rounds_each_layer_as_the_quantized_graph_does(modality):
    """One layer at a time: with several, a last bit decides which way a value is rounded, and that is not the last."""
    model, manifest = exported_model("tiny", modality)
    frame = frame_of(manifest)
    placement = place(model)
    found = record(model, placement.tensors, [("", frame)], "it")
    scales = Scales(thresholds(found, "percentile", "int8"), {})
    regression = last_layers(model)[-1]
    detector = random_detector(config_of("tiny", modality), frame)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    inputs = DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in frame.items()})
    exact = one_frame(model, regression, frame)
    for node in placement.nodes:
        alone = dataclasses.replace(placement.only([node]), residuals=())
        graph = one_frame(quantize(model, alone, scales, "int8"), regression, frame)
        with quantized(detector, alone, scales) as quantizers, torch.no_grad():
            found_in_torch = detector(inputs).heads.regression_BRHW.numpy()
        assert len(quantizers) == 1
        lost = np.abs(graph - exact).mean()
        assert np.abs(graph - found_in_torch).mean() < 0.02 * lost, node
    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def one_frame(model, name, frame) -> np.ndarray:
    return next(values(model, [name], [frame], "it"))[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, world_root):
    from tests.tiny import tiny_run
    from udx.data.nuscenes import load_keyframes, open_dataroot
    from udx.train.loop import Job

    run = Run(tmp_path_factory.mktemp("runs") / "student")
    keyframes = load_keyframes(open_dataroot(world_root), "train", max_sweeps=1)
    train(Job(config=tiny_run("lidar", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run, export_run(run, run.folder / "student.onnx").path


def test_from_a_run_to_a_file_with_learned_scales(trained, world_root, tmp_path):
    run, file = trained
    common = {"file": file, "root": world_root, "samples": 2, "plain": True, "method": "max"}
    plain = calibrate(Request(out=tmp_path / "plain.onnx", **common), silent)
    learned = calibrate(Request(out=tmp_path / "learned.onnx", learn=run.folder, steps=3, **common), silent)
    manifest = read_onnx(learned.path).manifest
    assert manifest.precision.quantization.method == "learned"
    # Trained under the same placement: the same graph, and so the same cost.
    assert manifest.graph == read_onnx(plain.path).manifest.graph
    changes = [learned.scales.activations[name] / largest for name, largest in plain.scales.activations.items()]
    assert all(change != 1.0 for change in changes)
    assert np.allclose(changes, 1.0, atol=0.05)

    before, _ = load_detector(run.checkpoint)
    after, record_after = load_detector(learned.path.with_suffix(".safetensors"))
    assert record_after.start_sha256 == read_onnx(file).manifest.checkpoint_sha256
    assert record_after.teacher.modality == "lidar"
    weights = dict(before.named_parameters())
    assert any(not torch.equal(weights[name], tensor) for name, tensor in after.named_parameters())
    statistics = dict(before.named_buffers())
    assert all(torch.equal(statistics[name], tensor) for name, tensor in after.named_buffers() if "running" in name)
    assert isinstance(DeployableDetector(after), torch.nn.Module)


def test_only_the_run_behind_a_file_is_trained(trained, exports_of_another, world_root, tmp_path):
    run, _ = trained
    request = Request(
        file=exports_of_another, root=world_root, samples=2, plain=True, learn=run.folder, out=tmp_path / "o.onnx"
    )
    with pytest.raises(UdxError, match="was not exported from"):
        calibrate(request, silent)


@pytest.fixture
def exports_of_another(tmp_path):
    from tests.build.exported import write_sealed

    return write_sealed(tmp_path / "another.onnx", *exported_model("tiny", "lidar"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"teacher": Path("runs/t")}, "name that run with --learn"),
        ({"learn": Path("runs/s"), "precision": "fp8"}, "is for INT8, not FP8"),
        ({"learn": Path("runs/s"), "steps": 0}, "at least one step"),
    ],
)
def test_requests_that_make_no_sense(asked, said, tmp_path):
    with pytest.raises(UdxError, match=said):
        Request(file=tmp_path / "a.onnx", **asked)
