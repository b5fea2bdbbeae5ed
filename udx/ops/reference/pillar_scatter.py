"""Point features to the map: maximum per cell, and its gradient. Legend as in ``udx.ops.pillar_scatter``."""

import torch
from torch import Tensor


def scatter(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    """Maximum over each cell's points and zero."""
    pillars = features_MC.new_zeros(num_cells + 1, features_MC.shape[1])
    index_MC = cell_M.long()[:, None].expand_as(features_MC)
    pillars.scatter_reduce_(0, index_MC, features_MC, reduce="amax", include_self=True)
    return pillars[:num_cells].clone()


def scatter_backward(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    """Gradient to the points that hold the maximum, in equal shares where several do."""
    last = torch.zeros_like(pillars[:1])
    cell = cell_M.long()
    maximum_MC = torch.cat([pillars, last]).index_select(0, cell)
    holds_MC = (features_MC == maximum_MC) & (features_MC > 0)
    accumulate = torch.promote_types(grad.dtype, torch.float32)
    holders = torch.zeros(len(pillars) + 1, pillars.shape[1], dtype=accumulate, device=grad.device)
    holders.index_add_(0, cell, holds_MC.to(accumulate))
    share = torch.cat([grad, last]).to(accumulate) / holders.clamp(min=1)
    return (share.index_select(0, cell) * holds_MC).to(features_MC.dtype)
