"""Where tensors lie in one arena of memory, fixed before anything runs.

Each block has a lifetime, the steps at which it is written and read for the last time; two blocks share memory only
if they do not live at the same step. Blocks are placed greedily by size, each into the smallest gap that is free over
its whole life (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from udx.runtime.arena import ALIGNMENT, PlacedTensor, Step, bytes_of
from udx.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Block:
    """Memory of ``num_bytes`` that is in use from step ``first`` to step ``last``, both included."""

    name: str
    num_bytes: int
    first: int
    last: int

    def __post_init__(self) -> None:
        assert self.num_bytes > 0 and self.first <= self.last, self

    def meets(self, other: "Block") -> bool:
        """Whether both are in use at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Offset of every block, and the size of the arena."""

    offsets: dict[str, int]
    num_bytes: int


def place(blocks: Iterable[Block], alignment: int = ALIGNMENT) -> MemoryPlan:
    """Give every block its memory; equal blocks in any order get equal places."""
    placed: list[tuple[int, Block]] = []
    for block in sorted(blocks, key=lambda one: (-one.num_bytes, one.first, one.last, one.name)):
        neighbours = sorted((offset, offset + other.num_bytes) for offset, other in placed if other.meets(block))
        placed.append((_best_gap(neighbours, block.num_bytes, alignment), block))
    offsets = {block.name: offset for offset, block in placed}
    assert len(offsets) == len(placed), "two blocks have one name"
    end = max((offset + block.num_bytes for offset, block in placed), default=0)
    return MemoryPlan(offsets, _aligned(end, alignment))


def _best_gap(taken: Sequence[tuple[int, int]], num_bytes: int, alignment: int) -> int:
    """Beginning of the smallest free gap of ``num_bytes``, or of what is free behind all; ``taken`` is sorted."""
    best: tuple[int, int] | None = None
    free_from = 0
    for begin, end in taken:
        gap = begin - free_from
        if gap >= num_bytes and (best is None or gap < best[0]):
            best = gap, free_from
        free_from = max(free_from, _aligned(end, alignment))
    return best[1] if best else free_from


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment


def place_tensors(
    specs: Mapping[str, TensorSpec],
    views: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    steps: Sequence[Step],
) -> tuple[tuple[PlacedTensor, ...], int]:
    """Place every tensor that passes between steps; the second value is the size of the arena.

    A view (``views`` maps it to what it is a view of) and what is written in place lie where the original lies.
    Inputs live before, during and after all steps; outputs live from their step on.

    Raises:
        ValueError: a tensor cannot lie in the arena.
    """
    holder = _holders(specs, views, steps)
    first, last = {holder[name]: -1 for name in inputs}, {holder[name]: len(steps) for name in (*inputs, *outputs)}
    for at, step in enumerate(steps):
        for name in (*step.inputs, *step.outputs):
            first.setdefault(holder[name], at)
            last[holder[name]] = max(last.get(holder[name], at), at)
    plan = place(Block(name, bytes_of(specs[name]), first[name], last[name]) for name in first)
    placed = tuple(
        PlacedTensor(
            name=name,
            dtype=spec.dtype,
            shape=spec.shape,
            offset=plan.offsets[holder[name]],
            view_of=views.get(name),
        )
        for name, spec in specs.items()
    )
    return placed, plan.num_bytes


def _holders(specs: Mapping[str, TensorSpec], views: Mapping[str, str], steps: Sequence[Step]) -> dict[str, str]:
    """For each tensor the one whose memory it is in."""
    original = dict(views)
    for step in steps:
        original |= step.in_place()

    def holder(name: str) -> str:
        while name in original:
            name = original[name]
        return name

    return {name: holder(name) for name in specs}
