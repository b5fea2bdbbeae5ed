"""Where a graph is cut: few segments, kernels in order, views for nothing, constants and Q/DQ where they are read."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.build.partition import Kernel, Partition, Segment, partition
from udx.errors import UdxError
from udx.operators import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from udx.ops.onnx_functions import function_protos

POINTS, CELLS, CHANNELS = 6, 8, 3


def node(op_type: str, reads: str, writes: str, **attributes) -> onnx.NodeProto:
    name = writes.split()[0]
    if op_type.startswith("Udx"):
        attributes |= {"domain": DOMAIN, **PLUGIN_ATTRIBUTES}
    return helper.make_node(op_type, reads.split(), writes.split(), f"make_{name}", **attributes)


def clear(reads: str, writes: str) -> onnx.NodeProto:
    return node("UdxPillarClear", reads, writes, num_cells=CELLS)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    outputs: dict[str, tuple[int, ...]],
    weights: dict[str, np.ndarray] | None = None,
    rows: int | str = POINTS,
) -> onnx.ModelProto:
    """A graph that reads features (6, 3) and their cells (6,)."""
    used = {item.op_type for item in nodes if item.domain == DOMAIN}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [
                helper.make_tensor_value_info("features", TensorProto.FLOAT, (rows, CHANNELS)),
                helper.make_tensor_value_info("cell", TensorProto.INT32, (rows,)),
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
        functions=[function for function in function_protos() if function.name in used],
    )
    onnx.checker.check_model(model)
    return model


def listed(cut: Partition) -> list[tuple[str, str, str]]:
    """What every step is, and what it reads and writes."""
    kinds = [step.name if isinstance(step, Segment) else step.launch.kernel for step in cut.steps]
    return [(kind, " ".join(step.inputs), " ".join(step.outputs)) for kind, step in zip(kinds, cut.steps, strict=True)]


def ops(segment: Segment) -> list[str]:
    return [item.op_type for item in segment.model.graph.node]


SCATTER = [
    node("Relu", "features", "raised"),
    clear("raised", "zeros"),
    node("UdxPillarMax", "raised cell zeros", "pillars"),
    node("Exp", "pillars", "map"),
]
MAP = {"map": (CELLS, CHANNELS)}


def test_what_runs_before_between_and_after_kernels():
    cut = partition(model_of(SCATTER, MAP))
    assert listed(cut) == [
        ("segment-0", "features", "raised"),
        ("pillar_clear_kernel", "raised", "zeros"),
        ("pillar_max_kernel", "raised cell zeros", "pillars"),
        ("segment-1", "pillars", "map"),
    ]
    assert [ops(segment) for segment in cut.segments] == [["Relu"], ["Exp"]]
    assert [kernel.name for kernel in cut.kernels] == ["make_zeros", "make_pillars"]
    assert {name: spec.shape for name, spec in cut.tensors.items()} == {
        "features": (6, 3), "cell": (6,), "raised": (6, 3), "zeros": (8, 3), "pillars": (8, 3), "map": (8, 3),
    }  # fmt: skip
    assert cut.views == {}


def test_segments_are_standard_models_that_pass_the_checker():
    for segment in partition(model_of(SCATTER, MAP)).segments:
        onnx.checker.check_model(segment.model, full_check=True)
        assert [opset.domain for opset in segment.model.opset_import] == [""]
        assert not segment.model.functions
        assert tuple(value.name for value in segment.model.graph.input) == segment.inputs
        assert tuple(value.name for value in segment.model.graph.output) == segment.outputs


def test_a_graph_without_kernels_is_one_segment():
    cut = partition(model_of([node("Exp", "features", "map")], {"map": (POINTS, CHANNELS)}))
    assert listed(cut) == [("segment-0", "features", "map")]


def test_branches_share_segments_and_kernels_that_can_come_first_do():
    """Two branches side by side, of which only one has a kernel at its beginning: still two segments in all."""
    cut = partition(
        model_of(
            [
                node("Relu", "features", "left"),
                clear("left", "zeros"),
                node("UdxPillarMax", "left cell zeros", "left_map"),
                clear("features", "right_zeros"),
                node("UdxPillarMax", "features cell right_zeros", "right"),
                node("Exp", "right", "right_map"),
                node("Add", "left_map right_map", "map"),
            ],
            MAP,
        )
    )
    assert [kind for kind, _, _ in listed(cut)] == [
        "pillar_clear_kernel", "pillar_max_kernel", "segment-0", "pillar_clear_kernel", "pillar_max_kernel",
        "segment-1",
    ]  # fmt: skip
    assert [ops(segment) for segment in cut.segments] == [["Relu", "Exp"], ["Add"]]


def test_reshapes_outside_of_segments_are_views():
    cut = partition(
        model_of(
            [
                node("Unsqueeze", "features axis", "batch"),
                node("Squeeze", "batch axis", "again"),
                node("Exp", "batch", "grown"),
                clear("again", "zeros"),
                node("Reshape", "zeros flat", "long"),
                node("Reshape", "grown flat", "kept"),
                node("Concat", "long kept", "map", axis=0),
            ],
            {"map": ((CELLS + POINTS) * CHANNELS,)},
            {"axis": np.array([0]), "flat": np.array([-1])},
        )
    )
    assert cut.views == {"batch": "features", "again": "features", "long": "zeros"}
    assert listed(cut) == [
        ("pillar_clear_kernel", "again", "zeros"),
        ("segment-0", "batch long", "map"),
    ]
    assert ops(cut.segments[0]) == ["Exp", "Reshape", "Concat"]
    assert cut.tensors["batch"].shape == (1, POINTS, CHANNELS)


def test_a_reshape_is_a_view_if_its_shape_is_constant():
    sizes = {"three": np.array([CHANNELS]), "six": np.array([POINTS])}
    computed = [node("Concat", "three six", "shape", axis=0), node("Reshape", "features shape", "map")]
    cut = partition(model_of(computed, {"map": (CHANNELS, POINTS)}, sizes))
    assert (listed(cut), cut.views) == ([], {"map": "features"})
    measured = [
        node("Shape", "cell", "rows"),
        node("Concat", "three rows", "shape", axis=0),
        node("Reshape", "features shape", "map"),
    ]
    cut = partition(model_of(measured, {"map": (CHANNELS, POINTS)}, sizes))
    assert (listed(cut), cut.views) == ([("segment-0", "cell features", "map")], {})


def test_what_a_view_shows_may_leave_the_graph():
    cut = partition(
        model_of(
            [clear("features", "zeros"), node("Reshape", "zeros flat", "map")],
            {"map": (CELLS * CHANNELS,)},
            {"flat": np.array([-1])},
        )
    )
    assert listed(cut) == [("pillar_clear_kernel", "features", "zeros")]
    assert cut.outputs == ("map",)
    assert cut.views == {"map": "zeros"}


def test_constants_are_in_every_segment_that_reads_them():
    cut = partition(
        model_of(
            [
                node("Neg", "weight", "bias"),
                node("Add", "features bias", "raised"),
                clear("raised", "zeros"),
                node("UdxPillarMax", "raised cell zeros", "pillars"),
                node("Mul", "pillars bias", "scaled"),
                node("Add", "scaled weight", "map"),
            ],
            MAP,
            {"weight": np.arange(CHANNELS, dtype=np.float32), "unused": np.zeros(5, np.float32)},
        )
    )
    assert [ops(segment) for segment in cut.segments] == [["Neg", "Add"], ["Neg", "Mul", "Add"]]
    for segment in cut.segments:
        assert [tensor.name for tensor in segment.model.graph.initializer] == ["weight"]


def test_a_pair_of_q_and_dq_stands_before_the_layer_that_reads_it():
    scale = {"scale": np.float32(0.1), "zero": np.int8(0), "kernel": np.ones((CHANNELS, 2), np.int8)}
    cut = partition(
        model_of(
            [
                node("Relu", "features", "raised"),
                node("QuantizeLinear", "raised scale zero", "small"),
                node("DequantizeLinear", "small scale zero", "back"),
                clear("raised", "zeros"),
                node("UdxPillarMax", "raised cell zeros", "pillars"),
                node("DequantizeLinear", "kernel scale zero", "weight"),
                node("MatMul", "back weight", "map"),
                node("ReduceMax", "pillars", "peak", keepdims=0),
            ],
            {"map": (POINTS, 2), "peak": ()},
            scale,
        )
    )
    # "back" could be made in the first segment, where no layer reads it.
    matmul = next(segment for segment in cut.segments if "MatMul" in ops(segment))
    assert ops(matmul)[-2:] != ["QuantizeLinear", "DequantizeLinear"]
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(ops(matmul))
    assert "small" not in cut.tensors
    assert "back" not in cut.tensors


def test_q_and_dq_across_a_cut_leave_the_float_between_the_parts():
    weights = {"scale": np.float32(0.1), "zero": np.int8(0)}
    cut = partition(
        model_of(
            [
                node("Relu", "features", "raised"),
                node("QuantizeLinear", "raised scale zero", "small"),
                node("DequantizeLinear", "small scale zero", "back"),
                clear("raised", "zeros"),
                node("UdxPillarMax", "raised cell zeros", "pillars"),
                node("ReduceMax", "pillars", "peak", keepdims=1),
                node("Mul", "back peak", "map"),
            ],
            {"map": (POINTS, CHANNELS)},
            weights,
        )
    )
    assert [ops(segment) for segment in cut.segments] == [
        ["Relu"], ["QuantizeLinear", "DequantizeLinear", "ReduceMax", "Mul"],
    ]  # fmt: skip
    assert cut.segments[1].inputs == ("raised", "pillars")


def test_what_a_kernel_reads_dequantised_is_made_before_it():
    cut = partition(
        model_of(
            [
                node("QuantizeLinear", "features scale zero", "small"),
                node("DequantizeLinear", "small scale zero", "back"),
                clear("back", "zeros"),
                node("UdxPillarMax", "back cell zeros", "map"),
            ],
            MAP,
            {"scale": np.float32(0.1), "zero": np.int8(0)},
        )
    )
    assert listed(cut)[0] == ("segment-0", "features", "back")
    assert ops(cut.segments[0]) == ["QuantizeLinear", "DequantizeLinear"]


def test_constants_may_be_outputs():
    cut = partition(
        model_of(
            [clear("features", "map"), node("Identity", "weight", "shown")],
            MAP | {"shown": (2,)},
            {"weight": np.zeros(2, np.float32)},
        )
    )
    assert ("segment-0", "", "shown") in listed(cut)


def test_open_dimensions_are_fixed_where_a_size_is_given():
    model = model_of(SCATTER, MAP, rows="points")
    with pytest.raises(UdxError, match="has no fixed shape; export with fixed shapes"):
        partition(model)
    cut = partition(model, {"points": 11})
    assert cut.tensors["raised"].shape == (11, CHANNELS)
    assert cut.segments[0].model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 11


def test_what_cannot_be_cut_is_one_sentence():
    with pytest.raises(UdxError, match=r"node make_zeros \(UdxPillarClear\) reads the constant fixed"):
        partition(model_of([clear("fixed", "zeros"), node("Exp", "zeros", "map")], MAP,
                           {"fixed": np.zeros((POINTS, CHANNELS), np.float32)}))  # fmt: skip
    branch = helper.make_graph(
        [helper.make_node("Identity", ["features"], ["x"])],
        "branch",
        [],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (POINTS, CHANNELS))],
    )
    choice = helper.make_node("If", ["yes"], ["map"], "choice", then_branch=branch, else_branch=branch)
    with pytest.raises(UdxError, match=r"node choice \(If\) holds a graph of its own"):
        partition(model_of([choice], {"map": (POINTS, CHANNELS)}, {"yes": np.array(True)}))


def test_kernels_know_their_shapes_though_onnx_does_not():
    """A function's body hides the shape of what it makes from plain inference: nothing behind it has one either."""
    model = model_of(SCATTER, MAP)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    cut = partition(model)
    assert cut.tensors["map"].shape == (CELLS, CHANNELS)
    assert isinstance(cut.steps[1], Kernel)
