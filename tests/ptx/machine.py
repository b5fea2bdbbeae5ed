"""Execute a kernel: all lanes of many CTAs at once, one NumPy operation for an instruction.

Lanes that are at the same instruction form a group, whose registers are arrays over its lanes. A branch on which the
lanes of a group disagree splits it. Of all groups the one at the lowest instruction goes on, to the end of its basic
block, and groups that meet at the beginning of a block become one: code that compilers lay out in order so
reconverges where the paths join. Nothing depends on where it reconverges: instructions that need a whole warp or CTA
(``shfl.sync``, ``bar.sync``) wait until all its lanes are there, and if they never come it is an error.

Integers wrap, floats round once to nearest even, NaN is canonical. A register that an instruction with a predicate
leaves unwritten on its first use holds garbage.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tests.ptx import shared
from tests.ptx.counts import Counter
from tests.ptx.errors import Divergence, Endless, PtxError
from tests.ptx.formats import bits_of, is_type
from tests.ptx.groups import WARP, Batch, Group, Launch, joined
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import Instruction, Program
from tests.ptx.shared import SharedMemory
from tests.ptx.steps import Compiler, Step, chosen_lanes, count_issue

BATCH_LANES: Final = 2**15
"""Lanes that are executed at once: enough to make NumPy efficient, few enough for the caches."""
MAX_STEPS: Final = 2_000_000
"""Instructions that a batch may execute, so that an endless loop ends."""
MAX_SHARED_BYTES: Final = 227 * 1024
"""Of a CTA of an H100; other GPUs have less."""


def run(program: Program, launch: Launch, device: GlobalMemory, counter: Counter | None = None) -> None:
    """Execute a kernel on global memory.

    Raises:
        PtxError: it cannot be executed, or does what no kernel may do.
    """
    threads = launch.threads
    if threads % WARP or not 0 < threads <= 1024:
        raise PtxError(f"{program.name}: a block of {threads} threads is no whole number of warps up to 1024 threads")
    if program.threads is not None and program.threads != launch.block:
        raise PtxError(f"{program.name} must be launched with a block of {program.threads}, not {launch.block}")
    if len(launch.arguments) != len(program.parameters):
        raise PtxError(f"{program.name} takes {len(program.parameters)} arguments, not {len(launch.arguments)}")
    variables, size = _layout(program, launch.shared_bytes)
    compiler = Compiler(program, launch.arguments, threads, variables)
    # All of them at once: what is not known is an error also where no lane comes by.
    steps = [compiler.compile(instruction) for instruction in program.instructions]
    each = max(BATCH_LANES // threads, 1)
    with np.errstate(all="ignore"):  # overflow and NaN are results like others
        for first in range(0, launch.ctas, each):
            ctas = min(each, launch.ctas - first)
            memory = SharedMemory(ctas, threads, size, _cell(program)) if size else None
            batch = Batch(launch, device, memory, counter, first, ctas)
            _Scheduler(program, batch, steps).run()
            if counter is not None:
                counter.end_batch(ctas, device.begins)


class _Scheduler:
    """Executes a batch: which group goes on, and where groups part, meet and wait."""

    def __init__(self, program: Program, batch: Batch, steps: Sequence[Step | None]) -> None:
        self.program, self.batch, self.steps = program, batch, steps
        self.ready: dict[int, list[Group]] = {}
        self.waiting: dict[int, Group] = {}

    def run(self) -> None:
        self._enter(0, Group(np.arange(self.batch.lanes), {}))
        executed = 0
        while self.ready:
            place = min(self.ready)
            group = joined(self.ready.pop(place))
            end = self.program.ends[place]
            executed += end - place
            if executed > MAX_STEPS:
                raise self._error(Endless, place, f"more than {MAX_STEPS} instructions")
            self._run_block(group, place, end)
        for place, group in self.waiting.items():
            who = self.batch.name_of(group.lane[0])
            raise self._error(Divergence, place, f"{who} waits here for lanes that never come")

    def _run_block(self, group: Group, place: int, end: int) -> None:
        for here in range(place, end):
            instruction = self.program.instructions[here]
            step = self.steps[here]
            if step is None:
                return self._leave(group, here)
            if unit := _rendezvous(instruction, self.batch.launch.threads):
                found = self._wait(group, here, unit)
                if found is None:
                    return None
                group = found
            step(self.batch, group)
        return self._enter(end, group)

    def _leave(self, group: Group, place: int) -> None:
        """Execute a branch or a return."""
        instruction = self.program.instructions[place]
        taken = chosen_lanes(self.program, instruction, group)
        count_issue(self.batch, group, taken)
        target = self.program.target_of(instruction) if instruction.opcode[0] == "bra" else None
        if taken is None or taken.all():
            return self._enter(target, group)
        if not taken.any():
            return self._enter(place + 1, group)
        self._enter(target, group.keep(self.program.live_at(target)).split(taken))
        return self._enter(place + 1, group.keep(self.program.live_at(place + 1)).split(~taken))

    def _enter(self, place: int | None, group: Group) -> None:
        """Continue a group at the beginning of a block; ``None`` ends its lanes."""
        if place is None:
            return
        if place >= len(self.program.instructions):
            raise PtxError(f"{self.program.name} runs past its last instruction")
        self.ready.setdefault(place, []).append(group.keep(self.program.live_at(place)))

    def _wait(self, group: Group, place: int, unit: int) -> Group | None:
        """Return the lanes whose whole unit (a warp or CTA of so many lanes) has arrived; park the others."""
        if place in self.waiting:
            group = joined([self.waiting.pop(place), group])
        if len(group.lane) == self.batch.lanes:
            return group
        own = group.lane // unit
        complete = np.bincount(own)[own] == unit
        if complete.all():
            return group
        self.waiting[place] = group.split(~complete)
        return group.split(complete) if complete.any() else None

    def _error(self, kind: type[PtxError], place: int, message: str) -> PtxError:
        return self.program.error(kind, self.program.instructions[place], message)


def _rendezvous(instruction: Instruction, threads: int) -> int:
    """Return how many lanes must execute an instruction together: those of a CTA, those of a warp, or 0."""
    if instruction.opcode[0] in ("bar", "barrier"):
        return WARP if "warp" in instruction.opcode else threads
    return WARP if "sync" in instruction.opcode else 0


def _layout(program: Program, dynamic: int) -> tuple[dict[str, int], int]:
    """Return the addresses of the variables in shared memory, and its size; the one without a size is the last."""
    addresses, place = {}, shared.BASE
    for variable in sorted(program.shared, key=lambda one: one.size is None):
        place = -(-place // variable.align) * variable.align
        addresses[variable.name] = place
        place += variable.size or 0
    size = place - shared.BASE + dynamic
    if size > MAX_SHARED_BYTES:
        raise PtxError(f"{program.name}: {size} bytes of shared memory are more than a CTA can have")
    return addresses, size


def _cell(program: Program) -> int:
    """Return the width of the narrowest element in shared memory, in bytes."""
    widths = [4]
    for instruction in program.instructions:
        if instruction.opcode[0] in ("ld", "st", "atom", "red") and "shared" in "".join(instruction.opcode):
            widths += [bits_of(word) // 8 for word in instruction.opcode[1:] if is_type(word)]
    return min(widths)
