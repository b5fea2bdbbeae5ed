"""Every input and output of every detector says what it holds."""

import pytest

from tests.tiny import tiny_detector
from udx.data.input_docs import describe_inputs, describe_outputs
from udx.data.inputs import input_shapes
from udx.geometry import CLASSES


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
def test_every_input_is_described(modality):
    spec = tiny_detector(modality).spec
    assert list(describe_inputs(spec)) == list(input_shapes(spec))


def test_order_frame_and_unit_are_said():
    said = describe_inputs(tiny_detector("fusion").spec)
    assert "channels R, G, B" in said["images"] and "CAM_FRONT_LEFT, CAM_FRONT, CAM_FRONT_RIGHT" in said["images"]
    assert "((camera · 8 + depth bin) · 2 + row) · 4 + column" in said["pool_index"]
    assert "c = row · 64 + column of a grid of 32 × 64 cells of 0.8 m" in said["pool_offsets"]
    assert "cell 0 at x = -25.6, y = -12.8 m" in said["pool_offsets"]
    assert "x forward, y left, z up, metres" in said["points"] and "intensity 0 to 1" in said["points"]


def test_outputs_are_described():
    said = describe_outputs(CLASSES)
    assert list(said) == ["boxes", "scores", "labels"]
    assert "0 car, 1 truck" in said["labels"] and "radians" in said["boxes"]
