"""Shared memory of the CTAs of a batch, and the check for races.

Two accesses of one cell of shared memory race if they are of two lanes, one of them writes, and no barrier orders them.
Two barriers count:

- ``bar.sync`` between them, for all lanes of the CTA;
- ``bar.warp.sync`` between them, for lanes of one warp.

Lanes of one warp are no exception: since Volta they need not run in lockstep, and ``shfl.sync``,
``redux.sync`` and ``ldmatrix`` wait for the lanes of a warp but order no memory (PTX ISA, "Memory consistency model").
Several lanes that write the same value to the same cell do not race. Triton writes so where a layout holds an element
more than once, and the content is the same in any order. Reading such a cell before the next barrier is a race, also
for one of the writers.
"""

from typing import Final

import numpy as np

from tests.ptx.errors import Fault, Misaligned, OutOfBounds, Race
from tests.ptx.formats import RAW, Array
from tests.ptx.memory import GARBAGE

BASE: Final = 1024
"""Address of the first byte, as on Ampere and later, where the system has the first KiB."""


class SharedMemory:
    """``size`` bytes for each of ``ctas`` CTAs of ``threads`` lanes; ``cell`` bytes are checked as one."""

    def __init__(self, ctas: int, threads: int, size: int, cell: int) -> None:
        self.size, self.cell = size, cell
        self._threads = threads
        self._stride = -(-size // 16) * 16
        self._bytes = np.full(ctas * self._stride, GARBAGE, np.uint8)
        cells = ctas * self._stride // cell
        self._writes, self._reads = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
        self._time = np.ones(ctas, np.int64)
        """Barriers that a CTA has passed."""
        self._warp_time = np.zeros(ctas * threads // 32, np.int64)
        """Barriers that a warp has passed, its own and those of its CTA."""

    def pass_barrier(self, lane: Array) -> None:
        """Order the earlier and later accesses of the CTAs of these lanes."""
        self._time[np.unique(lane // self._threads)] += 1
        self.pass_warp_barrier(lane)

    def pass_warp_barrier(self, lane: Array) -> None:
        """Order the earlier and later accesses of the warps of these lanes."""
        self._warp_time[np.unique(lane >> 5)] += 1

    def load(self, lane: Array, address: Array, width: int, count: int) -> list[Array]:
        """Read ``count`` neighbouring elements of ``width`` bytes.

        Raises:
            Fault: an access is misaligned, out of bounds, or races with a write.
        """
        place = self._places(lane, address, width * count)
        self._check_reads(lane, place, width * count)
        data = self._bytes.view(RAW[8 * width])
        return [data[place // width + item] for item in range(count)]

    def store(self, lane: Array, address: Array, width: int, values: list[Array]) -> None:
        """Write neighbouring elements of ``width`` bytes.

        Raises:
            Fault: an access is misaligned, out of bounds, or races with another.
        """
        size = width * len(values)
        place = self._places(lane, address, size)
        cells = self._cells(place, size)
        data, content = self._bytes.view(RAW[8 * width]), self._bytes.view(RAW[8 * self.cell])
        before = content[cells]
        for item, value in enumerate(values):
            data[place // width + item] = value
        own = np.stack(values, axis=1).view(RAW[8 * self.cell]).reshape(cells.shape)
        after = content[cells]
        if (clash := after != own).any():
            position = int(np.flatnonzero(clash.any(axis=1))[0])
            raise Fault(Race, position, f"{self._named(address, position)} is written by another lane at the same time")
        self._check_writes(lane, cells, before != own)

    def _named(self, address: Array, position: int) -> str:
        return f"shared address {int(address[position]) - BASE:+d}"

    def _places(self, lane: Array, address: Array, size: int) -> Array:
        offset = address.astype(np.int64) - BASE
        if size > 1 and (odd := offset & (size - 1)).any():
            position = int(np.flatnonzero(odd)[0])
            raise Fault(Misaligned, position, f"{self._named(address, position)} is no multiple of {size} bytes")
        outside = (offset < 0) | (offset + size > self.size)
        if outside.any():
            position = int(np.flatnonzero(outside)[0])
            raise Fault(
                OutOfBounds, position, f"{size} bytes at {self._named(address, position)}, of {self.size} bytes"
            )
        return lane // self._threads * self._stride + offset

    def _cells(self, place: Array, size: int) -> Array:
        """Return the cells of each access (lanes, cells of one access)."""
        return place[:, None] // self.cell + np.arange(size // self.cell)

    def _check_reads(self, lane: Array, place: Array, size: int) -> None:
        cells = self._cells(place, size)
        own = self._stamp(lane)
        self._require_order(self._writes, own, cells, None, "reads", "wrote")
        _record(self._reads, own, cells)

    def _check_writes(self, lane: Array, cells: Array, changes: Array) -> None:
        own = self._stamp(lane)
        self._require_order(self._reads, own, cells, None, "writes", "read")
        self._require_order(self._writes, own, cells, changes, "writes", "wrote")
        _record(self._writes, own, cells)

    def _stamp(self, lane: Array) -> Array:
        """Return lane and time as one number for each lane (lanes, 1): see ``LANE_MASK`` and the following."""
        time, warp_time = self._time[lane // self._threads], self._warp_time[lane >> 5]
        stamp: Array = (time << TIME_SHIFT) | (warp_time << WARP_TIME_SHIFT) | lane
        return stamp[:, None]

    def _require_order(
        self, earlier: Array, own: Array, cells: Array, counts: Array | None, does: str, did: str
    ) -> None:
        before = earlier[cells]
        unordered = _recent(before, own) & (((before ^ own) & (LANE_MASK | SEVERAL_LANES | SEVERAL_WARPS)) != 0)
        if counts is not None:
            unordered &= counts
        if not unordered.any():
            return
        position = int(np.flatnonzero(unordered.any(axis=1))[0])
        item = int(np.flatnonzero(unordered[position])[0])
        place = int(cells[position, item]) * self.cell % self._stride
        who = int(before[position, item])
        several = who & (SEVERAL_LANES | SEVERAL_WARPS)
        by = "several lanes" if several else f"thread {(who & LANE_MASK) % self._threads}"
        raise Fault(Race, position, f"{does} shared address {place:+d}, which {by} {did}, without a barrier between")


LANE_MASK: Final = 2**16 - 1
WARP_MASK: Final = LANE_MASK - 31
SEVERAL_LANES: Final = 2**16
SEVERAL_WARPS: Final = 2**17
WARP_TIME_SHIFT: Final = 18
WARP_TIME_MASK: Final = 2**40 - 2**18
TIME_SHIFT: Final = 40
"""Parts of a stamp: a lane, whether there are others or others of another warp, the warp's time, and the CTA's."""


def _recent(before: Array, own: Array) -> Array:
    """Tell whether no barrier lies between the access with stamp ``before`` and the one with stamp ``own``."""
    difference = before ^ own
    ordered = ((difference & (WARP_MASK | SEVERAL_WARPS)) == 0) & ((difference & WARP_TIME_MASK) != 0)
    recent: Array = ((difference >> TIME_SHIFT) == 0) & ~ordered
    return recent


def _record(stamps: Array, own: Array, cells: Array) -> None:
    """Record an access of cells, together with the earlier ones that no barrier separates from it."""
    before = stamps[cells]
    counts, difference = _recent(before, own), before ^ own
    stamp = np.broadcast_to(own, cells.shape).copy()
    stamp[counts & ((difference & (LANE_MASK | SEVERAL_LANES)) != 0)] |= SEVERAL_LANES
    stamp[counts & ((difference & (WARP_MASK | SEVERAL_WARPS)) != 0)] |= SEVERAL_WARPS
    stamps[cells] = stamp
    # Of several lanes the last one was recorded; the others find another stamp than their own.
    difference = stamps[cells] ^ stamp
    if difference.any():
        stamps[cells[(difference & (LANE_MASK | SEVERAL_LANES)) != 0]] |= SEVERAL_LANES
        stamps[cells[(difference & (WARP_MASK | SEVERAL_WARPS)) != 0]] |= SEVERAL_WARPS
