"""The FP16 variant: what stays FP32 does so to the bit, the rest is close, and what was lost is told."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from tests.build.exported import exported_model, frame_of
from tests.runtime.graphs import small_model
from udx.data.inputs import inputs_of
from udx.data.load import load_sample
from udx.export.deploy import OUTPUTS
from udx.export.parity import agreement, difference, values_of
from udx.export.precision import fp16_plan, last_layers, to_fp16
from udx.export.rounding import with_rounding
from udx.operators import DOMAIN, OPSET, PLUGIN_ATTRIBUTES
from udx.ops.onnx_functions import function_protos
from udx.runtime.cost import known_dtypes, skeleton_of, with_shapes
from udx.runtime.engine import open_engine
from udx.runtime.graph import structure_of

HEADS = 0.005
"""Head maps may differ by this share of their largest value."""
SCORE, CENTRE_M, FOUND_AGAIN = 0.001, 0.01, 0.9
"""Matched boxes may differ by this, and this share of all must be matched."""

GEOMETRY = {"UdxVoxelCells", "UdxVoxelSums", "UdxPillarFeatures"}


@pytest.fixture(scope="module", params=["cam", "lidar", "fusion"])
def variants(request):
    """A detector with random weights in FP32 and in FP16, with its plan and a frame."""
    exact, manifest = exported_model("tiny", request.param)
    halved, plan = to_fp16(exact)
    return exact, halved, plan, frame_of(manifest)


def dtypes_of(model: onnx.ModelProto) -> dict[str, str]:
    return known_dtypes(with_shapes(skeleton_of(model)).graph)


def test_the_plan_names_its_reasons(variants):
    exact, _, plan, _ = variants
    operators = {node.op_type for node in exact.graph.node}
    kinds = {node.name: node.op_type for node in exact.graph.node}
    by_reason = {reason: {kinds[name] for name in names} for reason, names in plan.float32.items()}
    assert by_reason["points"] >= operators & {*GEOMETRY, "UdxPillarClear", "UdxPillarMax"}
    assert by_reason["pixels"] >= ({"Sub", "Div"} if "UdxBevPool" in operators else set())
    assert by_reason["sums"] == ({"Softmax"} if "UdxBevPool" in operators else set())
    assert by_reason["decoding"] >= {"Sigmoid", "TopK", "MaxPool", "Exp", "Atan", "Clip"}
    assert plan.precision == "fp16" and plan.converter.startswith("onnxruntime")
    assert not plan.exact_nodes & {node.name for node in exact.graph.node if node.op_type == "Conv"}


def test_no_geometry_is_fp16(variants):
    exact, halved, plan, _ = variants
    dtypes = dtypes_of(halved)
    nodes = {node.name: node for node in halved.graph.node}
    assert plan.exact_nodes <= nodes.keys()
    upstream = set()
    for node in reversed(halved.graph.node):
        if node.op_type in GEOMETRY | {"UdxPillarMax"} or upstream & set(node.output):
            upstream |= {*node.input, *node.output}
    touched = {name for at in plan.exact_nodes for name in (*nodes[at].input, *nodes[at].output)} | upstream
    assert touched and not [name for name in touched if dtypes.get(name) == "float16"]
    declared = [
        {value.name: value.type for value in (*model.graph.input, *model.graph.output)} for model in (exact, halved)
    ]
    assert declared[0] == declared[1]


def test_the_rest_is_fp16(variants):
    _, halved, plan, _ = variants
    dtypes = dtypes_of(halved)
    for node in halved.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "UdxBevPool"):
            floats = {dtypes[name] for name in (*node.input, *node.output)} - {"int32"}
            assert floats == {"float16"}, node.name
        elif node.name not in plan.exact_nodes and node.op_type != "Cast":
            assert "float32" not in {dtypes[name] for name in node.output}, node.name


def test_the_nodes_keep_functions_and_plugins(variants):
    exact, halved, _, _ = variants
    assert [body.SerializeToString() for body in exact.functions] == [
        body.SerializeToString() for body in halved.functions
    ]
    onnx.checker.check_model(halved, full_check=True)
    for node in halved.graph.node:
        if node.domain == DOMAIN:
            given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            assert given["plugin_namespace"] == PLUGIN_ATTRIBUTES["plugin_namespace"].encode()
            assert (given["plugin_version"], given["aot"]) == (b"1", 1)


def test_points_to_pillars_are_the_same_to_the_bit(variants):
    exact, halved, plan, tensors = variants
    nodes = {node.name: node for node in exact.graph.node if node.name in plan.float32["points"]}
    names = [name for node in nodes.values() for name in node.output if node.op_type in GEOMETRY]
    if not names:
        pytest.skip("a camera student reads no points")
    one, two = values_of(exact, names, tensors), values_of(halved, names, tensors)
    for name in names:
        np.testing.assert_array_equal(one[name], two[name])


def test_decoding_is_that_of_fp32_on_the_heads_that_fp16_gives(variants):
    exact, halved, _, tensors = variants
    heads = last_layers(exact)
    maps = values_of(halved, heads, tensors)
    assert {array.dtype.name for array in maps.values()} == {"float16"}
    decoding = Extractor(exact).extract_model(list(heads), list(OUTPUTS))
    expected = values_of(decoding, OUTPUTS, {name: array.astype(np.float32) for name, array in maps.items()})
    found = values_of(halved, OUTPUTS, tensors)
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name], expected[name])


def test_heads_and_boxes_are_close_on_real_frames(engines, fp16_engines, keyframes):
    for name, fp16_engine in fp16_engines.items():
        engine = engines[name]
        spec = engine.manifest.spec
        exact, halved = onnx.load(engine.path), with_rounding(onnx.load(fp16_engine.path))
        heads = last_layers(exact)
        with open_engine(engine.path) as one, open_engine(fp16_engine.path) as two:
            for keyframe in keyframes:
                tensors = inputs_of(load_sample(keyframe, spec), spec)
                maps = [values_of(model, heads, tensors) for model in (exact, halved)]
                assert max(difference(maps[0][head], maps[1][head]).relative for head in heads) < HEADS
                found = agreement(one.detect(tensors), two.detect(tensors))
                assert found.boxes > 20 and found.share >= FOUND_AGAIN
                assert found.score_max < SCORE and found.centre_max_m < CENTRE_M


def test_twins_have_one_plan_and_one_structure(engines, fp16_engines):
    one, other = fp16_engines["cam"], fp16_engines["distilled"]
    assert one.manifest.precision.float32 == other.manifest.precision.float32
    assert one.manifest.graph == other.manifest.graph
    assert one.manifest.graph != engines["cam"].manifest.graph
    assert one.manifest.graph.parameter_bytes < 0.6 * engines["cam"].manifest.graph.parameter_bytes
    assert one.manifest.graph.macs == engines["cam"].manifest.graph.macs


def test_what_is_written_says_so(fp16_engines):
    for engine in fp16_engines.values():
        assert engine.manifest.precision.precision == "fp16"
        assert 0 <= engine.proof.heads < HEADS
        assert engine.to_json()["parity"]["fp16_boxes"]["boxes"] == engine.proof.agreement.boxes
        assert "in FP16 head maps differ by at most" in engine.summary()
        assert structure_of(onnx.load(engine.path)).facts == engine.manifest.graph


def test_bev_pool_adds_in_fp32_what_it_reads_and_writes_in_fp16():
    """4096 points in one cell: added in FP16 they would stop at 2048."""
    depth, context = np.ones((1, 1, 1, 64, 64), np.float16), np.full((1, 1, 64, 64, 2), 1.0, np.float16)
    given = {
        "depth": depth,
        "context": context,
        "point_index": np.arange(4096, dtype=np.int32)[None],
        "cell_offsets": np.array([[0, 4096, 4096]], np.int32),
    }
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    graph = helper.make_graph(
        [helper.make_node("UdxBevPool", [*given], ["pooled"], domain=DOMAIN, **PLUGIN_ATTRIBUTES)],
        "g",
        [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in given.items()],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT16, (1, 2, 2))],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=function_protos(), ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (pooled,) = session.run(None, given)
    assert pooled.dtype == np.float16
    np.testing.assert_array_equal(pooled, [[[4096, 4096], [0, 0]]])


def layered(weight: np.ndarray, **constants: float) -> onnx.ModelProto:
    """A layer between two sums with one constant; only the second is decoding."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("Add", ["h", "c"], ["h2"], "between"),
        helper.make_node("MatMul", ["h2", "w"], ["h3"], "last"),
        helper.make_node("Add", ["h3", "c"], ["y"], "decoding"),
    ]
    size = len(weight)
    values = {"w": weight.astype(np.float32), **{name: np.float32(value) for name, value in constants.items()}}
    return small_model(nodes, values, [1, size], [1, size])


