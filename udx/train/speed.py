"""How a detector computes in training: layout of its weights, compilation, activations computed twice."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from udx.models.detector import Detector
from udx.train.recipes import TrainConfig


def prepare_for_speed(detector: Detector, config: TrainConfig) -> None:
    """Change, in place, how a detector computes; names and values of its weights stay."""
    if config.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in _dense_parts(detector):
        if config.recompute:
            _recompute(part)
        if config.compile:
            part.compile()


def _dense_parts(detector: Detector) -> list[nn.Module]:
    """What is nothing but convolutions: there compilers and recomputation pay, around the operators they do not."""
    parts = [*detector.bev_encoder.stages, detector.head]
    if detector.lidar is not None:
        parts.append(detector.lidar.to_low)
    if detector.camera is not None:
        parts.append(detector.camera.backbone)
    return parts


def _recompute(module: nn.Module) -> None:
    """Let a module keep its inputs alone for the backward pass; running statistics see every batch once."""
    forward = module.forward

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _statistics_untouched(module)

    def again(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    module.forward = again


@contextmanager
def _statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Run batch norms without a trace: at a momentum of 0, and counted back."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
