"""Parse the text of a PTX module with one kernel.

The grammar is what LLVM and Triton write: one entry, registers declared by name or as ``%r<8>``, statements that end
with a semicolon, nested scopes in braces (inline assembly declares its own registers in them), labels, ``//`` comments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tests.ptx.errors import PtxError, UnknownInstruction, located

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)(?P<directives>[^{]*)\{")
_PARAMETER = re.compile(r"\.param\s+\.(?P<type>\w+)\b.*?(?P<name>[\w$]+)\s*$", re.DOTALL)
_SHARED = re.compile(
    r"(?P<extern>\.extern\s+)?\.shared\s+\.align\s+(?P<align>\d+)\s+\.b8\s+(?P<name>[\w$]+)\s*\[(?P<size>\d*)\]"
)
_LABEL = re.compile(r"([\w$%.]+)\s*:(?!:)")
_PREDICATE = re.compile(r"@(!?)(%?[\w$]+)\s+")
_RANGE = re.compile(r"^(%?[\w$]+)<(\d+)>$")
_SPECIAL = re.compile(r"^%(tid|ntid|ctaid|nctaid)\.[xyz]$|^%(laneid|warpid)$")
_FLOAT32, _FLOAT64 = re.compile(r"^0[fF][0-9a-fA-F]{8}$"), re.compile(r"^0[dD][0-9a-fA-F]{16}$")
_INTEGER = re.compile(r"^(-?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)U?$")

PARAMETER_BYTES = {"u64": 8, "b64": 8, "s64": 8, "u32": 4, "b32": 4, "s32": 4, "f32": 4, "f64": 8}


@dataclass(frozen=True, slots=True)
class Register:
    """A register; ``bits`` is 1 for predicates. The name is unique in the program, whatever its scope."""

    name: str
    bits: int


@dataclass(frozen=True, slots=True)
class Immediate:
    """The bits of a literal; those of a negative integer are its two's complement in 64 bits."""

    bits: int


@dataclass(frozen=True, slots=True)
class Special:
    """A read-only register of the machine, as ``%tid.x``."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable in shared memory, a parameter or a label."""

    name: str


@dataclass(frozen=True, slots=True)
class Address:
    """A base plus a number of bytes, in brackets."""

    base: "Register | Symbol | Immediate"
    offset: int


@dataclass(frozen=True, slots=True)
class Vector:
    """Operands in braces; ``None`` is the sink ``_``."""

    items: "tuple[Register | Immediate | None, ...]"


Operand = Register | Immediate | Special | Symbol | Address | Vector


@dataclass(frozen=True, slots=True)
class Predicate:
    """``@%p`` or ``@!%p``."""

    register: Register
    negated: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One statement: its line in the file, its text, and its parts."""

    line: int
    text: str
    predicate: Predicate | None
    opcode: tuple[str, ...]
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the entry; ``place`` is its offset in parameter space."""

    name: str
    type: str
    place: int


@dataclass(frozen=True, slots=True)
class SharedVariable:
    """A variable in shared memory; ``size`` is ``None`` where the launch decides."""

    name: str
    align: int
    size: int | None


