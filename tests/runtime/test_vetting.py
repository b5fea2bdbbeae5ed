"""Only what udx writes gets to the libraries: operators, functions, sizes."""

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.build.detectors import voxelizing_detector
from tests.runtime.test_damaged_onnx import with_right_hash
from udx.errors import UdxError
from udx.operators import DOMAIN, NAMES, VERSION
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.onnx_file import read_onnx
from udx.runtime.vetting import MAX_NODES, OPTIONAL_INPUTS, STANDARD_OPERATORS, require_bounded_inlining

MICROSOFT = ("QLinearSoftmax", "QLinearLeakyRelu", "QLinearSigmoid", "QMoE", "FusedConv", "Attention")


def with_node(node: onnx.NodeProto, path: Path, *domains: str) -> Path:
    """A detector with one node more, its hash made right."""
    model = voxelizing_detector()
    model.graph.node.append(node)
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    with_right_hash(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("LSTM", ["points", "a", "b"], ["y"]), "node y, a LSTM, which udx never writes"),
        (helper.make_node("NonZero", ["points"], ["y"], "found"), "node found, a NonZero, which udx never writes"),
        (helper.make_node("GridSample", ["a", "b"], ["y"]), "a GridSample, which udx never writes"),
        *((helper.make_node(name, ["points"], ["y"], domain="com.microsoft"), name) for name in MICROSOFT),
        (helper.make_node("Scaler", ["points"], ["y"], domain="ai.onnx.ml"), "a ai.onnx.ml::Scaler"),
        (
            helper.make_node("UdxSecret", ["points"], ["y"], domain="udx"),
            "is a UdxSecret, which this",
        ),
        (helper.make_node("LayerNormalization", ["points", "", "b"], ["y"]), "node y without its input 1"),
        (helper.make_node("Add", ["points", ""], ["y"]), "node y without its input 1"),
    ],
)
def test_operators_that_udx_never_writes_are_refused(node: onnx.NodeProto, said: str, tmp_path: Path) -> None:
    with pytest.raises(UdxError, match=said):
        read_onnx(with_node(node, tmp_path / "foreign.onnx", "com.microsoft", "ai.onnx.ml"))


@pytest.mark.parametrize("kind", ["Loop", "If", "Scan"])
def test_branches_and_loops_are_refused(kind: str, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    body = helper.make_graph([helper.make_node("Identity", ["points"], ["z"])], "body", [], [value])
    names = {"Loop": ("body",), "Scan": ("body",), "If": ("then_branch", "else_branch")}[kind]
    node = helper.make_node(kind, ["points"], ["y"], "again", **dict.fromkeys(names, body))
    with pytest.raises(UdxError, match=f"node again, a {kind}, which udx never writes"):
        read_onnx(with_node(node, tmp_path / "loop.onnx"))


def test_a_graph_inside_an_allowed_operator_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    body = helper.make_graph([helper.make_node("Loop", ["points"], ["z"])], "body", [], [value])
    node = helper.make_node("Relu", ["points"], ["y"], "hidden", body=body)
    with pytest.raises(UdxError, match="node hidden with a graph inside"):
        read_onnx(with_node(node, tmp_path / "hidden.onnx"))


def test_functions_of_a_stranger_are_refused(tmp_path: Path) -> None:
    model = voxelizing_detector()
    body = [helper.make_node("Identity", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("udx", "UdxOther", ["x"], ["y"], body, opset))
    with_right_hash(model)
    (tmp_path / "function.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UdxError, match="holds the function udx::UdxOther, which udx never writes"):
        read_onnx(tmp_path / "function.onnx")


def bomb(calls: int) -> onnx.ModelProto:
    """Functions that each call the next one many times."""
    model = voxelizing_detector()
    del model.functions[:]
    names = sorted(NAMES)
    for name, called in zip(names, [*names[1:], None], strict=True):
        body = [
            helper.make_node(called, ["x"], ["y"], domain=DOMAIN) if called else helper.make_node("Relu", ["x"], ["y"])
            for _ in range(calls)
        ]
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)]
        model.functions.append(helper.make_function(DOMAIN, name, ["x"], ["y"], body, opsets))
    model.graph.node.append(helper.make_node(names[0], ["points"], ["boom"], domain=DOMAIN))
    return model


def test_functions_that_make_too_many_nodes_are_refused(tmp_path: Path) -> None:
    model = bomb(40)
    with_right_hash(model)
    (tmp_path / "bomb.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UdxError, match=rf"has \d+ nodes with its functions inlined, more than {MAX_NODES}"):
        read_onnx(tmp_path / "bomb.onnx")


def test_nodes_are_counted_as_inlining_makes_them() -> None:
    alone = len(bomb(1).graph.node)
    require_bounded_inlining(bomb(6), "it")  # two nodes of the detector have a bomb for a body, and one is added
    with pytest.raises(UdxError, match=f"has {alone - 3 + 7**2 + 7 + 7**6} nodes"):
        require_bounded_inlining(bomb(7), "it")


def random_node(name: str, chance: random.Random) -> onnx.NodeProto:
    """An operator with random inputs, outputs and attributes, more or less as its schema has them."""
    schema = onnx.defs.get_schema(name, 20)
    tensors = ["points", "num_points", "sums_mean", "batch", "boxes", "scores", "labels", ""]
    inputs = [chance.choice(tensors) for _ in range(min(chance.randint(schema.min_input, schema.max_input), 4))]
    outputs = [f"random_{index}" for index in range(min(max(schema.min_output, 1), 3))]
    node = helper.make_node(name, inputs, outputs, "random")
    for key, attribute in schema.attributes.items():
        if chance.random() < 0.5:
            value = random_value(attribute.type.name, chance)
            if value is not None:
                node.attribute.append(helper.make_attribute(key, value, attr_type=attribute.type.value))
    return node


def random_value(kind: str, chance: random.Random) -> Any:
    numbers = (0, 1, -1, 2, 7, 255, 2**31, -(2**63))
    match kind:
        case "INT":
            return chance.choice(numbers)
        case "INTS":
            return [chance.choice(numbers) for _ in range(chance.randint(1, 4))]
        case "FLOAT":
            return chance.choice((0.0, -1.0, 1e30, 0.5))
        case "STRING":
            return chance.choice(("", "add", "max", "nearest", "SAME_UPPER", "constant"))
    return None


@pytest.mark.parametrize("seed", range(60))
def test_a_random_operator_is_refused_or_runs_and_never_ends_this_process(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    name = chance.choice(sorted(STANDARD_OPERATORS))
    path = with_node(random_node(name, chance), tmp_path / f"{name}.onnx")
    try:
        with open_engine(path, threads=1) as runner:
            frame, _ = generated_frame(runner.manifest, 0)
            runner.infer(frame())
    except UdxError as error:
        assert "\n" not in str(error)


def test_the_lists_name_operators_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert known >= STANDARD_OPERATORS
    assert set(OPTIONAL_INPUTS) <= STANDARD_OPERATORS
    assert not STANDARD_OPERATORS & {"Loop", "If", "Scan", "GridSample", "Unique", "NonZero", "LSTM", "SequenceMap"}
