"""BEV pooling as embedding bags: cells are bags, pixels are rows, depths are the weights of the sum.

Legend and arguments as in ``udx.ops.bev_pool``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def pool(depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> Tensor:
    """Sum the points of each cell in the order of the index, in FP32 or better."""
    batch, cameras, bins, height, width = depth_BNDhw.shape
    channels = context_BNhwC.shape[-1]
    pixels = height * width
    # What no sample of the batch uses of its padding is not even looked at.
    used = int(cell_offsets[:, -1].max()) if cell_offsets.numel() else 0
    point_BP = point_index_BP[:, :used]
    sample = torch.arange(batch, dtype=torch.int32, device=point_BP.device)[:, None]
    pixel_BP = torch.div(point_BP, bins * pixels, rounding_mode="trunc") * pixels + point_BP % pixels
    depth_entry = (point_BP + sample * (cameras * bins * pixels)).flatten()
    pixel_row = (pixel_BP + sample * (cameras * pixels)).flatten()
    # Every sample has one more bag, which takes its padding and is cut off.
    bags = (cell_offsets + sample * used).flatten()
    accumulate = _accumulator(depth_BNDhw, context_BNhwC)
    pooled = F.embedding_bag(
        pixel_row,
        context_BNhwC.reshape(-1, channels).to(accumulate),
        bags,
        mode="sum",
        per_sample_weights=depth_BNDhw.flatten().index_select(0, depth_entry).to(accumulate),
    )
    return pooled.view(*cell_offsets.shape, channels)[:, :-1].contiguous().to(context_BNhwC.dtype)


def pool_backward(
    grad_BcellsC: Tensor, depth_BNDhw: Tensor, context_BNhwC: Tensor, point_index_BP: Tensor, cell_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to depth and context, each gathered: nothing is added out of order."""
    cell_BP = _cell_of_point(depth_BNDhw, point_index_BP, cell_offsets)
    batch, cells, channels = grad_BcellsC.shape
    # One more row per sample, of zeros, is where the points that land nowhere look up their gradient.
    accumulate = _accumulator(depth_BNDhw, context_BNhwC)
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


def _accumulator(depth_BNDhw: Tensor, context_BNhwC: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(depth_BNDhw.dtype, context_BNhwC.dtype), torch.float32)


def _cell_of_point(depth_BNDhw: Tensor, point_index_BP: Tensor, cell_offsets: Tensor) -> Tensor:
    """Invert the plan: the cell of each point (B, N·D·h·w), or the number of cells where it lands nowhere."""
    batch, slots = point_index_BP.shape
    cells = cell_offsets.shape[1] - 1
    slot = torch.arange(slots, dtype=cell_offsets.dtype, device=cell_offsets.device).expand(batch, slots)
    cell_of_slot = torch.searchsorted(cell_offsets[:, 1:].contiguous(), slot.contiguous(), right=True)
    cell = point_index_BP.new_full((batch, depth_BNDhw[0].numel()), cells, dtype=torch.long)
    return cell.scatter_(1, point_index_BP.long(), cell_of_slot)
