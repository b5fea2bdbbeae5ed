"""Global memory: what is read and written, what is refused, and atomics."""

import numpy as np
import pytest

from tests.ptx.errors import Misaligned, OutOfBounds, PtxError, ReadOnly, Uninitialized, UnknownInstruction
from tests.ptx.memory import GlobalMemory
from tests.ptx.small import execute

WORDS = np.arange(100, 164, dtype=np.uint32)
AT = "mad.wide.u32 %d1, %thread, {step}, %given; mad.wide.u32 %d2, %thread, {step}, %out;"


def copied(body: str, step: int, given: np.ndarray = WORDS, threads: int = 64) -> np.ndarray:
    """Run a body that copies from [%d1] to [%d2], of which each lane's are ``step`` bytes further."""
    out = np.zeros(threads * step // given.itemsize, given.dtype)
    return execute(AT.format(step=step) + body, inputs={"given": given}, outputs={"out": out}, threads=threads).tensors[
        "out"
    ]


def test_every_width_and_vector_is_copied():
    np.testing.assert_array_equal(copied("ld.global.b32 %r1, [%d1]; st.global.b32 [%d2], %r1;", 4), WORDS)
    many = np.arange(512, dtype=np.uint32)
    two = "ld.global.v2.b32 {%r1, %r2}, [%d1]; st.global.v2.b32 [%d2], {%r1, %r2};"
    np.testing.assert_array_equal(copied(two, 8, many), many[:128])
    four = "ld.global.L1::evict_last.v4.b32 {%r1, %r2, %r3, %r4}, [%d1+0];"
    four += "st.global.cg.v4.b32 [%d2], {%r1, %r2, %r3, %r4};"
    np.testing.assert_array_equal(copied(four, 16, many), many[:256])
    wide = "ld.global.nc.v2.b64 {%d3, %d4}, [%d1]; st.global.v2.b64 [%d2], {%d3, %d4};"
    np.testing.assert_array_equal(copied(wide, 16, many), many[:256])
    halves = np.arange(64, dtype=np.uint16)
    np.testing.assert_array_equal(copied("ld.global.b16 %h1, [%d1]; st.global.b16 [%d2], {%h1};", 2, halves), halves)
    octets = np.arange(64, dtype=np.uint8)
    np.testing.assert_array_equal(copied("ld.global.b8 %h1, [%d1]; st.global.b8 [%d2], %h1;", 1, octets), octets)


def test_narrow_values_are_extended_and_cut():
    signs = np.array([-1, 5, -128, 127] * 16, np.int8)
    body = "mad.wide.u32 %d1, %thread, 1, %given; mad.wide.u32 %d2, %thread, 4, %out;"
    for kind, expected in (("s8", signs.astype(np.uint32)), ("u8", signs.view(np.uint8).astype(np.uint32))):
        done = execute(
            body + f"ld.global.{kind} %r1, [%d1]; st.global.b32 [%d2], %r1;",
            inputs={"given": signs},
            outputs={"out": np.zeros(64, np.uint32)},
            threads=64,
        )
        np.testing.assert_array_equal(done.tensors["out"], expected)
    assert (
        copied("mov.b32 %r1, 0x12345678; st.global.b8 [%d2], %r1;", 1, np.zeros(64, np.uint8)).tolist() == [0x78] * 64
    )


def test_a_negative_offset_reaches_backwards():
    body = "add.s64 %d1, %d1, 4; ld.global.b32 %r1, [%d1+-4]; st.global.b32 [%d2], %r1;"
    np.testing.assert_array_equal(copied(body, 4), WORDS)


@pytest.mark.parametrize(
    ("access", "said"),
    [
        (
            "ld.global.b32 %r1, [%d1+4]",
            r"thread 63 of block \(0, 0, 0\): 4 bytes at address 0x\w+, \+256 from given of 256",
        ),
        ("ld.global.b32 %r1, [%d1+-4]", r"thread 0 of block \(0, 0, 0\): 4 bytes at address 0x\w+, -4 from given"),
        ("ld.global.v2.b32 {%r1, %r2}, [%d3]", r"thread 32 of .*: 8 bytes at address 0x\w+, \+256 from given"),
        ("st.global.b32 [%d2+2048], %thread", r"thread 0 of .*: 4 bytes at address 0x\w+, \+2048 from out of 256"),
        ("red.global.gpu.relaxed.add.u32 [%d2+4], %thread", r"thread 63 of .*, \+256 from out"),
        ("mov.b64 %d4, 0; ld.global.b32 %r1, [%d4]", r"thread 0 of .*: 4 bytes at address 0x0, -\d+ from given"),
    ],
)
def test_whoever_leaves_its_memory_is_named(access: str, said: str):
    body = f"mad.wide.u32 %d3, %thread, 8, %given; {access};"
    with pytest.raises(OutOfBounds, match=rf"^k, line \d+, `.*`: {said}"):
        copied(body, 4)


def test_one_byte_beyond_is_too_much_and_the_last_is_not():
    octets = np.arange(70, dtype=np.uint8)
    assert len(copied("ld.global.b8 %h1, [%d1+6]; st.global.b8 [%d2], %h1;", 1, octets)) == 64
    with pytest.raises(OutOfBounds, match="thread 63"):
        copied("ld.global.b8 %h1, [%d1+7]; st.global.b8 [%d2], %h1;", 1, octets)


def test_misaligned_accesses_are_named():
    for access in ("ld.global.b32 %r1, [%d1+2]", "st.global.b64 [%d2], %d1", "ld.global.v2.b32 {%r1, %r2}, [%d1]"):
        with pytest.raises(Misaligned, match=r"k, line \d+, `.*`: thread \d+ of block .* is no multiple of [48] bytes"):
            copied(f"{access};", 4)


def test_inputs_are_not_written_and_memory_is_not_read_before_somebody_wrote_it():
    with pytest.raises(ReadOnly, match=r"thread 0 of .*: writes 4 bytes at .*, in the input given"):
        copied("st.global.b32 [%d1], %thread;", 4)
    with pytest.raises(
        Uninitialized, match=r"thread 0 of .*: reads 4 bytes at .* from out of 256 bytes, which was never written"
    ):
        copied("ld.global.b32 %r1, [%d2];", 4)
    with pytest.raises(Uninitialized):
        copied("red.global.gpu.relaxed.add.u32 [%d2], 1;", 4)
    np.testing.assert_array_equal(copied("st.global.b32 [%d2], 5; ld.global.b32 %r1, [%d2];", 4), np.full(64, 5))


def test_bytes_that_nobody_wrote_are_known():
    body = "mad.wide.u32 %d2, %thread, 4, %out; setp.ne.u32 %p1, %thread, 9; @%p1 st.global.b32 [%d2], 1;"
    assert execute(body, outputs={"out": np.zeros(32, np.uint32)}).unwritten == {"out": 4}


def test_lanes_without_a_predicate_touch_nothing():
    body = "setp.lt.u32 %p1, %thread, 3; @%p1 ld.global.b32 %r1, [%d1+244]; st.global.b32 [%d2], 0;"
    copied(body, 4)
    with pytest.raises(OutOfBounds, match="thread 3"):
        copied(body.replace("%thread, 3", "%thread, 4"), 4)


SEQUENTIAL = {
    "add": lambda old, new: old + new,
    "min": min,
    "max": max,
    "and": lambda old, new: old & new,
    "or": lambda old, new: old | new,
    "xor": lambda old, new: old ^ new,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("add", "u32"), ("add", "s32"), ("min", "s32"), ("max", "s32"), ("min", "u32"), ("max", "u32")),
        *(("and", "b32"), ("or", "b32"), ("xor", "b32"), ("add", "u64"), ("max", "s64")),
    ],
)
def test_integer_atomics_are_a_sequence_of_updates(name: str, kind: str):
    bits = int(kind[1:])
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8}")
    rng = np.random.default_rng(3)
    limits = np.iinfo(dtype)
    given = rng.integers(limits.min, limits.max, 64, dtype=dtype, endpoint=True)
    start = rng.integers(limits.min, limits.max, 3, dtype=dtype, endpoint=True)
    place = f"rem.u32 %r5, %thread, 3; mad.wide.u32 %d3, %r5, {bits // 8}, %cells;"
    place += f"mad.wide.u32 %d1, %thread, {bits // 8}, %given;"
    register = "%r1" if bits == 32 else "%d5"
    body = f"{place} ld.global.b{bits} {register}, [%d1]; red.global.gpu.relaxed.{name}.{kind} [%d3], {register};"
    done = execute(body, inputs={"given": given}, outputs={"cells": start}, threads=64)
    expected, before = start.tolist(), []
    for lane, value in enumerate(given.tolist()):
        before.append(expected[lane % 3])
        expected[lane % 3] = int(
            np.array(SEQUENTIAL[name](expected[lane % 3], value) % 2**bits, f"u{bits // 8}").astype(dtype)
        )
    assert done.tensors["cells"].tolist() == expected
    body = f"{place} ld.global.b{bits} {register}, [%d1];"
    body += f"atom.global.gpu.acq_rel.{name}.{kind} {register}, [%d3], {register};"
    body += f"mad.wide.u32 %d4, %thread, {bits // 8}, %out; st.global.b{bits} [%d4], {register};"
    outputs = {"cells": start, "out": np.zeros(64, dtype)}
    done = execute(body, inputs={"given": given}, outputs=outputs, threads=64)
    assert done.tensors["cells"].tolist() == expected
    assert done.tensors["out"].tolist() == before


