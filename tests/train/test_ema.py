"""The moving average of weights."""

import pytest
import torch

from tests.tiny import tiny_detector
from udx.models.detector import Detector
from udx.train.ema import AverageOfWeights


def test_it_follows_by_its_decay_and_faster_at_first():
    detector = Detector(tiny_detector("lidar"))
    average = AverageOfWeights(detector, decay=0.5)
    name = "head.regression.weight"
    before = detector.state_dict()[name].clone()
    with torch.no_grad():
        detector.head.regression.weight.add_(1.0)
    average.follow(detector, step=1)  # (1 + 1) / (10 + 1) is less than the decay
    moved = average.detector.state_dict()[name] - before
    assert moved.mean().item() == pytest.approx(1 - 2 / 11, rel=1e-5)
    average.follow(detector, step=1000)
    left = detector.state_dict()[name] - average.detector.state_dict()[name]
    assert left.mean().item() == pytest.approx(2 / 11 * 0.5, rel=1e-4)


def test_statistics_are_averaged_and_counters_copied():
    detector = Detector(tiny_detector("lidar"))
    average = AverageOfWeights(detector, decay=0.9)
    norm = detector.lidar.point_norm
    norm.running_mean.fill_(11.0)
    norm.num_batches_tracked.fill_(5)
    average.follow(detector, step=1)
    assert average.detector.lidar.point_norm.running_mean.mean().item() == pytest.approx(11 * 9 / 11)
    assert average.detector.lidar.point_norm.num_batches_tracked == 5
    assert not any(parameter.requires_grad for parameter in average.detector.parameters())
