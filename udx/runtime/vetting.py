"""Limits on a stranger's graph that are checked in plain Python, before any library looks at it.

``udx`` writes few kinds of operators, and libraries were seen to crash on others: everything else is refused.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from udx.errors import UdxError
from udx.operators import DOMAIN, NAMES
from udx.runtime.listing import is_standard, op_name

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

MAX_NODES: Final = 100_000
"""Nodes of a graph after its functions are inlined; those of the largest detector are a few thousand."""

STANDARD_OPERATORS: Final = frozenset(
    """
    Abs Add And ArgMax Atan AveragePool BatchNormalization Cast CastLike Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos CumSum DequantizeLinear Div Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool Greater GreaterOrEqual HardSigmoid HardSwish Identity IsNaN LayerNormalization
    LeakyRelu Less LessOrEqual Log MatMul Max MaxPool Mean Min Mod Mul Neg Not Or Pad Pow QuantizeLinear Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round
    ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh
    Tile TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)
"""What exports, calibrations, plans and function bodies are made of.

Without ``Loop``, ``If`` and ``Scan``: nothing that udx writes takes a branch or repeats itself.
"""

OPTIONAL_INPUTS: Final = {"Clip": (1, 2), "Resize": (1, 2), "Pad": (2,), "Slice": (3,)}
"""Inputs that may be left out by an empty name, by operator."""


def require_known_operators(model: "onnx.ModelProto", source: "Path | str") -> None:
    """Refuse a model with operators, branches or sparse tensors that udx never writes.

    Raises:
        UdxError: it has one; the sentence names the node.
    """
    if model.graph.sparse_initializer or model.training_info:
        raise UdxError(
            f"{source} holds sparse tensors or training information, which udx never writes; do not trust it"
        )
    for node in _all_nodes(model):
        _require_known(node, source)
    for function in model.functions:
        if function.domain != DOMAIN or function.name not in NAMES:
            name = f"{function.domain}::{function.name}"
            raise UdxError(f"{source} holds the function {name}, which udx never writes; do not trust it")


def _require_known(node: "onnx.NodeProto", source: "Path | str") -> None:
    known = node.op_type in STANDARD_OPERATORS if is_standard(node) else node.domain == DOMAIN and node.op_type in NAMES
    if node.domain == DOMAIN and not known:
        raise UdxError(
            f"{source}: node {_name(node)} is a {node.op_type}, which this udx does not know; export it again"
        )
    if not known:
        raise UdxError(f"{source} holds node {_name(node)}, a {op_name(node)}, which udx never writes; do not trust it")
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise UdxError(f"{source} holds node {_name(node)} with a graph inside, as udx never writes; do not trust it")
    optional = OPTIONAL_INPUTS.get(node.op_type, ())
    for place, name in enumerate(node.input):
        if not name and not (is_standard(node) and place in optional):
            raise UdxError(f"{source} holds node {_name(node)} without its input {place}; do not trust it")


def require_bounded_inlining(model: "onnx.ModelProto", source: "Path | str") -> None:
    """Refuse a model whose functions, put in place of the nodes that call them, make too many nodes.

    Functions must not call themselves.

    Raises:
        UdxError: they make more than ``MAX_NODES``.
    """
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable["onnx.NodeProto"]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies and key not in counted:
                counted[key] = count(bodies[key])
            total += counted.get(key, 1)
        return total

    total = count(model.graph.node)
    if total > MAX_NODES:
        raise UdxError(f"{source} has {total} nodes with its functions inlined, more than {MAX_NODES}; do not trust it")


def _all_nodes(model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _name(node: "onnx.NodeProto") -> str:
    return node.name or (node.output[0] if node.output else "without a name")
