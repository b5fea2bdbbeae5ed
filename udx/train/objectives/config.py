"""What to distil, how strongly, and the paper's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from udx.errors import UdxError
from udx.train.objectives.base import AdapterPolicy

Balance = Literal["share", "fixed"]
"""``share``: a weight is the share of the detection loss that its term is held at; ``fixed``: a mere factor."""

STRENGTH: Final = ("cam", "lidar", "fusion")
"""Modalities from the weakest to the strongest detector, as on nuScenes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weights of UniDistill's three objectives; 0 switches one off, so that it costs nothing.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """

    feature: float
    relation: float
    response: float

    def __post_init__(self) -> None:
        weights = (self.feature, self.relation, self.response)
        if not all(0 <= weight < float("inf") for weight in weights):
            raise ValueError(f"weights of distillation losses must be finite and at least 0, not {weights}")
        if not any(weights):
            raise ValueError("all weights of the distillation losses are 0: raise one, or train without a teacher")


PAPER_WEIGHTS: Final[Mapping[tuple[str, str], LossWeights]] = MappingProxyType(
    {
        ("fusion", "lidar"): LossWeights(feature=10.0, relation=1.0, response=10.0),
        ("fusion", "cam"): LossWeights(feature=10.0, relation=5.0, response=10.0),
        ("cam", "lidar"): LossWeights(feature=10.0, relation=5.0, response=1.0),
        ("lidar", "cam"): LossWeights(feature=100.0, relation=40.0, response=10.0),
    }
)
"""The paper's factors by (teacher, student), tuned for nuScenes and 20 epochs from ImageNet weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Weights, their balance and warm-up, and the settings of the objectives.

    ``ramp``: share of training over which the weights rise from 0 to full. ``ema_decay``: of the running means behind
    ``balance`` and ``normalise_feature`` (measure the feature term in the teacher's own spread).
    ``teacher_temperature`` divides the teacher's logits alone.

    Raises:
        ValueError: a value is out of its range.
    """

    # Shares at which the losses helped in a second phase of a camera student; ten times as much did harm.
    weights: LossWeights = field(default_factory=lambda: LossWeights(feature=0.25, relation=0.1, response=0.3))
    balance: Balance = "share"
    ramp: float = 0.1
    adapter: AdapterPolicy = "auto"
    teacher_temperature: float = 1.0
    normalise_feature: bool = False
    ema_decay: float = 0.98

    def __post_init__(self) -> None:
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"the distillation's ramp is a share of training in [0, 1], not {self.ramp}")
        if not 0 < self.teacher_temperature < float("inf"):
            raise ValueError(f"the teacher's temperature must be positive, not {self.teacher_temperature}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"the distillation's ema_decay must be in [0, 1), not {self.ema_decay}")

    @classmethod
    def paper(cls, *, teacher: str, student: str) -> "DistillationConfig":
        """Return the setting of the paper: fixed factors from the first step on.

        Raises:
            UdxError: the paper has no such path.
        """
        if (teacher, student) not in PAPER_WEIGHTS:
            paths = ", ".join(" → ".join(path) for path in PAPER_WEIGHTS)
            raise UdxError(f"the paper has no weights for {teacher} → {student}, only for {paths}: use balance 'share'")
        return cls(weights=PAPER_WEIGHTS[teacher, student], balance="fixed", ramp=0.0)


def teacher_is_weaker(
    *, teacher: str, student: str, teacher_mAP: float | None = None, student_mAP: float | None = None
) -> bool:
    """Whether the student needs the paper's adaptive layers.

    By the measured mAP where both are known (the student's is that of one trained without a teacher), else by
    modality: of the paper's paths camera → LiDAR alone.
    """
    if teacher_mAP is not None and student_mAP is not None:
        return teacher_mAP < student_mAP
    return STRENGTH.index(teacher) < STRENGTH.index(student)
