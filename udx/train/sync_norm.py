"""Batch norm whose statistics are those of the whole batch, over all processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from udx import processes


def synchronise_norms(module: nn.Module, device: torch.device) -> None:
    """Exchange the batch norms inside a module for such that all processes share; parameters and names stay.

    On a GPU they are torch's own, which work nowhere else. In a single process nothing is exchanged.
    """
    if processes.count() > 1:
        _exchange(module, nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else SharedBatchNorm)


def _exchange(module: nn.Module, shared: Callable[[_BatchNorm], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, shared(child))
        else:
            _exchange(child, shared)


class SharedBatchNorm(_BatchNorm):
    """A batch norm with mean and variance over all processes, each of which counts by what it holds.

    It may hold different numbers of values, or none: pillars have as many points as there are.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2, input.shape

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, …) by the statistics of all processes in training, by the running ones otherwise."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        held = values.new_tensor([input.numel() // input.shape[1]])
        # Two passes: a difference of large sums would lose the digits of a small variance.
        summed = processes.sum_over_processes(torch.cat([values.sum(axes), held]))
        count = summed[-1].detach().clamp(min=1)
        mean = summed[:-1] / count
        centred = values - mean.view(shape)
        variance = processes.sum_over_processes(centred.square().sum(axes)) / count
        self._track(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