@dataclass(frozen=True)
class Program:
    """A kernel: what it takes, what it executes, and where its labels are (indices into ``instructions``)."""

    name: str
    target: str
    parameters: tuple[Parameter, ...]
    threads: tuple[int, int, int] | None
    shared: tuple[SharedVariable, ...]
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def error(self, kind: type[PtxError], instruction: Instruction, message: str) -> PtxError:
        """Build an error at an instruction."""
        return located(kind, self.name, instruction.line, instruction.text, message)

    def target_of(self, branch: Instruction) -> int:
        """Return the index that a branch jumps to."""
        (label,) = branch.operands
        assert isinstance(label, Symbol)
        if label.name not in self.labels:
            raise self.error(PtxError, branch, f"there is no label {label.name}")
        return self.labels[label.name]

    @cached_property
    def blocks(self) -> tuple[range, ...]:
        """Return the basic blocks in order. A block begins at the target of a branch, or after a branch."""
        count = len(self.instructions)
        branches = [place for place, one in enumerate(self.instructions) if one.opcode[0] in ("bra", "ret", "exit")]
        leaders = {0, *(place + 1 for place in branches)}
        leaders |= {self.target_of(self.instructions[place]) for place in branches if self._jumps(place)}
        starts = sorted(leader for leader in leaders if leader < count)
        return tuple(range(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True))

    @cached_property
    def ends(self) -> dict[int, int]:
        """Return the end of the block of each index."""
        return {place: block.stop for block in self.blocks for place in block}

    def live_at(self, place: int | None) -> frozenset[str]:
        """Return the names of the registers that may still be read from the beginning of a block on."""
        return frozenset() if place is None else self.live.get(place, frozenset())

    @cached_property
    def live(self) -> dict[int, frozenset[str]]:
        """Return the names of the registers that may still be read, by the first index of each block."""
        effects = {block.start: self._effect(block) for block in self.blocks}
        live: dict[int, frozenset[str]] = dict.fromkeys(effects, frozenset())
        changed = True
        while changed:
            changed = False
            for block in reversed(self.blocks):
                read, written = effects[block.start]
                behind = frozenset[str]().union(*(live[place] for place in self._successors(block)))
                found = read | (behind - written)
                changed |= found != live[block.start]
                live[block.start] = found
        return live

    def _jumps(self, place: int) -> bool:
        return self.instructions[place].opcode[0] == "bra"

    def _successors(self, block: range) -> list[int]:
        last = self.instructions[block[-1]]
        following = [block.stop] if block.stop < len(self.instructions) else []
        if last.opcode[0] == "bra":
            return [self.target_of(last), *(following if last.predicate else [])]
        if last.opcode[0] in ("ret", "exit"):
            return following if last.predicate else []
        return following

    def _effect(self, block: range) -> tuple[frozenset[str], frozenset[str]]:
        """Return the registers that a block reads before it writes them, and those that it always writes."""
        read: set[str] = set()
        written: set[str] = set()
        for place in block:
            instruction = self.instructions[place]
            targets, sources = reads_and_writes(instruction)
            read |= {register.name for register in sources} - written
            if instruction.predicate is None:
                written |= {register.name for register in targets}
            else:  # lanes that do not execute it keep the old value
                read |= {register.name for register in targets} - written
        return frozenset(read), frozenset(written)


def reads_and_writes(instruction: Instruction) -> tuple[list[Register], list[Register]]:
    """Return the registers that an instruction writes, and those that it reads."""
    places = list(instruction.operands)
    predicate = [instruction.predicate.register] if instruction.predicate else []
    if instruction.opcode[0] in NO_RESULT:
        return [], [*predicate, *_registers(places)]
    targets = list(_registers(places[:1]))
    return targets, [*predicate, *_registers(places[1:])]


NO_RESULT = frozenset({"st", "red", "stmatrix", "bar", "barrier", "bra", "ret", "exit"})
"""Instructions whose first operand is not written."""


def _registers(operands: list[Operand]) -> Iterator[Register]:
    for operand in operands:
        if isinstance(operand, Register):
            yield operand
        elif isinstance(operand, Address) and isinstance(operand.base, Register):
            yield operand.base
        elif isinstance(operand, Vector):
            yield from (item for item in operand.items if isinstance(item, Register))


