"""The exported graph depends on nothing that was learned, whatever the weights."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.build.exported import config_of, exported_model, frame_of
from udx.data.inputs import input_shapes
from udx.export.deploy import DeployableDetector
from udx.export.onnx_export import to_onnx
from udx.export.parity import difference, values_of
from udx.export.precision import last_layers
from udx.models.detector import Detector, DetectorConfig, DetectorInputs
from udx.runtime.graph import Structure, differences, structure_of


def structure_with(config: DetectorConfig, fill) -> Structure:
    """Export a detector all of whose weights ``fill`` has set."""
    detector = Detector(config).eval()
    with torch.no_grad():
        for name, value in detector.state_dict().items():
            if value.is_floating_point():
                fill(name, value)
    tensors = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype)).numpy()
        for name, (shape, dtype) in input_shapes(config.spec).items()
    }
    return structure_of(to_onnx(DeployableDetector(detector), tensors))


def reference(modality) -> Structure:
    """A detector with random weights."""
    return structure_of(exported_model("tiny", modality)[0])


def zeros(name, value):
    value.fill_(1.0 if name.endswith("running_var") else 0.0)


def ones(_, value):
    value.fill_(1.0)


@pytest.mark.parametrize("fill", [zeros, ones])
def test_zeros_and_equal_weights_leave_no_trace(fill):
    """Optimisers drop biases of zeros, merge equal tensors, and leave factors of one out."""
    assert differences(reference("fusion"), structure_with(config_of("tiny", "fusion"), fill)) == ()


def test_batch_norms_are_folded_and_every_layer_has_its_bias():
    model, _ = exported_model("tiny", "fusion")
    assert not any("Norm" in node.op_type for node in model.graph.node)
    assert all(len(node.input) == 3 for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm"))


def one_more_convolution(config: DetectorConfig) -> DetectorConfig:
    return dataclasses.replace(config, bev_encoder=dataclasses.replace(config.bev_encoder, convolutions=(1, 2)))


def another_attribute(config: DetectorConfig) -> DetectorConfig:
    return dataclasses.replace(config, spec=dataclasses.replace(config.spec, z_range_m=(-3.0, 4.0)))


def another_shape(config: DetectorConfig) -> DetectorConfig:
    return dataclasses.replace(config, max_boxes=config.max_boxes + 1)


def another_width(config: DetectorConfig) -> DetectorConfig:
    return dataclasses.replace(config, low_channels=config.low_channels + 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_more_convolution, "Conv: "),
        (another_attribute, "z_max=4.0"),
        (another_shape, "boxes float32[31, 9]"),
        (another_width, "parameters: "),
    ],
)
def test_another_architecture_is_another_structure(change, said):
    found = differences(reference("lidar"), structure_with(change(config_of("tiny", "lidar")), ones))
    assert any(said in line for line in found), found


def test_the_graph_computes_what_the_module_does():
    config = config_of("tiny", "fusion")
    _, manifest = exported_model("tiny", "fusion")
    frame = frame_of(manifest)
    detector = Detector(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in detector.state_dict().items():
            if "running" in name or ("norm" in name and value.is_floating_point()):
                value.uniform_(0.5, 1.5)
            if "heatmaps" in name:
                value.normal_(0, 0.5)
    model = to_onnx(DeployableDetector(detector), frame)
    heads = values_of(model, last_layers(model), frame)
    with torch.no_grad():
        taps = detector(DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in frame.items()}))
    *heatmaps, regression = heads.values()
    by_task = np.concatenate(heatmaps, axis=1)[:, detector.head.class_order]
    for found, expected in ((by_task, taps.heads.heatmap_BKHW), (regression, taps.heads.regression_BRHW)):
        apart = difference(expected.numpy(), found)
        assert apart.relative < 1e-5 and apart.scale > 0.1
