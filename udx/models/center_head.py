"""Centre head: per task group a class heatmap and regression maps (Yin et al., "CenterPoint", CVPR 2021).

Legend: B batch, C channels, H W grid rows and columns, K classes, R regression channels.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.geometry import CLASSES
from udx.models.blocks import MAX_CHANNELS, conv_bn_relu
from udx.models.taps import HeadMaps
from udx.ranges import require_range

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

    def __post_init__(self) -> None:
        require_range(
            at_least=1,
            at_most=MAX_CHANNELS,
            shared_channels=self.shared_channels,
            task_channels=self.task_channels,
        )


class CenterHead(nn.Module):
    """A shared convolution, then for every task one for its heatmap and one for its regression maps.

    The tasks' own convolutions are computed as one, which is the same and faster than many narrow ones.
    """

    def __init__(self, config: CenterHeadConfig, channels_in: int) -> None:
        super().__init__()
        tasks, width = len(TASKS), config.task_channels
        self.task_channels = width
        self.shared = conv_bn_relu(channels_in, config.shared_channels)
        self.branches = conv_bn_relu(config.shared_channels, 2 * tasks * width)
        self.heatmaps = nn.ModuleList(nn.Conv2d(width, len(classes), 1) for classes in TASKS)
        self.regression = nn.Conv2d(tasks * width, tasks * REGRESSION_CHANNELS, 1, groups=tasks)
        for heatmap in self.heatmaps:
            nn.init.constant_(heatmap.bias, RARE_FOREGROUND_BIAS)  # type: ignore[arg-type]
        by_task = [CLASSES.index(name) for classes in TASKS for name in classes]
        self.class_order = [by_task.index(label) for label in range(len(CLASSES))]

    def forward(self, high_BCHW: Float[Tensor, "B C H W"]) -> HeadMaps:
        """Heatmap logits in the order of ``CLASSES``; regression maps task by task."""
        of_heatmaps, of_regression = self.branches(self.shared(high_BCHW)).chunk(2, dim=1)
        task_maps = of_heatmaps.split(self.task_channels, dim=1)
        by_task = torch.cat([conv(maps) for conv, maps in zip(self.heatmaps, task_maps, strict=True)], dim=1)
        return HeadMaps(by_task[:, self.class_order], self.regression(of_regression))
