"""Point features to the map on the GPU: maximum per cell and channel, and its gradient in equal shares.

``pillar_clear_kernel`` writes the zeros that ``pillar_max_kernel`` raises; the maximum is an integer atomic on the
bit pattern, which orders floats that are not negative, and so does not depend on the order of the points. The map
is FP32 for features of 16 bits, because atomics need 32: whoever wants 16 rounds nothing by casting it.
Legend as in ``udx.ops.pillar_scatter``; ``points`` is M.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from udx.operators import PillarSteps

CLEAR_BLOCK = 1024
POINT_BLOCK = 32
"""Points of a program of the backward pass."""


@triton.jit
def pillar_clear_kernel(features, size, cleared, BLOCK: tl.constexpr):
    """Write ``size`` = num_cells · CHANNELS zeros: grid (cdiv(size, BLOCK),); ``features`` is not read."""
    begin = tl.program_id(0) * BLOCK
    entry = begin + tl.arange(0, BLOCK)
    zeros = tl.full((BLOCK,), 0, cleared.dtype.element_ty)
    # A mask that may end anywhere would cut every store into single values; a whole block is stored 16 bytes at a time.
    if size - begin >= BLOCK:
        tl.store(cleared + entry, zeros)
    else:
        tl.store(cleared + entry, zeros, mask=entry < size)


@triton.jit
def pillar_max_kernel(
    features,
    cell,
    cleared,
    points,
    cells,
    pillars,
    CHANNELS: tl.constexpr,
    STEP_POINTS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Raise the map to each point: grid (cdiv(points, STEP_POINTS · STEPS), cdiv(CHANNELS, BLOCK_CHANNELS)).

    ``pillars`` is the memory of ``cleared``. A step is as many values as there are threads, so that neighbouring
    lanes raise neighbouring channels: a sector of L2 takes all of its atomics at once.
    """
    integer = tl.int64 if pillars.dtype.element_ty == tl.float64 else tl.int32
    for step in tl.static_range(STEPS):
        block = tl.program_id(0) * STEPS + step
        point, channel, own_cell, inside = _tile(block, cell, points, cells, CHANNELS, STEP_POINTS, BLOCK_CHANNELS)
        value = tl.load(features + point[:, None] * CHANNELS + channel[None, :], mask=inside, other=0.0)
        # What is not above zero is no candidate; NaN is one, and greater than all: it must not vanish silently.
        value = value.to(pillars.dtype.element_ty)
        candidate = tl.abs(tl.where(value <= 0, 0.0, value))
        bits = candidate.to(integer, bitcast=True)
        entry = own_cell[:, None] * CHANNELS + channel[None, :]
        place = (pillars + entry).to(tl.pointer_type(integer), bitcast=True)
        tl.atomic_max(place, bits, mask=inside & (bits > 0), sem="relaxed")


