"""The three losses of UniDistill (Zhou et al., CVPR 2023, arXiv 2303.15083): feature, relation, response.

They compare two detectors at the objects alone, whatever sensors the detectors have: bird's-eye-view (BEV) maps at
nine crucial points of every box, head maps under a Gaussian at every box. All points are metric, so the two maps
need the same ground, not the same resolution. Teacher maps are detached.

Legend: B batch, C channels, H W grid rows (y) and columns (x), K classes, R regression channels, N boxes of the whole
batch, P points. Boxes are (x, y, z, l, w, h, yaw, vx, vy) in the BEV frame, a list of one tensor a sample; only
x, y, l, w and yaw are read, so an unknown velocity may be NaN.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from udx.geometry import BevGrid
from udx.models.taps import HeadMaps
from udx.models.targets import gaussian_radius, splat_gaussians
from udx.processes import mean_count

Boxes = Sequence[Float[Tensor, "_ 9"]]

EPS: Final = 1e-4
MIN_OVERLAP: Final = 0.7
"""Overlap with the true box that a box moved by the Gaussian's radius keeps; the detection targets have their own."""

UNIT_POINTS: Final = (
    *((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)),  # corners: front-left, rear-left, rear-right, front-right
    *(
        (0.0, 0.5),
        (-0.5, 0.0),
        (0.0, -0.5),
        (0.5, 0.0),
    ),  # midpoints of the edges between them: left, rear, right, front
    (0.0, 0.0),
)
"""The nine crucial points of a box of size 1 at the origin: (along, across) its heading."""


def crucial_points(boxes_N9: Float[Tensor, "N 9"]) -> Float[Tensor, "N 9 2"]:
    """Four corners, four edge midpoints and the centre of each box: (x, y) in the BEV frame, metres."""
    return points_of_boxes(boxes_N9, boxes_N9.new_tensor(UNIT_POINTS))


def points_of_boxes(boxes_N9: Float[Tensor, "N 9"], unit_P2: Float[Tensor, "P 2"]) -> Float[Tensor, "N P 2"]:
    """Points of a box of size 1 at the origin (along, across its heading) as they lie in each box: (x, y), metres."""
    x, y, length, width, yaw = (boxes_N9[:, column, None] for column in (0, 1, 3, 4, 6))
    along, across = length * unit_P2[:, 0], width * unit_P2[:, 1]
    cos, sin = yaw.cos(), yaw.sin()
    return torch.stack([x + along * cos - across * sin, y + along * sin + across * cos], dim=-1)


def sample_points(
    map_BCHW: Float[Tensor, "B C H W"], points_BP2: Float[Tensor, "B P 2"], grid: BevGrid
) -> Float[Tensor, "B P C"]:
    """Interpolate the maps bilinearly between cell centres at metric points (x, y).

    The centre of cell (0, 0) is half a cell from (``x_min``, ``y_min``). Outside the map stands zero, so values fade
    out within half a cell beyond the outermost centres. Half-precision maps are read as they are and interpolated in
    float32: only the cells around the points are converted.

    Raises:
        ValueError: the maps are not on ``grid``.
    """
    if tuple(map_BCHW.shape[-2:]) != grid.shape:
        raise ValueError(f"a map of {tuple(map_BCHW.shape[-2:])} cells is not on a grid of {grid.shape} cells")
    batch, channels, height, width = map_BCHW.shape
    # Coordinates in float64: half precision would be off by cells, and float32 misses cell centres.
    column_BP = (points_BP2[..., 0].double() - grid.x_min) / grid.cell - 0.5
    row_BP = (points_BP2[..., 1].double() - grid.y_min) / grid.cell - 0.5
    step = torch.arange(2, device=points_BP2.device)
    columns_BP12 = column_BP.floor()[..., None, None] + step
    rows_BP21 = row_BP.floor()[..., None, None] + step[:, None]
    inside = (columns_BP12 >= 0) & (columns_BP12 < width) & (rows_BP21 >= 0) & (rows_BP21 < height)
    weights = (1 - (column_BP[..., None, None] - columns_BP12).abs()) * (
        1 - (row_BP[..., None, None] - rows_BP21).abs()
    )
    weights_BP4 = torch.where(inside, weights, 0.0).flatten(2)
    cells_BP4 = (rows_BP21.clamp(0, height - 1) * width + columns_BP12.clamp(0, width - 1)).long().flatten(2)
    # Rows of channels: a view where channels are last in memory, as convolutions like it, and so is the gradient.
    cells_RC = map_BCHW.movedim(1, -1).reshape(-1, channels)
    first_B = torch.arange(0, batch * height * width, height * width, device=cells_BP4.device)
    rows_R = (cells_BP4 + first_B[:, None, None]).flatten()
    values_BP4C = cells_RC.index_select(0, rows_R).view(*cells_BP4.shape, channels)
    precision = torch.promote_types(map_BCHW.dtype, torch.float32)
    return (values_BP4C * weights_BP4[..., None].to(precision)).sum(2)


