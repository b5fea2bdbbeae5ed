"""Compile an instruction to a function that executes it on a group of lanes."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from tests.ptx.arithmetic import Operation, operation
from tests.ptx.counts import Access
from tests.ptx.errors import Fault, PtxError, Uninitialized, UnknownInstruction
from tests.ptx.formats import RAW, Array, bits_of, is_type, resized
from tests.ptx.groups import WARP, Batch, Group, garbage
from tests.ptx.program import Address, Immediate, Instruction, Operand, Program, Register, Special, Symbol, Vector
from tests.ptx.shared import SharedMemory
from tests.ptx.updates import Update, update_of
from tests.ptx.warp import warp_operation

Step = Callable[[Batch, Group], None]
Reader = Callable[[Batch, Group], Array]
Writer = Callable[[Group, Array], None]
Item = Register | Immediate | None

CACHE_WORDS: Final = frozenset(
    {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "volatile", "relaxed", "acquire", "release", "acq_rel"}
    | {"cta", "cluster", "gpu", "sys"}
    | {f"L1::evict_{word}" for word in ("normal", "unchanged", "first", "last")}
    | {"L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"}
)
"""Parts of a load or store that change nothing here: caches are not modelled, and memory is sequentially consistent."""

_operation = lru_cache(maxsize=None)(operation)


def chosen_lanes(program: Program, instruction: Instruction, group: Group) -> Array | None:
    """Return which lanes execute an instruction, or ``None`` if all do."""
    if instruction.predicate is None:
        return None
    name = instruction.predicate.register.name
    if name not in group.registers:
        raise program.error(Uninitialized, instruction, f"reads {name}, which holds nothing")
    value = group.registers[name]
    return ~value if instruction.predicate.negated else value


def count_issue(batch: Batch, group: Group, chosen: Array | None) -> None:
    """Tell the counter that a group executes an instruction."""
    if batch.counter is not None:
        lanes = len(group.lane) if chosen is None else int(np.count_nonzero(chosen))
        batch.counter.issue(group.warps, lanes)


def scatter(group: Group, target: Register, positions: Array | slice, value: Array) -> None:
    """Write a register of some lanes only."""
    old = group.registers.get(target.name)
    new = garbage(len(group.lane), np.dtype(RAW[target.bits])) if old is None else old.copy()
    new[positions] = value
    group.registers[target.name] = new


class Compiler:
    """Compiles the instructions of a program for its arguments, threads of a block and shared variables' addresses."""

    def __init__(self, program: Program, arguments: Sequence[int], threads: int, variables: Mapping[str, int]) -> None:
        self.program, self.arguments, self.threads, self.variables = program, arguments, threads, variables

    def compile(self, instruction: Instruction) -> Step | None:
        """Return a function that executes the instruction, or ``None`` for branches and returns.

        Raises:
            UnknownInstruction: it, or this form of it, is not known.
        """
        name, *words = instruction.opcode
        if name in ("bra", "ret", "exit"):
            if words not in ([], ["uni"]) or (words and name != "bra"):
                raise self._unknown(instruction)
            return None
        if name == "ld" and "param" in words:
            return self._parameter(instruction)
        if name in ("ld", "st"):
            return self._access(instruction)
        if name in ("red", "atom"):
            return self._atomic(instruction)
        if name in ("bar", "barrier"):
            return self._barrier(instruction)
        if name in ("ldmatrix", "stmatrix"):
            return self._matrix(instruction)
        if name == "mov" and any(isinstance(operand, Vector) for operand in instruction.operands):
            return self._vector_move(instruction)
        if name == "cvta" and words in (["to", "global", "u64"], ["global", "u64"]):
            return self._computed(instruction, Operation(("u64",), "u64", lambda address: address))
        if found := warp_operation(instruction.opcode):
            return self._warp_wide(instruction, found)
        if computed := _operation(instruction.opcode):
            return self._computed(instruction, computed)
        raise self._unknown(instruction)

    # Operands

    def _reader(self, instruction: Instruction, operand: Operand | None, kind: str) -> Reader:
        """Return a function that reads the bits of an operand, as many as the type has."""
        bits = bits_of(kind)
        match operand:
            case Register(name, width):
                if width < bits or (width != bits and 1 in (width, bits)):
                    raise self._unknown(instruction, f"{name} of {width} bits as .{kind}")
                return lambda batch, group: resized(self._read(group, name, instruction), bits)
            case Immediate(value):
                return self._constant(value, bits)
            case Special(name):
                return lambda batch, group: resized(special(name, batch, group.lane), bits)
            case Symbol(name) if name in self.variables:
                return self._constant(self.variables[name], bits)
        raise self._unknown(instruction, f"operand {operand}")

    @staticmethod
    def _constant(value: int, bits: int) -> Reader:
        number = RAW[bits](value % 2**bits)
        return lambda batch, group: np.full(len(group.lane), number)

    def _read(self, group: Group, name: str, instruction: Instruction) -> Array:
        try:
            return group.registers[name]
        except KeyError:
            raise self.program.error(Uninitialized, instruction, f"reads {name}, which holds nothing") from None

    def _writer(self, instruction: Instruction, operand: Operand | None, kind: str) -> Writer:
        """Return a function that writes bits of a type to a register, extended if the register is wider."""
        if operand is None:
            return lambda group, value: None
        if not isinstance(operand, Register) or operand.bits < bits_of(kind) or (operand.bits == 1) != (kind == "pred"):
            raise self._unknown(instruction, f"{operand} for a result of type .{kind}")
        name, bits, signed = operand.name, operand.bits, kind[0] == "s"

        def write(group: Group, value: Array) -> None:
            group.registers[name] = resized(value, bits, signed)

        return write

    def _address(self, instruction: Instruction, operand: Operand, bits: int) -> Reader:
        if not isinstance(operand, Address):
            raise self._unknown(instruction)
        read = self._reader(instruction, operand.base, f"u{bits}")
        offset = RAW[bits](operand.offset % 2**bits)
        return lambda batch, group: read(batch, group) + offset

    def _chosen(self, batch: Batch, group: Group, instruction: Instruction) -> Array | None:
        chosen = chosen_lanes(self.program, instruction, group)
        count_issue(batch, group, chosen)
        return chosen

    def _active(self, batch: Batch, group: Group, instruction: Instruction) -> tuple[Array | slice, Array]:
        """Return the positions in the group of the lanes that execute the instruction, and the lanes."""
        chosen = self._chosen(batch, group, instruction)
        if chosen is None or chosen.all():
            return slice(None), group.lane
        positions = np.flatnonzero(chosen)
        return positions, group.lane[positions]

    # Registers

    def _computed(self, instruction: Instruction, computed: Operation) -> Step:
        target, *sources = instruction.operands
        if len(sources) != len(computed.sources):
            raise self._unknown(instruction)
        readers = [
            self._reader(instruction, source, kind) for source, kind in zip(sources, computed.sources, strict=True)
        ]
        write = self._writer(instruction, target, computed.result)
        function = computed.function
        assert isinstance(target, Register)

        def step(batch: Batch, group: Group) -> None:
            chosen = self._chosen(batch, group, instruction)
            old = group.registers.get(target.name)
            write(group, function(*(read(batch, group) for read in readers)))
            if chosen is not None and not chosen.all():
                new = group.registers[target.name]
                kept = garbage(len(new), new.dtype) if old is None else old
                group.registers[target.name] = np.where(chosen, new, kept)

        return step

    def _vector_move(self, instruction: Instruction) -> Step:
        """Pack registers into a wider one, or unpack one."""
        if len(instruction.opcode) != 2 or instruction.predicate or len(instruction.operands) != 2:
            raise self._unknown(instruction)
        target, source = instruction.operands
        bits = bits_of(instruction.opcode[1])
        if isinstance(source, Vector) and isinstance(target, Register):
            readers = [self._reader(instruction, item, f"b{bits // len(source.items)}") for item in source.items]
            write = self._writer(instruction, target, f"b{bits}")

            def pack(batch: Batch, group: Group) -> None:
                count_issue(batch, group, None)
                parts = np.stack([read(batch, group) for read in readers], axis=1)
                write(group, parts.view(RAW[bits]).reshape(-1))

            return pack
        if isinstance(target, Vector) and not isinstance(source, Vector):
            width = bits // len(target.items)
            read = self._reader(instruction, source, f"b{bits}")
            writers = [self._writer(instruction, item, f"b{width}") for item in target.items]

            def unpack(batch: Batch, group: Group) -> None:
                count_issue(batch, group, None)
                parts = np.ascontiguousarray(read(batch, group)).view(RAW[width]).reshape(len(group.lane), -1)
                for place, write in enumerate(writers):
                    write(group, np.ascontiguousarray(parts[:, place]))

            return unpack
        raise self._unknown(instruction)

    def _parameter(self, instruction: Instruction) -> Step:
        kinds = [word for word in instruction.opcode[1:] if word != "param"]
        target, source = instruction.operands
        if len(kinds) != 1 or not is_type(kinds[0]) or not isinstance(source, Address) or instruction.predicate:
            raise self._unknown(instruction)
        places = [place for place, one in enumerate(self.program.parameters) if Symbol(one.name) == source.base]
        if not places or source.offset:
            raise self._unknown(instruction, "no such parameter")
        read = self._constant(self.arguments[places[0]], bits_of(kinds[0]))
        write = self._writer(instruction, target, kinds[0])

        def step(batch: Batch, group: Group) -> None:
            count_issue(batch, group, None)
            write(group, read(batch, group))

        return step

    # Memory

    def _access(self, instruction: Instruction) -> Step:
        words = [word.removesuffix("::cta") for word in instruction.opcode[1:] if word not in CACHE_WORDS]
        count = int(words.pop(1)[1]) if words[1:2] in (["v2"], ["v4"], ["v8"]) else 1
        if len(words) != 2 or words[0] not in ("global", "shared") or len(instruction.operands) != 2:
            raise self._unknown(instruction)
        space, kind = words
        if not is_type(kind) or bits_of(kind) not in (8, 16, 32, 64):
            raise self._unknown(instruction)
        load = instruction.opcode[0] == "ld"
        place, data = reversed(instruction.operands) if load else instruction.operands
        items = data.items if isinstance(data, Vector) else (data,)
        if len(items) != count:
            raise self._unknown(instruction, f"{len(items)} registers for {count} elements")
        address = self._address(instruction, place, 64 if space == "global" else shared_bits(place))
        if load:
            return self._load(instruction, space == "global", kind, items, address)
        return self._store(instruction, space == "global", kind, items, address)

    def _load(
        self, instruction: Instruction, outside: bool, kind: str, items: Sequence[Operand | None], address: Reader
    ) -> Step:
        writers = [self._writer(instruction, item, kind) for item in items]
        width, count = bits_of(kind) // 8, len(items)

        def load(batch: Batch, group: Group) -> None:
            positions, lane = self._active(batch, group, instruction)
            where = address(batch, group)[positions]
            try:
                if outside:
                    _reach(batch, instruction, "load", group, lane, where, width * count)
                    values = batch.device.load(where, width, count)
                else:
                    values = self._shared(batch, group, instruction).load(lane, where, width, count)
            except Fault as fault:
                raise self._at(batch, instruction, fault, lane) from fault
            for item, write, value in zip(items, writers, values, strict=True):
                if len(lane) == len(group.lane):
                    write(group, value)
                elif isinstance(item, Register):
                    scatter(group, item, positions, resized(value, item.bits, kind[0] == "s"))

        return load

    def _store(
        self, instruction: Instruction, outside: bool, kind: str, items: Sequence[Operand | None], address: Reader
    ) -> Step:
        readers = [self._reader(instruction, item, kind) for item in items]
        width, count = bits_of(kind) // 8, len(items)

        def store(batch: Batch, group: Group) -> None:
            positions, lane = self._active(batch, group, instruction)
            where = address(batch, group)[positions]
            values = [read(batch, group)[positions] for read in readers]
            try:
                if outside:
                    _reach(batch, instruction, "store", group, lane, where, width * count)
                    batch.device.store(where, width, values)
                else:
                    self._shared(batch, group, instruction).store(lane, where, width, values)
            except Fault as fault:
                raise self._at(batch, instruction, fault, lane) from fault

        return store

    def _shared(self, batch: Batch, group: Group, instruction: Instruction) -> SharedMemory:
        if batch.shared is None:
            raise self.program.error(PtxError, instruction, "the launch has no shared memory")
        if batch.counter is not None:
            batch.counter.shared_access(group.warps)
        return batch.shared

    def _atomic(self, instruction: Instruction) -> Step:
        found = update_of(instruction.opcode)
        if found is None:
            raise self._unknown(instruction)
        operands = list(instruction.operands)
        target = operands.pop(0) if instruction.opcode[0] == "atom" else None
        place, *data = operands
        lists = [item.items if isinstance(item, Vector) else (item,) for item in data]
        targets = target.items if isinstance(target, Vector) else (target,) * found.count
        if len(lists) != found.values or any(len(items) != found.count for items in (*lists, targets)):
            raise self._unknown(instruction)
        address = self._address(instruction, place, 64)
        readers = [[self._reader(instruction, item, found.kind) for item in items] for items in lists]
        width = bits_of(found.kind) // 8

        def step(batch: Batch, group: Group) -> None:
            positions, lane = self._active(batch, group, instruction)
            where = address(batch, group)[positions]
            try:
                _reach(batch, instruction, "atomic", group, lane, where, width * found.count)
                for item, result in enumerate(targets):
                    values = [read[item](batch, group)[positions] for read in readers]
                    old = _update(batch, found, where + np.uint64(item * width), values, result is not None)
                    if isinstance(result, Register):
                        scatter(group, result, positions, resized(old, result.bits))
            except Fault as fault:
                raise self._at(batch, instruction, fault, lane) from fault

        return step

    # Warps and CTAs

    def _barrier(self, instruction: Instruction) -> Step:
        warp = "warp" in instruction.opcode
        if warp and (len(instruction.operands) != 1 or instruction.predicate):
            raise self._unknown(instruction)
        mask = self._reader(instruction, instruction.operands[0], "b32")
        numbers = [operand.bits if isinstance(operand, Immediate) else None for operand in instruction.operands]
        if not warp and (numbers not in ([0], [0, self.threads]) or instruction.predicate):
            raise self._unknown(instruction, "only barrier 0 of all threads is known")

        def step(batch: Batch, group: Group) -> None:
            count_issue(batch, group, None)
            if warp:
                self._require_full(instruction, mask(batch, group))
            if batch.shared is not None:
                (batch.shared.pass_warp_barrier if warp else batch.shared.pass_barrier)(group.lane)

        return step

    def _require_full(self, instruction: Instruction, mask: Array) -> None:
        if (mask != np.uint32(0xFFFFFFFF)).any():
            raise self._unknown(instruction, "only the mask of all lanes is known")

    def _warp_wide(self, instruction: Instruction, found: Operation) -> Step:
        """Compile an instruction that exchanges registers within a warp; its last operand is the mask of lanes."""
        target, *sources = instruction.operands
        results = target.items if isinstance(target, Vector) else (target,)
        if len(sources) != len(found.sources) + 1 or len(results) > 2 or instruction.predicate:
            raise self._unknown(instruction)
        readers = [self._reader(instruction, one, kind) for one, kind in zip(sources, found.sources, strict=False)]
        mask = self._reader(instruction, sources[-1], "b32")
        kinds = (found.result, "pred")
        writers = [self._writer(instruction, result, kind) for result, kind in zip(results, kinds, strict=False)]

        def step(batch: Batch, group: Group) -> None:
            count_issue(batch, group, None)
            self._require_full(instruction, mask(batch, group))
            values = found.function(*(read(batch, group).reshape(-1, WARP) for read in readers))
            for write, value in zip(writers, values if isinstance(values, tuple) else (values,), strict=False):
                write(group, np.ascontiguousarray(value.reshape(-1)))

        return step

    def _matrix(self, instruction: Instruction) -> Step:
        """Compile ``ldmatrix`` or ``stmatrix``: 8 × 8 elements of 16 bits; eight lanes address the rows of a matrix."""
        words = [word.removesuffix("::cta") for word in instruction.opcode[1:] if word != "trans"]
        transposed = "trans" in instruction.opcode
        counts = {"x1": 1, "x2": 2, "x4": 4}
        if words[:3] != ["sync", "aligned", "m8n8"] or words[4:] != ["shared", "b16"] or instruction.predicate:
            raise self._unknown(instruction)
        load = instruction.opcode[0] == "ldmatrix"
        place, data = reversed(instruction.operands) if load else instruction.operands
        items = data.items if isinstance(data, Vector) else (data,)
        if counts.get(words[3]) != len(items):
            raise self._unknown(instruction)
        address = self._address(instruction, place, shared_bits(place))
        if load:
            return self._matrix_load(instruction, items, address, transposed)
        return self._matrix_store(instruction, items, address, transposed)

    def _matrix_load(
        self, instruction: Instruction, items: Sequence[Operand | None], address: Reader, transposed: bool
    ) -> Step:
        writers = [self._writer(instruction, item, "b32") for item in items]

        def step(batch: Batch, group: Group) -> None:
            count_issue(batch, group, None)
            speaks = group.lane % WARP < 8 * len(items)
            lane = group.lane[speaks]
            try:
                quads = self._shared(batch, group, instruction).load(lane, address(batch, group)[speaks], 4, 4)
            except Fault as fault:
                raise self._at(batch, instruction, fault, lane) from fault
            matrices = np.stack(quads, axis=1).view(np.uint16).reshape(-1, len(items), 8, 8)
            ordered = matrices.swapaxes(2, 3) if transposed else matrices
            for number, write in enumerate(writers):
                write(group, np.ascontiguousarray(ordered[:, number]).reshape(-1).view(np.uint32))

        return step

    def _matrix_store(
        self, instruction: Instruction, items: Sequence[Operand | None], address: Reader, transposed: bool
    ) -> Step:
        readers = [self._reader(instruction, item, "b32") for item in items]

        def step(batch: Batch, group: Group) -> None:
            count_issue(batch, group, None)
            speaks = group.lane % WARP < 8 * len(items)
            lane = group.lane[speaks]
            given = np.stack([read(batch, group).reshape(-1, WARP) for read in readers], axis=1)
            matrices = given.view(np.uint16).reshape(-1, len(items), 8, 8)
            rows = np.ascontiguousarray(matrices.swapaxes(2, 3) if transposed else matrices).reshape(-1, 8)
            quads = rows.view(np.uint32)
            values = [np.ascontiguousarray(quads[:, item]) for item in range(4)]
            try:
                self._shared(batch, group, instruction).store(lane, address(batch, group)[speaks], 4, values)
            except Fault as fault:
                raise self._at(batch, instruction, fault, lane) from fault

        return step

    # Errors

    def _unknown(self, instruction: Instruction, why: str = "") -> PtxError:
        message = f"the instruction {'.'.join(instruction.opcode)} is not known" + (f" ({why})" if why else "")
        return self.program.error(UnknownInstruction, instruction, message)

    def _at(self, batch: Batch, instruction: Instruction, fault: Fault, lane: Array) -> PtxError:
        message = f"{batch.name_of(lane[fault.position])}: {fault.message}"
        return self.program.error(fault.kind, instruction, message)


