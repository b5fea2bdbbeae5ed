"""Head maps to boxes, inside the network: peaks of the heatmap, the best K of them, their regressed boxes.

Legend: B batch, K boxes, H W grid rows and columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASK_OF_CLASS, TASKS
from udx.models.taps import HeadMaps


@dataclass(frozen=True, slots=True)
class DecodedBoxes:
    """Boxes in the BEV frame, scores in [0, 1] in descending order, labels into ``CLASSES``."""

    boxes_BK9: Float[Tensor, "B K 9"]
    scores_BK: Float[Tensor, "B K"]
    labels_BK: Int[Tensor, "B K"]


def decode(heads: HeadMaps, grid: BevGrid, max_boxes: int) -> DecodedBoxes:
    """Take the ``max_boxes`` highest local maxima (3×3 neighbourhood) of all class heatmaps as boxes.

    ``grid`` is that of the head maps. Geometry is FP32 whatever the maps' type.
    """
    rows, columns = grid.shape
    # Peaks are those of the logits: where sigmoids reach 1, neighbours are equal in one library and not in another.
    logits = heads.heatmap_BKHW.float()
    is_peak = logits == F.max_pool2d(logits, kernel_size=3, stride=1, padding=1)
    heat = logits.sigmoid()
    scores_BK, index_BK = torch.topk((heat * is_peak).flatten(1), max_boxes, dim=1)
    # Rounding toward zero is one node in ONNX, rounding down is eight; indices are not negative.
    labels_BK = torch.div(index_BK, rows * columns, rounding_mode="trunc")
    cell_BK = index_BK % (rows * columns)
    task_of_class = torch.tensor(TASK_OF_CLASS, device=heat.device)
    # (B, tasks · cells, channels of one task): a box's regression is one row.
    regression = heads.regression_BRHW.float().unflatten(1, (len(TASKS), REGRESSION_CHANNELS))
    rows_of_boxes = regression.flatten(3).transpose(2, 3).flatten(1, 2)
    row_BK = task_of_class[labels_BK] * (rows * columns) + cell_BK
    offset, z, log_size, heading, velocity = rows_of_boxes.gather(
        1, row_BK[..., None].expand(-1, -1, REGRESSION_CHANNELS)
    ).split([2, 1, 3, 2, 2], dim=-1)
    x = ((cell_BK % columns) + 0.5 + offset[..., 0]) * grid.cell + grid.x_min
    y = (torch.div(cell_BK, columns, rounding_mode="trunc") + 0.5 + offset[..., 1]) * grid.cell + grid.y_min
    yaw = torch.atan2(heading[..., 0], heading[..., 1])
    boxes_BK9 = torch.cat([torch.stack([x, y], -1), z, log_size.clamp(-3, 4).exp(), yaw[..., None], velocity], -1)
    assert heat.shape[1] == len(CLASSES)
    # ONNX Runtime's sigmoid of a large logit may be the next number above 1.
    return DecodedBoxes(boxes_BK9, scores_BK.clamp(max=1), labels_BK)
