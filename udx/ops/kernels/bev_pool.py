"""BEV pooling on the GPU: a gather per tile of cells, and gradients gathered per pixel; no atomics anywhere.

Legend and arguments as in ``udx.ops.bev_pool``. POINTS = cameras · BINS · PIXELS is the frustum of one sample and
PIXELS = h · w; ``begin`` and ``end`` bound the slots of a cell in the point index.

One program pools a square tile of cells, because neighbouring cells gather the same rows of the context: the first
gather of a row comes from L2, the others from L1. The cells of a tile are taken in order of their number of points,
so that the lanes of a group end at about the same time; empty cells come last and cost a store. A tile with many
points is shared by four programs, a quarter of its cells each, and a cell with many points by several lanes.

The order of a sum is fixed by this source and by nothing that a compiler chooses: the slots of a cell are cut into
chunks of CHUNK, each chunk is summed slot by slot in FP32, and the chunks are added one after the other. Products
are rounded before they are added (``enable_fp_fusion=False``), so the sums are those of
``udx.runtime.numpy_kernels`` bit for bit.

An offset that is out of bounds is clamped and a slot with an impossible index adds nothing, so that no plan,
however wrong, reaches memory that is not its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from udx.operators import PoolTiling

TILE_ELEMENTS = 4096
"""Points × channels that a program of the backward pass holds in registers at a time."""
CHUNK = tl.constexpr(16)
"""Slots that are summed one after the other before their sum is added to the cell's."""
UNROLL = tl.constexpr(4)
"""Slots whose features are under way at the same time; divides CHUNK."""
SHARES = tl.constexpr(4)
"""Lanes that share the chunks of a cell of many points."""
CROWDED_CELL = tl.constexpr(48)
"""More points than this, and a cell is shared by SHARES lanes for each channel vector."""
CROWDED_TILE = tl.constexpr(3072)
"""More points than this, and a tile is shared by four programs."""


