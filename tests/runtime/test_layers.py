"""What ONNX Runtime makes of a graph, and that two of one architecture come out alike."""

import numpy as np
from onnx import helper

from tests.runtime.graphs import small_model, zeros
from udx.runtime.layers import Layers, layer_differences, optimised_listing


def listing(model) -> tuple[str, ...]:
    return optimised_listing(model.SerializeToString())


def conv_relu(weight: np.ndarray):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return small_model(nodes, {"w": weight}, (1, 8, 8, 8), (1, 8, 8, 8))


def test_fused_layers_are_shown_and_weights_are_not() -> None:
    rng = np.random.default_rng(0)
    one, two = (listing(conv_relu(rng.normal(size=(8, 8, 3, 3)).astype(np.float32))) for _ in range(2))
    assert one == two
    assert not any(line.split(" ", 1)[-1].startswith("Relu") for line in one)  # it is part of the convolution


def test_another_width_is_another_layer() -> None:
    one = Layers(source="s", listing=listing(conv_relu(zeros(8, 8, 3, 3))))
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    other = Layers(source="s", listing=listing(small_model(nodes, {}, (1, 8, 8, 8), (1, 8, 8, 8))))
    assert layer_differences(one, one) == ()
    assert any("Relu" in line for line in layer_differences(one, other))


def test_numbers_of_layers_are_no_difference_in_kind() -> None:
    one = Layers(source="s", listing=("0 Relu(x) -> 1", "1 Abs(%0.0.0) -> 1"))
    other = Layers(source="s", listing=("0 Abs(x) -> 1", "1 Relu(%0.0.0) -> 1", "2 Abs(%0.1.0) -> 1"))
    found = layer_differences(one, other)
    assert "Abs(%) -> 1: 1 against 1" not in found
    assert "Relu(%) -> 1: 0 against 1" in found
