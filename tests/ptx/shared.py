"""Shared memory of the CTAs of a batch, and the check that no two lanes race for one address.

Two accesses of one cell of shared memory race if they are of two lanes, one of them writes, and nothing orders them.
What orders them:

- ``bar.sync`` between them, for all lanes of the CTA;
- ``bar.warp.sync`` between them, for lanes of one warp.

Nothing else does. Lanes of one warp are no exception: since Volta they need not run in lockstep, and ``shfl.sync``,
``redux.sync`` and ``ldmatrix`` wait for the lanes of a warp but order no memory (PTX ISA, "Memory consistency model").
One thing is no race: several lanes that write the same value to the same cell. Triton does so wherever a layout holds
an element more than once, and whichever write comes last the content is the same. Reading such a cell before the next
barrier is a race, even for one of its writers.
"""

from typing import Final

import numpy as np

from tests.ptx.errors import Fault, Misaligned, OutOfBounds, Race
from tests.ptx.formats import RAW, Array
from tests.ptx.memory import GARBAGE

BASE: Final = 1024
"""Address of the first byte, as on Ampere and later, where the system has the first KiB."""
NOBODY: Final = -1
SEVERAL: Final = -2


class SharedMemory:
    """``size`` bytes for each of ``ctas`` CTAs of ``threads`` lanes; ``cell`` bytes are checked as one."""

    def __init__(self, ctas: int, threads: int, size: int, cell: int) -> None:
        self.size, self.cell = size, cell
        self._threads = threads
        self._stride = -(-size // 16) * 16
        self._bytes = np.full(ctas * self._stride, GARBAGE, np.uint8)
        cells = ctas * self._stride // cell
        self._writes, self._reads = _Accesses(cells), _Accesses(cells)
        self._time = np.zeros(ctas, np.int32)
        """Barriers that a CTA has passed."""
        self._warp_time = np.zeros(ctas * threads // 32, np.int32)
        """Barriers that a warp has passed, its own and those of its CTA."""

    def pass_barrier(self, lane: Array) -> None:
        """Order what the CTAs of these lanes did before and will do."""
        self._time[np.unique(lane // self._threads)] += 1
        self.pass_warp_barrier(lane)

    def pass_warp_barrier(self, lane: Array) -> None:
        """Order what the warps of these lanes did before and will do."""
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
        """Cells (lanes, cells of one access)."""
        return place[:, None] // self.cell + np.arange(size // self.cell)

    def _check_reads(self, lane: Array, place: Array, size: int) -> None:
        cells = self._cells(place, size)
        self._require_order(self._writes, lane, cells, np.ones(cells.shape, np.bool_), "reads", "wrote")
        self._record(self._reads, lane, cells)

    def _check_writes(self, lane: Array, cells: Array, changes: Array) -> None:
        self._require_order(self._reads, lane, cells, np.ones(cells.shape, np.bool_), "writes", "read")
        self._require_order(self._writes, lane, cells, changes, "writes", "wrote")
        self._record(self._writes, lane, cells)

    def _require_order(
        self, earlier: "_Accesses", lane: Array, cells: Array, counts: Array, does: str, did: str
    ) -> None:
        other = earlier.lane[cells]
        recent = earlier.time[cells] == self._time[lane // self._threads][:, None]
        unordered = (other != NOBODY) & (other != lane[:, None]) & recent & counts
        if not unordered.any():
            return
        warp = lane >> 5
        ordered = (earlier.warp[cells] == warp[:, None]) & (earlier.warp_time[cells] != self._warp_time[warp][:, None])
        unordered &= ~ordered
        if not unordered.any():
            return
        position = int(np.flatnonzero(unordered.any(axis=1))[0])
        item = int(np.flatnonzero(unordered[position])[0])
        place = int(cells[position, item]) * self.cell % self._stride
        whom = int(other[position, item])
        by = "several lanes" if whom == SEVERAL else f"thread {whom % self._threads}"
        raise Fault(Race, position, f"{does} shared address {place:+d}, which {by} {did}, without a barrier between")

    def _record(self, accesses: "_Accesses", lane: Array, cells: Array) -> None:
        warp = lane >> 5
        own_lane, own_warp = (np.broadcast_to(one[:, None], cells.shape) for one in (lane, warp))
        time = np.broadcast_to(self._time[lane // self._threads][:, None], cells.shape)
        warp_time = np.broadcast_to(self._warp_time[warp][:, None], cells.shape)
        before_lane, before_warp = accesses.lane[cells], accesses.warp[cells]
        counts = (before_lane != NOBODY) & (accesses.time[cells] == time)
        counts &= (before_warp != own_warp) | (accesses.warp_time[cells] == warp_time)
        accesses.lane[cells], accesses.warp[cells] = own_lane, own_warp
        accesses.time[cells], accesses.warp_time[cells] = time, warp_time
        # Of several lanes the last one was recorded; the others see that it is not they.
        accesses.lane[cells[accesses.lane[cells] != own_lane]] = SEVERAL
        accesses.warp[cells[accesses.warp[cells] != own_warp]] = SEVERAL
        accesses.lane[cells[counts & (before_lane != own_lane)]] = SEVERAL
        accesses.warp[cells[counts & (before_warp != own_warp)]] = SEVERAL


class _Accesses:
    """For each cell who used it last, and when."""

    def __init__(self, cells: int) -> None:
        self.lane = np.full(cells, NOBODY, np.int32)
        self.warp = np.full(cells, NOBODY, np.int32)
        self.time = np.zeros(cells, np.int32)
        self.warp_time = np.zeros(cells, np.int32)
