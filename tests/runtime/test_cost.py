"""Multiply-accumulates and the peak of activations, by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.graphs import small_model, zeros
from udx.runtime.cost import count_macs, known_tensors, peak_activation, skeleton_of, with_shapes
from udx.runtime.graph import structure_of


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
    assert count_macs(model.graph) == (0, ("MatMul lost",))


def peak_of(nodes: list[onnx.NodeProto], x: list[int], y: list[int], **initializers: np.ndarray) -> int:
    peak, unsized = peak_activation(with_shapes(small_model(nodes, initializers, x, y)).graph)
    assert unsized == ()
    return peak


def test_peak_of_a_chain() -> None:
    # x is there throughout, with h1 and h2 while Neg runs, and with h2 and y while the last Abs does.
    nodes = [
        helper.make_node("Abs", ["x"], ["h1"]),
        helper.make_node("Neg", ["h1"], ["h2"]),
        helper.make_node("Abs", ["h2"], ["y"]),
    ]
    assert peak_of(nodes, [3], [3]) == 12 + 12 + 12
    assert peak_of([nodes[0], helper.make_node("Neg", ["h1"], ["y"])], [3], [3]) == 36
    nodes.insert(2, helper.make_node("Neg", ["h1"], ["unread"]))  # h1, h2 and what nobody reads
    assert peak_of(nodes, [3], [3]) == 4 * 12


def test_weights_and_views_take_no_memory() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["flat"]),
        helper.make_node("Neg", ["flat"], ["y"]),
    ]
    # x 2·3, h 2·100 and y 200 floats; neither the weights (300) nor the view of h
    assert peak_of(nodes, [2, 3], [200], w=zeros(3, 100), shape=np.array([200])) == 4 * (6 + 200 + 200)


def test_an_operator_that_writes_in_place_takes_no_memory_of_its_own() -> None:
    types = {"features": TensorProto.FLOAT, "cell": TensorProto.INT32, "cleared": TensorProto.FLOAT}
    shapes = {"features": [5, 4], "cell": [5], "cleared": [7, 4]}
    graph = helper.make_graph(
        [helper.make_node("UdxPillarMax", [*shapes], ["pillars"], domain="udx")],
        "g",
        [helper.make_tensor_value_info(name, types[name], shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("pillars", TensorProto.FLOAT, [7, 4])],
    )
    assert peak_activation(graph) == (4 * (20 + 5 + 28), ())


def test_tensors_without_a_size_are_named() -> None:
    model = small_model([helper.make_node("Mystery", ["x"], ["h"], domain="other")], {}, [3], [3])
    model.graph.node.append(helper.make_node("Relu", ["h"], ["y"]))
    assert peak_activation(model.graph) == (24, ("h",))


def test_a_skeleton_has_no_weights_but_all_shapes() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    model = small_model(nodes, {"w": zeros(100, 100), "shape": np.array([2, 50, 2])}, [2, 100], [2, 50, 2])
    skeleton = skeleton_of(model)
    assert skeleton.ByteSize() < 1000 < model.ByteSize()
    assert known_tensors(with_shapes(skeleton).graph) == known_tensors(with_shapes(model).graph)


def test_open_dimensions_count_at_the_size_that_is_given() -> None:
    model = small_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": zeros(7, 3)}, [5, 7], [5, 3])
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "points"
    assert structure_of(model).uncounted == ("MatMul y", "x", "y")
    found = structure_of(model, {"points": 11})
    assert (found.macs, found.peak_activation_bytes, found.uncounted) == (11 * 7 * 3, 11 * 10 * 4, ())
    assert found.sha256 == structure_of(model).sha256


def test_what_kernels_write_has_the_shape_that_they_give_it() -> None:
    node = helper.make_node(
        "UdxVoxelCells", ["x", "count"], ["cell", "cleared"], domain="udx",
        x_min=0.0, y_min=0.0, cell_size=1.0, rows=4, columns=5, z_min=0.0, z_max=1.0,
    )  # fmt: skip
    model = small_model([node, helper.make_node("Neg", ["cell"], ["y"])], {}, [2, 7, 5], [14])
    model.graph.input.append(helper.make_tensor_value_info("count", TensorProto.INT32, [2, 1]))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    model.opset_import.append(helper.make_opsetid("udx", 1))
    known = known_tensors(with_shapes(skeleton_of(model)).graph)
    assert (known["cell"].shape, known["cleared"].shape) == ((14,), (2 * 4 * 5 + 1, 4))
    assert known["cleared"].dtype == "int32"
