"""Branches, predicates, warps and barriers, in small kernels whose results are computed by hand."""

import numpy as np
import pytest

from tests.ptx.errors import Divergence, Endless, PtxError, Uninitialized, UnknownInstruction
from tests.ptx.groups import Launch
from tests.ptx.machine import run
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import parse
from tests.ptx.small import execute, kernel

LANE = np.arange(64, dtype=np.uint32)
STORE = "mov.u32 %r30, %ctaid.x; mov.u32 %r31, %ntid.x; mad.lo.u32 %r30, %r30, %r31, %thread;"
STORE += "mad.wide.u32 %d30, %r30, 4, %out; st.global.b32 [%d30], %r1;"


def answer(body: str, threads: int = 64, grid: int = 1, shared_bytes: int = 0, **scalars: int) -> list[int]:
    """What the lanes have in ``%r1`` in the end."""
    out = {"out": np.zeros(threads * grid, np.uint32)}
    done = execute(
        body + STORE, outputs=out, threads=threads, grid=(grid, 1, 1), shared_bytes=shared_bytes, scalars=scalars
    )
    assert done.unwritten["out"] == 0
    return done.tensors["out"].tolist()


def test_lanes_that_disagree_take_both_ways_and_meet_again():
    body = """
        and.b32 %r2, %thread, 3; setp.eq.u32 %p1, %r2, 0; mov.b32 %r1, 100;
        @%p1 bra THEN;
        add.u32 %r1, %r1, 1; setp.eq.u32 %p2, %r2, 1;
        @!%p2 bra JOIN;
        add.u32 %r1, %r1, 10;
        bra.uni JOIN;
    THEN:
        mov.b32 %r1, 7;
    JOIN:
        add.u32 %r1, %r1, 1000;
    """
    assert answer(body) == [{0: 1007, 1: 1111}.get(lane % 4, 1101) for lane in range(64)]


