"""Point features to the BEV map: the maximum of each cell.

Legend: M points, C channels, cells of the BEV grid in row-major order; see ``udx.ops.voxelize`` for batches.
"""

import torch
from torch import Tensor

from udx.ops.dispatch import FLOATS, require, require_countable, runs_kernels
from udx.ops.reference import pillar_scatter as reference


@torch.library.custom_op("udx::pillar_scatter", mutates_args=())
def pillar_scatter(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    """Maximum over each cell's points and zero: (num_cells, C); points with cell ``num_cells`` are left out.

    Zero belongs to the maximum because the features come out of a ReLU: an empty cell needs no mark, and
    the map may start as zeros. The maximum does not depend on the order of the points; NaN is the greatest.

    On a GPU, where looking at the cells would stall the stream, a point with an impossible cell is left out.

    Raises:
        ValueError: dtype, shape, device or layout of a tensor is wrong; on the CPU also where a cell is.
    """
    require("features", features_MC, FLOATS, (None, None), features_MC.device)
    require("cell", cell_M, (torch.int32,), (len(features_MC),), features_MC.device)
    require_countable("features", features_MC.numel())
    require_countable("the map", num_cells * features_MC.shape[1])
    if features_MC.device.type == "cpu" and ((cell_M < 0) | (cell_M > num_cells)).any():
        raise ValueError(f"cell must hold 0 to {num_cells}, but holds others")
    if runs_kernels(features_MC):
        from udx.ops.kernels import pillar_scatter as kernels

        with torch.cuda.device_of(features_MC):
            return kernels.scatter(features_MC, cell_M, num_cells)
    return reference.scatter(features_MC, cell_M, num_cells)


@pillar_scatter.register_fake
def _(features_MC: Tensor, cell_M: Tensor, num_cells: int) -> Tensor:
    return features_MC.new_empty(num_cells, features_MC.shape[1])


@torch.library.custom_op("udx::pillar_scatter_backward", mutates_args=())
def pillar_scatter_backward(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    """Gradient of ``pillar_scatter``: to the points that hold the maximum, in equal shares where several do."""
    if runs_kernels(features_MC):
        from udx.ops.kernels import pillar_scatter as kernels

        with torch.cuda.device_of(features_MC):
            return kernels.scatter_backward(grad, features_MC, cell_M, pillars)
    return reference.scatter_backward(grad, features_MC, cell_M, pillars)


@pillar_scatter_backward.register_fake
def _(grad: Tensor, features_MC: Tensor, cell_M: Tensor, pillars: Tensor) -> Tensor:
    return torch.empty_like(features_MC)


def _setup_context(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, int], output: Tensor
) -> None:
    features_MC, cell_M, _ = inputs
    ctx.save_for_backward(features_MC, cell_M, output)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    features_MC, cell_M, pillars = ctx.saved_tensors  # type: ignore[attr-defined]
    return pillar_scatter_backward(grad.contiguous(), features_MC, cell_M, pillars), None, None


pillar_scatter.register_autograd(_backward, setup_context=_setup_context)
