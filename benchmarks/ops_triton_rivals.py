"""BEVDet's ``bev_pool_v2`` as a Triton kernel: one program for each occupied cell, points one after another."""

import torch
import triton
import triton.language as tl
from ops_rivals import PreparedPool
from torch import Tensor


@triton.jit
def _sum_interval(depth, context, point, pixel, cell, starts, lengths, maps, channels, BLOCK: tl.constexpr):
    interval = tl.program_id(0)
    start = tl.load(starts + interval)
    column = tl.arange(0, BLOCK)
    inside = column < channels
    total = tl.zeros([BLOCK], tl.float32)
    for slot in range(start, start + tl.load(lengths + interval)):
        weight = tl.load(depth + tl.load(point + slot)).to(tl.float32)
        row = tl.load(pixel + slot) * channels
        total += weight * tl.load(context + row + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(maps + tl.load(cell + interval) * channels + column, total, mask=inside)


class IntervalPool:
    """``bev_pool_v2``: int32 lists of points, pixels and intervals, a map of zeros, one thread a channel."""

    def __init__(self, prepared: PreparedPool) -> None:
        self.shape = prepared.shape
        lists = prepared.point, prepared.pixel, prepared.occupied, prepared.starts, prepared.lengths
        self.lists = [entries.to(torch.int32) for entries in lists]

    def __call__(self, depth_BNDhw: Tensor, context_BNhwC: Tensor) -> Tensor:
        """Maps (B, cells, C)."""
        channels = self.shape[-1]
        maps = context_BNhwC.new_zeros(self.shape)
        block = triton.next_power_of_2(channels)
        _sum_interval[(len(self.lists[2]),)](
            depth_BNDhw, context_BNhwC, *self.lists, maps, channels, BLOCK=block, num_warps=max(1, block // 32)
        )
        return maps
