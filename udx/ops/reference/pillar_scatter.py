"""Point features to the map: maximum per cell, and its gradient. Legend as in ``udx.ops.pillar_scatter``."""

import torch
from torch import Tensor
from torch.nn import functional as F


def scatter(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    """Maximum over each cell's points and zero."""
    pillars = features_MC.new_zeros(num_cells + 1, features_MC.shape[1])
    index_MC = cell_M.long()[:, None].expand_as(features_MC)
    pillars.scatter_reduce_(0, index_MC, features_MC, reduce="amax", include_self=True)
    return pillars[:num_cells].clone()


def scatter_backward(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    """Gradient to the points that hold the maximum, in equal shares where several do."""
    channels = pillars.shape[1]
    cell = cell_M.long()
    # NaN equals nothing: neither empty pillars nor points in no cell have a holder.
    maximum = F.pad(pillars.masked_fill(~(pillars > 0), torch.nan), (0, 0, 0, 1), value=torch.nan)
    point, channel = (features_MC == maximum.index_select(0, cell)).nonzero(as_tuple=True)
    # Of many points few are holders; from here on only they count.
    entry = cell[point] * channels + channel
    holders = torch.bincount(entry, minlength=pillars.numel())
    share = grad.flatten()[entry].to(torch.promote_types(grad.dtype, torch.float32)) / holders[entry]
    return torch.zeros_like(features_MC).index_put_((point, channel), share.to(features_MC.dtype))
