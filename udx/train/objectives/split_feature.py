"""Foreground and background apart, where the teacher's attention lies.

The focal part of FGD (Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022) in BEV, as
DistillBEV (Chen et al., ICCV 2023) has it: every object weighs the same whatever its size, the background weighs what
it is given, and the teacher's false alarms are a region of their own.

Legend: B batch, C channels, H W rows and columns, P covered cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from udx.models.taps import EncoderTaps, Taps
from udx.train.losses import weighted_mean
from udx.train.masks import background, equalised, interior, size_normalised
from udx.train.objectives.base import GridPair, Lesson, Objective, ObjectiveConfig, Objects, Pair, of_all
from udx.train.objectives.bridge import Alignment, BevMap, Bridge, joined_maps, whole_maps


class Attention(NamedTuple):
    """Where (B, P) and in which channels (B, C) a map is strong; each averages 1 over its places."""

    spatial_BP: Float[Tensor, "B P"]
    channel_BC: Float[Tensor, "B C"]


def attention(map_BCP: Float[Tensor, "B C P"], temperature: float) -> Attention:
    """Softmax of the mean magnitude over channels, and over cells, times the number of places (FGD's attention)."""
    magnitude_BCP = map_BCP.abs() / temperature
    return Attention(
        magnitude_BCP.mean(dim=1).softmax(dim=1) * magnitude_BCP.shape[2],
        magnitude_BCP.mean(dim=2).softmax(dim=1) * magnitude_BCP.shape[1],
    )


class SplitFeatureObjective(Objective):
    """Squared difference of one BEV map, weighted by the teacher's attention, averaged region by region.

    Foreground: mean over the objects of the mean over their cells; background: mean over the cells outside of boxes;
    false positives: those of them where the teacher's heatmap is above ``confident``. Each has its weight. With
    ``imitate_attention``, the student's own attention is drawn to the teacher's (L1).

    It compares the background too, so a batch without boxes has a loss. Lessons hold the whole map.
    """

    def __init__(self, pair: Pair, config: "SplitFeature") -> None:
        super().__init__()
        self.config = config
        self.of_encoder = config.at == "low"
        self.bridge = Bridge(pair, config.at)
        of_heads = pair.teacher.grid.coarsened(pair.teacher.heads.stride)
        self.align_heads = Alignment(GridPair(self.bridge.grid, of_heads))

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``map`` (1, C, H, W), and its ``false_positives`` (1, H, W) if they count."""
        lessons = whole_maps(self.bridge.of_teacher(teacher))
        if not self.config.false_positives:
            return lessons
        wrong_BHW = self._false_positives(teacher, objects)
        return [{**lesson, "false_positives": its} for lesson, its in zip(lessons, wrong_BHW.split(1), strict=True)]

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the maps, region by region."""
        config, covered = self.config, self.bridge.covered
        student_BCP = covered(self.bridge.of_student(student))
        teacher_BCP = covered(joined_maps(lessons, student_BCP))
        attended = attention(teacher_BCP, config.temperature)
        squared_BCP = (student_BCP - teacher_BCP).square() * attended.channel_BC[:, :, None]
        difference_BP = squared_BCP.mean(dim=1) * attended.spatial_BP
        loss = difference_BP.new_zeros(())
        for weight, region_B1HW in self._regions(lessons, objects, student_BCP):
            loss = loss + weight * weighted_mean(difference_BP.flatten(), covered(region_B1HW).flatten())
        if config.imitate_attention:
            own = attention(student_BCP, config.temperature)
            distance = [(one - other).abs().mean() for one, other in zip(own, attended, strict=True)]
            loss = loss + config.imitate_attention * torch.stack(distance).sum()
        return loss

    def _regions(
        self, lessons: Sequence[Lesson], objects: Objects, like: Tensor
    ) -> list[tuple[float, Float[Tensor, "B 1 H W"]]]:
        config, grid = self.config, self.bridge.grid
        regions = [
            (config.foreground, size_normalised(objects, grid)),
            (config.background, equalised(background)(objects, grid)),
        ]
        if config.false_positives:
            wrong_BHW = of_all(lessons, "false_positives", like)
            regions.append((config.false_positives, wrong_BHW[:, None].to(like.dtype)))
        return [(weight, region) for weight, region in regions if weight]

    def _false_positives(self, teacher: Taps, objects: Objects) -> Bool[Tensor, "B H W"]:
        confidence_BKHW: Tensor = self.align_heads(teacher.heads.heatmap_BKHW).sigmoid()
        confident_BHW = confidence_BKHW.amax(dim=1) > self.config.confident
        outside_BHW = interior(objects, self.bridge.grid)[:, 0] == 0
        return confident_BHW & outside_BHW


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFeature(ObjectiveConfig):
    """``at``: which BEV map is compared.

    ``foreground``, ``background``, ``false_positives``, ``imitate_attention``: weights of the parts beside each other;
    0 leaves a part out. ``confident``: what the teacher's false positives exceed; ``temperature``: of the attention's
    softmax.
    """

    kind: Literal["split_feature"] = "split_feature"
    at: BevMap = "high"
    foreground: float = 1.0
    background: float = 0.5
    false_positives: float = 0.0
    imitate_attention: float = 0.0
    confident: float = 0.1
    temperature: float = 0.5

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        parts = (self.foreground, self.background, self.false_positives, self.imitate_attention)
        if not all(0 <= part < float("inf") for part in parts) or not any(parts):
            raise ValueError(f"the weights of split_feature's parts must be at least 0, and one above it, not {parts}")
        if not 0 < self.confident < 1:
            raise ValueError(f"confident is a confidence between 0 and 1, not {self.confident}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"the temperature of the attention must be positive, not {self.temperature}")

    def build(self, pair: Pair) -> SplitFeatureObjective:
        """Build the objective between two detectors."""
        return SplitFeatureObjective(pair, self)
