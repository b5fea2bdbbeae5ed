"""The processes of a distributed training: how many there are, which one this is, and what they tell each other.

In a single process every function here does nothing, or returns what it was given. All others are collective: every
process must call them, equally often and in the same order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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


class MicroBatches:
    """What the micro-batches of one step are normalised by, so that they add up to one large batch.

    Losses divide sums by counts: of boxes, of known depths. ``record`` runs what asks for these counts for each
    micro-batch, ``replay`` lets the same calls have the mean over all of them instead of their own.
    """

    def __init__(self) -> None:
        self._asked: list[list[Tensor]] = []
        self._answers: list[Tensor] | None = None
        self._at = 0

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note the counts that are asked for in the block: those of one micro-batch."""
        self._asked.append([])
        with _within(self):
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Answer in the block with the means over the micro-batches, call by call."""
        assert len({len(asked) for asked in self._asked}) == 1, "every micro-batch asks for the same counts"
        self._answers = [torch.stack(same).mean(dim=0) for same in zip(*self._asked, strict=True)]
        self._at = 0
        with _within(self):
            yield

    def __len__(self) -> int:
        return len(self._asked)

    def answer(self, values: Tensor) -> Tensor:
        """Note or replay one count."""
        if self._answers is None:
            self._asked[-1].append(mean_over_processes(values))
            return self._asked[-1][-1]
        self._at += 1
        return self._answers[self._at - 1]


_micro_batches: MicroBatches | None = None


@contextmanager
def _within(window: MicroBatches) -> Iterator[None]:
    global _micro_batches
    _micro_batches = window
    try:
        yield
    finally:
        _micro_batches = None


def mean_count(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Average counts over the processes, and over the micro-batches of a step where gradients are accumulated."""
    return mean_over_processes(values) if _micro_batches is None else _micro_batches.answer(values.detach())


def parts() -> int:
    """Into how many parts a step's batch is cut: processes times micro-batches."""
    return count() * (1 if _micro_batches is None else len(_micro_batches))


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