def test_a_constant_that_both_halves_read_stays_exact_for_fp32():
    model = layered(np.eye(2), c=0.1)
    assert fp16_plan(model)["decoding"] == ("decoding",)
    halved, _ = to_fp16(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in halved.graph.initializer}
    readers = {node.name: node.input[1] for node in halved.graph.node if node.op_type == "Add"}
    assert stored[readers["between"]].dtype == np.float16
    assert stored[readers["decoding"]] == np.float32(0.1)


def test_weights_that_fp16_cannot_hold_are_counted():
    _, plan = to_fp16(layered(np.array([[1e6, -1e7], [1e-9, 0.0]]), c=1.0))
    assert (plan.saturated, plan.raised) == (2, 1)


def test_the_model_that_was_given_is_left_alone():
    model, _ = exported_model("tiny", "lidar")
    before = model.SerializeToString()
    to_fp16(model)
    assert model.SerializeToString() == before


def test_a_manifest_that_promises_more_than_the_graph_keeps_is_refused(fp16_engines, tmp_path):
    from udx.errors import UdxError
    from udx.runtime.onnx_file import read_onnx, sealed

    engine = fp16_engines["lidar"]
    model = onnx.load(engine.path)
    layer = next(node.name for node in model.graph.node if node.op_type == "Conv")
    plan = engine.manifest.precision
    for float32, said in (
        ({"points": (layer,)}, f"computes {layer} with .* in FP16"),
        ({"points": ("nowhere",)}, "has no node nowhere"),
    ):
        sealed(model, dataclasses.replace(engine.manifest, precision=dataclasses.replace(plan, float32=float32)))
        onnx.save(model, tmp_path / "more.onnx")
        with pytest.raises(UdxError, match=said):
            read_onnx(tmp_path / "more.onnx")
