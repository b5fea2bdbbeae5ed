"""Running means."""

import pytest
import torch

from udx.train.averages import RunningMean


def test_plain_mean_first_then_exponential() -> None:
    mean = RunningMean(decay=0.75)
    for value, want in ((1.0, 1.0), (3.0, 2.0), (5.0, 3.0), (7.0, 4.0), (8.0, 5.0)):
        mean.observe(torch.tensor(value))
        assert mean.value.item() == pytest.approx(want)


def test_unusable_steps_change_nothing() -> None:
    mean = RunningMean((2,), decay=0.9)
    mean.observe(torch.tensor([1.0, 2.0]))
    mean.observe(torch.tensor([float("nan"), 2.0]))
    mean.observe(torch.tensor([float("inf"), 2.0]))
    mean.observe(torch.tensor([50.0, 50.0]), valid=False)
    assert mean.value.tolist() == [1.0, 2.0]
    assert mean.count == 1


def test_its_state_is_its_buffers() -> None:
    mean = RunningMean((3,), decay=0.5)
    mean.observe(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    again = RunningMean((3,), decay=0.5)
    again.load_state_dict(mean.state_dict())
    for each in (mean, again):
        each.observe(torch.tensor([3.0, 2.0, 1.0]))
    torch.testing.assert_close(mean.value, again.value)
    assert not list(mean.parameters())