def parse(text: str) -> Program:
    """Parse a module with one entry.

    Raises:
        PtxError: it has no entry, or the text is not what the grammar above says.
    """
    text = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    entry = _ENTRY.search(text)
    if entry is None:
        raise PtxError("the text has no .entry")
    target = re.search(r"^\s*\.target\s+(\w+)", text, re.MULTILINE)
    reader = _Reader(text, entry["name"], entry.end())
    reader.read()
    shared = [_shared(found) for found in _SHARED.finditer(text[: entry.start()])] + reader.shared
    threads = re.search(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", entry["directives"])
    x, y, z = (int(size or 1) for size in threads.groups()) if threads else (0, 0, 0)
    return Program(
        name=entry["name"],
        target=target.group(1) if target else "",
        parameters=tuple(_parameters(entry["parameters"])),
        threads=(x, y, z) if threads else None,
        shared=tuple(shared),
        instructions=tuple(reader.instructions),
        labels=reader.labels,
    )


def _parameters(text: str) -> Iterator[Parameter]:
    place = 0
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _PARAMETER.match(part)
        if found is None or found["type"] not in PARAMETER_BYTES:
            raise PtxError(f"cannot read the parameter {part!r}")
        size = PARAMETER_BYTES[found["type"]]
        place = -(-place // size) * size
        yield Parameter(found["name"], found["type"], place)
        place += size


def _shared(found: re.Match[str]) -> SharedVariable:
    size = int(found["size"]) if found["size"] else None
    if (size is None) != bool(found["extern"]):
        raise PtxError(f"shared variable {found['name']} must have a size or be .extern")
    return SharedVariable(found["name"], int(found["align"]), size)


@dataclass
class _Reader:
    """Reads the body of the entry, statement by statement."""

    text: str
    kernel: str
    place: int
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    shared: list[SharedVariable] = field(default_factory=list)
    scopes: list[dict[str, Register]] = field(default_factory=lambda: [{}])
    opened: int = 0

    def read(self) -> None:
        while True:
            self._skip_blanks()
            if self.place >= len(self.text):
                raise PtxError(f"{self.kernel}: the body has no end")
            if self.text[self.place] == "{":
                self.opened += 1
                self.scopes.append({})
                self.place += 1
            elif self.text[self.place] == "}":
                self.scopes.pop()
                self.place += 1
                if not self.scopes:
                    return
            elif label := _LABEL.match(self.text, self.place):
                self.labels[label.group(1)] = len(self.instructions)
                self.place = label.end()
            else:
                end = self.text.find(";", self.place)
                if end < 0:
                    raise PtxError(f"{self.kernel}, line {self._line}: a statement without a semicolon")
                self._statement(" ".join(self.text[self.place : end].split()))
                self.place = end + 1

    @property
    def _line(self) -> int:
        return self.text.count("\n", 0, self.place) + 1

    def _skip_blanks(self) -> None:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self._declare(text)
        elif found := _SHARED.match(text):
            self.shared.append(_shared(found))
        elif text.startswith(".pragma"):
            pass  # hints to the assembler
        elif text.startswith("."):
            raise located(UnknownInstruction, self.kernel, self._line, text, "this directive is not known")
        else:
            self.instructions.append(self._instruction(text))

    def _declare(self, text: str) -> None:
        _, kind, names = text.split(None, 2)
        bits = 1 if kind == ".pred" else int(re.sub(r"^\.[a-z]+", "", kind))
        suffix = f"#{self.opened}" if len(self.scopes) > 1 else ""
        for name in (name.strip() for name in names.split(",")):
            several = _RANGE.match(name)
            for one in [f"{several[1]}{number}" for number in range(int(several[2]))] if several else [name]:
                self.scopes[-1][one] = Register(one + suffix, bits)

    def _instruction(self, text: str) -> Instruction:
        rest, predicate = text, None
        if found := _PREDICATE.match(text):
            predicate = Predicate(self._register(found[2]), negated=bool(found[1]))
            rest = text[found.end() :]
        opcode, _, operands = rest.partition(" ")
        parts = tuple(self._operand(part.strip()) for part in _split(operands))
        return Instruction(self._line, text, predicate, tuple(opcode.split(".")), parts)

    def _register(self, name: str) -> Register:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise PtxError(f"{self.kernel}, line {self._line}: {name} is not declared")

    def _operand(self, text: str) -> Operand:
        if text.startswith("["):
            base, sign, offset = re.fullmatch(r"\[\s*([^\s+\-\]]+)\s*(?:([+-])\s*(-?\w+))?\s*\]", text).groups()  # type: ignore[union-attr]
            place = self._operand(base)
            assert isinstance(place, Register | Symbol | Immediate)
            return Address(place, (-1 if sign == "-" else 1) * int(offset or "0", 0))
        if "|" in text:  # two results, as ``%r1|%p1``
            return Vector(tuple(self._item(item.strip()) for item in text.split("|")))
        if text.startswith("{"):
            return Vector(tuple(self._item(item.strip()) for item in text.strip("{}").split(",")))
        if _SPECIAL.match(text):
            return Special(text)
        if _FLOAT32.match(text) or _FLOAT64.match(text):
            return Immediate(int(text[2:], 16))
        if found := _INTEGER.match(text):
            digits = found[2]
            base = 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") and len(digits) > 1 else 10
            value = int(digits, base)
            return Immediate(-value % 2**64 if found[1] else value)
        if any(text in scope for scope in self.scopes):
            return self._register(text)
        if re.fullmatch(r"[\w$.]+", text):
            return Symbol(text)
        raise PtxError(f"{self.kernel}, line {self._line}: cannot read the operand {text!r}")

    def _item(self, text: str) -> Register | Immediate | None:
        if text == "_":
            return None
        item = self._operand(text)
        assert isinstance(item, Register | Immediate)
        return item


def _split(text: str) -> Iterator[str]:
    """Split operands at the commas that are outside of brackets."""
    depth = start = 0
    for place, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    if text[start:].strip():
        yield text[start:]
