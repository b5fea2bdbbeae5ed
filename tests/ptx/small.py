"""Small kernels written by hand, for tests of the interpreter itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.ptx.counts import Counter, LaunchCounts
from tests.ptx.formats import Array, bits_of, is_type
from tests.ptx.groups import Launch
from tests.ptx.machine import run
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import parse

REGISTERS = """.reg .pred %p<16>; .reg .b16 %h<32>; .reg .b32 %r<32>; .reg .b64 %d<32>;"""


@dataclass(frozen=True)
class Result:
    """The tensors after the launch, bytes that were never written, and the counts."""

    tensors: dict[str, Array]
    unwritten: dict[str, int]
    counts: LaunchCounts


def kernel(body: str, pointers: Sequence[str] = (), scalars: Sequence[str] = (), head: str = "") -> str:
    """Write a module. Its body finds pointers and scalars in registers %name, and the thread in %thread."""
    names = [*pointers, *scalars]
    parameters = ",\n".join(
        f"\t.param .{'u64 .ptr .global .align 1' if name in pointers else 'u32'} k_param_{place}"
        for place, name in enumerate(names)
    )
    loads = "\n".join(
        f".reg .b{64 if name in pointers else 32} %{name}; "
        f"ld.param.b{64 if name in pointers else 32} %{name}, [k_param_{place}];"
        for place, name in enumerate(names)
    )
    return f"""
.version 8.0
.target sm_80
.address_size 64
{head}
.visible .entry k(
{parameters}
)
{{
{REGISTERS}
.reg .b32 %thread;
mov.u32 %thread, %tid.x;
{loads}
{body}
ret;
}}
"""


def execute(
    body: str,
    *,
    inputs: Mapping[str, Array] | None = None,
    outputs: Mapping[str, Array] | None = None,
    scalars: Mapping[str, int] | None = None,
    threads: int = 32,
    grid: tuple[int, int, int] = (1, 1, 1),
    block: tuple[int, int, int] | None = None,
    shared_bytes: int = 0,
    head: str = ".extern .shared .align 16 .b8 smem[];",
) -> Result:
    """Run a body on inputs and outputs.

    An output that is all zeros is memory that was never written; any other begins as it is.
    """
    inputs, outputs, scalars = inputs or {}, outputs or {}, scalars or {}
    tensors = {**inputs, **outputs}
    memory = GlobalMemory({name: one.nbytes for name, one in tensors.items()}, frozenset(outputs))
    for name, one in tensors.items():
        if name in inputs or one.any():
            memory.fill(name, one)
    text = kernel(body, tuple(tensors), tuple(scalars), head)
    arguments = (*(memory.address_of(name) for name in tensors), *scalars.values())
    counter = Counter()
    launch = Launch(grid, block or (threads, 1, 1), shared_bytes, arguments)
    run(parse(text), launch, memory, counter)
    found = {name: memory.content(name).view(one.dtype).reshape(one.shape) for name, one in tensors.items()}
    left = {name: len(memory.unwritten(name)) for name in outputs}
    return Result(found, left, counter.counts("k", memory.names))


def compute(instruction: str, result: str, *sources: tuple[str, Array]) -> Array:
    """Apply one instruction, without operands, to the elements of arrays: (type, values) for each source.

    The result is bits of the type ``result``; predicates are 0 and 1 in 32 bits. The arrays have the same length.
    """
    assert is_type(result)
    count = len(sources[0][1])
    padded = -(-count // 32) * 32
    body, names = [], []
    inputs = {}
    for place, (kind, values) in enumerate(sources):
        bits = max(bits_of(kind), 8)
        raw = np.asarray(values).astype(np.uint32) if kind == "pred" else np.asarray(values)
        inputs[f"in{place}"] = np.resize(raw, padded)
        width = 32 if kind == "pred" else bits
        register = {16: f"%h{place}", 32: f"%r{place}", 64: f"%d{place}", 8: f"%h{place}"}[width]
        body.append(f"mad.wide.u32 %d20, %thread, {width // 8}, %in{place}; ld.global.b{width} {register}, [%d20];")
        if kind == "pred":
            body.append(f"setp.ne.u32 %p{place}, {register}, 0;")
            register = f"%p{place}"
        names.append(register)
    bits = 32 if result == "pred" else bits_of(result)
    target = "%p9" if result == "pred" else {16: "%h9", 32: "%r9", 64: "%d9", 8: "%h9"}[bits]
    body.append(f"{instruction} {target}, {', '.join(names)};")
    if result == "pred":
        body.append("selp.u32 %r9, 1, 0, %p9;")
        target = "%r9"
    body.append(f"mad.wide.u32 %d20, %thread, {bits // 8}, %out; st.global.b{bits} [%d20], {target};")
    # One block of up to 1024 threads is enough for every test.
    out = np.zeros(padded, {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}[bits])
    done = execute("\n".join(body), inputs=inputs, outputs={"out": out}, threads=padded)
    return done.tensors["out"][:count]
