"""Execute a kernel: all lanes of many CTAs at once, one NumPy operation for an instruction.

Lanes that are at the same instruction form a group, whose registers are arrays over its lanes. A branch on which the
lanes of a group disagree splits it. Of all groups the one at the lowest instruction goes on, to the end of its basic
block, and groups that meet at the beginning of a block become one: code that compilers lay out in order so
reconverges where the paths join. Nothing depends on where it reconverges: instructions that need a whole warp or CTA
(``shfl.sync``, ``bar.sync``) wait until all its lanes are there, and if they never come it is an error.

Integers wrap, floats round once to nearest even, NaN is canonical. A register that an instruction with a predicate
leaves unwritten on its first use holds garbage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from tests.ptx import memory, shared
from tests.ptx.arithmetic import Operation, operation
from tests.ptx.counts import Access, Counter
from tests.ptx.errors import Divergence, Endless, Fault, PtxError, Uninitialized, UnknownInstruction
from tests.ptx.formats import RAW, Array, bits_of, is_type, resized
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import (
    Address,
    Immediate,
    Instruction,
    Operand,
    Program,
    Register,
    Special,
    Symbol,
    Vector,
)
from tests.ptx.shared import SharedMemory
from tests.ptx.updates import Update, update_of
from tests.ptx.warp import warp_operation

WARP: Final = 32
BATCH_LANES: Final = 2**15
"""Lanes that are executed at once: enough to make NumPy efficient, few enough for the caches."""
MAX_STEPS: Final = 2_000_000
"""Instructions that a group of lanes may execute, so that an endless loop ends."""
PLAIN_SHARED_BYTES: Final = 227 * 1024

_operation = lru_cache(maxsize=None)(operation)
_update_of = lru_cache(maxsize=None)(update_of)

_CACHE_WORDS: Final = frozenset(
    {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "volatile", "relaxed", "acquire", "release", "acq_rel"}
    | {"cta", "cluster", "gpu", "sys"}
    | {f"L1::evict_{word}" for word in ("normal", "unchanged", "first", "last")}
    | {"L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"}
)
"""Parts of a load or store that change nothing here: caches are not modelled, and memory is sequentially consistent."""


@dataclass(eq=False)
class Group:
    """Lanes (numbers in their batch, ascending) at one instruction, and their registers."""

    lane: Array
    registers: dict[str, Array]

    @cached_property
    def warps(self) -> int:
        """How many warps have lanes here."""
        return len(np.unique(self.lane >> 5))

    def split(self, chosen: Array, live: frozenset[str] | None = None) -> "Group":
        """The chosen lanes with their registers, or those of them that are live."""
        kept = self.registers if live is None else live & self.registers.keys()
        return Group(self.lane[chosen], {name: self.registers[name][chosen] for name in kept})


def _joined(groups: Sequence[Group]) -> Group:
    if len(groups) == 1:
        return groups[0]
    lane = np.concatenate([group.lane for group in groups])
    order = np.argsort(lane)
    registers = {}
    for name in set[str]().union(*(group.registers for group in groups)):
        kind = next(group.registers[name].dtype for group in groups if name in group.registers)
        parts = [group.registers.get(name, _garbage(len(group.lane), kind)) for group in groups]
        registers[name] = np.concatenate(parts)[order]
    return Group(lane[order], registers)


def _garbage(lanes: int, kind: "np.dtype[np.generic]") -> Array:
    return np.full(lanes * kind.itemsize, memory.GARBAGE & (1 if kind == np.bool_ else 255), np.uint8).view(kind)


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is started: grid and block in threads, dynamic shared memory, and one argument a parameter."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]


def run(program: Program, launch: Launch, device: GlobalMemory, counter: Counter | None = None) -> None:
    """Execute a kernel on global memory.

    Raises:
        PtxError: it cannot be executed, or does what no kernel may do.
    """
    threads = math.prod(launch.block)
    if threads % WARP or not 0 < threads <= 1024:
        raise PtxError(f"{program.name}: a block of {threads} threads is no whole number of warps up to 1024 threads")
    if program.threads is not None and program.threads != launch.block:
        raise PtxError(f"{program.name} must be launched with a block of {program.threads}, not {launch.block}")
    if len(launch.arguments) != len(program.parameters):
        raise PtxError(f"{program.name} takes {len(program.parameters)} arguments, not {len(launch.arguments)}")
    ctas, each = math.prod(launch.grid), max(BATCH_LANES // threads, 1)
    with np.errstate(all="ignore"):  # overflow and NaN are results like others
        for first in range(0, ctas, each):
            batch = _Batch(program, launch, device, counter, first, min(each, ctas - first))
            batch.run()
            if counter is not None:
                begins = np.array([one.address for one in device.allocations.values()], np.uint64)
                counter.end_batch(batch.ctas, begins)


Step = Callable[[Group], None]
Reader = Callable[[Group], Array]
Writer = Callable[[Group, Array], None]


class _Batch:
    """Some CTAs of a launch, from their first instruction to the last."""

    def __init__(
        self,
        program: Program,
        launch: Launch,
        device: GlobalMemory,
        counter: Counter | None,
        first_cta: int,
        ctas: int,
    ) -> None:
        self.program, self.launch, self.device, self.counter = program, launch, device, counter
        self.first_cta, self.ctas, self.threads = first_cta, ctas, math.prod(launch.block)
        self._layout, size = _layout(program, launch.shared_bytes)
        self.shared = SharedMemory(ctas, self.threads, size, _cell(program)) if size else None
        self._ready: dict[int, list[Group]] = {}
        self._waiting: dict[int, Group] = {}
        self._steps: dict[int, Step] = {}

    def run(self) -> None:
        ends = {place: block.stop for block in self.program.blocks for place in block}
        self._enter(0, Group(np.arange(self.ctas * self.threads), {}))
        steps = 0
        while self._ready:
            place = min(self._ready)
            group = _joined(self._ready.pop(place))
            end = ends[place]
            steps += end - place
            if steps > MAX_STEPS:
                raise self._error(Endless, place, f"more than {MAX_STEPS} instructions")
            self._run_block(group, place, end)
        for place, group in self._waiting.items():
            raise self._error(Divergence, place, f"{self._who(group.lane[0])} waits here for lanes that never come")

    def _run_block(self, group: Group, place: int, end: int) -> None:
        instructions = self.program.instructions
        for here in range(place, end):
            instruction = instructions[here]
            kind = instruction.opcode[0]
            if kind == "bra":
                return self._branch(group, here)
            if kind in ("ret", "exit"):
                taken = self._chosen(group, instruction)
                self._count(group, taken)
                if taken is not None:
                    self._enter(end, self._rest(group, ~taken, end))
                return None
            unit = _rendezvous(instruction, self.threads)
            if unit:
                found = self._wait(group, here, unit)
                if found is None:
                    return None
                group = found
            step = self._steps.get(here)
            if step is None:
                step = self._steps[here] = self._compiled(instruction)
            step(group)
        self._enter(end, self._rest(group, None, end))
        return None

    def _rest(self, group: Group, chosen: Array | None, place: int) -> Group:
        live = self.program.live.get(place, frozenset())
        if chosen is not None:
            return group.split(chosen, live)
        return Group(group.lane, {name: group.registers[name] for name in live & group.registers.keys()})

    def _enter(self, place: int, group: Group) -> None:
        if not len(group.lane):
            return
        if place >= len(self.program.instructions):
            raise PtxError(f"{self.program.name} runs past its last instruction")
        self._ready.setdefault(place, []).append(group)

    def _branch(self, group: Group, place: int) -> None:
        instruction = self.program.instructions[place]
        if instruction.opcode not in (("bra",), ("bra", "uni")):
            raise self._unknown(instruction)
        target = self.program.target_of(instruction)
        taken = self._chosen(group, instruction)
        self._count(group, taken)
        if taken is None or taken.all():
            self._enter(target, self._rest(group, None, target))
        elif not taken.any():
            self._enter(place + 1, self._rest(group, None, place + 1))
        else:
            self._enter(target, self._rest(group, taken, target))
            self._enter(place + 1, self._rest(group, ~taken, place + 1))

    def _wait(self, group: Group, place: int, unit: int) -> Group | None:
        """Lanes whose whole unit (a warp or CTA of so many lanes) has come; the others wait."""
        if place in self._waiting:
            group = _joined([self._waiting.pop(place), group])
        if len(group.lane) == self.ctas * self.threads:
            return group
        own = group.lane // unit
        complete = np.bincount(own)[own] == unit
        if complete.all():
            return group
        self._waiting[place] = group.split(~complete)
        return group.split(complete) if complete.any() else None

    # Operands

    def _reader(self, instruction: Instruction, operand: Operand, kind: str) -> Reader:
        """A function that gives the bits of an operand, as many as the type has."""
        bits = bits_of(kind)
        match operand:
            case Register(name, width):
                if width == bits:
                    return lambda group: self._read(group, name, instruction)
                if width < bits or 1 in (width, bits):
                    raise self._unknown(instruction, f"{name} of {width} bits as .{kind}")
                return lambda group: resized(self._read(group, name, instruction), bits)
            case Immediate(value):
                number = RAW[bits](value % 2**bits)
                return lambda group: np.full(len(group.lane), number)
            case Special(name):
                return lambda group: resized(self._special(name, group.lane), bits)
            case Symbol(name) if name in self._layout:
                number = RAW[bits](self._layout[name])
                return lambda group: np.full(len(group.lane), number)
        raise self._unknown(instruction, f"operand {operand}")

    def _read(self, group: Group, name: str, instruction: Instruction) -> Array:
        try:
            return group.registers[name]
        except KeyError:
            raise self.program.error(Uninitialized, instruction, f"reads {name}, which holds nothing") from None

    def _special(self, name: str, lane: Array) -> Array:
        name, _, axis = name.removeprefix("%").partition(".")
        if name == "laneid":
            return (lane % WARP).astype(np.uint32)
        if name == "warpid":
            return (lane % self.threads // WARP).astype(np.uint32)
        sizes = self.launch.block if name in ("tid", "ntid") else self.launch.grid
        place = "xyz".index(axis)
        if name in ("ntid", "nctaid"):
            return np.full(len(lane), sizes[place], np.uint32)
        number = lane % self.threads if name == "tid" else self.first_cta + lane // self.threads
        return (number // math.prod(sizes[:place]) % sizes[place]).astype(np.uint32)

    def _writer(self, instruction: Instruction, operand: Operand | None, kind: str) -> Writer:
        """A function that writes bits of a type to a register, extended if the register is wider."""
        if operand is None:
            return lambda group, value: None
        if not isinstance(operand, Register) or operand.bits < bits_of(kind) or (operand.bits == 1) != (kind == "pred"):
            raise self._unknown(instruction, f"{operand} for a result of type .{kind}")
        name, bits, signed = operand.name, operand.bits, kind[0] == "s"

        def write(group: Group, value: Array) -> None:
            group.registers[name] = resized(value, bits, signed)

        return write

    def _chosen(self, group: Group, instruction: Instruction) -> Array | None:
        """Which lanes execute the instruction, or ``None`` if all do."""
        if instruction.predicate is None:
            return None
        value = self._read(group, instruction.predicate.register.name, instruction)
        return ~value if instruction.predicate.negated else value

    # Instructions

    def _compiled(self, instruction: Instruction) -> Step:
        """A function that executes an instruction on a group."""
        name, *words = instruction.opcode
        if name in ("ld", "st") and "param" not in words:
            return self._access(instruction, name == "ld")
        if name == "ld":
            return self._parameter(instruction)
        if name in ("red", "atom"):
            return self._atomic(instruction)
        if name in ("bar", "barrier"):
            return self._barrier(instruction)
        if name == "mov" and any(isinstance(operand, Vector) for operand in instruction.operands):
            return self._vector_move(instruction)
        if name in ("cvta",) and words in (["to", "global", "u64"], ["global", "u64"]):
            return self._computed(instruction, Operation(("u64",), "u64", lambda address: address))
        found = warp_operation(instruction.opcode)
        if found is not None:
            return self._warp_wide(instruction, found)
        if name in ("ldmatrix", "stmatrix"):
            return self._matrix(instruction)
        computed = _operation(instruction.opcode)
        if computed is None or len(instruction.operands) != 1 + len(computed.sources):
            raise self._unknown(instruction)
        return self._computed(instruction, computed)

    def _computed(self, instruction: Instruction, computed: Operation) -> Step:
        target, *sources = instruction.operands
        readers = [
            self._reader(instruction, source, kind) for source, kind in zip(sources, computed.sources, strict=True)
        ]
        write = self._writer(instruction, target, computed.result)
        function = computed.function
        assert isinstance(target, Register)

        def step(group: Group) -> None:
            chosen = self._chosen(group, instruction)
            self._count(group, chosen)
            if chosen is None:
                return write(group, function(*(read(group) for read in readers)))
            if not chosen.any():
                return None if target.name in group.registers else self._scatter(group, target, None, None)
            old = group.registers.get(target.name)
            write(group, function(*(read(group) for read in readers)))
            new = group.registers[target.name]
            group.registers[target.name] = np.where(chosen, new, _garbage(len(new), new.dtype) if old is None else old)
            return None

        return step

    def _scatter(self, group: Group, target: Register, positions: Array | None, value: Array | None) -> None:
        """Write a register of some lanes only."""
        old = group.registers.get(target.name)
        new = _garbage(len(group.lane), np.dtype(RAW[target.bits])) if old is None else old.copy()
        if positions is not None:
            new[positions] = value
        group.registers[target.name] = new

    def _vector_move(self, instruction: Instruction) -> Step:
        """Pack registers into a wider one, or unpack one."""
        if len(instruction.opcode) != 2 or instruction.predicate or len(instruction.operands) != 2:
            raise self._unknown(instruction)
        target, source = instruction.operands
        bits = bits_of(instruction.opcode[1])
        if isinstance(source, Vector) and isinstance(target, Register):
            part = f"b{bits // len(source.items)}"
            readers = [self._reader(instruction, self._required(instruction, item), part) for item in source.items]
            write = self._writer(instruction, target, f"b{bits}")

            def pack(group: Group) -> None:
                self._count(group, None)
                joined = np.stack([read(group) for read in readers], axis=1)
                write(group, joined.view(RAW[bits]).reshape(-1))

            return pack
        if isinstance(target, Vector):
            part = f"b{bits // len(target.items)}"
            read = self._reader(instruction, source, f"b{bits}")
            writers = [self._writer(instruction, item, part) for item in target.items]

            def unpack(group: Group) -> None:
                self._count(group, None)
                parts = np.ascontiguousarray(read(group)).view(RAW[bits_of(part)]).reshape(len(group.lane), -1)
                for place, write in enumerate(writers):
                    write(group, np.ascontiguousarray(parts[:, place]))

            return unpack
        raise self._unknown(instruction)

    def _required(self, instruction: Instruction, item: Register | Immediate | None) -> Register | Immediate:
        if item is None:
            raise self._unknown(instruction, "a sink is no source")
        return item

    def _parameter(self, instruction: Instruction) -> Step:
        kinds = [word for word in instruction.opcode[1:] if word != "param"]
        target, source = instruction.operands
        if len(kinds) != 1 or not is_type(kinds[0]) or not isinstance(source, Address) or instruction.predicate:
            raise self._unknown(instruction)
        places = [place for place, one in enumerate(self.program.parameters) if Symbol(one.name) == source.base]
        if not places or source.offset:
            raise self._unknown(instruction, "no such parameter")
        bits = bits_of(kinds[0])
        value = RAW[bits](self.launch.arguments[places[0]] % 2**bits)
        write = self._writer(instruction, target, kinds[0])

        def step(group: Group) -> None:
            self._count(group, None)
            write(group, np.full(len(group.lane), value))

        return step

    def _address(self, instruction: Instruction, operand: Operand, bits: int) -> Reader:
        if not isinstance(operand, Address):
            raise self._unknown(instruction)
        read = self._reader(instruction, operand.base, f"u{bits}")
        offset = RAW[bits](operand.offset % 2**bits)
        return lambda group: read(group) + offset

    def _access(self, instruction: Instruction, load: bool) -> Step:
        words = [word for word in instruction.opcode[1:] if word not in _CACHE_WORDS]
        space, count = words[0], 1
        if len(words) == 3 and words[1] in ("v2", "v4", "v8"):
            count = int(words.pop(1)[1])
        if (
            len(words) != 2
            or space not in ("global", "shared")
            or not is_type(words[1])
            or len(instruction.operands) != 2
        ):
            raise self._unknown(instruction)
        kind, width = words[1], bits_of(words[1]) // 8
        if width not in (1, 2, 4, 8):
            raise self._unknown(instruction)
        place, data = reversed(instruction.operands) if load else instruction.operands
        items = data.items if isinstance(data, Vector) else (data,)
        if len(items) != count:
            raise self._unknown(instruction, f"{len(items)} registers for {count} elements")
        address = self._address(instruction, place, 64 if space == "global" else self._shared_bits(place))
        if load:
            return self._load(instruction, space, kind, width, items, address)
        readers = [self._reader(instruction, self._required(instruction, item), kind) for item in items]

        def store(group: Group) -> None:
            positions, lane = self._active(group, instruction)
            where = address(group)[positions]
            if space == "global":
                self._reach(instruction, "store", group, lane, where, width * count)
            elif self.counter is not None:
                self.counter.shared_access(group.warps)
            if not len(lane):
                return
            values = [read(group)[positions] for read in readers]
            try:
                if space == "global":
                    self.device.store(where, width, values)
                else:
                    self._shared_memory(instruction).store(lane, where, width, values)
            except Fault as fault:
                raise self._at(instruction, fault, lane) from fault

        return store

    def _load(
        self,
        instruction: Instruction,
        space: str,
        kind: str,
        width: int,
        items: Sequence[Operand | None],
        address: Reader,
    ) -> Step:
        writers = [self._writer(instruction, item, kind) for item in items]
        count = len(items)

        def load(group: Group) -> None:
            positions, lane = self._active(group, instruction)
            where = address(group)[positions]
            if space == "global":
                self._reach(instruction, "load", group, lane, where, width * count)
            elif self.counter is not None:
                self.counter.shared_access(group.warps)
            try:
                if not len(lane):
                    values = [np.zeros(0, RAW[8 * width])] * count
                elif space == "global":
                    values = self.device.load(where, width, count)
                else:
                    values = self._shared_memory(instruction).load(lane, where, width, count)
            except Fault as fault:
                raise self._at(instruction, fault, lane) from fault
            for item, write, value in zip(items, writers, values, strict=True):
                if len(lane) == len(group.lane):
                    write(group, value)
                elif isinstance(item, Register):
                    self._scatter(group, item, positions, resized(value, item.bits, kind[0] == "s"))

        return load

    def _shared_bits(self, place: Operand) -> int:
        base = place.base if isinstance(place, Address) else None
        return base.bits if isinstance(base, Register) else 32

    def _shared_memory(self, instruction: Instruction) -> SharedMemory:
        if self.shared is None:
            raise self.program.error(PtxError, instruction, "the launch has no shared memory")
        return self.shared

    def _active(self, group: Group, instruction: Instruction) -> tuple[Array | slice, Array]:
        """Positions in the group of the lanes that execute the instruction, and the lanes."""
        chosen = self._chosen(group, instruction)
        self._count(group, chosen)
        if chosen is None or chosen.all():
            return slice(None), group.lane
        positions = np.flatnonzero(chosen)
        return positions, group.lane[positions]

    def _reach(self, instruction: Instruction, kind: str, group: Group, lane: Array, address: Array, size: int) -> None:
        """Check an access to global memory, and count it."""
        try:
            owner = self.device.owners(address, size, write=kind != "load")
        except Fault as fault:
            raise self._at(instruction, fault, lane) from fault
        if self.counter is None:
            return
        warps_before = self.first_cta * (self.threads // WARP)
        self.counter.access(
            Access(
                instruction=instruction,
                kind=kind,
                warps=group.warps,
                cta=self.first_cta + lane // self.threads,
                warp=warps_before + lane // WARP,
                address=address,
                owner=owner,
                size=size,
            )
        )

    def _atomic(self, instruction: Instruction) -> Step:
        found = _update_of(instruction.opcode)
        if found is None or "shared" in instruction.opcode:
            raise self._unknown(instruction)
        operands = list(instruction.operands)
        target = operands.pop(0) if instruction.opcode[0] == "atom" else None
        place, *data = operands
        lists = [item.items if isinstance(item, Vector) else (item,) for item in data]
        targets = target.items if isinstance(target, Vector) else (target,) * found.count
        if len(lists) != found.values or any(len(items) != found.count for items in (*lists, targets)):
            raise self._unknown(instruction)
        address = self._address(instruction, place, 64)
        readers = [
            [self._reader(instruction, self._required(instruction, item), found.kind) for item in items]
            for items in lists
        ]
        width = bits_of(found.kind) // 8

        def step(group: Group) -> None:
            positions, lane = self._active(group, instruction)
            where = address(group)[positions]
            self._reach(instruction, "atomic", group, lane, where, width * found.count)
            for item in range(found.count):
                values = [read[item](group)[positions] for read in readers]
                try:
                    old = self._updated(found, where + np.uint64(item * width), values, target is not None)
                except Fault as fault:
                    raise self._at(instruction, fault, lane) from fault
                if isinstance(result := targets[item], Register):
                    self._scatter(group, result, positions, resized(old, result.bits))

        return step

    def _updated(self, update: Update, address: Array, values: list[Array], wanted: bool) -> Array:
        if update.unordered is not None and not wanted:
            self.device.accumulate(address, update.unordered, values[0].view(update.unordered_type))
            return values[0]
        width = bits_of(update.kind) // 8
        return self.device.update(
            address, width, lambda old, lanes: update.change(old, *(value[lanes] for value in values))
        )

    def _barrier(self, instruction: Instruction) -> Step:
        warp = "warp" in instruction.opcode
        if warp:
            masks = [self._reader(instruction, operand, "b32") for operand in instruction.operands]
        else:
            numbers = [operand.bits if isinstance(operand, Immediate) else None for operand in instruction.operands]
            if numbers not in ([0], [0, self.threads]):
                raise self._unknown(instruction, "only barrier 0 of all threads is known")

        def step(group: Group) -> None:
            self._count(group, None)
            if self.shared is None:
                return None
            if not warp:
                return self.shared.pass_barrier(group.lane)
            self._require_full(instruction, masks[0](group))
            return self.shared.pass_warp_barrier(group.lane)

        return step

    def _require_full(self, instruction: Instruction, mask: Array) -> None:
        if (mask != np.uint32(0xFFFFFFFF)).any():
            raise self._unknown(instruction, "only the mask of all lanes is known")

    def _warp_wide(self, instruction: Instruction, found: Operation) -> Step:
        """An instruction whose lanes see each other's registers; the last operand is the mask of lanes."""
        target, *sources = instruction.operands
        results = target.items if isinstance(target, Vector) else (target,)
        if len(sources) != len(found.sources) + 1 or len(results) > 2 or instruction.predicate:
            raise self._unknown(instruction)
        readers = [self._reader(instruction, one, kind) for one, kind in zip(sources, found.sources, strict=False)]
        mask = self._reader(instruction, sources[-1], "b32")
        kinds = (found.result, "pred")
        writers = [self._writer(instruction, result, kind) for result, kind in zip(results, kinds, strict=False)]

        def step(group: Group) -> None:
            self._count(group, None)
            self._require_full(instruction, mask(group))
            values = found.function(*(read(group).reshape(-1, WARP) for read in readers))
            for write, value in zip(writers, values if isinstance(values, tuple) else (values,), strict=False):
                write(group, np.ascontiguousarray(value.reshape(-1)))

        return step

    def _matrix(self, instruction: Instruction) -> Step:
        """``ldmatrix`` and ``stmatrix``: 8 × 8 elements of 16 bits; eight lanes each give the rows of a matrix."""
        words = [word for word in instruction.opcode[1:] if word != "trans"]
        transposed = "trans" in instruction.opcode
        if words[:3] != ["sync", "aligned", "m8n8"] or words[4:] != ["shared", "b16"] or instruction.predicate:
            raise self._unknown(instruction)
        count = {"x1": 1, "x2": 2, "x4": 4}[words[3]]
        load = instruction.opcode[0] == "ldmatrix"
        place, data = reversed(instruction.operands) if load else instruction.operands
        items = data.items if isinstance(data, Vector) else (data,)
        if len(items) != count:
            raise self._unknown(instruction)
        address = self._address(instruction, place, self._shared_bits(place))

        def fragments(rows: Array) -> Array:
            """(…, row, element) to (…, lane, pair) of one matrix, and the other way round where it is stored."""
            ordered = rows.swapaxes(-1, -2) if transposed else rows
            return ordered.reshape(*rows.shape[:-2], WARP, 2)

        def rows_of(parts: Array) -> Array:
            ordered = parts.reshape(*parts.shape[:-2], 8, 8)
            return ordered.swapaxes(-1, -2) if transposed else ordered

        def step(group: Group) -> None:
            self._count(group, None)
            if self.counter is not None:
                self.counter.shared_access(group.warps)
            speaks = (group.lane % WARP) < 8 * count
            lane, where = group.lane[speaks], address(group)[speaks]
            memory_of = self._shared_memory(instruction)
            try:
                if load:
                    row = np.stack(memory_of.load(lane, where, 4, 4), axis=1).view(np.uint16)
                    parts = fragments(row.reshape(-1, count, 8, 8))
                    for number, write in enumerate(writers):
                        write(group, np.ascontiguousarray(parts[:, number]).view(np.uint32).reshape(-1))
                else:
                    given = np.stack([read(group).reshape(-1, WARP) for read in readers], axis=1)
                    row = rows_of(np.ascontiguousarray(given)[..., None].view(np.uint16)).reshape(-1, 8)
                    quads = np.ascontiguousarray(row).view(np.uint32)
                    memory_of.store(lane, where, 4, [np.ascontiguousarray(quads[:, item]) for item in range(4)])
            except Fault as fault:
                raise self._at(instruction, fault, lane) from fault

        writers = [self._writer(instruction, item, "b32") for item in items] if load else []
        readers = (
            [] if load else [self._reader(instruction, self._required(instruction, item), "b32") for item in items]
        )
        return step

    # Counting and errors

    def _count(self, group: Group, chosen: Array | None) -> None:
        if self.counter is not None:
            lanes = len(group.lane) if chosen is None else int(np.count_nonzero(chosen))
            self.counter.issue(group.warps, lanes)

    def _unknown(self, instruction: Instruction, why: str = "") -> PtxError:
        message = f"the instruction {'.'.join(instruction.opcode)} is not known" + (f" ({why})" if why else "")
        return self.program.error(UnknownInstruction, instruction, message)

    def _at(self, instruction: Instruction, fault: Fault, lane: Array) -> PtxError:
        return self.program.error(fault.kind, instruction, f"{self._who(lane[fault.position])}: {fault.message}")

    def _error(self, kind: type[PtxError], place: int, message: str) -> PtxError:
        return self.program.error(kind, self.program.instructions[place], message)

    def _who(self, lane: int) -> str:
        cta = self.first_cta + int(lane) // self.threads
        x, y, _ = self.launch.grid
        block = cta % x, cta // x % y, cta // (x * y)
        return f"thread {int(lane) % self.threads} of block {block}"


