"""What a structure tells of a graph, and how two of them differ."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from udx.runtime.graph import differences, structure_of

Change = Callable[[onnx.ModelProto], None]


def test_equal_structures_differ_in_nothing(make_model) -> None:
    one, other = structure_of(make_model(seed=0)), structure_of(make_model(seed=1))
    assert one == other
    assert differences(one, other) == ()


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