@triton.jit
def bev_pool_kernel(
    depth,
    context,
    point_index,
    cell_offsets,
    cells,
    slots,
    pooled,
    POINTS: tl.constexpr,
    BINS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    LANES: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Pool one tile: grid (4 · tiles, blocks of LANES · VECTOR channels, batch); see ``PoolTiling``."""
    sample = tl.program_id(2).to(tl.int64)
    offsets = cell_offsets + sample * (cells + 1)
    local = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    row, column = local // TILE_COLUMNS, local % TILE_COLUMNS
    cell, exists = _cell_of(local, cells, COLUMNS, TILE_ROWS, TILE_COLUMNS)
    _, count = _slots_of(offsets, cell, exists, slots)
    # The four programs of a tile agree whether it is crowded, for they look at the same numbers.
    part = tl.program_id(0) % 4
    quarter = row // tl.cdiv(TILE_ROWS, 2) * 2 + column // tl.cdiv(TILE_COLUMNS, 2)
    own = exists & (part == tl.where(tl.sum(count, axis=0) > CROWDED_TILE, quarter, 0))
    members = tl.sum(own.to(tl.int32), axis=0)
    # A cell's rank is the number of cells that come before it: those with more points, or as many and a lower index.
    # Cells of other programs come last.
    count = tl.where(own, count, -1)
    # Sums are over the first axis, which leaves few of their values in each thread's registers.
    before = (count[:, None] > count[None, :]) | (
        (count[:, None] == count[None, :]) & (local[:, None] < local[None, :])
    )
    rank = tl.sum(before.to(tl.int32), axis=0)
    ranked = tl.sum(tl.where(rank[:, None] == local[None, :], local[:, None], 0), axis=0)
    # Items are (cell, vector of channels) in that order; a group of them is pooled at a time.
    item = 0
    while item < members * LANES:
        longest = tl.sum(tl.where(rank == item // LANES, count, 0), axis=0)
        if longest > CROWDED_CELL:
            _pool_group(
                item, SHARES, longest, members, ranked, depth, context, point_index, offsets, cells, slots, pooled,
                POINTS, BINS, PIXELS, CHANNELS, ACCUMULATE, COLUMNS, TILE_ROWS, TILE_COLUMNS, VECTOR, LANES, ITEMS,
            )  # fmt: skip
            item += ITEMS // SHARES
        else:
            _pool_group(
                item, 1, longest, members, ranked, depth, context, point_index, offsets, cells, slots, pooled,
                POINTS, BINS, PIXELS, CHANNELS, ACCUMULATE, COLUMNS, TILE_ROWS, TILE_COLUMNS, VECTOR, LANES, ITEMS,
            )  # fmt: skip
            item += ITEMS


@triton.jit
def _pool_group(
    item, SPLIT: tl.constexpr, longest, members, ranked, depth, context, point_index, offsets, cells, slots, pooled,
    POINTS: tl.constexpr, BINS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, ACCUMULATE: tl.constexpr,
    COLUMNS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, VECTOR: tl.constexpr,
    LANES: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Pool ITEMS / SPLIT items from ``item`` on, of at most ``longest`` points; SPLIT lanes share an item's chunks."""
    sample = tl.program_id(2).to(tl.int64)
    own_index = point_index + sample * slots
    own_depth = depth + sample * POINTS
    own_context = context + sample * (POINTS // BINS * CHANNELS)
    item += tl.arange(0, ITEMS // SPLIT)
    position = item // LANES
    local = tl.gather(ranked, tl.minimum(position, TILE_ROWS * TILE_COLUMNS - 1), 0)
    cell, _ = _cell_of(local, cells, COLUMNS, TILE_ROWS, TILE_COLUMNS)
    first_channel = (tl.program_id(1) * LANES + item % LANES) * VECTOR
    in_group = (position < members) & (first_channel < CHANNELS)
    begin, count = _slots_of(offsets, cell, in_group, slots)
    channel = first_channel[:, None] + tl.arange(0, VECTOR)[None, :]
    share = tl.arange(0, SPLIT)
    total = tl.full((ITEMS // SPLIT, VECTOR), 0, ACCUMULATE)
    for turn in range(0, longest, CHUNK * SPLIT):
        chunk = tl.full((SPLIT, ITEMS // SPLIT, VECTOR), 0, ACCUMULATE)
        first = turn + share * CHUNK
        for step in range(0, tl.minimum(longest - turn, CHUNK), UNROLL):
            for ahead in tl.static_range(UNROLL):
                # Counted from the cell's first slot: a slot's own number could pass 2³¹ and wrap.
                nth = (first + step + ahead)[:, None]
                point = tl.load(own_index + begin[None, :] + nth, mask=nth < count[None, :], other=-1)
                # As an unsigned number a negative index is a large one.
                real = point.to(tl.uint32, bitcast=True) < POINTS
                pixel = point // (BINS * PIXELS) * PIXELS + point % PIXELS
                weight = tl.load(own_depth + point, mask=real, other=0).to(ACCUMULATE)
                features = tl.load(
                    own_context + (pixel * CHANNELS)[:, :, None] + channel[None, :, :], mask=real[:, :, None], other=0
                )
                chunk += weight[:, :, None] * features.to(ACCUMULATE)
        if SPLIT == 1:
            total += tl.reshape(chunk, (ITEMS, VECTOR))
        else:
            even, odd = tl.split(tl.reshape(tl.permute(chunk, 1, 2, 0), (ITEMS // SPLIT, VECTOR, 2, 2)))
            chunk_0, chunk_2 = tl.split(even)
            chunk_1, chunk_3 = tl.split(odd)
            total = total + chunk_0 + chunk_1 + chunk_2 + chunk_3
    row = pooled + (sample * cells + cell)[:, None] * CHANNELS
    tl.store(row + channel, total.to(pooled.dtype.element_ty), mask=in_group[:, None])


@triton.jit
def _cell_of(local, cells, COLUMNS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr):
    """Cells of the map that are ``local`` in the own tile, and which of them exist."""
    tile = tl.program_id(0) // 4
    row = tile // tl.cdiv(COLUMNS, TILE_COLUMNS) * TILE_ROWS + local // TILE_COLUMNS
    column = tile % tl.cdiv(COLUMNS, TILE_COLUMNS) * TILE_COLUMNS + local % TILE_COLUMNS
    cell = row * COLUMNS + column
    return cell, (column < COLUMNS) & (cell < cells)


@triton.jit
def _slots_of(offsets, cell, mask, slots):
    """First slot and number of slots of cells, within the index whatever the offsets are; none where not ``mask``."""
    begin = tl.minimum(tl.maximum(tl.load(offsets + cell, mask=mask, other=0), 0), slots)
    end = tl.minimum(tl.maximum(tl.load(offsets + cell + 1, mask=mask, other=0), begin), slots)
    return begin, end - begin


@triton.jit
def invert_plan_kernel(
    point_index, cell_offsets, cells, slots, cell_of_point, POINTS: tl.constexpr, BLOCK_POINTS: tl.constexpr
):
    """Write the cell of each pooled point: grid (cells, batch); the caller fills ``cell_of_point`` with −1."""
    cell = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    begin = tl.maximum(tl.load(cell_offsets + sample * (cells + 1) + cell), 0)
    end = tl.minimum(tl.load(cell_offsets + sample * (cells + 1) + cell + 1), slots)
    for first in range(begin, end, BLOCK_POINTS):
        slot = first + tl.arange(0, BLOCK_POINTS)
        point = tl.load(point_index + sample * slots + slot, mask=slot < end, other=-1)
        tl.store(cell_of_point + sample * POINTS + point, cell, mask=(point >= 0) & (point < POINTS))


@triton.jit
def bev_pool_backward_kernel(
    grad,
    depth,
    context,
    cell_of_point,
    cells,
    grad_depth,
    grad_context,
    POINTS: tl.constexpr,
    BINS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Both gradients of one pixel and its BINS points: grid (cameras · PIXELS, batch).

    One block of channels holds all of them: a point's gradient is a sum over the channels.
    """
    pixel = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK_CHANNELS)
    in_channels = channel < CHANNELS
    context_row = (sample * (POINTS // BINS) + pixel) * CHANNELS
    features = tl.load(context + context_row + channel, mask=in_channels, other=0).to(ACCUMULATE)
    first_point = pixel // PIXELS * (BINS * PIXELS) + pixel % PIXELS
    total = tl.full((BLOCK_BINS, BLOCK_CHANNELS), 0, ACCUMULATE)
    for first in range(0, BINS, BLOCK_BINS):
        depth_bin = first + tl.arange(0, BLOCK_BINS)
        in_bins = depth_bin < BINS
        point = sample * POINTS + first_point + depth_bin * PIXELS
        cell = tl.load(cell_of_point + point, mask=in_bins, other=-1)
        weight = tl.load(depth + point, mask=in_bins, other=0).to(ACCUMULATE)
        its_grad = tl.load(
            grad + (sample * cells + cell)[:, None] * CHANNELS + channel[None, :],
            mask=(cell >= 0)[:, None] & in_channels[None, :],
            other=0,
        ).to(ACCUMULATE)
        total += weight[:, None] * its_grad
        its_depth = tl.sum(its_grad * features[None, :], axis=1)
        tl.store(grad_depth + point, its_depth.to(grad_depth.dtype.element_ty), mask=in_bins)
    grad_row = tl.sum(total, axis=0).to(grad_context.dtype.element_ty)
    tl.store(grad_context + context_row + channel, grad_row, mask=in_channels)


def pool(depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> Tensor:
    """Launch ``bev_pool_kernel`` on contiguous tensors."""
    batch, cells = cell_offsets.shape[0], cell_offsets.shape[1] - 1
    channels = context_BNhwC.shape[-1]
    pooled = context_BNhwC.new_empty(batch, cells, channels)
    if pooled.numel() == 0:
        return pooled
    tiling = PoolTiling.of(cells, channels, context_BNhwC.element_size())
    bev_pool_kernel[(tiling.programs(cells), tiling.channel_blocks(channels), batch)](
        depth_BNDhw,
        context_BNhwC,
        point_index_BP,
        cell_offsets,
        cells,
        point_index_BP.shape[1],
        pooled,
        **_sizes(depth_BNDhw, context_BNhwC),
        **tiling.constants(),
        num_warps=tiling.num_warps,
        maxnreg=tiling.max_registers if context_BNhwC.element_size() <= 4 else None,
        enable_fp_fusion=False,
    )
    return pooled


def pool_backward(
    grad_BcellsC: Tensor, depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch ``invert_plan_kernel`` and ``bev_pool_backward_kernel`` on contiguous tensors."""
    batch, cells, channels = grad_BcellsC.shape
    grad_depth, grad_context = torch.empty_like(depth_BNDhw), torch.empty_like(context_BNhwC)
    if context_BNhwC.numel() == 0:
        return grad_depth.zero_(), grad_context
    sizes = _sizes(depth_BNDhw, context_BNhwC)
    cell_of_point = torch.full_like(depth_BNDhw, -1, dtype=torch.int32)
    if cells:
        invert_plan_kernel[(cells, batch)](
            point_index_BP,
            cell_offsets,
            cells,
            point_index_BP.shape[1],
            cell_of_point,
            POINTS=sizes["POINTS"],
            BLOCK_POINTS=64,
            num_warps=2,
            enable_fp_fusion=False,
        )
    block_channels = triton.next_power_of_2(channels)
    bev_pool_backward_kernel[(context_BNhwC[0, ..., 0].numel(), batch)](
        grad_BcellsC,
        depth_BNDhw,
        context_BNhwC,
        cell_of_point,
        cells,
        grad_depth,
        grad_context,
        **sizes,
        BLOCK_BINS=max(1, min(triton.next_power_of_2(sizes["BINS"]), TILE_ELEMENTS // block_channels)),
        BLOCK_CHANNELS=block_channels,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return grad_depth, grad_context


def _sizes(depth_BNDhw: Tensor, context_BNhwC: Tensor) -> dict[str, object]:
    _, cameras, bins, height, width = depth_BNDhw.shape
    double = torch.float64 in (depth_BNDhw.dtype, context_BNhwC.dtype)
    return {
        "POINTS": cameras * bins * height * width,
        "BINS": bins,
        "PIXELS": height * width,
        "CHANNELS": context_BNhwC.shape[-1],
        "ACCUMULATE": tl.float64 if double else tl.float32,
    }
