"""No export holds what released versions of TensorRT compute wrongly."""

import onnx
import pytest
from onnx import helper

from tests.build.exported import MODALITIES, exported_model
from tests.build.quantised import write_quantised
from udx.errors import UdxError
from udx.export.banned import require_no_banned_operators
from udx.export.portable import to_portable
from udx.export.precision import to_fp16


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_export_holds_a_banned_operator(modality, tmp_path):
    model, manifest = exported_model("tiny", modality)
    for exported in (model, to_fp16(model)[0], to_portable(model)):
        require_no_banned_operators(exported)
    for precision in ("int8", "fp8"):
        quantised = write_quantised(tmp_path / f"{precision}.onnx", model, manifest, to=precision)
        require_no_banned_operators(onnx.load(quantised))


def with_node(op_type, place):
    model, _ = exported_model("tiny", "cam")
    node = helper.make_node(op_type, ["boxes"], ["more"])
    branch = helper.make_graph([node], "branch", [], [])
    places = {
        "graph": lambda: model.graph.node.append(node),
        "branch": lambda: model.graph.node.append(
            helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
        ),
        "body": lambda: model.functions[0].node.append(node),
        "foreign body": lambda: model.functions.append(
            helper.make_function("other", "F", ["boxes"], ["more"], [node], [helper.make_opsetid("", 20)])
        ),
    }
    places[place]()
    return model


@pytest.mark.parametrize("place", ["graph", "branch", "foreign body", "body"])
@pytest.mark.parametrize("op_type", ["GridSample", "CumSum", "Unique", "NonZero"])
def test_a_banned_operator_is_found_wherever_it_is(op_type, place):
    model = with_node(op_type, place)
    if place == "body" and op_type != "GridSample":
        require_no_banned_operators(model)
        return
    with pytest.raises(UdxError, match=f"holds {op_type} .*which released versions of TensorRT compute wrongly"):
        require_no_banned_operators(model)
