"""BEV pooling: depth × context of every frustum point, summed per BEV cell, without the lifted volume.

Legend: B batch, N cameras, D depth bins, h w camera feature rows and columns, C channels, P frustum points,
cells of the BEV grid in row-major order. Point index p is flat in (N, D, h, w); see ``udx.geometry.pooling``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op("udx::bev_pool", mutates_args=())
def bev_pool(
    depth_BNDhw: Tensor,
    context_BNhwC: Tensor,
    point_index_BP: Tensor,
    cell_offsets: Tensor,
) -> Tensor:
    """Sum ``depth[p] · context[pixel of p]`` over the points p of each cell; empty cells are 0.

    The points of cell c are ``point_index[offsets[c]:offsets[c + 1]]``; what stands behind the last offset
    is padding. Accumulation is FP32, in the order of the index, so the result is deterministic.

    Raises:
        ValueError: shapes disagree, or an offset or index is out of bounds.
    """
    _check(depth_BNDhw, context_BNhwC, point_index_BP, cell_offsets)
    bags = _Bags(depth_BNDhw, point_index_BP, cell_offsets)
    return _pool(bags, depth_BNDhw, context_BNhwC)


@bev_pool.register_fake
def _(depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> Tensor:
    batch, cells = cell_offsets.shape[0], cell_offsets.shape[1] - 1
    return context_BNhwC.new_empty(batch, cells, context_BNhwC.shape[-1])


@torch.library.custom_op("udx::bev_pool_backward", mutates_args=())
def bev_pool_backward(
    grad_BcellsC: Tensor, depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``bev_pool`` to depth and context, each gathered: nothing is added out of order."""
    cell_BP = _cell_of_point(depth_BNDhw, point_index_BP, cell_offsets)
    batch, cells, channels = grad_BcellsC.shape
    # One more row per sample, of zeros, is where the points that land nowhere look up their gradient.
    accumulate = torch.promote_types(grad_BcellsC.dtype, torch.float32)
    rows = F.pad(grad_BcellsC.to(accumulate), (0, 0, 0, 1)).reshape(-1, channels)
    first_row = torch.arange(batch, device=rows.device)[:, None] * (cells + 1)
    row_BNhwD = (cell_BP + first_row).view(depth_BNDhw.shape).permute(0, 1, 3, 4, 2)
    depth_BNhwD = depth_BNDhw.permute(0, 1, 3, 4, 2)
    bins = depth_BNDhw.shape[2]
    grad_context = F.embedding_bag(
        row_BNhwD.reshape(-1, bins),
        rows,
        mode="sum",
        per_sample_weights=depth_BNhwD.reshape(-1, bins).to(accumulate),
    ).view(context_BNhwC.shape)
    # Bin by bin, so that the lifted volume (points × channels) never exists.
    context = context_BNhwC.to(accumulate)
    grad_depth = torch.stack([(rows[row_BNhwD[..., depth_bin]] * context).sum(-1) for depth_bin in range(bins)], dim=2)
    return grad_depth.to(depth_BNDhw.dtype), grad_context.to(context_BNhwC.dtype)


def _cell_of_point(depth_BNDhw: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> Tensor:
    """Invert the plan: the cell of each point (B, N·D·h·w), or the number of cells where it lands nowhere."""
    batch, slots = point_index_BP.shape
    cells = cell_offsets.shape[1] - 1
    slot = torch.arange(slots, dtype=cell_offsets.dtype, device=cell_offsets.device).expand(batch, slots)
    cell_of_slot = torch.searchsorted(cell_offsets[:, 1:].contiguous(), slot.contiguous(), right=True)
    cell = point_index_BP.new_full((batch, depth_BNDhw[0].numel()), cells, dtype=torch.long)
    return cell.scatter_(1, point_index_BP.long(), cell_of_slot)


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


class _Bags:
    """The batch as one ragged list: for every slot its depth entry and its pixel row, and where each cell begins.

    Every sample gets one more cell that takes its padding; it is cut off after pooling.
    """

    def __init__(self, depth_BNDhw: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> None:
        batch, cameras, bins, height, width = depth_BNDhw.shape
        slots = point_index_BP.shape[1]
        sample = torch.arange(batch, device=point_index_BP.device)[:, None]
        point = point_index_BP.long()
        pixels = height * width
        pixel = point // (bins * pixels) * pixels + point % pixels
        self.depth_entry = (point + sample * (cameras * bins * pixels)).flatten()
        self.pixel_row = (pixel + sample * (cameras * pixels)).flatten()
        self.begins = (cell_offsets.long() + sample * slots).flatten()
        self.shape = (batch, cell_offsets.shape[1])


def _pool(bags: _Bags, depth_BNDhw: Tensor, context_BNhwC: Tensor) -> Tensor:
    """Pool as an embedding bag: cells are bags, pixels are rows, depths are the weights of the sum."""
    accumulate = torch.promote_types(context_BNhwC.dtype, torch.float32)
    weights = depth_BNDhw.flatten()[bags.depth_entry].to(accumulate)
    rows = context_BNhwC.reshape(-1, context_BNhwC.shape[-1]).to(accumulate)
    pooled = F.embedding_bag(bags.pixel_row, rows, bags.begins, mode="sum", per_sample_weights=weights)
    return pooled.view(*bags.shape, -1)[:, :-1].contiguous().to(context_BNhwC.dtype)


def _check(depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> None:
    batch, cameras, bins, height, width = depth_BNDhw.shape
    if context_BNhwC.shape[:4] != (batch, cameras, height, width):
        raise ValueError(f"depth {tuple(depth_BNDhw.shape)} and context {tuple(context_BNhwC.shape)} disagree")
    if point_index_BP.shape[0] != batch or cell_offsets.shape[0] != batch:
        raise ValueError(
            f"a pooling plan for each of {batch} samples is needed, not {tuple(point_index_BP.shape)} points "
            f"and {tuple(cell_offsets.shape)} offsets"
        )
    if (cell_offsets[:, 0] != 0).any() or (cell_offsets.diff(dim=1) < 0).any():
        raise ValueError("cell offsets must begin at 0 and not decrease")
    if (cell_offsets[:, -1] > point_index_BP.shape[1]).any():
        raise ValueError(f"cell offsets reach beyond the {point_index_BP.shape[1]} points of the plan")
    points = cameras * bins * height * width
    if ((point_index_BP < 0) | (point_index_BP >= points)).any():
        raise ValueError(f"a point index is outside 0 to {points - 1}")
