"""Counts of small kernels, by hand."""

import numpy as np
import pytest

from tests.ptx.counts import LaunchCounts
from tests.ptx.small import execute

GIVEN = np.arange(4096, dtype=np.uint32)


def counted(address: str, access: str = "ld.global.b32 %r1, [%d1];", threads: int = 64, grid: int = 1) -> LaunchCounts:
    """Counts of an access at ``%given`` plus the bytes that ``address`` leaves in ``%r2``."""
    body = f"mov.u32 %r3, %ctaid.x; {address} cvt.u64.u32 %d1, %r2; add.s64 %d1, %d1, %given; {access}"
    return execute(body, inputs={"given": GIVEN}, threads=threads, grid=(grid, 1, 1)).counts


@pytest.mark.parametrize(
    ("address", "access", "sectors"),
    [
        ("shl.b32 %r2, %thread, 2;", "ld.global.b32 %r1, [%d1];", 2 * 4),  # neighbours: 128 bytes a warp
        ("shl.b32 %r2, %thread, 2;", "ld.global.b32 %r1, [%d1+4];", 2 * 5),  # the same, across sectors
        ("shl.b32 %r2, %thread, 5;", "ld.global.b32 %r1, [%d1];", 2 * 32),  # a sector for each lane
        ("mov.b32 %r2, 64;", "ld.global.b32 %r1, [%d1];", 2 * 1),  # all the same word
        ("shl.b32 %r2, %thread, 4;", "ld.global.v4.b32 {%r1, %r4, %r5, %r6}, [%d1];", 2 * 16),
        ("and.b32 %r2, %thread, 1; shl.b32 %r2, %r2, 10;", "ld.global.b32 %r1, [%d1];", 2 * 2),  # in turns
    ],
)
def test_sectors_of_a_request(address: str, access: str, sectors: int):
    loads = counted(address, access).total("load", "given")
    assert loads.sectors == sectors
    assert (loads.issues, loads.requests, loads.lanes) == (2, 2, 64)
    assert loads.bytes == 64 * (16 if "v4" in access else 4)
    assert loads.sector_bytes == 32 * sectors
    assert loads.lanes_per_sector == 64 / sectors


def test_what_a_cache_would_keep():
    """Four blocks of two warps read the same 128 bytes twice, and 32 bytes of their own."""
    address = "and.b32 %r2, %thread, 31; shl.b32 %r2, %r2, 2; shl.b32 %r4, %r3, 5; cvt.u64.u32 %d3, %r4;"
    access = "ld.global.b32 %r1, [%d1]; ld.global.b32 %r1, [%d1]; add.s64 %d3, %d3, %given;"
    access += "ld.global.b32 %r1, [%d3+4096];"
    counts = counted(address, access, grid=4)
    assert counts.total("load").sectors == 4 * 2 * (4 + 4 + 1)
    assert counts.sectors_by_cta == {"given": 4 * (4 + 1)}
    assert counts.sectors_by_launch == {"given": 4 + 4}
    assert counts.l2_bytes("given") == counts.l2_bytes() == 32 * 20
    assert counts.device_bytes("given") == 32 * 8
    assert counts.ctas == 4


def test_lanes_at_work():
    """Of each warp 8 lanes load; one of two warps loads nothing at all."""
    access = "setp.lt.u32 %p1, %thread, 8; @%p1 ld.global.b32 %r1, [%d1];"
    counts = counted("shl.b32 %r2, %thread, 2;", access)
    loads = counts.total("load", "given")
    assert (loads.issues, loads.requests, loads.lanes) == (2, 1, 8)
    assert loads.lanes_at_work == 8 / 64
    (one,) = counts.accesses
    assert one.text == "@%p1 ld.global.b32 %r1, [%d1]" and one.tensors == ("given",) and one.line > 0
    # Every other instruction is executed by all lanes.
    assert counts.lanes_at_work == 1 - (56 / 64) * 2 / counts.issues


def test_branches_that_part_a_warp_cost_each_side():
    """Both sides of the branch are executed by the warp, with half of its lanes each."""
    side = "add.u32 %r5, %r5, 1;" * 10
    plain = execute(f"mov.b32 %r5, 0; {side}").counts
    body = f"mov.b32 %r5, 0; setp.lt.u32 %p1, %thread, 16; @%p1 bra A; {side} bra.uni B; A: {side} B:"
    parted = execute(body).counts
    assert parted.issues - plain.issues == 10 + 3
    assert parted.lanes_at_work == pytest.approx(1 - (20 * 16 + 16 + 16) / 32 / parted.issues, abs=1e-9)


def test_stores_and_atomics_are_counted_apart():
    body = "shl.b32 %r2, %thread, 3; cvt.u64.u32 %d1, %r2; add.s64 %d1, %d1, %out; st.global.b32 [%d1], 1;"
    body += "red.global.gpu.relaxed.add.u32 [%d1], 1; red.global.gpu.relaxed.add.u32 [%out], 1;"
    counts = execute(body, outputs={"out": np.zeros(128, np.uint32)}, threads=64).counts
    assert counts.total("store", "out").sectors == 2 * 8
    assert counts.total("atomic", "out").sectors == 2 * 8 + 2
    assert sorted(one.lanes_per_sector for one in counts.accesses) == [4, 4, 32]
    assert counts.total("load").lanes == 0
    assert counts.l2_bytes() == 0


def test_shared_memory_is_counted_by_warps():
    body = "mov.b32 %r2, smem; mad.lo.u32 %r2, %thread, 4, %r2; st.shared.b32 [%r2], 1; ld.shared.b32 %r1, [%r2];"
    assert execute(body, threads=96, shared_bytes=384).counts.shared_issues == 6
