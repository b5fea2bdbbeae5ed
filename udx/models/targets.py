"""Training targets of the centre head, and the Gaussians they are drawn with.

Legend: N boxes, B batch, K classes, H W grid rows and columns, T task groups.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import TASK_OF_CLASS

MIN_OVERLAP: Final = 0.1
MIN_RADIUS: Final = 2


@dataclass(frozen=True, slots=True)
class Targets:
    """Heatmaps with a Gaussian at every centre; for every box its place in the maps and what to regress there."""

    heatmap_BKHW: Float[Tensor, "B K H W"]
    sample_N: Int[Tensor, " N"]
    task_N: Int[Tensor, " N"]
    row_N: Int[Tensor, " N"]
    column_N: Int[Tensor, " N"]
    regression_NR: Float[Tensor, "N R"]
    known_NR: Bool[Tensor, "N R"]


def make_targets(boxes: list[Tensor], labels: list[Tensor], grid: BevGrid) -> Targets:
    """Targets of B samples' boxes (N_i, 9) and labels (N_i,); boxes with their centre off the grid are left out."""
    height, width = grid.shape
    sample_N = torch.cat([torch.full_like(label, index) for index, label in enumerate(labels)])
    boxes_N9, labels_N = torch.cat(boxes).float(), torch.cat(labels)
    position_N2 = (boxes_N9[:, :2] - boxes_N9.new_tensor([grid.x_min, grid.y_min])) / grid.cell
    cell_N2 = position_N2.floor().long()
    on_grid = ((cell_N2 >= 0) & (cell_N2 < cell_N2.new_tensor([width, height]))).all(dim=1)
    sample_N, boxes_N9, labels_N = sample_N[on_grid], boxes_N9[on_grid], labels_N[on_grid]
    position_N2, cell_N2 = position_N2[on_grid], cell_N2[on_grid]
    radius_N = gaussian_radius(boxes_N9[:, 3:5] / grid.cell, MIN_OVERLAP).clamp(min=MIN_RADIUS)
    heatmap = splat_gaussians(
        cell_N2, radius_N, sample_N * len(CLASSES) + labels_N, len(boxes) * len(CLASSES), grid.shape
    )
    regression_NR = torch.cat(
        [
            position_N2 - cell_N2 - 0.5,
            boxes_N9[:, 2:3],
            boxes_N9[:, 3:6].log(),
            boxes_N9[:, 6:7].sin(),
            boxes_N9[:, 6:7].cos(),
            boxes_N9[:, 7:9],
        ],
        dim=1,
    )
    known_NR = regression_NR.isfinite()
    return Targets(
        heatmap_BKHW=heatmap.unflatten(0, (len(boxes), len(CLASSES))),
        sample_N=sample_N,
        task_N=torch.tensor(TASK_OF_CLASS, device=labels_N.device)[labels_N],
        row_N=cell_N2[:, 1],
        column_N=cell_N2[:, 0],
        regression_NR=regression_NR.where(known_NR, 0),
        known_NR=known_NR,
    )


def gaussian_radius(size_N2: Float[Tensor, "N 2"], min_overlap: float) -> Int[Tensor, " N"]:
    """Radius in cells within which a corner may move and the box still overlap by ``min_overlap``.

    The smallest of the three cases of CornerNet (Law and Deng, ECCV 2018) as released: both corners inside,
    both outside, one of each. Truncated to a whole number.
    """
    total, area = size_N2.sum(dim=1), size_N2.prod(dim=1)
    radii = []
    for a, b, c in (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    ):
        root = (b**2 - 4 * a * c).clamp(min=0).sqrt()
        radii.append((b + root) / 2)
    return torch.stack(radii).amin(dim=0).int()


def splat_gaussians(
    centre_N2: Int[Tensor, "N 2"],
    radius_N: Int[Tensor, " N"],
    map_N: Int[Tensor, " N"],
    maps: int,
    shape: tuple[int, int],
) -> Float[Tensor, "maps H W"]:
    """Draw a Gaussian (σ = diameter / 6, cut at ``radius``) at each centre (column, row) of map ``map_N``.

    Where Gaussians overlap the larger value stays.
    """
    height, width = shape
    canvas = torch.zeros(maps, height, width, device=centre_N2.device)
    if not len(centre_N2):
        return canvas
    reach = int(radius_N.max())
    step = torch.arange(-reach, reach + 1, device=centre_N2.device)
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    sigma_N11 = (2 * radius_N[:, None, None] + 1) / 6
    value = torch.exp(-(dx**2 + dy**2) / (2 * sigma_N11**2))
    column = centre_N2[:, 0, None, None] + dx
    row = centre_N2[:, 1, None, None] + dy
    within = (torch.maximum(dx.abs(), dy.abs()) <= radius_N[:, None, None]) & (
        (column >= 0) & (column < width) & (row >= 0) & (row < height)
    )
    flat = (map_N[:, None, None] * height + row) * width + column
    canvas.view(-1).scatter_reduce_(0, flat[within], value[within], reduce="amax")
    return canvas
