"""An exponential moving average of a detector's weights: what is evaluated and shipped in place of the last step's."""

import copy

import torch
from torch import Tensor

from udx.models.detector import Detector


class AverageOfWeights:
    """A copy of a detector that follows it slowly.

    After step t its weights move by 1 − min(decay, (1 + t) / (10 + t)) towards the detector's, so that the random
    weights of the beginning are soon forgotten. Running statistics of batch norms are averaged alike; what is no
    floating-point number is copied.
    """

    def __init__(self, detector: Detector, decay: float) -> None:
        assert 0 < decay < 1, decay
        self.detector, self.decay = copy.deepcopy(detector).requires_grad_(False).eval(), decay

    @torch.no_grad()
    def follow(self, detector: Detector, step: int) -> None:
        """Take in the weights after a step; steps count from 1."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        theirs = detector.state_dict()
        floating: list[tuple[Tensor, Tensor]] = []
        for name, mine in self.detector.state_dict().items():
            if mine.is_floating_point():
                floating.append((mine, theirs[name]))
            else:
                mine.copy_(theirs[name])
        mine_all, theirs_all = zip(*floating, strict=True)
        torch._foreach_lerp_(mine_all, theirs_all, rate)