@pytest.mark.parametrize(
    ("kind", "dtype", "bits"), [("f32", np.float32, 32), ("f64", np.float64, 64), ("noftz.f16", np.float16, 16)]
)
def test_float_atomics_round_after_each_addition(kind: str, dtype, bits: int):
    given = np.random.default_rng(5).normal(size=64).astype(dtype)
    register = {16: "%h1", 32: "%r1", 64: "%d5"}[bits]
    body = f"mad.wide.u32 %d1, %thread, {bits // 8}, %given; ld.global.b{bits} {register}, [%d1];"
    body += f"red.global.gpu.relaxed.add.{kind} [%cells], {register};"
    done = execute(body, inputs={"given": given}, outputs={"cells": np.ones(1, dtype)}, threads=64)
    total = dtype(1)
    for value in given:
        total = dtype(total + value)
    assert done.tensors["cells"][0] == total


def test_vectors_are_added_element_by_element():
    body = (
        "cvt.rn.f32.u32 %r1, %thread; mov.b32 %r2, 0f3F800000; red.global.gpu.relaxed.add.v2.f32 [%cells], {%r1, %r2};"
    )
    done = execute(body, outputs={"cells": np.ones(2, np.float32)})
    assert done.tensors["cells"].tolist() == [1 + 31 * 16, 33]


