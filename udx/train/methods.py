"""What to distil and how strongly: the configuration of a distillation, and the methods known by name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from udx.data.spec import Modality
from udx.errors import UdxError
from udx.models.center_head import REGRESSION
from udx.train.objectives import AdapterPolicy, ObjectiveConfig
from udx.train.objectives.channel_wise import ChannelWise
from udx.train.objectives.contrastive import Contrastive
from udx.train.objectives.crucial_response import CrucialResponse
from udx.train.objectives.dense_feature import DenseFeature
from udx.train.objectives.feature import Feature
from udx.train.objectives.inner_geometry import InnerGeometry
from udx.train.objectives.perspective_feature import PerspectiveFeature
from udx.train.objectives.perspective_relation import PerspectiveRelation
from udx.train.objectives.relation import Relation
from udx.train.objectives.response import Response
from udx.train.objectives.split_feature import SplitFeature

RESERVED: Final = frozenset(
    {"heatmap", *REGRESSION, "depth", "detection", "loss", "lr", "step", "epoch"}
    | {"gradient_norm", "seconds", "memory_mb", "dropped_points"}
)
"""What the log calls other figures: no objective can have such a name."""

Balance = Literal["share", "fixed"]
"""``share``: a weight is the share of the detection loss (that of the heads, without the cameras' depth) that its term
is held at; ``fixed``: a mere factor."""

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
        for name in self.objectives:
            if name in RESERVED or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(
                    f"a distillation loss cannot be named {name!r}: use lower-case letters, digits and _, and none of "
                    f"{', '.join(sorted(RESERVED))}"
                )
        if not any(objective.weight for objective in self.objectives.values()):
            raise ValueError("all weights of the distillation losses are 0: raise one, or train without a teacher")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"the distillation's ramp is a share of training in [0, 1], not {self.ramp}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"the distillation's ema_decay must be in [0, 1), not {self.ema_decay}")
        if not 0 <= self.encoder_first < 1:
            raise ValueError(f"encoder_first is a share of training in [0, 1), not {self.encoder_first}")


def unidistill(
    *, feature: float = 0.25, relation: float = 0.1, response: float = 0.3, inherit: Inherit = "nothing"
) -> DistillationConfig:
    """UniDistill's three objectives (Zhou et al., CVPR 2023), each held at its share of the detection loss."""
    return DistillationConfig(
        objectives={
            "feature": Feature(weight=feature),
            "relation": Relation(weight=relation),
            "response": Response(weight=response),
        },
        inherit=inherit,
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

    The teacher's confidence is taken at temperature 2, as in the authors' released code; the paper does not say so.

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
            "response": Response(weight=response, teacher_temperature=2.0),
        },
        balance="fixed",
        ramp=0.0,
    )


def bevdistill(teacher: Modality, student: Modality) -> DistillationConfig:
    """BEVDistill (Chen et al., ICLR 2023): dense features under the label heatmap, and objects told apart.

    Simplified: its objects are queries of a transformer, matched and weighted by quality; here they are the boxes.
    """
    return DistillationConfig(objectives={"dense": DenseFeature(weight=0.3), "sparse": Contrastive(weight=0.1)})


def s2m2(teacher: Modality, student: Modality) -> DistillationConfig:
    """S2M2-SSD (Zheng et al., CVPR 2022): response on crucial samples, and features of the voxels of objects.

    Simplified: its voxels are sparse and 3D, here they are cells of the low BEV map; its voxel-to-point and instance
    terms are left out.
    """
    return DistillationConfig(
        objectives={
            "crucial": CrucialResponse(weight=0.4),
            "voxels": DenseFeature(weight=0.2, at="low", mask="interior"),
        }
    )


def monodistill(teacher: Modality, student: Modality) -> DistillationConfig:
    """MonoDistill (Chong et al., ICLR 2022): the scene, its objects and the result, the first two in the images.

    Simplified: its teacher sees LiDAR points painted into the image, this one has cameras of its own; the result is
    compared on the BEV heads, as ``Response`` does.

    Raises:
        UdxError: teacher or student has no cameras.
    """
    if "lidar" in (teacher, student):
        raise UdxError(
            f"monodistill compares camera features, which {teacher} → {student} does not have on both sides: choose "
            "teacher and student among cam and fusion, or another --method"
        )
    return DistillationConfig(
        objectives={
            "scene": PerspectiveRelation(weight=0.1),
            "objects": PerspectiveFeature(weight=0.2),
            "result": Response(weight=0.3),
        }
    )


def distillbev(teacher: Modality, student: Modality) -> DistillationConfig:
    """DistillBEV (Chen et al., ICCV 2023): regions by what the teacher makes of them, its attention, at both BEV maps.

    Simplified: two scales, those of the taps, and no temporal fusion.
    """
    late = SplitFeature(weight=0.25, background=0.5, false_positives=0.5, imitate_attention=0.5)
    return DistillationConfig(objectives={"early": replace(late, weight=0.15, at="low"), "late": late})


def labeldistill(teacher: Modality, student: Modality) -> DistillationConfig:
    """LabelDistill (Kim et al., ECCV 2024): feature imitation under soft and under binary masks of the labels.

    Simplified: both terms have the same teacher; its encoder of labels, which is the second one, and the partition of
    the student's channels between the two are left out.
    """
    return DistillationConfig(
        objectives={
            "soft": DenseFeature(weight=0.3, at="high", mask="heatmap"),
            "binary": DenseFeature(weight=0.15, at="low", mask="interior"),
        }
    )


def tigbev(teacher: Modality, student: Modality) -> DistillationConfig:
    """TiG-BEV (Huang et al., 2022): how channels and points resemble each other within every box.

    Simplified: its relative depth within objects is left out.
    """
    return DistillationConfig(objectives={"inner": InnerGeometry(weight=0.3)})


def channel_wise(teacher: Modality, student: Modality) -> DistillationConfig:
    """CWD (Shu et al., ICCV 2021): where each channel is strong, in the high BEV map and in the class heatmaps."""
    return DistillationConfig(
        objectives={
            "channels": ChannelWise(weight=0.2, at="high"),
            "classes": ChannelWise(weight=0.2, at="heatmap", temperature=1.0),
        }
    )


def _unidistill(teacher: Modality, student: Modality) -> DistillationConfig:
    """UniDistill's feature, relation and response losses, each held at a share of the detection loss."""
    return unidistill()


METHODS: Final[Mapping[str, Callable[[Modality, Modality], DistillationConfig]]] = MappingProxyType(
    {
        "unidistill": _unidistill,
        "paper": paper,
        "bevdistill": bevdistill,
        "s2m2": s2m2,
        "monodistill": monodistill,
        "distillbev": distillbev,
        "labeldistill": labeldistill,
        "tigbev": tigbev,
        "channel_wise": channel_wise,
    }
)
"""Methods by name, each from (teacher, student) to its configuration."""
