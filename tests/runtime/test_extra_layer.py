"""The positive control computes the same, costs a little more, and is an engine as any other."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from udx.errors import UdxError
from udx.runtime.extra_layer import add_layer, write_with_extra_layer
from udx.runtime.frames import generated_frame
from udx.runtime.identity import identify
from udx.runtime.onnxruntime_runner import open_session


def outputs_of(path: Path, tensors) -> list[np.ndarray]:
    return open_session(path.read_bytes(), str(path)).run(None, dict(tensors))


def test_it_computes_the_same_with_one_convolution_more(make_engine, tmp_path: Path) -> None:
    path, dearer = make_engine(), tmp_path / "dearer.onnx"
    layer = write_with_extra_layer(path, dearer, share=0.3)
    before, after = identify(path), identify(dearer)
    assert after.structure.op_histogram["Conv"] == before.structure.op_histogram["Conv"] + 1
    assert after.structure.macs - before.structure.macs == layer.macs
    # 6 images of 3 channels at 32×64: the model's own 3×3 convolution has 6·32·64·3·3·9 MACs, a 1×1 one a ninth.
    assert (layer.kernel, layer.channels, layer.macs) == (1, 3, 6 * 32 * 64 * 9)
    assert layer.share == pytest.approx(1 / 9)
    frame, _ = generated_frame(before.manifest, 0)
    for one, two in zip(outputs_of(path, frame()), outputs_of(dearer, frame()), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_the_share_chooses_the_kernel(make_engine, tmp_path: Path) -> None:
    layer = write_with_extra_layer(make_engine(), tmp_path / "dearer.onnx", share=0.9)
    assert layer.kernel == 3 and layer.share == pytest.approx(1.0)


def test_it_stands_behind_the_activation(make_model, make_manifest) -> None:
    """Backends fuse a convolution with its ReLU; a layer in between would break more than it adds."""
    model = make_model(repeats=2)
    first = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Conv")
    conv = model.graph.node[first]
    relu = helper.make_node("Relu", ["before"], [conv.output[0]])
    conv.output[0] = "before"
    model.graph.node.insert(first + 1, relu)
    layer = add_layer(model, make_manifest(), 0.1, source="it")
    assert layer.after in (relu.output[0], "image_2")
    onnx.checker.check_model(model, full_check=True)
    reader = next(node for node in model.graph.node if node.name == "udx_extra_layer")
    assert reader.input[0] == layer.after
    assert sum(layer.after in node.input for node in model.graph.node) == 1


def test_a_detector_without_convolutions_gets_none(make_engine, tmp_path: Path) -> None:
    with pytest.raises(UdxError, match="no convolution that another one could follow"):
        write_with_extra_layer(make_engine(modality="lidar"), tmp_path / "dearer.onnx")
    assert not (tmp_path / "dearer.onnx").exists()
