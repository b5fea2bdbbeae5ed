"""Which sample when, and in which process: orders that follow from seed and epoch alone."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from udx.data.frame import KeyFrame
from udx.geometry import CLASSES


class EpochSampler(Sampler[tuple[int, int]]):
    """Every entry of ``positions`` once an epoch, shuffled by seed and epoch; without a seed in their own order.

    Yields (position, turn): the turn counts how often the position has come before, in this epoch and all others.
    ``begin`` tells how many entries to pass over, when an epoch is taken up in its middle.
    """

    def __init__(self, positions: Sequence[int], seed: int | None) -> None:
        self.positions, self.seed = np.asarray(positions, np.int64), seed
        self.epoch = self.skip = 0
        self.copies, self.earlier = _copies(self.positions)

    def begin(self, epoch: int, skip: int) -> None:
        """Set the epoch that the next iteration runs."""
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(len(self.positions))
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        turns = self.epoch * self.copies + self.earlier
        return iter([(int(self.positions[entry]), int(turns[entry])) for entry in order[self.skip :]])

    def __len__(self) -> int:
        return max(0, len(self.positions) - self.skip)


class BatchShare(Sampler[list[tuple[int, int]]]):
    """The batches of one process: of every ``processes · size`` samples in the common order, its ``size``.

    With ``pieces`` each of them comes in so many batches, one after the other.

    So all processes together take, step by step, the batches of ``processes · size`` that a single one would take.
    With ``drop_last`` what is left of an epoch, less than a batch of all, is left out; which samples these are changes
    with the epoch.
    """

    def __init__(
        self, sampler: EpochSampler, size: int, share: tuple[int, int], *, drop_last: bool, pieces: int = 1
    ) -> None:
        assert size % pieces == 0 and (drop_last or pieces == 1)
        self.sampler, self.size, self.drop_last, self.pieces = sampler, size, drop_last, pieces
        self.rank, self.processes = share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(self.sampler)
        piece = self.size // self.pieces
        for batch in range(len(self)):
            step, number = divmod(batch, self.pieces)
            start = (step * self.processes + self.rank) * self.size + number * piece
            yield order[start : start + piece]

    def __len__(self) -> int:
        whole, left = divmod(len(self.sampler), self.processes * self.size)
        return (whole + int(not self.drop_last and left > self.rank * self.size)) * self.pieces


def class_balanced(keyframes: Sequence[KeyFrame], seed: int) -> NDArray[np.int64]:
    """Positions of keyframes, repeated so that every class that occurs has as many keyframes drawn for it.

    Class-balanced sampling (Zhu et al., CBGS, 2019): for each class, keyframes that hold an object of it are drawn
    with replacement. Altogether as many are drawn as there are pairs of a keyframe and a class in it.
    """
    labels = [frame.annotations.labels_N[frame.annotations.num_points_N > 0] for frame in keyframes]
    holders = [np.flatnonzero([label in its for its in labels]) for label in range(len(CLASSES))]
    present = [positions for positions in holders if len(positions)]
    if not present:
        return np.arange(len(keyframes))
    generator = np.random.default_rng((seed, len(keyframes)))
    a_class = sum(map(len, present)) // len(present)
    drawn = [generator.choice(positions, a_class) for positions in present]
    return np.concatenate(drawn)


def _copies(positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each entry: how often its position occurs, and how often it has occurred before."""
    _, inverse, counts = np.unique(positions, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    first = np.cumsum(counts) - counts
    earlier = np.empty(len(positions), np.int64)
    earlier[order] = np.arange(len(positions)) - first[inverse[order]]
    return counts[inverse].astype(np.int64), earlier
