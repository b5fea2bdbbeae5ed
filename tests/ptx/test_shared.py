"""Shared memory: what is kept in it, who races for it, and matrices of 8 × 8."""

import numpy as np
import pytest

from tests.ptx.errors import Misaligned, OutOfBounds, PtxError, Race
from tests.ptx.small import execute

OWN = "mov.b32 %r20, smem; mad.lo.u32 %r21, %thread, 4, %r20;"
OWN += "xor.b32 %r22, %thread, {other}; mad.lo.u32 %r22, %r22, 4, %r20;"
SAVE = "mad.wide.u32 %d9, %thread, 4, %out; st.global.b32 [%d9], %r1;"


def exchanged(between: str, other: int = 63, threads: int = 64, before: str = "") -> list[int]:
    """Each lane writes its number to its own word, and then reads another lane's."""
    body = (
        before + OWN.format(other=other) + f"st.shared.b32 [%r21], %thread; {between} ld.shared.b32 %r1, [%r22];" + SAVE
    )
    out = {"out": np.zeros(threads, np.uint32)}
    return execute(body, outputs=out, threads=threads, shared_bytes=4 * threads).tensors["out"].tolist()


def test_a_barrier_makes_a_word_of_another_warp_readable():
    assert exchanged("bar.sync 0;") == [lane ^ 63 for lane in range(64)]
    said = r"thread 0 of block .*: reads shared address \+252, which thread 63 wrote, without"
    with pytest.raises(Race, match=r"`ld\.shared\.b32 %r1, \[%r22\]`: " + said):
        exchanged("")


def test_lanes_of_one_warp_are_no_exception_but_its_own_barrier_is_enough():
    assert exchanged("bar.warp.sync -1;", other=1) == [lane ^ 1 for lane in range(64)]
    for nothing in ("", "shfl.sync.idx.b32 %r5, %thread, 0, 31, -1;", "redux.sync.add.s32 %r5, %thread, -1;"):
        with pytest.raises(Race, match="which thread 1 wrote"):
            exchanged(nothing, other=1)
    with pytest.raises(Race, match="which thread 32 wrote"):  # of another warp
        exchanged("bar.warp.sync -1;", other=32)


def test_the_own_word_needs_no_barrier():
    assert exchanged("", other=0) == list(range(64))


def test_writing_what_another_still_reads_is_a_race():
    after = "bar.sync 0; ld.shared.b32 %r2, [%r22]; {barrier} st.shared.b32 [%r21], 5; bar.sync 0;"
    exchanged(after.format(barrier="bar.sync 0;"))
    with pytest.raises(Race, match=r"writes shared address \+0, which thread 63 read, without a barrier"):
        exchanged(after.format(barrier=""))
    with pytest.raises(Race, match="which several lanes read"):
        exchanged(
            "bar.sync 0; ld.shared.b32 %r2, [%r20]; setp.eq.u32 %p1, %thread, 0;"
            "@%p1 st.shared.b32 [%r20], 5; bar.sync 0;"
        )


def test_of_many_readers_of_one_warp_its_own_barrier_is_enough_and_of_two_warps_it_is_not():
    turn = "bar.sync 0; {who} @%p2 ld.shared.b32 %r2, [%r20]; bar.warp.sync -1;"
    turn += "setp.eq.u32 %p1, %thread, 3; @%p1 st.shared.b32 [%r20], 5; bar.sync 0;"
    exchanged(turn.format(who="setp.lt.u32 %p2, %thread, 32;"))
    with pytest.raises(Race, match="writes shared address"):
        exchanged(turn.format(who="setp.lt.u32 %p2, %thread, 33;"))


def test_two_writers_race_unless_they_write_the_same():
    write = "mov.b32 %r20, smem; {value} st.shared.b32 [%r20], %r5; bar.sync 0; ld.shared.b32 %r1, [%r20];"
    out = {"out": np.zeros(64, np.uint32)}
    done = execute(write.format(value="mov.b32 %r5, 9;") + SAVE, outputs=out, threads=64, shared_bytes=16)
    assert done.tensors["out"].tolist() == [9] * 64
    with pytest.raises(Race, match=r"shared address \+0 is written by another lane at the same time"):
        execute(write.format(value="mov.b32 %r5, %thread;") + SAVE, outputs=out, threads=64, shared_bytes=16)
    # One after the other, in two instructions, is no better.
    twice = "mov.b32 %r20, smem; setp.lt.u32 %p1, %thread, 1; setp.eq.u32 %p2, %thread, {second};"
    twice += "@%p1 st.shared.b32 [%r20], 1;"
    twice += "@%p2 st.shared.b32 [%r20], {value};"
    execute(twice.format(second=0, value=2), threads=64, shared_bytes=16)
    execute(twice.format(second=40, value=1), threads=64, shared_bytes=16)
    with pytest.raises(Race, match=r"thread 40 of block .*: writes shared address \+0, which thread 0 wrote"):
        execute(twice.format(second=40, value=2), threads=64, shared_bytes=16)


def test_who_reads_what_several_write_must_wait_for_them():
    body = "mov.b32 %r20, smem; st.shared.b32 [%r20], 9; ld.shared.b32 %r1, [%r20];"
    with pytest.raises(Race, match="which several lanes wrote"):
        execute(body, threads=64, shared_bytes=16)


