"""Halves that overflow where FP32 does not are found, wherever they are; the sentence says how near they came."""

import numpy as np
import onnx
import pytest

from tests.build.exported import MODALITIES, exported_model
from udx.errors import UdxError
from udx.export.parity import values_of
from udx.export.precision import LARGEST_HALF, to_fp16
from udx.export.probe import probe_halves, probing_frames


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_sound_detector_passes_and_its_largest_value_is_told(modality):
    model, manifest = exported_model("tiny", modality)
    frames = probing_frames(manifest)
    halved, _ = to_fp16(model)
    probe = probe_halves(model, halved, frames)
    assert (probe.frames, 0 < probe.largest < LARGEST_HALF) == (3, True)
    name = probe.tensor.removesuffix("_fp16")  # of a cast that FP32 has not
    sizes = [float(np.abs(values_of(model, [name], frame)[name]).max()) for frame in frames.values()]
    assert probe.largest == pytest.approx(max(sizes), rel=0.02)
    assert f"the largest is {probe.largest:.3g} of 65504" in str(probe)


def scaled(model, factor):
    """Let the first convolution give ``factor`` times as much, and the second undo it: FP32 gives what it gave."""
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][:2]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, scale in (*((name, factor) for name in first.input[1:]), (second.input[1], 1 / factor)):
        array = onnx.numpy_helper.to_array(weights[name])
        weights[name].CopyFrom(onnx.numpy_helper.from_array(array * np.float32(scale), name))
    return model


def test_an_overflow_is_refused_with_what_to_do():
    model, manifest = exported_model("tiny", "lidar")
    scaled(model, 1e5)
    with pytest.raises(UdxError, match=r"in FP16 \S+ overflows on a likely frame.*udx calibrate --precision fp16"):
        probe_halves(model, to_fp16(model)[0], probing_frames(manifest))


def test_what_only_an_extreme_frame_overflows_is_found():
    model, manifest = exported_model("tiny", "lidar")
    frames = probing_frames(manifest)
    first = next(node for node in model.graph.node if node.op_type == "Conv").output[0]
    largest = {name: float(np.abs(values_of(model, [first], frame)[first]).max()) for name, frame in frames.items()}
    assert largest["a white, crowded frame"] > 4 * largest["a likely frame"], "the crowd is no extreme"
    scaled(model, 2 * LARGEST_HALF / largest["a white, crowded frame"])
    with pytest.raises(UdxError, match="overflows on a white, crowded frame"):
        probe_halves(model, to_fp16(model)[0], frames)


def test_what_is_not_finite_in_fp32_either_is_no_overflow():
    model, manifest = exported_model("tiny", "lidar")
    scaled(model, np.inf)
    probe_halves(model, to_fp16(model)[0], probing_frames(manifest))
