"""Lanes that are at the same instruction, and the CTAs that are executed at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from tests.ptx.counts import Counter, count_runs
from tests.ptx.formats import Array
from tests.ptx.memory import GARBAGE, GlobalMemory
from tests.ptx.shared import SharedMemory

WARP: Final = 32


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is started: grid and block in threads, dynamic shared memory, and one argument a parameter."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]

    @property
    def threads(self) -> int:
        """Return the threads of a block."""
        return math.prod(self.block)

    @property
    def ctas(self) -> int:
        """Return the blocks of the grid."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Batch:
    """Some CTAs of a launch, numbered from ``first_cta`` on, and the memory that they use."""

    launch: Launch
    device: GlobalMemory
    shared: SharedMemory | None
    counter: Counter | None
    first_cta: int
    ctas: int

    @property
    def lanes(self) -> int:
        """Return the number of lanes of all CTAs."""
        return self.ctas * self.launch.threads

    def name_of(self, lane: int) -> str:
        """Describe a lane by its thread and block."""
        cta, (x, y, _) = self.first_cta + int(lane) // self.launch.threads, self.launch.grid
        return f"thread {int(lane) % self.launch.threads} of block {cta % x, cta // x % y, cta // (x * y)}"


@dataclass(eq=False)
class Group:
    """Lanes (numbers in their batch, ascending) at one instruction, and their registers."""

    lane: Array
    registers: dict[str, Array]

    @cached_property
    def warps(self) -> int:
        """Return the number of warps that have lanes here."""
        return count_runs(self.lane >> 5)

    def split(self, chosen: Array) -> "Group":
        """Return the chosen lanes with their registers."""
        return Group(self.lane[chosen], {name: values[chosen] for name, values in self.registers.items()})

    def keep(self, live: frozenset[str]) -> "Group":
        """Return the lanes with only the registers of these names."""
        return Group(self.lane, {name: self.registers[name] for name in live & self.registers.keys()})


def joined(groups: Sequence[Group]) -> Group:
    """Merge groups; a register that one of them never wrote holds garbage for its lanes."""
    if len(groups) == 1:
        return groups[0]
    lane = np.concatenate([group.lane for group in groups])
    order = np.argsort(lane)
    registers = {}
    for name in set[str]().union(*(group.registers for group in groups)):
        kind = next(group.registers[name].dtype for group in groups if name in group.registers)
        parts = [
            group.registers[name] if name in group.registers else garbage(len(group.lane), kind) for group in groups
        ]
        registers[name] = np.concatenate(parts)[order]
    return Group(lane[order], registers)


def garbage(lanes: int, kind: "np.dtype[np.generic]") -> Array:
    """Return the content of a register that was never written."""
    if kind == np.bool_:
        return np.ones(lanes, np.bool_)
    return np.full(lanes * kind.itemsize, GARBAGE, np.uint8).view(kind)
