"""The hash of what an engine is made of: weights count wherever they are kept, words do not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.build.content import content_hash


def model(first=1.0, second=2.0):
    """Two convolutions of one shape, so that only their place tells their weights apart."""
    weights = [numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
               for name, value in (("w1", first), ("w2", second))]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"], "first"),
        helper.make_node("Conv", ["h", "w2"], ["y"], "second", strides=[2, 2]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in ("x", "y")]
    return helper.make_model(helper.make_graph(nodes, "graph", values[:1], values[1:], weights))


def test_words_do_not_count(tmp_path):
    described = model()
    helper.set_model_props(described, {"udx": "{}"})
    described.doc_string, described.producer_name, described.model_version = "a detector", "udx", 7
    assert content_hash(described, tmp_path) == content_hash(model(), tmp_path)
    assert described.doc_string == "a detector"


@pytest.mark.parametrize("weights", [(1.0, 2.5), (2.0, 1.0)])
def test_weights_and_their_places_count(tmp_path, weights):
    assert content_hash(model(*weights), tmp_path) != content_hash(model(), tmp_path)


def test_wiring_counts(tmp_path):
    changed = model()
    changed.graph.node[1].attribute[0].ints[:] = [1, 1]
    assert content_hash(changed, tmp_path) != content_hash(model(), tmp_path)


def test_weights_beside_the_file_count(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights", size_threshold=0)
    loaded = onnx.load(path, load_external_data=False)
    before = content_hash(loaded, tmp_path)
    assert content_hash(loaded, tmp_path) == before
    content = bytearray((tmp_path / "weights").read_bytes())
    place = bytes(content).index(np.float32(2.0).tobytes())
    content[place : place + 4] = np.float32(3.0).tobytes()
    (tmp_path / "weights").write_bytes(content)
    assert content_hash(loaded, tmp_path) != before


def test_only_the_models_own_part_of_a_file_counts(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights", size_threshold=0)
    loaded = onnx.load(path, load_external_data=False)
    before = content_hash(loaded, tmp_path)
    with open(tmp_path / "weights", "ab") as file:
        file.write(b"what another model keeps there")
    assert content_hash(loaded, tmp_path) == before
