"""BEV pooling: depth × context of every frustum point, summed per BEV cell, without the lifted volume.

Legend: B batch, N cameras, D depth bins, h w camera feature rows and columns, C channels, P slots of the point
index, cells of the BEV grid in row-major order. A point's index is flat in (N, D, h, w); see ``udx.geometry.pooling``.
"""

import torch
from torch import Tensor

from udx.ops.dispatch import FLOATS, require, require_countable, runs_kernels
from udx.ops.reference import bev_pool as reference


@torch.library.custom_op("udx::bev_pool", mutates_args=())
def bev_pool(
    depth_BNDhw: Tensor,
    context_BNhwC: Tensor,
    point_index_BP: Tensor,
    cell_offsets: Tensor,
) -> Tensor:
    """Sum ``depth[p] · context[pixel of p]`` over the points p of each cell: (B, cells, C); empty cells are 0.

    The points of cell c are ``point_index[offsets[c]:offsets[c + 1]]``; what stands behind the last offset
    is padding. A point belongs to one cell at most. The sum is FP32 or better whatever the features are, in an
    order that the index fixes, so the result is deterministic; it has the context's dtype.

    On a GPU, where looking at the plan would stall the stream, an offset out of bounds is clamped and a slot with
    an impossible index adds nothing; a ``PoolingPlan`` has neither.

    Raises:
        ValueError: dtype, shape, device or layout of a tensor is wrong; on the CPU also where the plan is.
    """
    _check(depth_BNDhw, context_BNhwC, point_index_BP, cell_offsets)
    if runs_kernels(depth_BNDhw):
        from udx.ops.kernels import bev_pool as kernels

        with torch.cuda.device_of(depth_BNDhw):
            return kernels.pool(depth_BNDhw, context_BNhwC, point_index_BP, cell_offsets)
    return reference.pool(depth_BNDhw, context_BNhwC, point_index_BP, cell_offsets)


@bev_pool.register_fake
def _(depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> Tensor:
    batch, cells = cell_offsets.shape[0], cell_offsets.shape[1] - 1
    return context_BNhwC.new_empty(batch, cells, context_BNhwC.shape[-1])


@torch.library.custom_op("udx::bev_pool_backward", mutates_args=())
def bev_pool_backward(
    grad_BcellsC: Tensor, depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``bev_pool`` to depth and context, each gathered: nothing is added out of order."""
    if runs_kernels(depth_BNDhw):
        from udx.ops.kernels import bev_pool as kernels

        with torch.cuda.device_of(depth_BNDhw):
            return kernels.pool_backward(grad_BcellsC, depth_BNDhw, context_BNhwC, point_index_BP, cell_offsets)
    return reference.pool_backward(grad_BcellsC, depth_BNDhw, context_BNhwC, point_index_BP, cell_offsets)


@bev_pool_backward.register_fake
def _(
    grad_BcellsC: Tensor, depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(depth_BNDhw), torch.empty_like(context_BNhwC)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_depth, grad_context = bev_pool_backward(grad.contiguous(), *ctx.saved_tensors)  # type: ignore[attr-defined]
    return grad_depth, grad_context, None, None


bev_pool.register_autograd(_backward, setup_context=_setup_context)


def _check(depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> None:
    device = depth_BNDhw.device
    require("depth", depth_BNDhw, FLOATS, (None,) * 5, device)
    batch, cameras, _, height, width = depth_BNDhw.shape
    require("context", context_BNhwC, FLOATS, (batch, cameras, height, width, None), device)
    require("point_index", point_index_BP, (torch.int32,), (batch, None), device)
    require("cell_offsets", cell_offsets, (torch.int32,), (batch, None), device)
    if cell_offsets.shape[1] < 1:
        raise ValueError("cell_offsets must hold one entry more than there are cells, not none")
    require_countable("depth", depth_BNDhw.numel())
    require_countable("context", context_BNhwC.numel())
    require_countable("the map", batch * (cell_offsets.shape[1] - 1) * context_BNhwC.shape[-1])
    require_countable("point_index", point_index_BP.numel())
    if device.type == "cpu":
        _check_plan(point_index_BP, cell_offsets, points=depth_BNDhw[0].numel())


def _check_plan(point_index_BP: Tensor, cell_offsets: Tensor, points: int) -> None:
    if (cell_offsets[:, 0] != 0).any() or (cell_offsets.diff(dim=1) < 0).any():
        raise ValueError("cell_offsets must begin at 0 and not decrease")
    if (cell_offsets[:, -1] > point_index_BP.shape[1]).any():
        raise ValueError(f"cell_offsets reach beyond the {point_index_BP.shape[1]} slots of point_index")
    if ((point_index_BP < 0) | (point_index_BP >= points)).any():
        raise ValueError(f"point_index must hold points 0 to {points - 1}, but holds others")