@triton.jit
def pillar_holders_kernel(
    features,
    cell,
    pillars,
    points,
    cells,
    holders,
    CHANNELS: tl.constexpr,
    STEP_POINTS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Count the points that hold each maximum: grid as ``pillar_max_kernel``; the caller clears ``holders``."""
    for step in tl.static_range(STEPS):
        block = tl.program_id(0) * STEPS + step
        point, channel, own_cell, inside = _tile(block, cell, points, cells, CHANNELS, STEP_POINTS, BLOCK_CHANNELS)
        value = tl.load(features + point[:, None] * CHANNELS + channel[None, :], mask=inside, other=0.0)
        entry = own_cell[:, None] * CHANNELS + channel[None, :]
        holds = inside & (value > 0) & (value == tl.load(pillars + entry, mask=inside, other=0.0))
        ones = tl.full((STEP_POINTS, BLOCK_CHANNELS), 1, tl.int32)
        tl.atomic_add(holders + entry, ones, mask=holds, sem="relaxed")


@triton.jit
def pillar_backward_kernel(
    grad,
    features,
    cell,
    pillars,
    holders,
    points,
    cells,
    grad_features,
    CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Give each holder of a maximum its share: grid (cdiv(points, BLOCK_POINTS), cdiv(CHANNELS, BLOCK_CHANNELS))."""
    block = tl.program_id(0)
    point, channel, own_cell, inside = _tile(block, cell, points, cells, CHANNELS, BLOCK_POINTS, BLOCK_CHANNELS)
    own = point[:, None] * CHANNELS + channel[None, :]
    value = tl.load(features + own, mask=inside, other=0.0)
    entry = own_cell[:, None] * CHANNELS + channel[None, :]
    holds = inside & (value > 0) & (value == tl.load(pillars + entry, mask=inside, other=0.0))
    count = tl.load(holders + entry, mask=holds, other=1).to(ACCUMULATE)
    share = tl.load(grad + entry, mask=holds, other=0.0).to(ACCUMULATE) / count
    in_tile = (point < points)[:, None] & (channel < CHANNELS)[None, :]
    tl.store(grad_features + own, tl.where(holds, share, 0.0).to(grad_features.dtype.element_ty), mask=in_tile)


@triton.jit
def _tile(block, cell, points, cells, CHANNELS: tl.constexpr, BLOCK_POINTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Rows of a block of points and the own channels, the cell of each row, and what of the tile is in a cell."""
    point = block.to(tl.int64) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    own_cell = tl.load(cell + point, mask=point < points, other=-1).to(tl.int64)
    inside = ((own_cell >= 0) & (own_cell < cells))[:, None] & (channel < CHANNELS)[None, :]
    return point, channel, own_cell, inside


def scatter(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    """Launch ``pillar_clear_kernel`` and ``pillar_max_kernel`` on contiguous tensors."""
    points, channels = features_MC.shape
    wide = torch.promote_types(features_MC.dtype, torch.float32)
    pillars = torch.empty(num_cells, channels, dtype=wide, device=features_MC.device)
    if pillars.numel():
        pillar_clear_kernel[(triton.cdiv(pillars.numel(), CLEAR_BLOCK),)](
            features_MC, pillars.numel(), pillars, BLOCK=CLEAR_BLOCK, num_warps=4, enable_fp_fusion=False
        )
        if points:
            grid, steps = _steps(points, channels)
            pillar_max_kernel[grid](features_MC, cell_M, pillars, points, num_cells, pillars, **steps)
    return pillars.to(features_MC.dtype)


def scatter_backward(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    """Launch ``pillar_holders_kernel`` and ``pillar_backward_kernel`` on contiguous tensors."""
    points, channels = features_MC.shape
    grad_features = torch.empty_like(features_MC)
    if grad_features.numel():
        grid, steps = _steps(points, channels)
        holders = torch.zeros_like(pillars, dtype=torch.int32)
        cells = len(pillars)
        pillar_holders_kernel[grid](features_MC, cell_M, pillars, points, cells, holders, **steps)
        grid, blocks = _blocks(points, channels)
        accumulate = tl.float64 if features_MC.dtype == torch.float64 else tl.float32
        pillar_backward_kernel[grid](
            grad, features_MC, cell_M, pillars, holders, points, cells, grad_features, ACCUMULATE=accumulate, **blocks
        )
    return grad_features


def _steps(points: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants of the kernels with atomics."""
    steps = PillarSteps.of(channels)
    grid = triton.cdiv(points, steps.points), triton.cdiv(channels, steps.block_channels)
    return grid, steps.constants() | {"CHANNELS": channels, "num_warps": steps.num_warps, "enable_fp_fusion": False}


def _blocks(points: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants of the kernel without."""
    block_channels = min(triton.next_power_of_2(channels), 128)
    grid = triton.cdiv(points, POINT_BLOCK), triton.cdiv(channels, block_channels)
    blocks = {
        "CHANNELS": channels,
        "BLOCK_POINTS": POINT_BLOCK,
        "BLOCK_CHANNELS": block_channels,
        "num_warps": 4,
        "enable_fp_fusion": False,
    }
    return grid, blocks
