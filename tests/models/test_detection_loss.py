"""The detection loss by hand, and where it must be zero."""

import math

import torch

from tests.models.test_decode import GRID, ideal_heads
from udx.geometry import BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.detection_loss import DetectionLossConfig, depth_loss, detection_loss, focal_loss
from udx.models.taps import HeadMaps

BOX = torch.tensor([[10.3, -3.1, 0.7, 4.6, 1.9, 1.5, 0.5, 3.0, -1.0]])
CAR = torch.tensor([0])


def test_focal_loss_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])  # p = 0.5 and 0.75
    target = torch.tensor([[[[1.0, 0.5]]]])
    by_hand = 0.5**2 * math.log(2) + 0.5**4 * 0.75**2 * math.log(4)
    assert math.isclose(focal_loss(logits, target).item(), by_hand, rel_tol=1e-6)


def test_learned_targets_cost_next_to_nothing():
    terms = detection_loss(ideal_heads([BOX], [CAR]), [BOX], [CAR], GRID, DetectionLossConfig())
    assert all(value < 1e-6 for name, value in terms.items() if name != "heatmap")
    wrong = detection_loss(ideal_heads([BOX + 1.0], [CAR]), [BOX], [CAR], GRID, DetectionLossConfig())
    assert terms["heatmap"] < 0.1 * wrong["heatmap"]


def test_each_regression_error_is_weighed_once():
    heads = ideal_heads([BOX], [CAR])
    shifted = heads.regression_BRHW.clone()
    shifted[:, 2] += 2.0  # z of the first task, which has the cars
    shifted[:, REGRESSION_CHANNELS + 2] += 5.0  # the second task's maps say nothing of cars
    shifted[:, 8] += 1.0  # velocity along x
    config = DetectionLossConfig(regression=0.25, velocity=0.2)
    terms = detection_loss(HeadMaps(heads.heatmap_BKHW, shifted), [BOX], [CAR], GRID, config)
    assert math.isclose(terms["z"].item(), 0.25 * 2.0, rel_tol=1e-5)
    assert math.isclose(terms["velocity"].item(), 0.25 * 0.2 * 1.0, rel_tol=1e-5)
    assert terms["offset"] < 1e-6


def test_a_batch_without_boxes_has_a_loss_and_a_gradient():
    grid = BevGrid(0, 4, 0, 2, 1)
    heat = torch.zeros(2, 10, 2, 4, requires_grad=True)
    regression = torch.zeros(2, len(TASKS) * REGRESSION_CHANNELS, 2, 4, requires_grad=True)
    none = [torch.zeros(0, 9)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
    total = sum(detection_loss(HeadMaps(heat, regression), *none, grid, DetectionLossConfig()).values())
    total.backward()
    assert total.isfinite()
    assert heat.grad.abs().sum() > 0
    assert regression.grad.abs().sum() == 0


def test_depth_loss_by_hand():
    logits = torch.zeros(1, 1, 4, 1, 3)
    logits[0, 0, 2, 0, 1] = math.log(5.0)  # p = 1/4 everywhere, but 5/8 for bin 2 of the second cell
    target = torch.tensor([[[[0, 2, -1]]]])
    assert math.isclose(depth_loss(logits, target).item(), (math.log(4) + math.log(8 / 5)) / 2, rel_tol=1e-6)
    assert depth_loss(logits, torch.full((1, 1, 1, 3), -1)) == 0
