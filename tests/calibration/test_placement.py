"""Where pairs of Q and DQ go: read from the graphs of real detectors."""

import onnx
import pytest
from onnx import TensorProto, helper

from tests.build.exported import exported_model
from udx.calibration.insert import Scales, quantize
from udx.calibration.placement import block_of, place
from udx.export.precision import fp16_plan, last_layers
from udx.runtime.graph import structure_of


@pytest.fixture(scope="module", params=["cam", "lidar", "fusion"])
def model(request) -> onnx.ModelProto:
    return exported_model("tiny", request.param)[0]


@pytest.fixture(scope="module")
def quantized(model) -> onnx.ModelProto:
    placement = place(model)
    return quantize(model, placement, Scales(dict.fromkeys(placement.tensors, 4.0), {}), "int8")


def by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def test_every_layer_is_quantized_or_kept_for_a_reason(model):
    placement = place(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    kinds = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    layers = [node.name for node in model.graph.node if node.op_type in kinds and node.input[1] in weights]
    kept = [name for names in placement.kept.values() for name in names]
    assert sorted([*placement.nodes, *kept]) == sorted(layers)
    assert len(placement.nodes) > len(kept)


def test_geometry_softmax_pixels_and_decoding_read_no_pair(model, quantized):
    plan = fp16_plan(model)
    exact = {name for names in plan.values() for name in names}
    made_of_pairs = {name for name, node in by_output(quantized).items() if node.op_type == "DequantizeLinear"}
    for node in quantized.graph.node:
        if node.name in exact or node.domain == "udx":
            assert not made_of_pairs & set(node.input), node.name


def test_the_last_layers_stay_exact(model):
    last = {node.name for node in model.graph.node if set(node.output) & set(last_layers(model))}
    assert set(place(model).kept["heads"]) == last


def test_a_quantized_layer_reads_two_dequantized_tensors_and_its_own_bias(model, quantized):
    made = by_output(quantized)
    for layer in place(model).layers:
        node = next(node for node in quantized.graph.node if node.name == layer.node)
        assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        assert all(name not in made for name in node.input[2:])
        # No pair between a layer and its activation function: the kernel rounds once, after it.
        readers = [reader for reader in quantized.graph.node if node.output[0] in reader.input]
        residuals = {item.reads for item in place(model).residuals}
        paired = any(reader.op_type == "QuantizeLinear" for reader in readers)
        assert not paired or node.output[0] in residuals or "Relu" not in {r.op_type for r in readers}


def test_of_an_addition_the_shorter_way_is_quantized():
    model, _ = exported_model("tiny", "cam")
    placement = place(model)
    quantized = quantize(model, placement, Scales(dict.fromkeys(placement.tensors, 4.0), {}), "int8")
    adds = [node for node in quantized.graph.node if node.name in {item.node for item in placement.residuals}]
    made = by_output(quantized)
    assert len(adds) == 3  # one a stage
    for add in adds:
        kinds = [made[name].op_type for name in add.input]
        assert sorted(kinds) == ["Conv", "DequantizeLinear"]
        # The convolution that adds is the block's last 3 × 3, not the 1 × 1 of its shortcut.
        conv = next(made[name] for name in add.input if made[name].op_type == "Conv")
        assert "shortcut" not in conv.input[1]


def test_what_is_joined_has_one_pair_after_the_join(model, quantized):
    joined = [node for node in model.graph.node if node.op_type == "Concat" and node.output[0] in place(model).tensors]
    assert joined
    for node in joined:
        assert not [other for other in quantized.graph.node if other.op_type == "QuantizeLinear" and
                    other.input[0] in node.input and node.output[0] not in place(model).tensors]  # fmt: skip
        pair = [other for other in quantized.graph.node if other.op_type == "QuantizeLinear"
                and other.input[0] == node.output[0]]  # fmt: skip
        assert len(pair) == 1


def test_weights_decide_nothing():
    models = [exported_model("tiny", "lidar")[0] for _ in range(2)]
    for tensor in models[1].graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.raw_data = bytes(len(tensor.raw_data))
    one, two = (place(model) for model in models)
    assert one == two
    scales = [Scales(dict.fromkeys(one.tensors, value), {}) for value in (1.0, 3.0)]
    hashes = {structure_of(quantize(model, one, its, "int8")).sha256 for model, its in zip(models, scales, strict=True)}
    assert len(hashes) == 1


def test_what_is_left_out_is_told():
    placement = place(exported_model("tiny", "cam")[0])
    skipped = placement.residuals[0].layer
    less = placement.without({skipped})
    assert less.kept["sensitive"] == (skipped,)
    assert skipped not in less.nodes
    assert len(less.residuals) == len(placement.residuals) - 1
    assert less.only(less.nodes) == less


def test_blocks_are_named_by_modules():
    assert block_of("detector.camera.backbone.encoder.stages.2.layers.0.conv.weight") == (
        "camera.backbone.encoder.stages.2"
    )
    assert block_of("detector.camera.depth_and_context.weight") == "camera.depth_and_context"
    assert block_of("w") == "w"


def test_gemm_and_matmul_have_their_channels_where_their_weights_do():
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"], "matmul"),
        helper.make_node("Gemm", ["y", "b"], ["z"], "gemm", transB=1),
        helper.make_node("Gemm", ["z", "c"], ["u"], "plain"),
        helper.make_node("Gemm", ["u", "c"], ["v"], "last"),
    ]
    value = helper.make_tensor_value_info
    weights = [helper.make_tensor(name, TensorProto.FLOAT, (4, 4), [1.0] * 16) for name in "abc"]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, (4, 4))], [value("v", TensorProto.FLOAT, (4, 4))], weights
    )
    placement = place(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert {layer.node: layer.axis for layer in placement.layers} == {"matmul": 1, "gemm": 0, "plain": 1}
    assert placement.kept == {"heads": ("last",)}
