"""A graph is held to its precision plan."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.graphs import small_model
from udx.errors import UdxError
from udx.manifest import PrecisionPlan
from udx.runtime.precision import require_precision


def half_way() -> onnx.GraphProto:
    """x is cast to FP16, doubled and cast back; then doubled again."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "down", to=TensorProto.FLOAT16),
        helper.make_node("Add", ["h", "h"], ["h2"], "half"),
        helper.make_node("Cast", ["h2"], ["f"], "up", to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "f"], ["y"], "full"),
    ]
    return onnx.shape_inference.infer_shapes(small_model(nodes, {}, [3], [3])).graph


def test_what_the_plan_says_holds() -> None:
    require_precision(half_way(), PrecisionPlan(precision="fp16", float32={"decoding": ("full",)}), "f")
    exact = small_model([helper.make_node("Add", ["x", "w"], ["y"], "a")], {"w": np.zeros(3, np.float32)}, [3], [3])
    require_precision(exact.graph, PrecisionPlan(), "f")


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (PrecisionPlan(precision="fp16", float32={"points": ("half",)}), r"f computes half with h in FP16.*\(points\)"),
        (PrecisionPlan(precision="fp16", float32={"points": ("gone",)}), "f has no node gone"),
        (PrecisionPlan(), "f holds h in FP16, and its manifest says FP32"),
    ],
)
def test_what_it_says_and_is_not_so_is_refused(plan: PrecisionPlan, said: str) -> None:
    with pytest.raises(UdxError, match=said):
        require_precision(half_way(), plan, "f")
