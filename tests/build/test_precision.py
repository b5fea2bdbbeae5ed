"""What a file computes in, told from its graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.build.precision import precision_of, require_precision
from udx.errors import UdxError


def model_of(weight: np.ndarray | onnx.TensorProto, *, quantised: bool = False) -> onnx.ModelProto:
    if isinstance(weight, np.ndarray):
        weight = numpy_helper.from_array(weight, "weight")
    nodes = [helper.make_node("MatMul", ["x", "wide" if quantised else "weight"], ["y"])]
    initializers = [weight, numpy_helper.from_array(np.zeros(3, np.float32), "bias")]
    if quantised:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["weight", "scale"], ["wide"]))
        initializers.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, (2, 3))], [value("y", TensorProto.FLOAT, (2, 3))], initializers
    )
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (model_of(np.zeros((3, 3), np.float32)), "fp32"),
        (model_of(np.zeros((3, 3), np.float16)), "fp16"),
        (model_of(helper.make_tensor("weight", TensorProto.BFLOAT16, (1, 1), [0.0])), "bf16"),
        (model_of(np.zeros((3, 3), np.int8), quantised=True), "int8"),
        (model_of(helper.make_tensor("weight", TensorProto.FLOAT8E4M3FN, (1, 1), [0.0]), quantised=True), "fp8"),
        (model_of(np.zeros((3, 3), np.int64)), "fp32"),
    ],
)
def test_the_narrowest_type_of_a_layer_counts(model, precision):
    assert precision_of(model) == precision
    assert require_precision(model, Path("student.onnx"), None) == precision


def test_another_precision_than_the_file_s_is_refused():
    model = model_of(np.zeros((3, 3), np.float32))
    assert require_precision(model, Path("student.onnx"), "fp32") == "fp32"
    for wanted, way in (("fp16", "udx export --precision fp16"), ("int8", "udx calibrate")):
        with pytest.raises(UdxError, match=rf"computes in fp32, not in {wanted}: .* write one with {way}"):
            require_precision(model, Path("student.onnx"), wanted)
