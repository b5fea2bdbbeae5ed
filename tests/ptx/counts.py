"""Count the memory accesses of a launch, warp by warp, as a GPU serves them.

A warp's access to global memory is one request; the memory serves it in sectors of 32 bytes. ``Counter`` is given to a
launch (``tests.ptx.launch``) and makes ``LaunchCounts`` of what it saw:

- ``AccessCounts`` for each instruction that touches global memory;
- sectors that differ within a CTA: what the L2 must deliver if the L1 keeps everything until the CTA ends;
- sectors that differ within the launch: what must come from device memory if the L2 keeps everything;
- lanes at work: of all lanes of all warps that execute an instruction, the part whose predicate is true.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.ptx.formats import Array
from tests.ptx.program import Instruction

SECTOR_BYTES: Final = 32
WARP: Final = 32
SECTOR_BITS: Final = np.uint64(43)
SECTOR_MASK: Final = np.uint64(2**43 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessCounts:
    """Global accesses of one instruction, or of several together.

    Args:
        line: line of the PTX, 0 for several instructions together.
        text: the instruction.
        kind: ``load``, ``store`` or ``atomic``.
        tensors: names of the allocations that it touched.
        bytes: bytes that the lanes asked for; a lane that loads what another does asks again.
        issues: warps that executed it, also those with no lane at work.
        requests: those with at least one lane at work.
        lanes: lanes whose predicate was true.
        sectors: sectors of each request, summed.
    """

    line: int
    text: str
    kind: str
    tensors: tuple[str, ...]
    bytes: int
    issues: int
    requests: int
    lanes: int
    sectors: int

    @property
    def lanes_at_work(self) -> float:
        """Return the fraction of the lanes of all warps that executed it whose predicate was true."""
        return self.lanes / (WARP * self.issues) if self.issues else 0.0

    @property
    def lanes_per_sector(self) -> float:
        """Return how many lanes share a sector of a request: at most 8 if a lane accesses 4 bytes of its own."""
        return self.lanes / self.sectors if self.sectors else 0.0

    @property
    def sector_bytes(self) -> int:
        """Return the bytes that move if no cache merges requests."""
        return SECTOR_BYTES * self.sectors


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchCounts:
    """Counts of one launch.

    Args:
        kernel: name of the entry.
        ctas: programs launched.
        issues: instructions executed, once for each warp.
        lanes: lanes of them whose predicate was true.
        accesses: counts of each instruction that touches global memory, by line.
        sectors_by_cta: by allocation, sectors that differ within a CTA and that loads touch, summed over the CTAs.
        sectors_by_launch: by allocation, sectors that differ within the launch and that loads touch.
        shared_issues: accesses to shared memory, once for each warp.
    """

    kernel: str
    ctas: int
    issues: int
    lanes: int
    accesses: tuple[AccessCounts, ...]
    sectors_by_cta: dict[str, int]
    sectors_by_launch: dict[str, int]
    shared_issues: int

    @property
    def lanes_at_work(self) -> float:
        """Return the fraction of lanes at work over all instructions."""
        return self.lanes / (WARP * self.issues) if self.issues else 0.0

    def total(self, kind: str, *tensors: str) -> AccessCounts:
        """Add up the instructions of a kind; with names, those that access no other allocations than these."""
        chosen = [
            one for one in self.accesses if one.kind == kind and (not tensors or set(one.tensors) <= set(tensors))
        ]
        return AccessCounts(
            line=0,
            text=f"every {kind}",
            kind=kind,
            tensors=tuple(sorted({name for one in chosen for name in one.tensors})),
            bytes=sum(one.bytes for one in chosen),
            issues=sum(one.issues for one in chosen),
            requests=sum(one.requests for one in chosen),
            lanes=sum(one.lanes for one in chosen),
            sectors=sum(one.sectors for one in chosen),
        )

    def l2_bytes(self, *tensors: str) -> int:
        """Return the bytes that loads fetch from L2 if L1 keeps all until the CTA ends, of some allocations or all."""
        return SECTOR_BYTES * sum(self.sectors_by_cta[name] for name in tensors or self.sectors_by_cta)

    def device_bytes(self, *tensors: str) -> int:
        """Return the bytes that loads fetch from device memory if L2 keeps everything, of some allocations or all."""
        return SECTOR_BYTES * sum(self.sectors_by_launch[name] for name in tensors or self.sectors_by_launch)


@dataclass(frozen=True, slots=True)
class Access:
    """One execution of an instruction by the lanes of some warps.

    Args:
        instruction: what was executed.
        kind: ``load``, ``store`` or ``atomic``.
        warps: warps that executed it.
        warp: warp of each lane at work, counted in the launch.
        warps_per_cta: warps of a CTA.
        address: first byte of each lane at work.
        owner: index of its allocation.
        size: bytes of each lane.
    """

    instruction: Instruction
    kind: str
    warps: int
    warp: Array
    warps_per_cta: int
    address: Array
    owner: Array
    size: int


class Counter:
    """Counts a launch; one that wants each access itself overrides ``access``."""

    def __init__(self) -> None:
        self._accesses: dict[tuple[int, str], _Sums] = {}
        self._cta_sectors: list[Array] = []
        self._by_cta: dict[int, int] = {}
        self._by_launch: dict[int, Array] = {}
        self._issues = self._lanes = self._ctas = self._shared = 0

    def issue(self, warps: int, lanes: int) -> None:
        """Record that ``warps`` warps executed an instruction with ``lanes`` lanes at work."""
        self._issues += warps
        self._lanes += lanes

    def shared_access(self, warps: int) -> None:
        """Record that ``warps`` warps accessed shared memory."""
        self._shared += warps

    def access(self, access: Access) -> None:
        """Record an access to global memory."""
        sums = self._accesses.setdefault(
            (access.instruction.line, access.instruction.text), _Sums(access.instruction, access.kind)
        )
        sums.issues += access.warps
        if not len(access.address):
            return
        owners = np.unique(access.owner)
        sums.owners.update(owners.tolist())
        sums.lanes += len(access.address)
        sums.bytes += len(access.address) * access.size
        sums.requests += count_runs(access.warp)
        first, last = access.address // SECTOR_BYTES, (access.address + np.uint64(access.size - 1)) // SECTOR_BYTES
        ends = (first,) if (first == last).all() else (first, last)
        pairs = _distinct(np.concatenate([access.warp] * len(ends)), np.concatenate(ends))
        sums.sectors += len(pairs)
        if access.kind == "load":
            sector = pairs & SECTOR_MASK
            cta = (pairs >> SECTOR_BITS) // np.uint64(access.warps_per_cta)
            self._cta_sectors.append((cta << SECTOR_BITS) | sector)

    def end_batch(self, ctas: int, begins: Array) -> None:
        """Record that ``ctas`` CTAs have ended; ``begins`` are the addresses of the allocations."""
        self._ctas += ctas
        if not self._cta_sectors:
            return
        pairs = np.unique(np.concatenate(self._cta_sectors))
        self._cta_sectors.clear()
        sectors = pairs & SECTOR_MASK
        owner = np.searchsorted(begins // SECTOR_BYTES, sectors, side="right") - 1
        for one in np.unique(owner).tolist():
            own = sectors[owner == one]
            self._by_cta[one] = self._by_cta.get(one, 0) + len(own)
            self._by_launch[one] = np.unique(np.concatenate([self._by_launch.get(one, own[:0]), own]))

    def counts(self, kernel: str, names: Iterable[str]) -> LaunchCounts:
        """Return the counts; ``names`` are those of the allocations, in the order of their indices."""
        names = tuple(names)
        accesses = [
            AccessCounts(
                line=one.instruction.line,
                text=one.instruction.text,
                kind=one.kind,
                tensors=tuple(names[owner] for owner in sorted(one.owners)),
                bytes=one.bytes,
                issues=one.issues,
                requests=one.requests,
                lanes=one.lanes,
                sectors=one.sectors,
            )
            for _, one in sorted(self._accesses.items())
        ]
        return LaunchCounts(
            kernel=kernel,
            ctas=self._ctas,
            issues=self._issues,
            lanes=self._lanes,
            accesses=tuple(accesses),
            sectors_by_cta={name: self._by_cta.get(owner, 0) for owner, name in enumerate(names)},
            sectors_by_launch={name: len(self._by_launch.get(owner, ())) for owner, name in enumerate(names)},
            shared_issues=self._shared,
        )


def count_runs(values: Array) -> int:
    """Count the different values of a sorted array."""
    return int(np.count_nonzero(values[1:] != values[:-1])) + 1 if len(values) else 0


class _Sums:
    def __init__(self, instruction: Instruction, kind: str) -> None:
        self.instruction, self.kind = instruction, kind
        self.owners: set[int] = set()
        self.bytes = self.issues = self.requests = self.lanes = self.sectors = 0


def _distinct(warp: Array, sector: Array) -> Array:
    """Return the different pairs of a warp and a sector, one number for each."""
    pairs = (warp.astype(np.uint64) << SECTOR_BITS) | sector
    # Neighbouring lanes mostly touch the same sector: most of the work is done before sorting.
    changed = np.flatnonzero(pairs[1:] != pairs[:-1]) + 1
    result: Array = np.unique(pairs[np.concatenate([[0], changed])])
    return result