def special(name: str, batch: Batch, lane: Array) -> Array:
    """Return the values of a read-only register, as ``%ctaid.x``."""
    name, _, axis = name.removeprefix("%").partition(".")
    threads = batch.launch.threads
    if name == "laneid":
        return (lane % WARP).astype(np.uint32)
    if name == "warpid":
        return (lane % threads // WARP).astype(np.uint32)
    sizes = batch.launch.block if name in ("tid", "ntid") else batch.launch.grid
    place = "xyz".index(axis)
    if name in ("ntid", "nctaid"):
        return np.full(len(lane), sizes[place], np.uint32)
    number = lane % threads if name == "tid" else batch.first_cta + lane // threads
    stride = int(np.prod(sizes[:place], dtype=np.int64))
    return (number // stride % sizes[place]).astype(np.uint32)


def shared_bits(place: Operand) -> int:
    """Return the width of an address in shared memory."""
    base = place.base if isinstance(place, Address) else None
    return base.bits if isinstance(base, Register) else 32


def _reach(
    batch: Batch, instruction: Instruction, kind: str, group: Group, lane: Array, address: Array, size: int
) -> None:
    """Check an access to global memory, and count it."""
    owner = batch.device.owners(address, size, write=kind != "load")
    if batch.counter is None:
        return
    threads = batch.launch.threads
    batch.counter.access(
        Access(
            instruction=instruction,
            kind=kind,
            warps=group.warps,
            warp=batch.first_cta * (threads // WARP) + lane // WARP,
            warps_per_cta=threads // WARP,
            address=address,
            owner=owner,
            size=size,
        )
    )


def _update(batch: Batch, update: Update, address: Array, values: list[Array], wanted: bool) -> Array:
    if update.unordered is not None and not wanted:
        batch.device.accumulate(address, update.unordered, values[0].view(update.unordered_type))
        return values[0]
    width = bits_of(update.kind) // 8
    return batch.device.update(
        address, width, lambda old, lanes: update.change(old, *(value[lanes] for value in values))
    )