def test_every_lane_turns_as_often_as_it_must():
    """Collatz: lanes of a warp leave the loop after 0 to 118 turns, and inside it they go two ways."""
    body = """
        add.u32 %r2, %thread, 1; mov.b32 %r1, 0;
    TURN:
        setp.eq.u32 %p1, %r2, 1; @%p1 bra END;
        and.b32 %r3, %r2, 1; setp.eq.u32 %p2, %r3, 0; add.u32 %r1, %r1, 1;
        @%p2 bra EVEN;
        mad.lo.u32 %r2, %r2, 3, 1; bra TURN;
    EVEN:
        shr.u32 %r2, %r2, 1; bra TURN;
    END:
    """

    def turns(number: int) -> int:
        return 0 if number == 1 else 1 + turns(number // 2 if number % 2 == 0 else 3 * number + 1)

    assert answer(body, threads=128) == [turns(lane + 1) for lane in range(128)]


def test_lanes_meet_for_a_shuffle_wherever_the_code_lies():
    """The exit of the loop lies before its body: whoever is done must wait for the others of its warp."""
    body = """
        mov.b32 %r1, %thread; mov.b32 %r2, 0; bra TURN;
    DONE:
        shfl.sync.idx.b32 %r1, %r2, 31, 31, -1; bra.uni END;
    TURN:
        setp.ge.u32 %p1, %r2, %thread; @%p1 bra DONE;
        add.u32 %r2, %r2, 1; bra TURN;
    END:
    """
    assert answer(body) == [31] * 32 + [63] * 32


def test_a_shuffle_that_not_the_whole_warp_reaches_is_an_error():
    body = "mov.b32 %r1, 0; setp.lt.u32 %p1, %thread, 40; @%p1 bra END; shfl.sync.idx.b32 %r1, %r1, 0, 31, -1; END:"
    with pytest.raises(Divergence, match=r"k, line \d+, `shfl\..*`: thread 40 of block \(0, 0, 0\) waits here"):
        answer(body)
    with pytest.raises(UnknownInstruction, match="only the mask of all lanes is known"):
        answer("mov.b32 %r1, 0; shfl.sync.idx.b32 %r1, %r1, 0, 31, 65535;")


def test_a_barrier_that_not_all_lanes_reach_is_an_error():
    for rest in ("bra END;", "ret;"):
        body = f"mov.b32 %r1, 0; setp.eq.u32 %p1, %thread, 5; @%p1 {rest} bar.sync 0; END:"
        with pytest.raises(Divergence, match=r"`bar\.sync 0`: thread 0 of block \(0, 0, 0\) waits here for lanes"):
            answer(body)


def test_a_barrier_waits_for_every_warp_of_its_block_and_no_other():
    """Warp 1 turns longer than warp 0 before it writes; block 1 never reaches the barrier."""
    body = """
        mov.u32 %r5, %ctaid.x; mov.b32 %r1, 77; setp.eq.u32 %p1, %r5, 1; @%p1 bra END;
        and.b32 %r2, %thread, 32;
    TURN:
        setp.eq.u32 %p2, %r2, 0; @%p2 bra READY; sub.u32 %r2, %r2, 1; bra TURN;
    READY:
        mov.b32 %r3, smem; mad.lo.u32 %r4, %thread, 4, %r3; st.shared.b32 [%r4], %thread;
        bar.sync 0;
        xor.b32 %r4, %thread, 63; mad.lo.u32 %r4, %r4, 4, %r3; ld.shared.b32 %r1, [%r4];
    END:
    """
    assert answer(body, grid=2, shared_bytes=256) == [63 - lane for lane in range(64)] + [77] * 64


def test_an_endless_loop_ends(monkeypatch):
    monkeypatch.setattr("tests.ptx.machine.MAX_STEPS", 1000)
    with pytest.raises(Endless, match="more than 1000 instructions"):
        answer("mov.b32 %r1, 0; TURN: add.u32 %r1, %r1, 1; bra TURN;")


def test_a_predicate_keeps_the_old_value():
    body = "mov.b32 %r1, 5; setp.gt.u32 %p1, %thread, 9; @%p1 mov.b32 %r1, 6; @!%p1 add.u32 %r1, %r1, 10;"
    assert answer(body) == [15] * 10 + [6] * 54


def test_a_register_that_was_never_written_is_an_error_and_one_that_was_skipped_is_garbage():
    with pytest.raises(Uninitialized, match=r"`add\.u32 %r1, %r7, 1`: reads %r7, which holds nothing"):
        answer("add.u32 %r1, %r7, 1;")
    with pytest.raises(Uninitialized, match="reads %p7, which holds nothing"):
        answer("mov.b32 %r1, 0; @%p7 mov.b32 %r1, 1;")
    found = answer("setp.lt.u32 %p1, %thread, 3; @%p1 mov.b32 %r1, 1;")
    assert found[:3] == [1, 1, 1]
    assert set(found[3:]) == {0xDBDBDBDB}


def test_returning_lanes_leave_the_others_alone():
    body = f"mov.b32 %r1, 1; {STORE} setp.lt.u32 %p1, %thread, 40; @%p1 ret; mov.b32 %r1, 2;"
    assert answer(body) == [1] * 40 + [2] * 24


def test_the_machine_tells_every_lane_where_it_is():
    body = """
        mov.u32 %r2, %tid.x; mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z; mov.u32 %r5, %ntid.x; mov.u32 %r6, %ntid.y;
        mov.u32 %r7, %ctaid.x; mov.u32 %r8, %ctaid.y; mov.u32 %r9, %ctaid.z; mov.u32 %r10, %nctaid.x;
        mov.u32 %r11, %nctaid.y; mov.u32 %r12, %laneid;
        mad.lo.u32 %r13, %r4, %r6, %r3; mad.lo.u32 %r13, %r13, %r5, %r2;
        mad.lo.u32 %r14, %r9, %r11, %r8; mad.lo.u32 %r14, %r14, %r10, %r7;
        mad.lo.u32 %r15, %r14, 64, %r13; mad.wide.u32 %d1, %r15, 4, %out;
        shl.b32 %r16, %r14, 16; or.b32 %r16, %r16, %r13; shl.b32 %r17, %r12, 8; or.b32 %r16, %r16, %r17;
        st.global.b32 [%d1], %r16;
    """
    done = execute(body, outputs={"out": np.zeros(64 * 24, np.uint32)}, grid=(2, 3, 4), block=(8, 4, 2))
    thread, block = np.arange(64, dtype=np.uint32), np.arange(24, dtype=np.uint32)[:, None]
    expected = block << np.uint32(16) | (thread % 32) << np.uint32(8) | thread
    np.testing.assert_array_equal(done.tensors["out"].reshape(24, 64), expected)


def test_many_blocks_are_executed_in_batches():
    assert answer("mov.u32 %r1, %ctaid.x;", threads=1024, grid=70) == np.repeat(np.arange(70), 1024).tolist()


@pytest.mark.parametrize(
    ("mode", "limits", "source"),
    [
        ("bfly", 31, lambda lane: lane ^ 5),
        ("up", 0, lambda lane: lane - 5 if lane >= 5 else lane),
        ("down", 31, lambda lane: lane + 5 if lane + 5 < 32 else lane),
        ("idx", 31, lambda lane: 5),
        ("idx", 0x181F, lambda lane: lane & 24 | 5),  # segments of eight lanes
        ("down", 0x181F, lambda lane: lane + 5 if lane % 8 + 5 < 8 else lane),
    ],
)
def test_shuffles(mode: str, limits: int, source):
    found = answer(f"shfl.sync.{mode}.b32 %r1, %thread, 5, {limits}, -1;")
    assert found == [32 * (lane // 32) + source(lane % 32) for lane in range(64)]
    both = f"shfl.sync.{mode}.b32 %r1|%p1, %thread, 5, {limits}, 0xffffffff; selp.u32 %r1, 1, 0, %p1;"
    own = [int(source(lane % 32) != lane % 32 or mode == "idx") for lane in range(64)]
    assert answer(both) == own


def test_a_whole_warp_reduces_and_votes():
    warps = LANE.reshape(2, 32).astype(np.int64)
    spread = np.repeat(((warps - 40) * 7).sum(axis=1) % 2**32, 32).tolist()
    assert answer("sub.u32 %r2, %thread, 40; mul.lo.s32 %r2, %r2, 7; redux.sync.add.s32 %r1, %r2, -1;") == spread
    assert answer("sub.u32 %r2, %thread, 40; redux.sync.min.s32 %r1, %r2, -1;") == [2**32 - 40] * 32 + [2**32 - 8] * 32
    assert answer("sub.u32 %r2, %thread, 40; redux.sync.max.u32 %r1, %r2, -1;") == [2**32 - 9] * 32 + [2**32 - 1] * 32
    assert answer("redux.sync.or.b32 %r1, %thread, -1;") == [31] * 32 + [63] * 32
    odd = "and.b32 %r2, %thread, 33; setp.eq.u32 %p1, %r2, 1;"
    assert answer(odd + "vote.sync.ballot.b32 %r1, %p1, -1;") == [0xAAAAAAAA] * 32 + [0] * 32
    assert answer(odd + "vote.sync.any.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2;") == [1] * 32 + [0] * 32
    assert answer(odd + "vote.sync.all.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2;") == [0] * 64


def test_inline_assembly_has_its_own_registers():
    body = "mov.b32 %r1, 1; { .reg .b32 %r1; mov.b32 %r1, 9;"
    body += "{ .reg .pred p; setp.eq.u32 p, %r1, 9; @p mov.b32 %r2, 3; } }"
    assert answer(body + "add.u32 %r1, %r1, %r2;") == [4] * 64


def test_scalars_arrive_with_their_sign():
    body = "ld.param.s32 %d1, [k_param_1]; shr.u64 %d1, %d1, 32; cvt.u32.u64 %r1, %d1;"
    assert answer(body, number=-5) == [2**32 - 1] * 64
    assert answer("mov.b32 %r1, %number;", number=2**31 - 1) == [2**31 - 1] * 64


@pytest.mark.parametrize(
    ("literal", "bits"),
    [("-1", 2**32 - 1), ("0x1fU", 31), ("0f3F800000", 0x3F800000), ("017", 15), ("42", 42), ("0", 0)],
)
def test_literals(literal: str, bits: int):
    assert answer(f"mov.b32 %r1, {literal};") == [bits] * 64


def test_what_cannot_be_launched_is_refused():
    memory = GlobalMemory({}, frozenset())
    program = parse(kernel("").replace(")\n{", ")\n.reqntid 128\n{"))
    for block, said in (
        ((64, 1, 1), r"must be launched with a block of \(128, 1, 1\)"),
        ((33, 1, 1), "whole number of warps"),
    ):
        with pytest.raises(PtxError, match=said):
            run(program, Launch((1, 1, 1), block, 0, ()), memory)
    with pytest.raises(PtxError, match="k takes 0 arguments, not 1"):
        run(program, Launch((1, 1, 1), (128, 1, 1), 0, (5,)), memory)
    with pytest.raises(PtxError, match="300000 bytes of shared memory are more than a CTA can have"):
        answer("mov.b32 %r1, smem;", shared_bytes=300000)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("mov.b32 %r1, %nothing;", "line 14: cannot read the operand '%nothing'"),
        ("bra NOWHERE;", "there is no label NOWHERE"),
        (".local .align 4 .b8 depot[8];", "this directive is not known"),
    ],
)
def test_what_cannot_be_read_is_refused(body: str, said: str):
    with pytest.raises(PtxError, match=said):
        execute(body)


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(PtxError, match=r"no \.entry"):
        parse(".version 8.0\n.target sm_80\n")
