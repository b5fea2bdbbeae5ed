"""Structure without weights: what counts, what does not."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.runtime.graphs import small_model, zeros
from udx.runtime.listing import canonical_listing, structural_hash, weights_of


def test_the_hash_is_of_the_listing(make_model) -> None:
    one, other = canonical_listing(make_model(repeats=1)), canonical_listing(make_model(repeats=2))
    assert structural_hash(one) == structural_hash(canonical_listing(make_model(repeats=1)))
    assert structural_hash(one) != structural_hash(other)


def test_weights_and_names_do_not_count(make_model) -> None:
    one, other = make_model(seed=0), make_model(seed=1)
    assert one.graph.initializer[0].raw_data != other.graph.initializer[0].raw_data
    names = {name for node in other.graph.node for name in node.output} - {"boxes", "scores", "labels"}
    for node in other.graph.node:
        node.name = "renamed_" + node.op_type
        for given in (node.input, node.output):
            for index, name in enumerate(given):
                given[index] = f"other_{name}" if name in names else name
    other.producer_name = "someone else"
    assert canonical_listing(one) == canonical_listing(other)


def test_the_order_of_independent_nodes_does_not_count(make_model) -> None:
    one, other = make_model(), make_model()
    last = other.graph.node.pop()  # labels, which depends on nothing
    nodes = [last, *other.graph.node]
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    assert canonical_listing(one) == canonical_listing(other)


def test_constants_count_alike_as_initializers_and_as_nodes() -> None:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    stored = small_model([add], {"w": zeros(3)}, [3], [3])
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(zeros(3) + 1, "w"))
    floats = helper.make_node("Constant", [], ["w"], value_floats=[1.0, 2.0, 3.0])
    listings = {canonical_listing(small_model([node, add], {}, [3], [3])) for node in (constant, floats)}
    assert listings == {canonical_listing(stored)}


def test_a_quantized_bias_is_a_weight_but_a_shape_is_not() -> None:
    def quantized(bias: int, shape: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node("DequantizeLinear", ["bias", "scale"], ["b"]),
            helper.make_node("Add", ["x", "b"], ["sum"]),
            helper.make_node("Reshape", ["sum", "shape"], ["y"]),
        ]
        values = {"bias": np.full(4, bias, np.int32), "scale": np.float32(0.5), "shape": np.array([shape, -1])}
        return small_model(nodes, values, [4], [shape, 4 // shape])

    assert canonical_listing(quantized(1, 2)) == canonical_listing(quantized(9, 2))
    assert canonical_listing(quantized(1, 2)) != canonical_listing(quantized(1, 4))
    assert [tensor.name for tensor in weights_of(quantized(1, 2).graph)] == ["bias", "scale"]


def branching(value: float, operator: str = "Add") -> onnx.ModelProto:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        constant = helper.make_node("Constant", [], [f"{name}_c"], value_float=value)
        node = helper.make_node(op_type, ["x", f"{name}_c"], [name])
        return helper.make_graph(
            [constant, node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])]
        )

    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("a", operator), else_branch=branch("b", "Mul"))
    return small_model([node], {"flag": np.array(True)}, [3], [3])


def test_branches_count_without_their_weights() -> None:
    assert canonical_listing(branching(1.0)) == canonical_listing(branching(2.0))
    assert canonical_listing(branching(1.0)) != canonical_listing(branching(1.0, "Sub"))
