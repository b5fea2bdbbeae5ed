"""Averages over steps."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.processes import mean_over_processes


class RunningMean(nn.Module):
    """Exponential mean of what it is shown: a plain mean at first, so that it needs no warm-up.

    Its buffers are its state dict; all processes of a distributed run hold the same.
    """

    value: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (), *, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def observe(self, observed: Float[Tensor, "*shape"], valid: bool = True) -> None:
        """Take in one step's value; one that is not ``valid`` or not finite changes nothing.

        A step whose loss overflows in half precision is repeated by the gradient scaler: it must not spoil the mean.
        """
        usable = torch.isfinite(observed).all() & valid
        weight = usable.to(self.value)
        seen = torch.where(usable, observed.to(self.value), torch.zeros_like(self.value)).flatten()
        # One message for both, so that processes with and without boxes stay in step.
        averaged = mean_over_processes(torch.cat([seen, weight[None]]))
        mean, weight = averaged[:-1].view_as(self.value) / averaged[-1].clamp_min(1e-12), averaged[-1]
        self.count += (weight > 0).to(self.count)
        rate = (1 / self.count.clamp_min(1)).clamp_min(1 - self.decay)
        self.value.copy_(torch.where(weight > 0, self.value.lerp(mean, rate), self.value))
