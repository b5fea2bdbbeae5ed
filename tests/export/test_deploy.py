"""Nothing but the student is deployed, and nothing of it is missing: every weight and every node is accounted for."""

import hashlib
import re
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file

from udx.models.camera import IMAGE_MEAN, IMAGE_STD

FEEDS_NOTHING = "camera.backbone.encoder.stages.3."
"""The tiny backbone's last stage, which no neck reads."""

OPERATORS = {
    "Add", "And", "Atan", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Equal", "Exp", "Expand", "Gather",
    "GatherElements", "GatherND", "Gemm", "Greater", "IsNaN", "Less", "MaxPool", "Min", "Mod", "Mul", "ReduceMean",
    "Relu", "Reshape", "Resize", "Sigmoid", "Softmax", "Split", "Sub", "TopK", "Transpose", "Unsqueeze", "Where",
    "UdxBevPool", "UdxVoxelCells", "UdxVoxelSums", "UdxPillarFeatures", "UdxPillarClear", "UdxPillarMax",
}  # fmt: skip
FOREIGN = re.compile("teacher|adapter|distill|objective|loss|lesson|norm|batch|moment|target|supervis", re.IGNORECASE)


def layer_before(norm: str) -> str:
    """The layer that a batch norm follows, by the names that the modules have."""
    for pattern, layer in (
        (r"(.*)normalization$", r"\1convolution"),
        (r"(.*)point_norm$", r"\1point_linear"),
    ):
        if re.match(pattern, norm):
            return re.sub(pattern, layer, norm)
    head, number = norm.rsplit(".", 1)
    return f"{head}.{int(number) - 1}"


def folded(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a checkpoint with its batch norms folded: Ioffe and Szegedy (2015), algorithm 2."""
    norms = {name.removesuffix(".running_var") for name in state if name.endswith(".running_var")}
    found = {name: value for name, value in state.items() if not any(name.startswith(f"{norm}.") for norm in norms)}
    for norm in norms:
        layer = layer_before(norm)
        weight = found[f"{layer}.weight"]
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + np.float32(1e-5))
        own_axis = 1 if "upsample" in layer else 0  # a transposed convolution has its output channels second
        shape = [-1 if axis == own_axis else 1 for axis in range(weight.ndim)]
        found[f"{layer}.weight"] = weight * scale.reshape(shape)
        found[f"{layer}.weight_bias"] = -state[f"{norm}.running_mean"] * scale + state[f"{norm}.bias"]
    return {f"detector.{name}": value for name, value in found.items() if not name.startswith(FEEDS_NOTHING)}


def hashes(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of shape and bytes, by name."""
    return {
        name: hashlib.sha256(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
        for name, array in arrays.items()
    }


def stored_in(path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_every_initializer_is_the_students_own_and_none_is_missing(engines, runs, name):
    stored = stored_in(engines[name].path)
    weights = {key: array for key, array in stored.items() if key.startswith("detector.")}
    expected = folded(load_file(runs[name].checkpoint))
    if name != "lidar":
        expected |= {
            "detector.camera.mean": np.array(IMAGE_MEAN, np.float32),
            "detector.camera.std": np.array(IMAGE_STD, np.float32),
        }
    assert hashes(weights) == hashes(expected)
    # What is left are shapes, axes and indices, and the numbers that decoding multiplies with and adds.
    for key, array in stored.items():
        if key not in weights:
            assert array.dtype in (np.int64, np.bool_) or (array.dtype == np.float32 and array.size == 1), key


def test_the_hashes_tell_students_apart(engines, runs):
    """Or the test before this one proves nothing."""
    own = set(hashes(stored_in(engines["distilled"].path)).values())
    for name in ("cam", "fusion"):
        others = hashes(folded(load_file(runs[name].checkpoint)))
        assert not own & set(others.values())


def test_nothing_that_only_training_needs_is_in_the_file(engines, runs):
    state = torch.load(runs["distilled"].state, weights_only=True)["learner"]["distiller"]
    adapter = {name: value.numpy() for name, value in state.items() if "adapter" in name and value.ndim > 1}
    assert adapter, "this run should have an adapter"
    stored = stored_in(engines["distilled"].path)
    assert not set(hashes(stored).values()) & set(hashes(adapter).values())
    ours = {array.shape for array in folded(load_file(runs["distilled"].checkpoint)).values()}
    assert {array.shape for name, array in stored.items() if name.startswith("detector.")} <= ours | {(3,)}


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_every_node_is_known_named_and_needed(engines, name):
    graph = onnx.load(engines[name].path).graph
    assert {node.op_type for node in graph.node} <= OPERATORS
    names = [node.name for node in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        assert needed & set(node.output), f"{node.name} feeds nothing"
        needed |= set(node.input)
    assert {value.name for value in graph.input} <= needed
    assert {tensor.name for tensor in graph.initializer} <= needed


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_no_name_is_of_training(engines, name):
    graph = onnx.load(engines[name].path).graph
    names = {tensor.name for tensor in graph.initializer} | {node.name for node in graph.node}
    names |= {value for node in graph.node for value in (*node.input, *node.output)}
    assert not sorted(filter(FOREIGN.search, names))


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_every_layer_of_the_checkpoint_is_one_node(engines, runs, name):
    graph = onnx.load(engines[name].path).graph
    used = Counter(node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm"))
    layers = {key for key, value in folded(load_file(runs[name].checkpoint)).items() if value.ndim > 1}
    assert used == Counter(layers)
