"""Where the objects stand: pure functions from the objects of a batch to masks on a BEV grid or on the cameras' maps.

A ``Mask`` returns values in [0, 1]; ``union``, ``product`` and ``complement`` make new masks of old ones, ``equalised``
lets large and small objects weigh the same.

Legend: B batch, H W grid rows (y) and columns (x), N cameras, h w rows and columns of a camera's feature map, M boxes.
"""

from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from udx.geometry import BevGrid, Frustum
from udx.models.targets import make_targets
from udx.train.losses import crucial_points, gaussian_mask
from udx.train.objects import Objects

Mask = Callable[[Objects, BevGrid], Float[Tensor, "B 1 H W"]]

NEAR_M: Final = 0.1
"""Depth from which on a camera sees: what lies nearer, or behind it, is cut off."""

EDGES: Final = (*((i, (i + 1) % 4) for i in range(4)), *((4 + i, 4 + (i + 1) % 4) for i in range(4)))
UPRIGHTS: Final = tuple((i, 4 + i) for i in range(4))
"""Edges of a box between its corners as ``box_corners`` orders them: of bottom and top, and between these."""


def gaussian(objects: Objects, grid: BevGrid) -> Float[Tensor, "B 1 H W"]:
    """UniDistill's narrow Gaussians, see ``gaussian_mask``."""
    return gaussian_mask(objects.boxes, grid)


@torch.no_grad()
def heatmap(objects: Objects, grid: BevGrid) -> Float[Tensor, "B 1 H W"]:
    """The heatmap that the centre head learns, any class: wider Gaussians (BEVDistill, LabelDistill)."""
    targets = make_targets(list(objects.boxes), list(objects.labels), grid)
    return targets.heatmap_BKHW.amax(dim=1, keepdim=True)


@torch.no_grad()
def interior(objects: Objects, grid: BevGrid) -> Float[Tensor, "B 1 H W"]:
    """1 in the cells of the boxes, see ``cells_of_boxes``; 0 elsewhere."""
    return torch.stack([cells_of_boxes(its, grid).any(dim=0)[None] for its in objects.boxes]).float()


@torch.no_grad()
def size_normalised(objects: Objects, grid: BevGrid) -> Float[Tensor, "B 1 H W"]:
    """1 / n in the n cells of a box, so that every object weighs the same; the smaller one wins where two overlap.

    The scale mask of FGD (Yang et al., CVPR 2022), by the cells that a rotated box holds rather than by its area.
    """
    masks = []
    for its in objects.boxes:
        cells_MHW = cells_of_boxes(its, grid).float()
        share_M = 1 / cells_MHW.sum(dim=(1, 2)).clamp_min(1)
        masks.append((cells_MHW * share_M[:, None, None]).amax(dim=0) if len(its) else cells_MHW.sum(dim=0))
    return torch.stack(masks)[:, None]


@torch.no_grad()
def cells_of_boxes(boxes_M9: Float[Tensor, "M 9"], grid: BevGrid) -> Bool[Tensor, "M H W"]:
    """The cells of each box: those whose centre lies in its rotated rectangle, and the one that holds its own centre.

    So no object on the grid is without a cell, be it smaller than one.
    """
    height, width = grid.shape
    x, y, length, width_m, yaw = (boxes_M9.double()[:, column, None, None] for column in (0, 1, 3, 4, 6))
    column_W = torch.arange(width, device=boxes_M9.device)
    row_H1 = torch.arange(height, device=boxes_M9.device)[:, None]
    from_x = grid.x_min + (column_W + 0.5) * grid.cell - x
    from_y = grid.y_min + (row_H1 + 0.5) * grid.cell - y
    along = from_x * yaw.cos() + from_y * yaw.sin()
    across = from_y * yaw.cos() - from_x * yaw.sin()
    inside = (along.abs() <= length / 2) & (across.abs() <= width_m / 2)
    own = (((x - grid.x_min) / grid.cell).floor() == column_W) & (((y - grid.y_min) / grid.cell).floor() == row_H1)
    return inside | own


def complement(mask: Mask) -> Mask:
    """1 − mask: the background, if the mask is the foreground."""
    return lambda objects, grid: 1 - mask(objects, grid)


def union(*masks: Mask) -> Mask:
    """The highest of the masks."""
    return lambda objects, grid: reduce(torch.maximum, [mask(objects, grid) for mask in masks])


def product(*masks: Mask) -> Mask:
    """All masks multiplied: where they overlap."""
    return lambda objects, grid: reduce(torch.mul, [mask(objects, grid) for mask in masks])


