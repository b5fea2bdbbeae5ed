"""BEV pooling on the GPU: a dense gather per cell, and gradients gathered per pixel; no atomics anywhere.

Legend and arguments as in ``udx.ops.bev_pool``. POINTS = cameras · BINS · PIXELS is the frustum of one sample and
PIXELS = h · w; ``begin`` and ``end`` bound the slots of a cell in the point index.

An offset that is out of bounds is clamped and a slot with an impossible index adds nothing, so that no plan,
however wrong, reaches memory that is not its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ELEMENTS = 4096
"""Points × channels that one program holds in registers at a time."""


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
    BLOCK_POINTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Pool one cell: grid (cells, cdiv(CHANNELS, BLOCK_CHANNELS), batch)."""
    cell = tl.program_id(0)
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_channels = channel < CHANNELS
    # Clamped at both ends: a slot beyond 2³¹ would wrap to a negative one, which is below every end.
    begin = tl.minimum(tl.maximum(tl.load(cell_offsets + sample * (cells + 1) + cell), 0), slots)
    end = tl.minimum(tl.load(cell_offsets + sample * (cells + 1) + cell + 1), slots)
    own_index = point_index + sample * slots
    own_depth = depth + sample * POINTS
    own_context = context + sample * (POINTS // BINS * CHANNELS)
    # Summed over the points only at the end: the order of the sum is the same in every run.
    total = tl.full((BLOCK_POINTS, BLOCK_CHANNELS), 0, ACCUMULATE)
    slot = begin + tl.arange(0, BLOCK_POINTS)
    point = tl.load(own_index + slot, mask=slot < end, other=-1)
    for _ in range(begin, end, BLOCK_POINTS):
        # The next indices are under way while the features of these arrive: crowded cells are the last to end.
        slot += BLOCK_POINTS
        next_point = tl.load(own_index + slot, mask=slot < end, other=-1)
        real = (point >= 0) & (point < POINTS)
        pixel = point // (BINS * PIXELS) * PIXELS + point % PIXELS
        weight = tl.load(own_depth + point, mask=real, other=0).to(ACCUMULATE)
        features = tl.load(
            own_context + pixel[:, None] * CHANNELS + channel[None, :],
            mask=real[:, None] & in_channels[None, :],
            other=0,
        )
        total += weight[:, None] * features.to(ACCUMULATE)
        point = next_point
    row = pooled + (sample * cells + cell) * CHANNELS
    tl.store(row + channel, tl.sum(total, axis=0).to(pooled.dtype.element_ty), mask=in_channels)


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
    block_channels = min(triton.next_power_of_2(channels), 128)
    grid = cells, triton.cdiv(channels, block_channels), batch
    bev_pool_kernel[grid](
        depth_BNDhw,
        context_BNhwC,
        point_index_BP,
        cell_offsets,
        cells,
        point_index_BP.shape[1],
        pooled,
        **_sizes(depth_BNDhw, context_BNhwC),
        BLOCK_POINTS=32,
        BLOCK_CHANNELS=block_channels,
        num_warps=4,
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