def test_exchange_and_compare():
    """A lock: each lane finds the number of the lane before it; the first finds what was there."""
    body = "add.u32 %r1, %thread, 1; atom.global.gpu.relaxed.exch.b32 %r2, [%cells], %r1;"
    body += "atom.global.gpu.relaxed.cas.b32 %r3, [%cells+4], %thread, %r1;"
    body += "mad.wide.u32 %d2, %thread, 8, %out; st.global.v2.b32 [%d2], {%r2, %r3};"
    outputs = {"cells": np.array([7, 0], np.uint32), "out": np.zeros((32, 2), np.uint32)}
    done = execute(body, outputs=outputs | {"cells": np.array([7, 3], np.uint32)})
    assert done.tensors["cells"].tolist() == [32, 32]
    assert done.tensors["out"][:, 0].tolist() == [7, *range(1, 32)]
    assert done.tensors["out"][:, 1].tolist() == [3, 3, 3, 3, *range(4, 32)]


@pytest.mark.parametrize(
    "access",
    [
        "ld.b32 %r1, [%d1]",
        "ld.global.v3.b32 {%r1, %r2, %r3}, [%d1]",
        "ld.global.b128 %d3, [%d1]",
        "ld.local.b32 %r1, [%d1]",
        "red.shared.add.u32 [%r1], 1",
        "ld.global.new_hint.b32 %r1, [%d1]",
        "cp.async.ca.shared.global [%r1], [%d1], 4",
    ],
)
def test_an_unknown_form_of_an_access_is_named(access: str):
    with pytest.raises(UnknownInstruction, match=access.split()[0].replace(".", r"\.")):
        copied(f"mov.b32 %r1, 0; {access};", 4)


def test_allocations_lie_apart_and_the_skew_moves_them():
    memory = GlobalMemory({"a": 10, "b": 0, "c": 256}, frozenset(), skew=16)
    first, second, third = (memory.address_of(name) for name in "abc")
    assert [address % 256 for address in (first, second, third)] == [16, 16, 16]
    assert second - first >= 4096 and third - second >= 4096
    with pytest.raises(PtxError, match="no allocation d; there are a, b, c"):
        memory.address_of("d")
