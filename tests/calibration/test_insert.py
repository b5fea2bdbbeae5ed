"""Weights and activations in 8 bits, by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.calibration.activations import values
from udx.calibration.insert import Scales, channel_scales, quantize, scales_of
from udx.calibration.placement import place


@pytest.fixture
def model() -> onnx.ModelProto:
    """y = relu(x · w), and a last layer after it."""
    weight = np.float32([[1.27, 0.0, -0.5], [-0.6, 0.0, 0.25]]).reshape(2, 3)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["sum"], "layer"),
        helper.make_node("Relu", ["sum"], ["y"], "relu"),
        helper.make_node("MatMul", ["y", "v"], ["out"], "last"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, (1, 2))],
        [value("out", TensorProto.FLOAT, (1, 3))],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.eye(3, dtype=np.float32), "v")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def stored(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def outputs(model: onnx.ModelProto, x: list[float]) -> np.ndarray:
    return next(values(model, ["out"], [{"x": np.float32([x])}], "it"))["out"][0]


def test_int8_by_hand(model):
    quantized = quantize(model, place(model), Scales({"x": 12.7}, {}), "int8")
    onnx.checker.check_model(quantized, full_check=True)
    np.testing.assert_array_equal(stored(quantized, "w_quantized"), [[127, 0, -127], [-60, 0, 64]])
    np.testing.assert_allclose(stored(quantized, "w_scale"), [0.01, 1.0, 0.5 / 127], rtol=1e-6)
    assert stored(quantized, "x_scale") == pytest.approx(0.1)
    assert "w" not in {tensor.name for tensor in quantized.graph.initializer}
    # x = (1.04, 50) is stored as (10, 127): 1.0 and, saturated, 12.7.
    exact = np.float32([1.0, 12.7]) @ (stored(quantized, "w_quantized") * stored(quantized, "w_scale"))
    np.testing.assert_allclose(outputs(quantized, [1.04, 50.0]), np.maximum(exact, 0), rtol=1e-5)


def test_the_model_itself_is_left_as_it_is(model):
    before = model.SerializeToString()
    quantize(model, place(model), Scales({"x": 1.0}, {}), "int8")
    assert model.SerializeToString() == before


def test_fp8_runs_where_floats_of_8_bits_are_known(model):
    quantized = quantize(model, place(model), Scales({"x": 448.0}, {}), "fp8")
    onnx.checker.check_model(quantized, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    assert kinds["w_quantized"] == TensorProto.FLOAT8E4M3FN
    # With a scale of 1, 17 is between 16 and 18, and 1000 saturates at 448.
    found = outputs(quantized, [17.0, 1000.0])
    weight = stored(quantized, "w_quantized").astype(np.float32) * stored(quantized, "w_scale")
    np.testing.assert_allclose(found, np.maximum(np.float32([16.0, 448.0]) @ weight, 0), rtol=1e-5)


def test_a_channel_of_zeros_stays_zeros():
    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[0, 1] = 2.54
    np.testing.assert_allclose(channel_scales(weight, 0, "int8"), [0.02, 1.0])
    np.testing.assert_allclose(scales_of(np.float32([0.0, 448.0]), "fp8"), [1.0, 1.0])


def test_learned_weights_may_saturate(model):
    largest = np.float32([0.635, 1.0, 0.5])
    quantized = quantize(model, place(model), Scales({"x": 1.0}, {"w": largest}), "int8")
    np.testing.assert_array_equal(stored(quantized, "w_quantized")[:, 0], [127, -120])
