"""Response on crucial samples: heads are compared where the teacher is sure, and where the student errs most.

The response distillation of S2M2-SSD (Zheng et al., CVPR 2022) avoids the background by mining the cells that matter
from the two detectors' own heatmaps, and needs no boxes. Confidences are compared class by class by the quality focal
loss (Li et al., "Generalized Focal Loss", NeurIPS 2020), regression in the task group that owns the class alone.

Legend: B batch, K classes, H W rows and columns of the student's grid, M crucial entries (class, row, column) of the
whole batch, T task groups, R regression channels of one group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from udx.models.center_head import REGRESSION_CHANNELS, TASK_OF_CLASS, TASKS
from udx.models.taps import HeadMaps, Taps
from udx.train.losses import at_least_float32, weighted_mean
from udx.train.objectives.base import Lesson, Objective, ObjectiveConfig, Objects, Pair, of_all
from udx.train.objectives.bridge import HeadAlignment


def quality_focal(logits_M: Float[Tensor, " M"], target_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Cross entropy of a soft target, times the squared distance from it, so that agreement costs nothing."""
    entropy_M = F.binary_cross_entropy_with_logits(logits_M, target_M, reduction="none")
    return (target_M - logits_M.sigmoid()).square() * entropy_M


def l1(logits_M: Float[Tensor, " M"], target_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Distance of the confidence from its target."""
    return (target_M - logits_M.sigmoid()).abs()


class Crucial(NamedTuple):
    """Entries of heatmaps, by sample and flat index into (class, row, column), and the teacher's confidence there."""

    sample_M: Int[Tensor, " M"]
    entry_M: Int[Tensor, " M"]
    confidence_M: Float[Tensor, " M"]


class CrucialResponseObjective(Objective):
    """Mean confidence loss over the crucial entries, plus L1 of the regression, weighted by the teacher's confidence.

    Crucial are, of each sample, the ``confident`` entries of the heatmaps that the teacher is surest of (those above
    ``least_confidence``), where regression is compared too, and the ``disagreeing`` entries of the others where the two
    differ most. Boxes do not matter, and a batch without any has a loss. Lessons hold the surest entries, and the whole
    heatmaps if disagreement counts.

    Raises:
        UdxError: the head maps of the two have different channels, or share no ground.
    """

    task_of_class_K: Tensor

    def __init__(self, pair: Pair, config: "CrucialResponse") -> None:
        super().__init__()
        self.config = config
        self.align = HeadAlignment(pair)
        self.confidence_loss = quality_focal if config.confidence_loss == "quality_focal" else l1
        self.register_buffer("task_of_class_K", torch.tensor(TASK_OF_CLASS), persistent=False)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep of the surest entries ``entry`` (M,), ``confidence`` (M,) and ``regression`` (M, R).

        If disagreement counts, also all confidences ``heatmap`` (1, K, H, W); those off the teacher's ground are −1.
        """
        heads = self.align(teacher.heads)
        confidence_BKHW = at_least_float32(heads.heatmap_BKHW).sigmoid().where(self.align.covered_HW, -1.0)
        lessons: list[Lesson] = []
        for sample, confidence_KHW in enumerate(confidence_BKHW):
            flat_E = confidence_KHW.flatten()
            surest_M, entry_M = flat_E.topk(min(self.config.confident, len(flat_E)))
            entry_M = entry_M[surest_M >= self.config.least_confidence]
            regression_MR = self._regression_at(heads, torch.full_like(entry_M, sample), entry_M)
            lesson = {"entry": entry_M, "confidence": flat_E[entry_M], "regression": regression_MR}
            lessons.append(lesson | ({"heatmap": confidence_KHW[None]} if self.config.disagreeing else {}))
        return lessons

    def forward(self, student: Taps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the heads at the crucial entries."""
        logits_BE = at_least_float32(student.heads.heatmap_BKHW).flatten(1)
        sure = self._sure(lessons, logits_BE)
        taught_MR = of_all(lessons, "regression", logits_BE)
        own_MR = self._regression_at(student.heads, sure.sample_M, sure.entry_M)
        loss = weighted_mean((own_MR - taught_MR).abs().mean(dim=1), sure.confidence_M)
        crucial = sure
        if self.config.disagreeing:
            heatmap_BE = of_all(lessons, "heatmap", logits_BE).flatten(1)
            disputed = self._disputed(logits_BE.detach(), heatmap_BE, sure)
            crucial = Crucial(*(torch.cat(both) for both in zip(sure, disputed, strict=True)))
        difference_M = self.confidence_loss(logits_BE[crucial.sample_M, crucial.entry_M], crucial.confidence_M)
        return loss + weighted_mean(difference_M, torch.ones_like(difference_M))

    def _sure(self, lessons: Sequence[Lesson], like: Tensor) -> Crucial:
        counts = torch.tensor([len(lesson["entry"]) for lesson in lessons], device=like.device)
        sample_M = torch.arange(len(lessons), device=like.device).repeat_interleave(counts)
        return Crucial(sample_M, of_all(lessons, "entry", like), of_all(lessons, "confidence", like))

    def _disputed(self, logits_BE: Tensor, heatmap_BE: Tensor, sure: Crucial) -> Crucial:
        """Where the two differ most, beside what is crucial anyway."""
        dispute_BE = (logits_BE.sigmoid() - heatmap_BE).abs().where(heatmap_BE >= 0, -1.0)
        dispute_BE[sure.sample_M, sure.entry_M] = -1.0
        worst_BD, entry_BD = dispute_BE.topk(min(self.config.disagreeing, dispute_BE.shape[1]), dim=1)
        sample_M, rank_M = (worst_BD >= 0).nonzero().unbind(dim=1)
        entry_M = entry_BD[sample_M, rank_M]
        return Crucial(sample_M, entry_M, heatmap_BE[sample_M, entry_M])

    def _regression_at(
        self, heads: HeadMaps, sample_M: Int[Tensor, " M"], entry_M: Int[Tensor, " M"]
    ) -> Float[Tensor, "M R"]:
        height, width = heads.heatmap_BKHW.shape[-2:]
        task_M = self.task_of_class_K[entry_M // (height * width)]
        row_M, column_M = entry_M % (height * width) // width, entry_M % width
        by_task_BTRHW = heads.regression_BRHW.unflatten(1, (len(TASKS), REGRESSION_CHANNELS))
        return at_least_float32(by_task_BTRHW[sample_M, task_M, :, row_M, column_M])


@dataclass(frozen=True, slots=True, kw_only=True)
class CrucialResponse(ObjectiveConfig):
    """``confident`` and ``disagreeing``: how many entries of a sample are crucial, by reason.

    Without disagreeing ones, lessons are small. ``least_confidence``: of the teacher, below which it is not sure.
    """

    kind: Literal["crucial_response"] = "crucial_response"
    confident: int = 100
    least_confidence: float = 0.1
    disagreeing: int = 100
    confidence_loss: Literal["quality_focal", "l1"] = "quality_focal"

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        if self.confident < 1 or self.disagreeing < 0:
            raise ValueError(
                f"crucial entries number at least 1 confident and 0 disagreeing ones, not {self.confident} and "
                f"{self.disagreeing}"
            )
        if not 0 <= self.least_confidence < 1:
            raise ValueError(f"least_confidence is a confidence in [0, 1), not {self.least_confidence}")

    def build(self, pair: Pair) -> CrucialResponseObjective:
        """Build the objective between two detectors."""
        return CrucialResponseObjective(pair, self)
