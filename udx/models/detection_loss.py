"""Detection loss: focal loss on heatmaps, L1 on the regression at box centres, and the cameras' depth."""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from udx.geometry import BevGrid
from udx.models.center_head import REGRESSION, REGRESSION_CHANNELS, TASKS
from udx.models.taps import HeadMaps
from udx.models.targets import make_targets
from udx.processes import mean_count, parts
from udx.ranges import require_range

MAX_WEIGHT: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionLossConfig:
    """Weights of the terms; ``velocity`` multiplies on top of ``regression``, as in CenterPoint.

    With ``depth`` above 0 the LiDAR supervises the cameras' depth in training (Li et al., "BEVDepth", AAAI 2023);
    0 leaves depth to the boxes alone, as the detectors of the UniDistill paper do.
    """

    heatmap: float = 1.0
    regression: float = 0.25
    velocity: float = 0.2
    depth: float = 0.0

    def __post_init__(self) -> None:
        weights = {"heatmap": self.heatmap, "regression": self.regression, "velocity": self.velocity}
        require_range(at_least=0, at_most=MAX_WEIGHT, **weights, depth=self.depth)


def detection_loss(
    heads: HeadMaps, boxes: list[Tensor], labels: list[Tensor], grid: BevGrid, config: DetectionLossConfig
) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms ``heatmap`` and one for each entry of ``REGRESSION``; the loss is their sum.

    ``boxes``: B tensors (N_i, 9) in the BEV frame; ``grid`` is that of the head maps. In a distributed run sums are
    divided by the mean number of boxes a process: the mean over the processes is the loss of all boxes together.
    """
    targets = make_targets(boxes, labels, grid)
    # One message for the number of boxes and of the known targets of each channel.
    number_1 = targets.regression_NR.new_tensor([len(targets.sample_N)])
    shares = _share(torch.cat([number_1, targets.known_NR.sum(dim=0).to(number_1)]))
    count, known_R = shares[0], shares[1:]
    predicted_BTRHW = heads.regression_BRHW.float().unflatten(1, (len(TASKS), REGRESSION_CHANNELS))
    predicted_NR = predicted_BTRHW[targets.sample_N, targets.task_N, :, targets.row_N, targets.column_N]
    # An unknown target (the velocity of an object seen once) asks for nothing.
    error_NR = (predicted_NR - targets.regression_NR).abs() * targets.known_NR
    error_R = error_NR.sum(dim=0) / known_R
    terms = {"heatmap": config.heatmap * focal_loss(heads.heatmap_BKHW.float(), targets.heatmap_BKHW) / count}
    for name, error in zip(REGRESSION, error_R.split(list(REGRESSION.values())), strict=True):
        weight = config.regression * (config.velocity if name == "velocity" else 1.0)
        terms[name] = weight * error.sum()
    return terms


def depth_loss(logits_BNDhw: Float[Tensor, "B N D h w"], target_BNhw: Int[Tensor, "B N h w"]) -> Float[Tensor, ""]:
    """Cross entropy of the depth distributions where a bin is known (not negative); 0 where none is.

    In a distributed run the sum is divided by the mean number of known bins a process.
    """
    known = target_BNhw >= 0
    log_p = logits_BNDhw.float().log_softmax(dim=2)
    of_target = log_p.gather(2, target_BNhw.clamp(min=0)[:, :, None]).squeeze(2)
    return -(of_target * known).sum() / _share(known.sum().float())


def focal_loss(logits_BKHW: Float[Tensor, "B K H W"], target_BKHW: Float[Tensor, "B K H W"]) -> Float[Tensor, ""]:
    """Penalty-reduced focal loss, summed (CornerNet, Law and Deng, ECCV 2018: α = 2, β = 4)."""
    log_p = torch.nn.functional.logsigmoid(logits_BKHW)
    log_not_p = torch.nn.functional.logsigmoid(-logits_BKHW)
    p = logits_BKHW.sigmoid()
    positive = target_BKHW == 1
    hit = log_p * (1 - p) ** 2 * positive
    miss = log_not_p * p**2 * (1 - target_BKHW) ** 4 * ~positive
    return -(hit + miss).sum()


def _share(counts: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a process divides its sums by: the mean count of a process, and no less than 1 over all of them."""
    return mean_count(counts).clamp(min=1 / parts())