def box_features(
    map_BCHW: Float[Tensor, "B C H W"],
    boxes: Boxes,
    grid: BevGrid,
    unit_points: Sequence[tuple[float, float]] = UNIT_POINTS,
) -> Float[Tensor, "N P C"]:
    """Sample the maps at points of all boxes (see ``points_of_boxes``), by default the crucial ones."""
    padded_BM9 = pad_sequence(list(boxes), batch_first=True)
    batch, most = padded_BM9.shape[:2]
    points = points_of_boxes(padded_BM9.flatten(0, 1), padded_BM9.new_tensor(unit_points))
    sampled = sample_points(map_BCHW, points.view(batch, most * len(unit_points), 2), grid)
    sampled_BMPC = sampled.unflatten(1, (most, len(unit_points)))
    return torch.cat([sampled[: len(its)] for sampled, its in zip(sampled_BMPC, boxes, strict=True)])


def feature_loss(
    student_BCHW: Float[Tensor, "B C H W"],
    teacher_BCHW: Float[Tensor, "B C TH TW"],
    boxes: Boxes,
    grid: BevGrid,
    teacher_grid: BevGrid | None = None,
) -> Float[Tensor, ""]:
    """L1 between the maps at the crucial points (paper: equation 3).

    Mean over points and channels, sum over the boxes of the batch, divided by their number (in a distributed run, the
    mean number a process). ``teacher_grid`` is the teacher map's grid where it is not the student's.
    """
    student_N9C = box_features(student_BCHW, boxes, grid)
    teacher_N9C = box_features(teacher_BCHW.detach(), boxes, teacher_grid or grid)
    return feature_distance(student_N9C, teacher_N9C)


def relation_loss(
    student_BCHW: Float[Tensor, "B C H W"],
    teacher_BCHW: Float[Tensor, "B TC TH TW"],
    boxes: Boxes,
    grid: BevGrid,
    teacher_grid: BevGrid | None = None,
) -> Float[Tensor, ""]:
    """L1 between the 9 × 9 cosine similarities of each box's crucial points (paper: equations 4 and 5).

    Mean over the 81 entries, sum over boxes, divided by their number. The channels of the two maps may differ.
    """
    student_N9C = box_features(student_BCHW, boxes, grid)
    teacher_N9C = box_features(teacher_BCHW.detach(), boxes, teacher_grid or grid)
    return matrix_distance(cosines(student_N9C), cosines(teacher_N9C))


def response_loss(
    student: HeadMaps, teacher: HeadMaps, boxes: Boxes, grid: BevGrid, teacher_temperature: float = 1.0
) -> Float[Tensor, ""]:
    """L1 between the head maps under ``gaussian_mask`` (paper: equations 6 and 7).

    The classes' highest confidence, plus the mean over the regression channels; both weighted by the mask and divided
    by its sum. The teacher's logits, not the student's, are divided by ``teacher_temperature`` (the authors' code: 2).
    """
    mask_BHW = gaussian_mask(boxes, grid)[:, 0]
    cells_M3 = mask_BHW.nonzero()
    taught = responses_at(teacher, cells_M3, teacher_temperature)
    return response_distance(responses_at(student, cells_M3), taught.detached(), mask_BHW[cells_M3.unbind(1)])


def feature_distance(student_N9C: Float[Tensor, "N P C"], teacher_N9C: Float[Tensor, "N P C"]) -> Float[Tensor, ""]:
    """``feature_loss`` of maps that were sampled already."""
    return _mean_over_boxes((student_N9C - teacher_N9C).abs().mean(dim=(1, 2)))


