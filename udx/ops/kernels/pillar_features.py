"""What a pillar network reads of each point, in one kernel. Legend and arguments as in ``udx.ops.pillar_features``."""

import triton
import triton.language as tl
from torch import Tensor

from udx.ops.kernels.voxelize import from_centre
from udx.ops.pillar_grid import STEPS_PER_METRE, PillarGrid

BLOCK = 128


@triton.jit
def pillar_features_kernel(
    points,
    cell,
    sums,
    slots,
    cells,
    features,
    FEATURES: tl.constexpr,
    X_MIN: tl.constexpr,
    Y_MIN: tl.constexpr,
    CELL: tl.constexpr,
    STEPS_PER_CELL: tl.constexpr,
    Z_MIDDLE: tl.constexpr,
    STEPS_PER_METRE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
):
    """Describe BLOCK points: grid (cdiv(slots, BLOCK),); BLOCK_FEATURES is at least FEATURES + 5."""
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_buffer = item < slots
    own_cell = tl.load(cell + item, mask=in_buffer, other=-1)
    inside = (own_cell >= 0) & (own_cell < cells)
    point = points + item.to(tl.int64) * FEATURES
    x = from_centre(tl.load(point, mask=inside, other=0.0), X_MIN, CELL)
    y = from_centre(tl.load(point + 1, mask=inside, other=0.0), Y_MIN, CELL)
    z = tl.load(point + 2, mask=inside, other=0.0) - Z_MIDDLE
    row = sums + own_cell.to(tl.int64) * 4
    count = tl.load(row + 3, mask=inside, other=1).to(tl.float32)
    # Each point was rounded down to a step, so the mean lies half a step higher.
    mean_x = tl.div_rn(tl.load(row, mask=inside, other=0).to(tl.float32), count) + 0.5
    mean_y = tl.div_rn(tl.load(row + 1, mask=inside, other=0).to(tl.float32), count) + 0.5
    mean_z = tl.div_rn(tl.load(row + 2, mask=inside, other=0).to(tl.float32), count) + 0.5
    # One row a point, as wide as the next power of two: written together, a row fills whole sectors.
    column = tl.arange(0, BLOCK_FEATURES)[None, :]
    described = tl.load(point[:, None] + column, mask=inside[:, None] & (column < FEATURES), other=0.0)
    described = tl.where(column == FEATURES, ((x - tl.div_rn(mean_x, STEPS_PER_CELL)) * CELL)[:, None], described)
    described = tl.where(column == FEATURES + 1, ((y - tl.div_rn(mean_y, STEPS_PER_CELL)) * CELL)[:, None], described)
    described = tl.where(column == FEATURES + 2, (z - tl.div_rn(mean_z, STEPS_PER_METRE))[:, None], described)
    described = tl.where(column == FEATURES + 3, (x * CELL)[:, None], described)
    described = tl.where(column == FEATURES + 4, (y * CELL)[:, None], described)
    tl.store(
        features + item.to(tl.int64)[:, None] * (FEATURES + 5) + column,
        tl.where(inside[:, None], described, 0.0),
        mask=in_buffer[:, None] & (column < FEATURES + 5),
    )


def pillar_features(points_BMF: Tensor, cell_M: Tensor, sums: Tensor, grid: PillarGrid) -> Tensor:
    """Launch the kernel on contiguous tensors."""
    slots, width = len(cell_M), points_BMF.shape[-1]
    features = points_BMF.new_empty(slots, width + 5)
    if slots:
        pillar_features_kernel[(triton.cdiv(slots, BLOCK),)](
            points_BMF,
            cell_M,
            sums,
            slots,
            len(sums) - 1,
            features,
            FEATURES=width,
            X_MIN=grid.x_min,
            Y_MIN=grid.y_min,
            CELL=grid.cell,
            STEPS_PER_CELL=grid.steps_per_cell,
            Z_MIDDLE=grid.z_middle,
            STEPS_PER_METRE=STEPS_PER_METRE,
            BLOCK=BLOCK,
            BLOCK_FEATURES=triton.next_power_of_2(width + 5),
            num_warps=4,
            enable_fp_fusion=False,
        )
    return features
