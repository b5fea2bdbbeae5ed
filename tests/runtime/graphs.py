"""Graphs of a node or two, from one input x to one output y."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_model(
    nodes: Sequence[onnx.NodeProto], initializers: Mapping[str, np.ndarray], x: Sequence[int], y: Sequence[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)
