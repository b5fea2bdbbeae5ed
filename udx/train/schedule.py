"""The optimiser, and its learning rate over a training."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from udx.train.recipes import OptimiserConfig


def make_optimiser(parameters: Sequence[nn.Parameter], config: "OptimiserConfig") -> torch.optim.AdamW:
    """AdamW; on a GPU in one kernel for many parameters."""
    fused = True if parameters[0].is_cuda else None
    return torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def learning_rate(step: int, steps: int, config: "OptimiserConfig") -> float:
    """Factor on the learning rate at a step, counted from 0."""
    if config.schedule == "steps":
        return multi_step(step, steps, config.drops)
    return one_cycle(step, steps, config.warmup)


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear from 1/25 up to 1 over ``warmup · steps``, then half a cosine down to 0."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return 1 / 25 + (1 - 1 / 25) * step / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))


def multi_step(step: int, steps: int, drops: tuple[float, ...]) -> float:
    """Factor on the learning rate: 1, and a tenth of it after each of ``drops``, shares of the training."""
    return math.prod(0.1 for drop in drops if step >= round(drop * steps))
