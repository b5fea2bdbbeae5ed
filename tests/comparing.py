"""What tests of the objectives compare: declared taps of two detectors, random maps on them, a few boxes."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tests.tiny import FRUSTUM, ring_of_cameras
from udx.data.spec import CAMERAS
from udx.geometry import CLASSES, BevGrid, Frustum
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.taps import DeclaredTaps, HeadMaps, PerspectiveTap, Tap, Taps
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
    perspective: int | None = None,
    frustum: Frustum = FRUSTUM,
) -> DeclaredTaps:
    taps = dict(zip(("low", "high", "heads"), map(Tap, (low, high, heads), strides), strict=True))
    cameras = None if perspective is None else PerspectiveTap(perspective, frustum)
    return DeclaredTaps(grid=grid, perspective=cameras, **taps)


DETECTORS: Mapping[str, DeclaredTaps] = {
    "lidar": declare(6, 8),
    "cam": declare(4, 10, strides=(2, 1, 2)),
    "fusion": declare(8, 8, grid=BevGrid(-10.0, 6.0, -5.0, 5.0, 0.25), strides=(4, 2, 2)),
}
"""Of different widths, strides, cells and ranges."""

WEAKER = {("cam", "lidar"), ("cam", "fusion"), ("lidar", "fusion")}
"""(teacher, student) where the teacher is as a rule the weaker one."""


def taps_of(declared: DeclaredTaps, seed: int = 0, batch: int = 2, dtype: torch.dtype = torch.float32) -> Taps:
    generator = torch.Generator().manual_seed(seed)

    def random_map(tap: Tap, channels: int) -> Tensor:
        shape = declared.grid.coarsened(tap.stride).shape
        return torch.randn(batch, channels, *shape, generator=generator, dtype=dtype)

    cameras = declared.perspective
    return Taps(
        perspective_BNChw=None
        if cameras is None
        else torch.randn(
            batch, len(CAMERAS), cameras.channels, *cameras.frustum.feature_shape, generator=generator, dtype=dtype
        ),
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
    """Boxes of classes in their order, in sight of a ring of cameras."""
    projections = torch.from_numpy(ring_of_cameras().pixels_T_ego_N34).float()
    labels = [torch.arange(len(its)) % len(CLASSES) for its in boxes]
    return Objects(boxes, labels, projections.expand(len(boxes), -1, -1, -1))


def maps_in(taps: Taps) -> list[Tensor]:
    """Every map that there is."""
    its = [taps.low_BCHW, taps.high_BCHW, taps.heads.heatmap_BKHW, taps.heads.regression_BRHW, taps.perspective_BNChw]
    return [each for each in its if each is not None]


def compare(
    objective: Objective, student: Taps, teacher: Taps, boxes: Sequence[Float[Tensor, "_ 9"]]
) -> Float[Tensor, ""]:
    objects = objects_of(boxes)
    return objective(student, objective.read(teacher, objects), objects)


def coordinate_map(grid: BevGrid) -> Float[Tensor, "1 2 H W"]:
    """Two channels that hold x and y of each cell's centre."""
    height, width = grid.shape
    x = grid.x_min + (torch.arange(width) + 0.5) * grid.cell
    y = grid.y_min + (torch.arange(height) + 0.5) * grid.cell
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


def with_maps(taps: Taps, **maps: Tensor) -> Taps:
    """Other BEV maps, by ``low`` and ``high``."""
    return dataclasses.replace(taps, **{f"{name}_BCHW": value for name, value in maps.items()})
