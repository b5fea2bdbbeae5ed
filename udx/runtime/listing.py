"""A canonical listing of an ONNX graph's structure: equal for two exports of one architecture.

What counts: operators, attributes, wiring, shapes, dtypes, inputs and outputs, function bodies, opsets. What does not:
names, documentation, metadata, the order of independent nodes, and the *values* of floating-point and of quantized
tensors. The values of int32, int64 and bool tensors count (they are shapes, axes and indices) unless they are
dequantized.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from udx.tensors import dtype_name, tensor_spec

if TYPE_CHECKING:
    import onnx

_VALUES_COUNT: Final = frozenset({"int32", "int64", "bool"})


def canonical_listing(model: "onnx.ModelProto") -> tuple[str, ...]:
    """One line per fact of the model's structure, in an order that depends on structure alone."""
    opsets = sorted(f"opset {item.domain or 'ai.onnx'} {item.version}" for item in model.opset_import)
    functions = sorted(model.functions, key=lambda one: (one.domain, one.name, getattr(one, "overload", "")))
    lines = [*opsets, *_graph_lines(model.graph, {}, depth=0)]
    for function in functions:
        lines.append(f"function {function.domain}::{function.name} {sorted(function.attribute)}")
        names = {name: f"in{index}" for index, name in enumerate(function.input)}
        lines += _body_lines(function.node, {}, names, list(function.output))
    return tuple(lines)


def structural_hash(listing: Sequence[str]) -> str:
    """SHA-256 of a listing."""
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def constants_of(graph: "onnx.GraphProto") -> dict[str, "onnx.TensorProto"]:
    """Initializers and Constant nodes alike: which of the two an exporter writes costs nothing."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    return constants | _constant_nodes(graph.node)


def _constant_nodes(nodes: Iterable["onnx.NodeProto"]) -> dict[str, "onnx.TensorProto"]:
    import onnx

    dtypes = {"value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}
    found = {}
    for node in nodes:
        if node.op_type == "Constant" and is_standard(node):
            for attribute in node.attribute:
                if attribute.name == "value" and not attribute.ref_attr_name:
                    found[node.output[0]] = attribute.t
                elif attribute.name in dtypes and not attribute.ref_attr_name:
                    value = np.array(onnx.helper.get_attribute_value(attribute), dtypes[attribute.name])
                    found[node.output[0]] = onnx.numpy_helper.from_array(value)
    return found


def weights_of(graph: "onnx.GraphProto") -> list["onnx.TensorProto"]:
    """The constants whose values do not count: weights, but not shapes, axes and indices."""
    dequantized = _dequantized(graph.node)
    return [
        tensor
        for name, tensor in constants_of(graph).items()
        if dtype_name(tensor.data_type) != "object" and not _values_count(tensor, dequantized, name)
    ]


def _dequantized(nodes: Iterable["onnx.NodeProto"]) -> frozenset[str]:
    return frozenset(name for node in nodes if node.op_type == "DequantizeLinear" for name in node.input)


def _values_count(tensor: "onnx.TensorProto", dequantized: frozenset[str], name: str) -> bool:
    return dtype_name(tensor.data_type) in _VALUES_COUNT and name not in dequantized


def is_standard(node: "onnx.NodeProto") -> bool:
    """Whether a node is an operator of ONNX itself."""
    return node.domain in ("", "ai.onnx")


def _subgraphs(node: "onnx.NodeProto") -> Iterable["onnx.GraphProto"]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_inside(node: "onnx.NodeProto") -> Iterable["onnx.NodeProto"]:
    """All nodes of a node's branches, and of theirs."""
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield inner
            yield from nodes_inside(inner)


def op_name(node: "onnx.NodeProto") -> str:
    """Name an operator, with its domain unless it is ONNX's own."""
    return node.op_type if is_standard(node) else f"{node.domain}::{node.op_type}"


def _graph_lines(graph: "onnx.GraphProto", outer: Mapping[str, str], depth: int) -> list[str]:
    """List a model's graph (depth 0) or a node's branch; ``outer`` names what a branch sees from outside."""
    names = dict(outer)
    lines = []
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for index, value in enumerate(value for value in graph.input if value.name not in initializers):
        spec = tensor_spec(value)
        # A model's input names are its interface; a branch's are as arbitrary as any other name.
        names[value.name] = spec.name if depth == 0 else f"branch{depth}.{index}"
        lines.append(f"input {names[value.name]} {spec.dtype}{list(spec.shape)}")
    lines += _body_lines(graph.node, initializers, names, [value.name for value in graph.output], depth)
    if depth == 0:
        lines += [f"output {tensor_spec(value)}" for value in graph.output]
    return lines


