"""Structure without weights: what counts, what does not."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.runtime.graph import count_macs, differences, structure_of

Change = Callable[[onnx.ModelProto], None]


def small_model(nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray], x: list[int], y: list[int]):
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


@pytest.mark.parametrize(
    ("node", "weight", "x", "y", "macs"),
    [
        # 8·8 outputs of 5 channels, 3·3·4 weights each
        (helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), (5, 4, 3, 3), [1, 4, 8, 8], [1, 5, 8, 8], 11520),
        # grouped: each output sees 2 channels
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (4, 2, 1, 1), [1, 4, 8, 8], [1, 4, 8, 8], 512),
        # every one of 4·8·8 inputs meets 6·2·2 weights
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            (4, 6, 2, 2),
            [1, 4, 8, 8],
            [1, 6, 16, 16],
            6144,
        ),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (7, 3), [2, 5, 7], [2, 5, 3], 210),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (7, 3), [5, 7], [5, 3], 105),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), (3, 7), [7, 5], [5, 3], 105),
    ],
)
def test_macs_by_hand(node: onnx.NodeProto, weight: tuple[int, ...], x: list[int], y: list[int], macs: int) -> None:
    found = structure_of(small_model([node], {"w": zeros(*weight)}, x, y))
    assert found.macs == macs
    assert found.parameters == np.prod(weight)
    assert found.parameter_bytes == 4 * np.prod(weight)
    assert found.uncounted == ()


def test_macs_inside_a_function_are_counted() -> None:
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    model = small_model(
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="udx")], {"w": zeros(7, 3)}, [5, 7], [5, 3]
    )
    model.opset_import.append(helper.make_opsetid("udx", 1))
    model.functions.append(helper.make_function("udx", "Twice", ["a", "b"], ["c"], body, [helper.make_opsetid("", 20)]))
    found = structure_of(model)
    assert found.macs == 105
    assert found.op_histogram == {"udx::Twice": 1}


def test_nodes_without_shapes_are_named_not_forgotten() -> None:
    model = small_model(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="lost")], {"w": zeros(7, 3)}, [5, 7], [5, 3]
    )
    model.graph.node.append(helper.make_node("Relu", ["h"], ["y"]))
    assert count_macs(model) == (0, ("MatMul lost",))


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
    assert differences(structure_of(one), structure_of(other)) == ()
    assert structure_of(one).sha256 == structure_of(other).sha256


def test_the_order_of_independent_nodes_does_not_count(make_model) -> None:
    one, other = make_model(), make_model()
    last = other.graph.node.pop()  # labels, which depends on nothing
    nodes = [last, *other.graph.node]
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    assert structure_of(one).sha256 == structure_of(other).sha256


def test_constants_count_alike_as_initializers_and_as_nodes() -> None:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    stored = small_model([add], {"w": zeros(3)}, [3], [3])
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(zeros(3) + 1, "w"))
    floats = helper.make_node("Constant", [], ["w"], value_floats=[1.0, 2.0, 3.0])
    hashes = {structure_of(stored).sha256}
    hashes |= {structure_of(small_model([node, add], {}, [3], [3])).sha256 for node in (constant, floats)}
    assert len(hashes) == 1


def set_pads(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(item for item in conv.attribute if item.name == "pads").ints[:] = [0, 0, 2, 2]


def swap_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Sin").op_type = "Cos"


def swap_labels(model: onnx.ModelProto) -> None:
    labels = next(tensor for tensor in model.graph.initializer if tensor.name == "label_w")
    labels.CopyFrom(numpy_helper.from_array(np.zeros(7, np.int64), "label_w"))


def rewire(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Mul").input[1] = "bounded"


@pytest.mark.parametrize(
    ("change", "said"),
    [(set_pads, "pads=[0, 0, 2, 2]"), (swap_operator, "Cos"), (swap_labels, "int64[7]"), (rewire, "wired differently")],
)
def test_what_counts_changes_the_hash_and_is_said(make_model, change: Change, said: str) -> None:
    one, other = make_model(), make_model()
    change(other)
    found = differences(structure_of(one), structure_of(other))
    assert any(said in line for line in found), found


def test_one_more_layer_is_said_in_words(make_model) -> None:
    found = differences(structure_of(make_model(repeats=1)), structure_of(make_model(repeats=2)))
    assert "Conv: 1 against 2 nodes" in found
    assert any(line.startswith("MACs: ") for line in found)


def test_a_quantized_bias_is_a_weight_but_a_shape_is_not() -> None:
    def quantized(bias: int, shape: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node("DequantizeLinear", ["bias", "scale"], ["b"]),
            helper.make_node("Add", ["x", "b"], ["sum"]),
            helper.make_node("Reshape", ["sum", "shape"], ["y"]),
        ]
        values = {"bias": np.full(4, bias, np.int32), "scale": np.float32(0.5), "shape": np.array([shape, -1])}
        return small_model(nodes, values, [4], [shape, 4 // shape])

    assert structure_of(quantized(1, 2)).sha256 == structure_of(quantized(9, 2)).sha256
    assert structure_of(quantized(1, 2)).sha256 != structure_of(quantized(1, 4)).sha256
    assert structure_of(quantized(1, 2)).parameters == 5


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
    assert structure_of(branching(1.0)).sha256 == structure_of(branching(2.0)).sha256
    assert structure_of(branching(1.0)).sha256 != structure_of(branching(1.0, "Sub")).sha256
