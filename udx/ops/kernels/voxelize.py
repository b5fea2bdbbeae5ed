"""Points to cells and integer sums per cell on the GPU: a chain of two kernels.

``voxel_cells_kernel`` finds the cells and writes the zeros that ``voxel_sums_kernel`` adds to. Integer atomics give
the same sums for any order of the points. Legend and arguments as in ``udx.ops.voxelize``; CAPACITY is the length
of one sample's point buffer, ``slots`` that of all samples together, ``cells`` the cells of all samples.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from udx.ops.pillar_grid import STEPS_PER_METRE, PillarGrid

BLOCK = 256
LARGEST = tl.constexpr(3.4028234663852886e38)
"""The largest finite FP32: neither NaN nor an infinity is at most this."""


@triton.jit
def from_centre(coordinate, low, size):
    """Offset from the centre of the own cell, in cells: −0.5 at the lower edge."""
    position = tl.div_rn(coordinate - low, size)
    return position - tl.floor(position) - 0.5


@triton.jit
def steps_below(position):
    """Round down to whole steps; ``tl.floor`` would flush what is barely below zero to zero."""
    steps = position.to(tl.int32)
    return steps - (steps.to(tl.float32) > position).to(tl.int32)


@triton.jit
def voxel_cells_kernel(
    points,
    num_points,
    slots,
    cells,
    cell,
    cleared,
    CAPACITY: tl.constexpr,
    FEATURES: tl.constexpr,
    X_MIN: tl.constexpr,
    Y_MIN: tl.constexpr,
    CELL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    Z_MIN: tl.constexpr,
    Z_MAX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the cell of each point, and clear (cells + 1, 4) sums: grid (cdiv(max(slots, cells + 1), BLOCK),)."""
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_buffer = item < slots
    sample = item // CAPACITY
    given = in_buffer & (item % CAPACITY < tl.load(num_points + sample, mask=in_buffer, other=0))
    point = points + item.to(tl.int64) * FEATURES
    across = tl.div_rn(tl.load(point, mask=given, other=0.0) - X_MIN, CELL)
    along = tl.div_rn(tl.load(point + 1, mask=given, other=0.0) - Y_MIN, CELL)
    height = tl.load(point + 2, mask=given, other=0.0)
    # Coordinates that are not finite fail the ranges by themselves.
    inside = given
    for feature in tl.static_range(3, FEATURES):
        inside &= tl.abs(tl.load(point + feature, mask=given, other=0.0)) <= LARGEST
    inside &= (across >= 0) & (across < COLUMNS) & (along >= 0) & (along < ROWS) & (height >= Z_MIN) & (height < Z_MAX)
    column = tl.where(inside, across, 0.0).to(tl.int32)
    row = tl.where(inside, along, 0.0).to(tl.int32)
    own_cell = sample * (ROWS * COLUMNS) + row * COLUMNS + column
    tl.store(cell + item, tl.where(inside, own_cell, cells), mask=in_buffer)
    entry = item.to(tl.int64)[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(cleared + entry, tl.full((BLOCK, 4), 0, tl.int32), mask=(item <= cells)[:, None])


@triton.jit
def voxel_sums_kernel(
    points,
    num_points,
    cell,
    cleared,
    slots,
    cells,
    batch,
    sums,
    CAPACITY: tl.constexpr,
    FEATURES: tl.constexpr,
    X_MIN: tl.constexpr,
    Y_MIN: tl.constexpr,
    CELL: tl.constexpr,
    STEPS_PER_CELL: tl.constexpr,
    Z_MIDDLE: tl.constexpr,
    STEPS_PER_METRE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the points of each cell, and tally those in none: grid (cdiv(max(slots, batch), BLOCK),).

    ``sums`` is the memory of ``cleared``.
    """
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_buffer = item < slots
    given = in_buffer & (item % CAPACITY < tl.load(num_points + item // CAPACITY, mask=in_buffer, other=0))
    own_cell = tl.load(cell + item, mask=given, other=-1)
    inside = (own_cell >= 0) & (own_cell < cells)
    point = points + item.to(tl.int64) * FEATURES
    x = from_centre(tl.load(point, mask=inside, other=0.0), X_MIN, CELL)
    y = from_centre(tl.load(point + 1, mask=inside, other=0.0), Y_MIN, CELL)
    z = tl.load(point + 2, mask=inside, other=0.0) - Z_MIDDLE
    row = sums + own_cell.to(tl.int64) * 4
    tl.atomic_add(row, steps_below(x * STEPS_PER_CELL), mask=inside, sem="relaxed")
    tl.atomic_add(row + 1, steps_below(y * STEPS_PER_CELL), mask=inside, sem="relaxed")
    tl.atomic_add(row + 2, steps_below(z * STEPS_PER_METRE), mask=inside, sem="relaxed")
    tl.atomic_add(row + 3, tl.full((BLOCK,), 1, tl.int32), mask=inside, sem="relaxed")
    # The last row: how many points are in no cell, and why. One addition a program, not one a point.
    dropped = given & (own_cell == cells)
    finite = dropped
    for feature in tl.static_range(FEATURES):
        finite &= tl.abs(tl.load(point + feature, mask=dropped, other=0.0)) <= LARGEST
    outside = tl.sum(finite.to(tl.int32), axis=0)
    not_finite = tl.sum(dropped.to(tl.int32), axis=0) - outside
    claimed = tl.load(num_points + item, mask=item < batch, other=0)
    beyond = tl.sum(tl.maximum(claimed - CAPACITY, 0), axis=0)
    tally = sums + cells * 4
    tl.atomic_add(tally, not_finite, mask=not_finite > 0, sem="relaxed")
    tl.atomic_add(tally + 1, outside, mask=outside > 0, sem="relaxed")
    tl.atomic_add(tally + 2, beyond, mask=beyond > 0, sem="relaxed")
    tl.atomic_add(tally + 3, not_finite + outside + beyond, sem="relaxed")


def voxelize(points_BMF: Tensor, num_points_B1: Tensor, grid: PillarGrid) -> tuple[Tensor, Tensor]:
    """Launch both kernels on contiguous tensors with room for a point at least."""
    batch, capacity, features = points_BMF.shape
    slots, cells = batch * capacity, batch * grid.num_cells
    cell_M = torch.empty(slots, dtype=torch.int32, device=points_BMF.device)
    sums = torch.empty(cells + 1, 4, dtype=torch.int32, device=points_BMF.device)
    sizes = {"CAPACITY": capacity, "FEATURES": features, "BLOCK": BLOCK}
    place = {"X_MIN": grid.x_min, "Y_MIN": grid.y_min, "CELL": grid.cell}
    voxel_cells_kernel[(triton.cdiv(max(slots, cells + 1), BLOCK),)](
        points_BMF,
        num_points_B1,
        slots,
        cells,
        cell_M,
        sums,
        **sizes,
        **place,
        ROWS=grid.rows,
        COLUMNS=grid.columns,
        Z_MIN=grid.z_min,
        Z_MAX=grid.z_max,
        num_warps=4,
        enable_fp_fusion=False,
    )
    voxel_sums_kernel[(triton.cdiv(max(slots, batch), BLOCK),)](
        points_BMF,
        num_points_B1,
        cell_M,
        sums,
        slots,
        cells,
        batch,
        sums,
        **sizes,
        **place,
        STEPS_PER_CELL=grid.steps_per_cell,
        Z_MIDDLE=grid.z_middle,
        STEPS_PER_METRE=STEPS_PER_METRE,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return cell_M, sums
