"""A model that rounds as FP16 rounds: to the bit where it can be said by hand, and everywhere on whole detectors."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.build.exported import exported_model, frame_of
from tests.runtime.graphs import small_model
from udx.export.parity import values_of
from udx.export.precision import last_layers, to_fp16
from udx.export.rounding import with_rounding
from udx.runtime.cost import known_dtypes, skeleton_of, with_shapes


def test_every_step_is_rounded():
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "down", to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "w"], ["product"], "mul"),
        helper.make_node("Add", ["product", "h"], ["total"], "add"),
        helper.make_node("Cast", ["total"], ["y"], "up", to=TensorProto.FLOAT),
    ]
    x = np.random.default_rng(0).uniform(-3, 3, 1000).astype(np.float32)
    w = np.array([1.1], np.float16)
    halved = small_model(nodes, {"w": w}, [1000], [1000])
    half = x.astype(np.float16)
    product = (half.astype(np.float32) * np.float32(w)).astype(np.float16)
    total = (product.astype(np.float32) + half.astype(np.float32)).astype(np.float16)
    found = values_of(with_rounding(halved), ["y"], {"x": x})["y"]
    np.testing.assert_array_equal(found, total.astype(np.float32))
    # ONNX Runtime itself does without the steps between, which is why there is such a model.
    assert not np.array_equal(found, values_of(halved, ["y"], {"x": x})["y"])


def test_all_that_a_detector_holds_in_fp16_is_rounded_and_nothing_else():
    exact, manifest = exported_model("tiny", "fusion")
    halved, _ = to_fp16(exact)
    before = halved.SerializeToString()
    rounded = with_rounding(halved)
    assert halved.SerializeToString() == before
    onnx.checker.check_model(rounded, full_check=True)
    dtypes = known_dtypes(with_shapes(skeleton_of(halved)).graph)
    written = [name for node in halved.graph.node for name in node.output]
    halves = [name for name in written if dtypes[name] == "float16"]
    floats = [name for name in written if dtypes[name] == "float32"]
    assert set(last_layers(halved)) <= set(halves) and len(halves) > 50
    values = values_of(rounded, [*halves, *floats], frame_of(manifest))
    for name in halves:
        assert values[name].dtype == np.float32
        np.testing.assert_array_equal(values[name], values[name].astype(np.float16))
    for name in ("boxes", "scores"):
        assert not np.array_equal(values[name], values[name].astype(np.float16))