def _body_lines(
    nodes: Sequence["onnx.NodeProto"],
    initializers: Mapping[str, "onnx.TensorProto"],
    names: dict[str, str],
    outputs: Sequence[str],
    depth: int = 0,
) -> list[str]:
    """List nodes in canonical order; ``names`` maps what is defined outside, and grows by what is defined here."""
    constants = {**initializers, **_constant_nodes(nodes)}
    dequantized = _dequantized(nodes)
    names |= {name: _constant_name(tensor, dequantized, name) for name, tensor in constants.items()}
    own = [node for node in nodes if not (node.op_type == "Constant" and node.output[0] in constants)]
    lines = [f"constant {count}x {name}" for name, count in sorted(Counter(names[name] for name in constants).items())]
    for index, node in enumerate(_canonical_order(own, names, depth)):
        lines.append(f"{index} {_node_line(node, names, depth)}")
        names |= {output: f"%{depth}.{index}.{position}" for position, output in enumerate(node.output)}
    lines.append("return " + " ".join(names.get(name, "?") for name in outputs))
    return lines


def _constant_name(tensor: "onnx.TensorProto", dequantized: frozenset[str], name: str) -> str:
    described = f"{dtype_name(tensor.data_type)}{list(tensor.dims)}"
    if _values_count(tensor, dequantized, name) and not tensor.external_data:
        import onnx

        described += ":" + hashlib.sha256(onnx.numpy_helper.to_array(tensor).tobytes()).hexdigest()[:16]
    return f"<{described}>"


def _canonical_order(nodes: Sequence["onnx.NodeProto"], names: Mapping[str, str], depth: int) -> list["onnx.NodeProto"]:
    """Topological order with ties broken by what a node computes, then by its place in the file."""
    meaning = dict(names)
    digest = []
    for node in nodes:  # ONNX files are in topological order; the checker saw to it
        line = _node_line(node, meaning, depth)
        digest.append(hashlib.sha256(line.encode()).hexdigest())
        meaning |= {output: f"{digest[-1]}.{position}" for position, output in enumerate(node.output)}
    producer = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    waits = [len({producer[name] for name in _reads(node) if name in producer}) for node in nodes]
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for source in {producer[name] for name in _reads(node) if name in producer}:
            readers.setdefault(source, []).append(index)
    ready = [(digest[index], index) for index, count in enumerate(waits) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(nodes[index])
        for reader in readers.get(index, ()):
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, (digest[reader], reader))
    assert len(order) == len(nodes), "the graph has a cycle"
    return order


def _reads(node: "onnx.NodeProto") -> set[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    found = {name for name in node.input if name}
    for inner in nodes_inside(node):
        found |= set(inner.input)
    return found | {value.name for graph in _subgraphs(node) for value in graph.output}


def _node_line(node: "onnx.NodeProto", names: Mapping[str, str], depth: int) -> str:
    arguments = " ".join(names.get(name, "?") if name else "-" for name in node.input)
    attributes = " ".join(_attribute(item, names, depth) for item in sorted(node.attribute, key=lambda one: one.name))
    return f"{op_name(node)}({arguments}) -> {len(node.output)} {attributes}".rstrip()


def _attribute(attribute: "onnx.AttributeProto", names: Mapping[str, str], depth: int) -> str:
    import onnx

    kind = onnx.AttributeProto
    if attribute.ref_attr_name:
        return f"{attribute.name}=@{attribute.ref_attr_name}"
    if attribute.type in (kind.GRAPH, kind.GRAPHS):
        graphs = [attribute.g] if attribute.type == kind.GRAPH else attribute.graphs
        text = "\n".join(line for graph in graphs for line in _graph_lines(graph, names, depth + 1))
        return f"{attribute.name}=graph:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if attribute.type == kind.TENSOR:
        return f"{attribute.name}={_constant_name(attribute.t, frozenset(), '')}"
    value = onnx.helper.get_attribute_value(attribute)
    text = repr(value if isinstance(value, int | float | bytes | str) else list(value))
    shown = text if len(text) <= 80 else "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{attribute.name}={shown}"
