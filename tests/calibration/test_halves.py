"""FP16 with exceptions by range."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
from onnx import numpy_helper

from tests.build.exported import exported_model, frame_of, write_sealed
from udx.calibration.halves import Request, halve, out_of_range, scanned
from udx.errors import UdxError
from udx.runtime import open_engine
from udx.runtime.onnx_file import read_onnx


@contextlib.contextmanager
def silent(title: str) -> Iterator:
    yield lambda done, total: None


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """The same function, but one layer writes values of a hundred thousand, which the next scales back."""
    model, manifest = exported_model("tiny", "lidar")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, factor in (("to_low.0.0.weight", 1e5), ("to_low.0.0.weight_bias", 1e5), ("to_low.1.0.weight", 1e-5)):
        tensor = tensors[f"detector.lidar.{name}"]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return write_sealed(tmp_path_factory.mktemp("loud") / "loud.onnx", model, manifest)


def test_nothing_stands_out_in_a_well_behaved_detector(exports, two_scenes, tmp_path):
    done = halve(Request(file=exports("lidar"), root=two_scenes, samples=2, out=tmp_path / "o.onnx"), silent)
    assert "range" not in done.plan.float32
    assert set(done.ranges) == set(scanned(read_onnx(done.source).model))
    assert read_onnx(done.path).manifest.precision == done.plan


def test_what_halves_cannot_hold_stays_exact(loud, two_scenes, tmp_path):
    done = halve(Request(file=loud, root=two_scenes, samples=2, out=tmp_path / "o.onnx"), silent)
    model = read_onnx(loud).model
    kept = [node for node in model.graph.node if node.name in done.plan.float32["range"]]
    # The layer, its activation function, and the layer that reads it.
    assert [node.op_type for node in kept] == ["Conv", "Relu", "Conv"]
    with open_engine(loud) as exact, open_engine(done.path) as halved:
        frame = frame_of(exact.manifest, seed=1)
        scores = [runner.detect(frame).scores_K for runner in (exact, halved)]
    assert np.abs(scores[0] - scores[1]).max() < 0.02

    # A twin without that trouble takes the exceptions over, and so has the same graph.
    twin = write_sealed(tmp_path / "twin.onnx", *exported_model("tiny", "lidar"))
    other = halve(Request(file=twin, like=done.path, out=tmp_path / "twin.fp16.onnx"), silent)
    assert read_onnx(other.path).manifest.graph == read_onnx(done.path).manifest.graph


def test_infinity_is_out_of_any_range():
    model, _ = exported_model("tiny", "lidar")
    name = scanned(model)[0]
    assert out_of_range(model, {name: float("inf")}) == out_of_range(model, {name: 1e9}) != frozenset()
    assert out_of_range(model, {name: 10.0}) == frozenset()


def test_only_an_fp16_twin_can_be_followed(loud, exports, tmp_path):
    out = tmp_path / "o.onnx"
    with pytest.raises(UdxError, match="is not in FP16, so there is nothing"):
        halve(Request(file=loud, like=exports("lidar"), out=out), silent)
    assert not out.exists()
