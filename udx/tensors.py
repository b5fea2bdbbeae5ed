"""Names, shapes and types of tensors, as engines and ONNX graphs declare them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and numpy dtype of a tensor; a dimension that is not fixed is −1."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"

    def admits(self, other: "TensorSpec") -> bool:
        """Whether the other is this tensor, open dimensions having any size."""
        sizes = zip(self.shape, other.shape, strict=False)
        fits = len(self.shape) == len(other.shape) and all(mine in (-1, theirs) for mine, theirs in sizes)
        return fits and (self.name, self.dtype) == (other.name, other.dtype)

    @property
    def num_bytes(self) -> int:
        """Bytes of one such tensor."""
        size = np.dtype(self.dtype).itemsize
        for length in self.shape:
            size *= length
        return size


def tensor_spec(value: "onnx.ValueInfoProto") -> TensorSpec:
    """Describe what a graph declares of an input, an output or a value between."""
    tensor = value.type.tensor_type
    shape = tuple(length.dim_value if length.HasField("dim_value") else -1 for length in tensor.shape.dim)
    return TensorSpec(value.name, shape, dtype_name(tensor.elem_type))


def value_info_of(spec: TensorSpec) -> "onnx.ValueInfoProto":
    """Declare a tensor as graphs do; NumPy by itself knows no bfloat16."""
    import onnx

    element = (
        onnx.TensorProto.BFLOAT16
        if spec.dtype == "bfloat16"
        else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    )
    return onnx.helper.make_tensor_value_info(spec.name, element, spec.shape)


def spec_of_tensor(tensor: "onnx.TensorProto") -> TensorSpec:
    """Describe a stored tensor."""
    return TensorSpec(tensor.name, tuple(tensor.dims), dtype_name(tensor.data_type))


def dtype_name(elem_type: int) -> str:
    """Name an ONNX element type as numpy does."""
    import onnx

    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name
    except (KeyError, ValueError):
        return f"unknown type {elem_type}"


def tensors_of(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """Every tensor stored in the model: weights and constants, in subgraphs and function bodies too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator["onnx.TensorProto"]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*sparse_tensors, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)
