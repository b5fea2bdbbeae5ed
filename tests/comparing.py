"""What tests of the objectives compare: declared taps of two detectors, random maps on them, a few boxes."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.taps import DeclaredTaps, HeadMaps, Tap, Taps
from udx.train.objectives import Objective, Objects

GRID = BevGrid(-8.0, 8.0, -4.0, 4.0, 0.5)
REGRESSIONS = len(TASKS) * REGRESSION_CHANNELS
BOXES = [
    torch.tensor([[1.0, 0.5, 0, 2, 1, 1, 0.4, 0, 0], [-3.3, -1.2, 0, 4, 2, 1, 2.0, 0, 0]]),
    torch.zeros(0, 9),
]
NO_BOXES = [torch.zeros(0, 9)] * 2


def declare(
    low: int = 6,
    high: int = 8,
    *,
    strides: tuple[int, int, int] = (1, 1, 1),
    grid: BevGrid = GRID,
    heads: int = len(CLASSES) + REGRESSIONS,
) -> DeclaredTaps:
    channels = (low, high, heads)
    return DeclaredTaps(grid=grid, **dict(zip(("low", "high", "heads"), map(Tap, channels, strides), strict=True)))


def taps_of(declared: DeclaredTaps, seed: int = 0, batch: int = 2) -> Taps:
    generator = torch.Generator().manual_seed(seed)

    def random_map(tap: Tap, channels: int) -> Tensor:
        return torch.randn(batch, channels, *declared.grid.coarsened(tap.stride).shape, generator=generator)

    return Taps(
        low_BCHW=random_map(declared.low, declared.low.channels),
        high_BCHW=random_map(declared.high, declared.high.channels),
        heads=HeadMaps(random_map(declared.heads, len(CLASSES)), random_map(declared.heads, REGRESSIONS)),
    )


def sample_of(taps: Taps, sample: int) -> Taps:
    """The taps of one sample of a batch, as a batch of one."""

    def cut(value: Tensor | HeadMaps | None) -> Tensor | HeadMaps | None:
        if value is None:
            return None
        if isinstance(value, HeadMaps):
            return HeadMaps(value.heatmap_BKHW[sample : sample + 1], value.regression_BRHW[sample : sample + 1])
        return value[sample : sample + 1]

    return Taps(**{item.name: cut(getattr(taps, item.name)) for item in dataclasses.fields(taps)})


def objects_of(boxes: Sequence[Float[Tensor, "_ 9"]]) -> Objects:
    return Objects(boxes, [torch.arange(len(its)) % len(CLASSES) for its in boxes])


def compare(
    objective: Objective, student: Taps, teacher: Taps, boxes: Sequence[Float[Tensor, "_ 9"]]
) -> Float[Tensor, ""]:
    objects = objects_of(boxes)
    return objective(student, objective.read(teacher, objects), objects)
