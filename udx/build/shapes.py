"""Every shape in a graph with udx nodes: ONNX infers those of standard operators, launches know the others."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from udx.operators import DOMAIN, TensorType, operator_of
from udx.runtime.cost import known_tensors, skeleton_of, with_shapes
from udx.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx


def tensors_between(model: "onnx.ModelProto", sizes: Mapping[str, int] | None = None) -> dict[str, TensorSpec]:
    """Every tensor of a checked model whose type and shape can be known, by name; weights are not looked at.

    ``sizes`` fixes dimensions that the model's inputs leave open, by name.

    Raises:
        UdxError: a node of domain ``udx`` is of another version of udx, or reads types that it does not take.
    """
    skeleton = skeleton_of(model, sizes)
    while True:
        known = known_tensors(with_shapes(skeleton).graph)
        found = list(_outputs_of_operators(skeleton.graph, known))
        if not found:
            return known
        # What ONNX makes of a function's body is often less than all: its place is taken by what the kernel writes.
        stale = {spec.name for spec in found}
        kept = [value for value in skeleton.graph.value_info if value.name not in stale]
        del skeleton.graph.value_info[:]
        skeleton.graph.value_info.extend([*kept, *map(declared, found)])


def _outputs_of_operators(graph: "onnx.GraphProto", known: dict[str, TensorSpec]) -> Iterator[TensorSpec]:
    """Outputs that are not known yet of nodes whose inputs are; one node's outputs may be the next one's inputs."""
    for node in graph.node:
        if node.domain != DOMAIN or not all(name in known for name in node.input):
            continue
        if all(name in known for name in node.output):
            continue
        given = [known[name] for name in node.input]
        operator = operator_of(node)
        launch = operator.launch([TensorType(spec.dtype, spec.shape) for spec in given])
        shapes = launch.outputs_for(dict(zip(operator.inputs, (spec.shape for spec in given), strict=True)))
        for name, output, shape in zip(node.output, launch.outputs, shapes, strict=True):
            known[name] = TensorSpec(name, shape, output.dtype)
            yield known[name]


def declared(spec: TensorSpec) -> "onnx.ValueInfoProto":
    """The declaration of a tensor in a graph; NumPy alone knows no bfloat16."""
    import numpy as np
    from onnx import TensorProto, helper

    known = spec.dtype != "bfloat16"
    element = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)) if known else TensorProto.BFLOAT16
    return helper.make_tensor_value_info(spec.name, element, spec.shape)
