"""Operators that no export holds: released versions of TensorRT compute them wrongly, without a word.

GridSample is wrong in strongly typed FP32 networks of TensorRT 10.13 to 11.1 (NVIDIA/TensorRT issues 4646 and 4813);
several CumSum in one graph are wrong since 10.8 (issues 4513 and 4551); Unique and NonZero have shapes that depend on
data. In the body of a function of domain ``udx`` these three do no harm: a plugin stands in its place.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from udx.errors import UdxError
from udx.operators import DOMAIN
from udx.runtime.listing import nodes_inside

if TYPE_CHECKING:
    import onnx

EVERYWHERE: Final = frozenset({"GridSample"})
OUTSIDE_OF_BODIES: Final = frozenset({"CumSum", "NonZero", "Unique"})


def require_no_banned_operators(model: "onnx.ModelProto") -> None:
    """Hold a model to the rule above.

    Raises:
        UdxError: it holds such an operator.
    """
    for node, replaced in _nodes(model):
        if node.op_type in EVERYWHERE or (node.op_type in OUTSIDE_OF_BODIES and not replaced):
            raise UdxError(
                f"the export holds {node.op_type} (node {node.name or node.output[0]}), which released versions "
                "of TensorRT compute wrongly, so it was not written; report this with the run's config.json"
            )


def _nodes(model: "onnx.ModelProto") -> "Iterator[tuple[onnx.NodeProto, bool]]":
    """Every node, and whether it is in the body of a function of domain ``udx``."""
    bodies = [(function.node, function.domain == DOMAIN) for function in model.functions]
    for nodes, replaced in ((model.graph.node, False), *bodies):
        for node in nodes:
            yield node, replaced
            yield from ((inner, replaced) for inner in nodes_inside(node))
