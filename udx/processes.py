"""The processes of a distributed training: how many there are, which one this is, and what they tell each other.

In a single process every function here does nothing, or returns what it was given. All others are collective: every
process must call them, equally often and in the same order.
"""

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed

T = TypeVar("T")


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _many() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if _many() else 0


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Average ``values`` over the processes; no gradient flows through it."""
    values = values.detach()
    if count() == 1:
        return values
    summed = values.clone()
    distributed.all_reduce(summed)
    return summed / count()


def of_main(value: T) -> T:
    """Return the main process's ``value`` in all of them."""
    if count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def of_all(value: T) -> list[T]:
    """Return the ``value`` of every process, in their order, in all of them."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process has come here."""
    if count() > 1:
        distributed.barrier()


def sum_over_processes(local: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sum a tensor over the processes, with the gradient of the sum of what all of them make of it."""
    if count() == 1:
        return local
    total: Tensor = _Sum.apply(local)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduced gradient."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _many() -> bool:
    return distributed.is_available() and distributed.is_initialized()
