"""Shapes in a graph with udx nodes, and the launches that follow from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from udx.errors import UdxError
from udx.launch import Launch
from udx.operators import DOMAIN, TensorType, operator_of
from udx.runtime.cost import fix_sizes, known_tensors, skeleton_of, with_shapes
from udx.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx


def tensors_between(model: "onnx.ModelProto", sizes: Mapping[str, int] | None = None) -> dict[str, TensorSpec]:
    """Every tensor of a checked model whose type and shape can be known, by name; weights are not looked at.

    ``sizes`` fixes dimensions that the model's inputs leave open, by name.

    Raises:
        UdxError: a node of domain ``udx`` lacks an attribute, or reads types that it does not take.
    """
    return known_tensors(with_shapes(skeleton_of(model, sizes)).graph)


def with_sizes(model: "onnx.ModelProto", sizes: Mapping[str, int]) -> "onnx.ModelProto":
    """The model with the dimensions fixed that its inputs leave open, by name; itself if it leaves none open."""
    import onnx

    if not sizes:
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fix_sizes(fixed.graph, sizes)
    return fixed


def launches_of(model: "onnx.ModelProto") -> list[Launch]:
    """Launches of the nodes of domain ``udx`` in a checked model, in the graph's order.

    Raises:
        UdxError: a node is of another version of udx, or the shapes before it are not fixed.
    """
    known = tensors_between(model)
    return [launch_of(node, known) for node in model.graph.node if node.domain == DOMAIN]


def launch_of(node: "onnx.NodeProto", known: Mapping[str, TensorSpec]) -> Launch:
    """The launch of a node of domain ``udx`` that reads known tensors.

    Raises:
        UdxError: the node is of another version of udx, or reads a tensor of unknown shape, or types or shapes that it
            cannot.
    """
    operator = operator_of(node)
    given = [spec_between(name, known) for name in node.input]
    return operator.launch([TensorType(spec.dtype, spec.shape) for spec in given])


def spec_between(name: str, known: Mapping[str, TensorSpec]) -> TensorSpec:
    """Type and shape of a tensor that a kernel or a segment reads or writes.

    Raises:
        UdxError: they are not known.
    """
    if name not in known:
        raise UdxError(f"tensor {name} between two parts of the graph has no fixed shape; export with fixed shapes")
    return known[name]
