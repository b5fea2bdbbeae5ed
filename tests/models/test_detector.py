"""Every detector yields what it declares, whatever its sensors, and does not depend on what it must not."""

import dataclasses

import pytest
import torch

from tests.tiny import GRID, ring_of_cameras, tiny_detector, tiny_inputs
from udx.models.detector import Detector

MODALITIES = ("cam", "lidar", "fusion")


def only(inputs, modality):
    blank = {"cam": ("points", "num_points"), "lidar": ("images", "pool_index", "pool_offsets"), "fusion": ()}
    return dataclasses.replace(inputs, **dict.fromkeys(blank[modality]))


@pytest.mark.parametrize("modality", MODALITIES)
def test_taps_are_as_declared(modality):
    detector = Detector(tiny_detector(modality))
    taps, declared = detector(only(tiny_inputs(), modality)), detector.taps
    for tensor, tap in ((taps.low_BCHW, declared.low), (taps.high_BCHW, declared.high)):
        assert tensor.shape == (2, tap.channels, *declared.grid.coarsened(tap.stride).shape)
    heads = taps.heads.heatmap_BKHW.shape[1] + taps.heads.regression_BRHW.shape[1]
    assert heads == declared.heads.channels
    assert taps.heads.heatmap_BKHW.shape[2:] == GRID.shape == (32, 64)


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_weight_learns(modality):
    torch.manual_seed(0)
    detector = Detector(tiny_detector(modality))
    taps = detector(only(tiny_inputs(), modality))
    (taps.heads.heatmap_BKHW.square().mean() + taps.heads.regression_BRHW.square().mean()).backward()
    idle = [name for name, weight in detector.named_parameters() if weight.grad is None or not weight.grad.any()]
    # What the backbone has behind the last stage that is read, or a depth bin that reaches no cell, may idle.
    assert not [name for name in idle if not name.startswith("camera.backbone")]


def test_padding_and_order_of_points_change_nothing():
    detector = Detector(tiny_detector("lidar")).eval()
    inputs = only(tiny_inputs(batch=1), "lidar")
    points = inputs.points.clone()
    points[:, 1500:] = 7.7  # beyond num_points
    points[:, :1500] = points[:, torch.randperm(1500)]
    with torch.no_grad():
        one = detector(inputs).low_BCHW
        other = detector(dataclasses.replace(inputs, points=points)).low_BCHW
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_samples_of_a_batch_do_not_mix():
    detector = Detector(tiny_detector("fusion")).eval()
    inputs = tiny_inputs()
    alone = {name: tensor[1:] for name, tensor in dataclasses.asdict(inputs).items()}
    with torch.no_grad():
        both, single = detector(inputs), detector(type(inputs)(**alone))
    torch.testing.assert_close(both.low_BCHW[1:], single.low_BCHW, rtol=0, atol=1e-4)
    torch.testing.assert_close(both.heads.heatmap_BKHW[1:], single.heads.heatmap_BKHW, rtol=0, atol=1e-4)


def test_turning_the_rig_turns_the_map():
    """A camera ring turned by half a turn lights the mirrored cells: calibration is input, axes are not swapped."""
    detector = Detector(tiny_detector("cam")).eval()
    with torch.no_grad():
        pooled = []
        detector.camera.to_low = torch.nn.Identity()
        for turn in (0.1, 0.1 + torch.pi):  # not along the axes, where points lie on the edges of cells
            inputs = tiny_inputs(batch=1, rig=ring_of_cameras(turn))
            pooled.append(
                detector.camera(inputs.images, inputs.pool_index, inputs.pool_offsets).low_BCHW,
            )
    assert pooled[0].abs().sum() > 0
    torch.testing.assert_close(pooled[1], pooled[0].flip(2, 3), rtol=1e-4, atol=1e-5)
