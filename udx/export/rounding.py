"""What halves do to a detector on a backend that computes in halves, found out on one that does not.

ONNX Runtime has few FP16 kernels for the CPU: it computes the rest in FP32, and drops the casts between. On the CPU an
FP16 file therefore differs from its FP32 source by its weights, and by little else. Here every tensor that the file
holds in FP16 is rounded to FP16 where it is written; products are added in FP32, as tensor cores do.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from udx.runtime.cost import known_dtypes, skeleton_of, with_shapes

if TYPE_CHECKING:
    import onnx


def with_rounding(halved: "onnx.ModelProto") -> "onnx.ModelProto":
    """An FP32 model that gives what ``halved`` gives where FP16 is FP16; ``halved`` is left as it is."""
    import onnx

    dtypes = known_dtypes(with_shapes(skeleton_of(halved)).graph)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(halved)
    graph = rounded.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            exact = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(exact, tensor.name))
    nodes = [
        node
        for own in halved.graph.node
        for node in _rounding(own, [name for name in own.output if dtypes[name] == "float16"])
    ]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return rounded


def _rounding(node: "onnx.NodeProto", halves: Sequence[str]) -> "Iterator[onnx.NodeProto]":
    """A node in FP32, and two casts behind each of its outputs that ``halves`` names."""
    from onnx import TensorProto, helper

    wide = type(node)()
    wide.CopyFrom(node)
    wide.output[:] = [f"{name}.wide" if name in halves else name for name in node.output]
    if node.op_type == "Cast" and halves:
        wide.attribute[0].i = TensorProto.FLOAT
    yield wide
    for name in halves:
        yield helper.make_node("Cast", [f"{name}.wide"], [f"{name}.half"], f"{name}.half", to=TensorProto.FLOAT16)
        yield helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.rounded", to=TensorProto.FLOAT)
