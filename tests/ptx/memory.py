"""Global memory: named allocations with guard zones between them, whose every access is checked.

The whole memory is one array of bytes. Guard zones belong to no allocation. A parallel array says which bytes hold
something: what the host put there, or a kernel wrote. Reading any other byte is an error. After the launch
``unwritten`` tells which bytes of an output were never written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.ptx.errors import Fault, Misaligned, OutOfBounds, PtxError, ReadOnly, Uninitialized
from tests.ptx.formats import RAW, Array

BASE: Final = 0x7F0000000000
"""Address of the first guard zone."""
GUARD: Final = 4096
"""Bytes of a guard zone, before the first allocation and behind each."""
ALIGNMENT: Final = 256
"""Of the address of an allocation, as ``cudaMalloc`` gives it."""
GARBAGE: Final = 0xDB
"""Content of memory that was never written."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Memory of one tensor: ``size`` bytes from ``address`` on; ``writable`` by kernels or not."""

    name: str
    address: int
    size: int
    writable: bool


class GlobalMemory:
    """Allocations of these sizes, in bytes.

    Args:
        sizes: bytes of each allocation by its name.
        writable: names of those that a kernel may write.
        skew: bytes that every address is beyond a multiple of ``ALIGNMENT``.
    """

    def __init__(self, sizes: Mapping[str, int], writable: frozenset[str], skew: int = 0) -> None:
        place, found = GUARD + skew, {}
        for name, size in sizes.items():
            found[name] = Allocation(name, BASE + place, size, name in writable)
            place += -(-size // ALIGNMENT) * ALIGNMENT + GUARD
        self.allocations: Final = found
        self.names: Final = tuple(found)
        whole = -(-place // ALIGNMENT) * ALIGNMENT  # whole elements of any width
        self._bytes = np.full(whole, GARBAGE, np.uint8)
        self._holds = np.zeros(whole, np.uint8)
        self.begins: Final = np.array([one.address for one in found.values()], np.uint64)
        self._ends = np.array([one.address + one.size for one in found.values()], np.uint64)
        self._writable = np.array([one.writable for one in found.values()], np.bool_)

    def fill(self, name: str, content: Array) -> None:
        """Copy an array to an allocation, from its first byte."""
        raw = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
        start = self.allocations[name].address - BASE
        self._bytes[start : start + len(raw)] = raw
        self._holds[start : start + len(raw)] = 1

    def content(self, name: str) -> Array:
        """Return a copy of the bytes of an allocation."""
        return self._bytes[self._slice(name)].copy()

    def unwritten(self, name: str) -> Array:
        """Return the offsets of the bytes of an allocation that were never written."""
        return np.flatnonzero(self._holds[self._slice(name)] == 0)

    def _slice(self, name: str) -> slice:
        one = self.allocations[name]
        return slice(one.address - BASE, one.address - BASE + one.size)

    def owners(self, address: Array, size: int, *, write: bool) -> Array:
        """Return the index of the allocation (in ``names``) of each access of ``size`` bytes.

        Raises:
            Fault: an access is misaligned, is not inside one allocation, or writes where it must not.
        """
        if size > 1 and (odd := address & np.uint64(size - 1)).any():
            position = int(np.flatnonzero(odd)[0])
            raise Fault(Misaligned, position, f"address {address[position]:#x} is no multiple of {size} bytes")
        owner = np.searchsorted(self.begins, address, side="right") - 1
        known = np.maximum(owner, 0)
        outside = (owner < 0) | (address + np.uint64(size) > self._ends[known]) if len(self._ends) else owner < 0
        if outside.any():
            position = int(np.flatnonzero(outside)[0])
            raise Fault(OutOfBounds, position, self._where(int(address[position]), size))
        if write and not self._writable[owner].all():
            position = int(np.flatnonzero(~self._writable[owner])[0])
            name = self.names[owner[position]]
            raise Fault(ReadOnly, position, f"writes {self._where(int(address[position]), size)}, in the input {name}")
        return owner

    def _where(self, address: int, size: int) -> str:
        """Describe an address by the nearest allocation."""
        text = f"{size} bytes at address {address:#x}"
        if not self.allocations:
            return f"{text}, where there is no memory"
        nearest = min(
            self.allocations.values(), key=lambda one: max(one.address - address, address - one.address - one.size)
        )
        return f"{text}, {address - nearest.address:+d} from {nearest.name} of {nearest.size} bytes"

    def load(self, address: Array, width: int, count: int) -> list[Array]:
        """Read ``count`` neighbouring elements of ``width`` bytes; the access must have been checked.

        Raises:
            Fault: a byte was never written.
        """
        unit = RAW[8 * width]
        data, holds = self._bytes.view(unit), self._holds.view(unit)
        first = (address - np.uint64(BASE)) // np.uint64(width)
        whole = unit(int.from_bytes(b"\x01" * width, "little"))
        values = []
        for item in range(count):
            place = (first + np.uint64(item)).astype(np.intp)
            if (missing := holds[place] != whole).any():
                position = int(np.flatnonzero(missing)[0])
                where = self._where(int(address[position]) + item * width, width)
                raise Fault(Uninitialized, position, f"reads {where}, which was never written")
            values.append(data[place])
        return values

    def store(self, address: Array, width: int, values: list[Array]) -> None:
        """Write neighbouring elements of ``width`` bytes; the access must have been checked."""
        unit = RAW[8 * width]
        data, holds = self._bytes.view(unit), self._holds.view(unit)
        first = (address - np.uint64(BASE)) // np.uint64(width)
        for item, value in enumerate(values):
            place = (first + np.uint64(item)).astype(np.intp)
            data[place] = value
            holds[place] = unit(int.from_bytes(b"\x01" * width, "little"))

    def update(self, address: Array, width: int, change: Callable[[Array, Array], Array]) -> Array:
        """Change one element of ``width`` bytes for each lane, one lane after the other, and return the old bits.

        ``change`` takes the old bits of elements that all differ, and which lanes they are of, and gives the new bits.
        The access must have been checked.

        Raises:
            Fault: a byte was never written.
        """
        (old,) = self.load(address, width, 1)
        data = self._bytes.view(RAW[8 * width])
        place = ((address - np.uint64(BASE)) // np.uint64(width)).astype(np.intp)
        order = np.argsort(place, kind="stable")
        first = np.flatnonzero(np.diff(place[order], prepend=-1))
        turn = np.empty(len(place), np.intp)
        turn[order] = np.arange(len(place)) - np.repeat(first, np.diff(first, append=len(place)))
        for number in range(int(turn.max(initial=-1)) + 1):
            lanes = np.flatnonzero(turn == number)
            old[lanes] = data[place[lanes]]
            data[place[lanes]] = change(old[lanes], lanes)
        return old

    def accumulate(self, address: Array, ufunc: np.ufunc, values: Array) -> None:
        """Apply a commutative function, as integer addition or maximum, to elements of memory.

        The access must have been checked.

        Raises:
            Fault: a byte was never written.
        """
        self.load(address, values.dtype.itemsize, 1)
        place = ((address - np.uint64(BASE)) // np.uint64(values.dtype.itemsize)).astype(np.intp)
        ufunc.at(self._bytes.view(values.dtype), place, values)

    def address_of(self, name: str) -> int:
        """Return the address of an allocation.

        Raises:
            PtxError: there is none of this name.
        """
        if name not in self.allocations:
            raise PtxError(f"there is no allocation {name}; there are {', '.join(self.names)}")
        return self.allocations[name].address