def _rendezvous(instruction: Instruction, threads: int) -> int:
    """How many lanes must execute an instruction together: those of a CTA, of a warp, or none."""
    name = instruction.opcode[0]
    if name in ("bar", "barrier"):
        return WARP if "warp" in instruction.opcode else threads
    return WARP if "sync" in instruction.opcode else 0


def _layout(program: Program, dynamic: int) -> tuple[dict[str, int], int]:
    """Addresses of the variables in shared memory, and its size; the one that the launch sizes is the last."""
    addresses, place = {}, shared.BASE
    for variable in sorted(program.shared, key=lambda one: one.size is None):
        place = -(-place // variable.align) * variable.align
        addresses[variable.name] = place
        place += variable.size or 0
    size = place - shared.BASE + dynamic
    if size > PLAIN_SHARED_BYTES:
        raise PtxError(f"{program.name}: {size} bytes of shared memory are more than a CTA can have")
    return addresses, size


def _cell(program: Program) -> int:
    """The narrowest element that the program keeps in shared memory, in bytes."""
    widths = [4]
    for instruction in program.instructions:
        if instruction.opcode[0] in ("ld", "st") and "shared" in instruction.opcode:
            widths += [bits_of(word) // 8 for word in instruction.opcode[1:] if is_type(word)]
    return min(widths)
