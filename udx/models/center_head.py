"""Centre head: per task group a class heatmap and regression maps (Yin et al., "CenterPoint", CVPR 2021).

Legend: B batch, C channels, H W grid rows and columns, K classes, R regression channels.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.geometry import CLASSES
from udx.models.blocks import conv_bn_relu
from udx.models.taps import HeadMaps

TASKS: Final = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
"""Classes of similar size share a task group and its regression maps."""

TASK_OF_CLASS: Final = tuple(next(t for t, group in enumerate(TASKS) if name in group) for name in CLASSES)

REGRESSION: Final = {"offset": 2, "z": 1, "log_size": 3, "heading": 2, "velocity": 2}
"""Channels of a task's regression maps: offset of the centre from its cell's centre in cells (x, y), height of
the centre in metres, log of (l, w, h) in metres, (sin, cos) of yaw, velocity (x, y) in m/s."""

REGRESSION_CHANNELS: Final = sum(REGRESSION.values())

RARE_FOREGROUND_BIAS: Final = -2.19
"""Logit of a prior of 0.1 (Lin et al., "Focal Loss", ICCV 2017): without it the first steps see only false alarms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterHeadConfig:
    """Widths of the convolution that all tasks share, and of each task's own."""

    shared_channels: int
    task_channels: int


class CenterHead(nn.Module):
    """A shared convolution, then per task one convolution for the heatmap and one for the regression maps."""

    def __init__(self, config: CenterHeadConfig, channels_in: int) -> None:
        super().__init__()
        self.shared = conv_bn_relu(channels_in, config.shared_channels)
        self.heatmaps = nn.ModuleList(
            _branch(config.shared_channels, config.task_channels, len(classes)) for classes in TASKS
        )
        self.regressions = nn.ModuleList(
            _branch(config.shared_channels, config.task_channels, REGRESSION_CHANNELS) for _ in TASKS
        )
        for branch in self.heatmaps:
            nn.init.constant_(branch[-1].bias, RARE_FOREGROUND_BIAS)  # type: ignore[index]
        by_task = [CLASSES.index(name) for classes in TASKS for name in classes]
        self.class_order = [by_task.index(label) for label in range(len(CLASSES))]

    def forward(self, high_BCHW: Float[Tensor, "B C H W"]) -> HeadMaps:
        """Heatmap logits in the order of ``CLASSES``; regression maps task by task."""
        shared = self.shared(high_BCHW)
        by_task = torch.cat([branch(shared) for branch in self.heatmaps], dim=1)
        regression = torch.cat([branch(shared) for branch in self.regressions], dim=1)
        return HeadMaps(by_task[:, self.class_order], regression)


def _branch(channels_in: int, channels: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(channels_in, channels), nn.Conv2d(channels, channels_out, 1))
