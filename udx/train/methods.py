"""What to distil and how strongly: the configuration of a distillation, and the methods known by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from udx.data.spec import Modality
from udx.errors import UdxError
from udx.train.objectives import AdapterPolicy, ObjectiveConfig
from udx.train.objectives.feature import Feature
from udx.train.objectives.relation import Relation
from udx.train.objectives.response import Response

Balance = Literal["share", "fixed"]
"""``share``: a weight is the share of the detection loss that its term is held at; ``fixed``: a mere factor."""

Inherit = Literal["nothing", "bev", "all"]
"""Which of the teacher's weights a student starts from: ``bev``: of BEV encoder and head, which read the same map
whatever the sensors; ``all``: also of the sensor encoders that both have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Objectives by the names that their terms have in the log, the balance of their weights, and their schedule.

    ``ramp``: share of training over which the weights rise from 0 to full. ``ema_decay``: of the running means behind
    ``balance``. ``encoder_first``: share of training in which the sensor encoder alone learns, from the teacher's
    encoder (block-wise distillation): no detection loss is taken, and neither BEV encoder nor head is run.
    ``inherit``: weights that the student starts from, in place of its own or of those of its start.

    Raises:
        ValueError: a value is out of its range, or nothing is left to do.
    """

    objectives: Mapping[str, ObjectiveConfig]
    balance: Balance = "share"
    ramp: float = 0.1
    adapter: AdapterPolicy = "auto"
    ema_decay: float = 0.98
    encoder_first: float = 0.0
    inherit: Inherit = "nothing"

    def __post_init__(self) -> None:
        if not any(objective.weight for objective in self.objectives.values()):
            raise ValueError("all weights of the distillation losses are 0: raise one, or train without a teacher")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"the distillation's ramp is a share of training in [0, 1], not {self.ramp}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"the distillation's ema_decay must be in [0, 1), not {self.ema_decay}")
        if not 0 <= self.encoder_first < 1:
            raise ValueError(f"encoder_first is a share of training in [0, 1), not {self.encoder_first}")


def unidistill(*, feature: float = 0.25, relation: float = 0.1, response: float = 0.3) -> DistillationConfig:
    """UniDistill's three objectives (Zhou et al., CVPR 2023), each held at its share of the detection loss."""
    return DistillationConfig(
        objectives={
            "feature": Feature(weight=feature),
            "relation": Relation(weight=relation),
            "response": Response(weight=response),
        }
    )


PAPER_WEIGHTS: Final[Mapping[tuple[str, str], tuple[float, float, float]]] = MappingProxyType(
    {
        ("fusion", "lidar"): (10.0, 1.0, 10.0),
        ("fusion", "cam"): (10.0, 5.0, 10.0),
        ("cam", "lidar"): (10.0, 5.0, 1.0),
        ("lidar", "cam"): (100.0, 40.0, 10.0),
    }
)
"""The paper's factors of feature, relation and response loss by (teacher, student), tuned for nuScenes and 20 epochs
from ImageNet weights."""


def paper(teacher: Modality, student: Modality) -> DistillationConfig:
    """UniDistill as in the paper: its fixed factors of a path, from the first step on.

    Raises:
        UdxError: the paper has no such path.
    """
    if (teacher, student) not in PAPER_WEIGHTS:
        paths = ", ".join(" → ".join(path) for path in PAPER_WEIGHTS)
        raise UdxError(f"the paper has no weights for {teacher} → {student}, only for {paths}: use --method unidistill")
    feature, relation, response = PAPER_WEIGHTS[teacher, student]
    return DistillationConfig(
        objectives={
            "feature": Feature(weight=feature),
            "relation": Relation(weight=relation),
            "response": Response(weight=response),
        },
        balance="fixed",
        ramp=0.0,
    )


METHODS: Final[Mapping[str, Callable[[Modality, Modality], DistillationConfig]]] = MappingProxyType(
    {"unidistill": lambda teacher, student: unidistill(), "paper": paper}
)
"""Methods by name, each from (teacher, student) to its configuration."""
