"""TensorRT's own parser and builder on whole exports, through TensorRT-RTX: all but the plugins, which it has not.

TensorRT reads a detector as one graph. What partitioned plans take for views, it reads as operators: a byte image, for
one, may be read by a cast and by nothing else.
"""

import numpy as np
import pytest
from onnx import helper

from tests.build.exported import MODALITIES, exported_model
from tests.build.plans import Silent
from udx.build.builder import TensorrtSettings, serialized_engine
from udx.build.shapes import tensors_between
from udx.build.watch import Watch
from udx.export.precision import to_fp16
from udx.operators import DOMAIN

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")


def without_plugins(model):
    """The model with inputs in place of what its ``udx`` nodes write."""
    tensors = tensors_between(model)
    plugins = [node for node in model.graph.node if node.domain == DOMAIN]
    for node in plugins:
        model.graph.node.remove(node)
    left = {name for node in model.graph.node for name in node.input}
    for name in (name for node in plugins for name in node.output if name in left):
        spec = tensors[name]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        model.graph.input.append(helper.make_tensor_value_info(name, kind, spec.shape))
    unread = [value for value in model.graph.input if value.name not in left]
    for value in unread:
        model.graph.input.remove(value)
    del model.functions[:]
    return model


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_everything_but_the_plugins_is_read_and_built(modality, precision, tmp_path):
    model, _ = exported_model("tiny", modality)
    if precision == "fp16":
        model, _ = to_fp16(model)
    nodes = len(model.graph.node)
    layers = []
    plan = serialized_engine(
        trt,
        without_plugins(model).SerializeToString(),
        tmp_path / "student.onnx",
        settings=TensorrtSettings(tf32=False),
        watch=Watch(Silent()),
        check=lambda network: layers.append(network.num_layers),
    )
    assert layers[0] > nodes / 2
    assert len(plan) > 10_000