def matrix_distance(student_NPQ: Float[Tensor, "N P Q"], teacher_NPQ: Float[Tensor, "N P Q"]) -> Float[Tensor, ""]:
    """L1 between one matrix a box, as those of ``cosines``: mean over the entries, then over the boxes."""
    return _mean_over_boxes((student_NPQ - teacher_NPQ).abs().mean(dim=(1, 2)))


def weighted_mean(values_M: Float[Tensor, " M"], weight_M: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """Mean of values with weights; 0 where the weights are. In a distributed run, by the mean weight of a process."""
    weight_M = weight_M.to(values_M.dtype)
    return (weight_M * values_M).sum() / (mean_count(weight_M.sum()) + EPS)


class Responses(NamedTuple):
    """What the heads say at M cells: the highest confidence of any class, and all regression channels."""

    confidence_M: Float[Tensor, " M"]
    regression_MR: Float[Tensor, "M R"]

    def detached(self) -> "Responses":
        """The same without gradient."""
        return Responses(self.confidence_M.detach(), self.regression_MR.detach())


def responses_at(heads: HeadMaps, cells_M3: Int[Tensor, "M 3"], temperature: float = 1.0) -> Responses:
    """Read the heads at cells given as (sample, row, column); ``temperature`` divides the class logits."""
    sample_M, row_M, column_M = cells_M3.unbind(dim=1)
    # The sigmoid is monotonic, so the highest logit gives the highest confidence for a tenth of the work.
    highest_M = at_least_float32(heads.heatmap_BKHW[sample_M, :, row_M, column_M].amax(dim=1))
    confidence_M = (highest_M / temperature).sigmoid().clamp(EPS, 1 - EPS)
    return Responses(confidence_M, at_least_float32(heads.regression_BRHW[sample_M, :, row_M, column_M]))


def response_distance(student: Responses, teacher: Responses, weight_M: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """``response_loss`` at any cells with any weights: weighted mean of the differences."""
    classes_M = (student.confidence_M - teacher.confidence_M).abs()
    difference_M = classes_M + (student.regression_MR - teacher.regression_MR).abs().mean(dim=1)
    return weighted_mean(difference_M, weight_M)


@torch.no_grad()
def gaussian_mask(boxes: Boxes, grid: BevGrid) -> Float[Tensor, "B 1 H W"]:
    """Draw a Gaussian at the centre cell of every box, 1 at its peak; the higher one wins where two overlap.

    Its radius r in cells follows from length and width by CenterNet's rule; it is cut off beyond r, and its deviation
    is (2r + 1) / 6. A box whose centre is outside the grid is not drawn.
    """
    height, width = grid.shape
    flat_N9 = torch.cat(list(boxes)).double()
    sample_N = torch.cat([torch.full((len(its),), sample, device=its.device) for sample, its in enumerate(boxes)])
    cell_N2 = ((flat_N9[:, :2] - flat_N9.new_tensor([grid.x_min, grid.y_min])) / grid.cell).floor().long()
    drawn_N = ((cell_N2 >= 0) & (cell_N2 < cell_N2.new_tensor([width, height]))).all(dim=1)
    radius_N = gaussian_radius(flat_N9[:, 3:5] / grid.cell, MIN_OVERLAP)
    mask_BHW = splat_gaussians(cell_N2[drawn_N], radius_N[drawn_N], sample_N[drawn_N], len(boxes), grid.shape)
    return mask_BHW[:, None]


def cosines(features_NPC: Float[Tensor, "N P C"]) -> Float[Tensor, "N P P"]:
    """Cosine similarity of every two points of a box."""
    unit_NPC = features_NPC / (torch.linalg.vector_norm(features_NPC, dim=-1, keepdim=True) + EPS)
    with torch.autocast(unit_NPC.device.type, enabled=False):  # half precision would leave three digits of a cosine
        cosines_NPP: Tensor = unit_NPC @ unit_NPC.mT
    return cosines_NPP


def _mean_over_boxes(loss_N: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    count = torch.full((), float(len(loss_N)), dtype=loss_N.dtype, device=loss_N.device)
    return loss_N.sum() / (mean_count(count) + EPS)


def at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same values in float32 where they are in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