def equalised(mask: Mask) -> Mask:
    """A mask divided by its sum over each sample, so that all samples weigh the same; one of zeros stays as it is."""

    def divided(objects: Objects, grid: BevGrid) -> Float[Tensor, "B 1 H W"]:
        values_B1HW = mask(objects, grid)
        total_B111 = values_B1HW.sum(dim=(1, 2, 3), keepdim=True)
        return values_B1HW / total_B111.where(total_B111 > 0, 1)

    return divided


background: Final = complement(interior)

MaskName = Literal["gaussian", "heatmap", "interior", "size_normalised"]

FOREGROUND: Final[Mapping[MaskName, Mask]] = MappingProxyType(
    {"gaussian": gaussian, "heatmap": heatmap, "interior": interior, "size_normalised": size_normalised}
)
"""Masks of the foreground, by their names in a configuration."""


@torch.no_grad()
def perspective_foreground(objects: Objects, frustum: Frustum) -> Bool[Tensor, "B N h w"]:
    """Which cells of the cameras' feature maps an object's upright rectangle in the image touches.

    A box is the rectangle around what of it lies in front of the camera: its eight corners, and where its edges reach
    the camera's plane. What is hidden by another object counts too.
    """
    assert objects.pixels_T_ego_BN34 is not None, "objects without cameras have no place in an image"
    masks = []
    for boxes_M9, pixels_T_ego_N34 in zip(objects.boxes, objects.pixels_T_ego_BN34, strict=True):
        low_NM2, high_NM2 = _rectangles(boxes_M9, pixels_T_ego_N34)
        height, width = frustum.feature_shape
        column_NMw = _touched(low_NM2[..., 0], high_NM2[..., 0], frustum.stride_px, width)
        row_NMh = _touched(low_NM2[..., 1], high_NM2[..., 1], frustum.stride_px, height)
        masks.append((row_NMh[..., :, None] & column_NMw[..., None, :]).any(dim=1))
    return torch.stack(masks)


def _rectangles(
    boxes_M9: Float[Tensor, "M 9"], pixels_T_ego_N34: Float[Tensor, "N 3 4"]
) -> tuple[Float[Tensor, "N M 2"], Float[Tensor, "N M 2"]]:
    """Lowest and highest (u, v) of each box in each image; of one that is out of sight, the lowest is the higher."""
    corners_M84 = _homogeneous_corners(boxes_M9.double())
    seen_NM83 = torch.einsum("nij,mkj->nmki", pixels_T_ego_N34.double(), corners_M84)
    start, end = torch.tensor((*EDGES, *UPRIGHTS), device=boxes_M9.device).unbind(dim=1)
    depth_NM8 = seen_NM83[..., 2]
    crosses = (depth_NM8[..., start] < NEAR_M) != (depth_NM8[..., end] < NEAR_M)
    span = torch.where(crosses, depth_NM8[..., end] - depth_NM8[..., start], 1.0)
    share = ((NEAR_M - depth_NM8[..., start]) / span)[..., None]
    cut = seen_NM83[..., start, :].lerp(seen_NM83[..., end, :], share)
    visible_NMP = torch.cat([depth_NM8 >= NEAR_M, crosses], dim=-1)[..., None]
    points_NMP3 = torch.cat([seen_NM83, cut], dim=-2)
    pixels_NMP2 = points_NMP3[..., :2] / points_NMP3[..., 2:].clamp_min(NEAR_M / 2)
    infinity = float("inf")
    return (
        pixels_NMP2.where(visible_NMP, infinity).amin(dim=-2),
        pixels_NMP2.where(visible_NMP, -infinity).amax(dim=-2),
    )


def _homogeneous_corners(boxes_M9: Float[Tensor, "M 9"]) -> Float[Tensor, "M 8 4"]:
    """Corners in the order of ``udx.geometry.boxes.box_corners``: bottom, then top."""
    around_M42 = crucial_points(boxes_M9)[:, :4]
    half_M1 = boxes_M9[:, 5, None] / 2
    z_M8 = torch.cat(
        [(boxes_M9[:, 2, None] - half_M1).expand(-1, 4), (boxes_M9[:, 2, None] + half_M1).expand(-1, 4)], 1
    )
    return torch.cat([around_M42.repeat(1, 2, 1), z_M8[..., None], torch.ones_like(z_M8)[..., None]], dim=-1)


def _touched(
    low_NM: Float[Tensor, "N M"], high_NM: Float[Tensor, "N M"], stride_px: int, cells: int
) -> Bool[Tensor, "N M cells"]:
    """Which cells along one side of an image an interval of pixels touches; cell i begins at pixel i · stride − ½."""
    begin = torch.arange(cells, device=low_NM.device) * stride_px - 0.5
    return (high_NM[..., None] >= begin) & (low_NM[..., None] < begin + stride_px)
