"""Channel-wise distillation (CWD: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021).

Legend: B batch, C channels, P covered cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from udx.models.taps import EncoderTaps, Taps
from udx.train.objectives.base import Lesson, Objective, ObjectiveConfig, Objects, Pair
from udx.train.objectives.bridge import AnyMap, Bridge, joined_maps, whole_maps


def channel_divergence(
    student_BCP: Float[Tensor, "B C P"], teacher_BCP: Float[Tensor, "B C P"], temperature: float
) -> Float[Tensor, ""]:
    """KL divergence of the student's from the teacher's softmax over positions: mean over channels, times T².

    Each channel is a distribution over positions, so that its offset does not matter.
    """
    student_log_BCP = (student_BCP / temperature).log_softmax(dim=2)
    teacher_log_BCP = (teacher_BCP / temperature).log_softmax(dim=2)
    divergence_BC = (teacher_log_BCP.exp() * (teacher_log_BCP - student_log_BCP)).sum(dim=2)
    return temperature**2 * divergence_BC.mean()


class ChannelWiseObjective(Objective):
    """``channel_divergence`` of a BEV map, or of the logits of the class heatmaps.

    It compares whole maps, so boxes do not matter and a batch without any has a loss. Lessons hold the whole map.
    """

    def __init__(self, pair: Pair, *, at: AnyMap, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.of_encoder = at == "low"
        self.bridge = Bridge(pair, at)

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lesson]:
        """Keep the teacher's ``map`` (1, C, H, W)."""
        return whole_maps(self.bridge.of_teacher(teacher))

    def forward(self, student: EncoderTaps, lessons: Sequence[Lesson], objects: Objects) -> Float[Tensor, ""]:
        """Compare the distributions over the cells that both maps hold."""
        student_BCP = self.bridge.covered(self.bridge.of_student(student))
        teacher_BCP = self.bridge.covered(joined_maps(lessons, student_BCP))
        return channel_divergence(student_BCP, teacher_BCP, self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelWise(ObjectiveConfig):
    """``at``: which map is compared; ``temperature``: the higher, the more of a map counts beside its peaks."""

    kind: Literal["channel_wise"] = "channel_wise"
    at: AnyMap = "high"
    temperature: float = 4.0

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"the channel-wise temperature must be positive, not {self.temperature}")

    def build(self, pair: Pair) -> ChannelWiseObjective:
        """Build the objective between two detectors."""
        return ChannelWiseObjective(pair, at=self.at, temperature=self.temperature)