def test_neighbouring_bytes_are_no_race():
    body = (
        "mov.b32 %r20, smem; add.u32 %r21, %r20, %thread; st.shared.b8 [%r21], %thread; ld.shared.b8 %r1, [%r21];"
        + SAVE
    )
    done = execute(body, outputs={"out": np.zeros(64, np.uint32)}, threads=64, shared_bytes=64)
    assert done.tensors["out"].tolist() == list(range(64))
    with pytest.raises(Race):
        execute(
            body.replace("ld.shared.b8 %r1, [%r21]", "ld.shared.b32 %r1, [%r20]"),
            outputs={"out": np.zeros(64, np.uint32)},
            threads=64,
            shared_bytes=64,
        )


def test_blocks_have_their_own_shared_memory():
    body = "mov.u32 %r5, %ctaid.x; " + OWN.format(other=63)
    body += "st.shared.b32 [%r21], %r5; bar.sync 0; ld.shared.b32 %r1, [%r22];"
    body += "mad.lo.u32 %r6, %r5, 64, %thread; mad.wide.u32 %d9, %r6, 4, %out; st.global.b32 [%d9], %r1;"
    done = execute(body, outputs={"out": np.zeros(64 * 40, np.uint32)}, threads=64, grid=(40, 1, 1), shared_bytes=256)
    assert done.tensors["out"].tolist() == np.repeat(np.arange(40), 64).tolist()


def test_shared_accesses_are_checked():
    with pytest.raises(OutOfBounds, match=r"thread 63 of .*: 4 bytes at shared address \+252, of 252 bytes"):
        execute(OWN.format(other=0) + "st.shared.b32 [%r21], 1;", threads=64, shared_bytes=252)
    with pytest.raises(OutOfBounds, match=r"thread 0 of .*: 4 bytes at shared address -4"):
        execute(OWN.format(other=0) + "ld.shared.b32 %r1, [%r21+-4];", threads=64, shared_bytes=256)
    with pytest.raises(Misaligned, match=r"shared address \+4 is no multiple of 8 bytes"):
        execute(OWN.format(other=0) + "ld.shared.v2.b32 {%r1, %r2}, [%r21];", threads=64, shared_bytes=256)
    with pytest.raises(PtxError, match="the launch has no shared memory"):
        execute("mov.b32 %r20, smem; ld.shared.b32 %r1, [%r20];")


def test_variables_of_fixed_size_lie_before_what_the_launch_adds():
    head = ".shared .align 16 .b8 fixed[20];\n.extern .shared .align 16 .b8 smem[];"
    body = "mov.b32 %r1, smem; mov.b32 %r2, fixed; sub.u32 %r1, %r1, %r2; st.shared.b32 [%r2+48], 1;" + SAVE
    done = execute(body, outputs={"out": np.zeros(32, np.uint32)}, shared_bytes=32, head=head)
    assert done.tensors["out"].tolist() == [32] * 32


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_loaded_and_stored_in_fragments(count: int, transposed: bool):
    """Lane L holds, of each matrix, the elements 2·(L mod 4) and the next of row L div 4."""
    suffix = ".trans" * transposed
    registers = ", ".join(f"%r{1 + item}" for item in range(count))
    given = np.arange(count * 64, dtype=np.uint16)
    body = "mov.b32 %r20, smem; " + "".join(
        f"mad.wide.u32 %d1, %thread, 4, %given; ld.global.b32 %r10, [%d1+{128 * item}];"
        f"mad.lo.u32 %r11, %thread, 4, %r20; st.shared.b32 [%r11+{128 * item}], %r10;"
        for item in range(count)
    )
    rows = f"mad.lo.u32 %r12, %thread, 16, %r20; rem.u32 %r13, %thread, {8 * count}; mad.lo.u32 %r12, %r13, 16, %r20;"
    body += rows + f"bar.sync 0; ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 {{{registers}}}, [%r12];"
    body += "".join(
        f"mad.wide.u32 %d2, %thread, 4, %out; st.global.b32 [%d2+{128 * item}], %r{1 + item};" for item in range(count)
    )
    again = f"bar.sync 0; stmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 [%r12], {{{registers}}}; bar.sync 0;"
    again += "".join(
        f"mad.lo.u32 %r11, %thread, 4, %r20; ld.shared.b32 %r10, [%r11+{128 * item}];"
        f"mad.wide.u32 %d2, %thread, 4, %back; st.global.b32 [%d2+{128 * item}], %r10;"
        for item in range(count)
    )
    outputs = {"out": np.zeros(count * 64, np.uint16), "back": np.zeros(count * 64, np.uint16)}
    done = execute(body + again, inputs={"given": given}, outputs=outputs, shared_bytes=128 * count)
    matrices = given.reshape(count, 8, 8)
    expected = np.empty((count, 32, 2), np.uint16)
    for lane in range(32):
        for part in range(2):
            row, column = lane // 4, lane % 4 * 2 + part
            expected[:, lane, part] = matrices[:, column, row] if transposed else matrices[:, row, column]
    np.testing.assert_array_equal(done.tensors["out"].reshape(count, 32, 2), expected)
    np.testing.assert_array_equal(done.tensors["back"], given)


def test_a_matrix_is_not_loaded_before_its_rows_are_there():
    body = (
        OWN.format(other=0)
        + "st.shared.b32 [%r21], 1; {barrier} and.b32 %r13, %thread, 7; mad.lo.u32 %r12, %r13, 16, %r20;"
    )
    body += "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%r12];"
    execute(body.format(barrier="bar.warp.sync -1;"), shared_bytes=128)
    with pytest.raises(Race, match="ldmatrix"):
        execute(body.format(barrier=""), shared_bytes=128)
