"""Augmentation: ranges to draw from, and the concrete, replayable changes that were drawn.

Every change is exact in geometry: images change together with the rig's intrinsics, and the BEV frame together
with points, boxes and the rig's poses, so a 3D point projects to the same image content before and after.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from udx.data.frame import Annotations
from udx.data.images import ImageChange
from udx.geometry.arrays import FloatArray
from udx.geometry.boxes import transform_boxes
from udx.geometry.se3 import yaw_rotation
from udx.ranges import require_range

MAX_ZOOM: Final = 16.0
MAX_SHIFT: Final = 100.0
"""Image widths, radians or metres."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BevChange:
    """What augmentation does to the BEV frame: mirror, rotate about +z, scale, move, in this order.

    ``mirror_x`` turns x into −x, ``mirror_y`` turns y into −y.
    """

    mirror_x: bool = False
    mirror_y: bool = False
    rotation_rad: float = 0.0
    scale: float = 1.0
    translation_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not (np.isfinite([self.rotation_rad, *self.translation_m]).all() and 0 < self.scale < np.inf):
            raise ValueError(f"a BEV change needs finite numbers and a positive scale, not {self}")

    @property
    def new_T_ego(self) -> FloatArray:
        """4×4 similarity from the BEV frame to the changed one."""
        mirror = np.diag([-1.0 if self.mirror_x else 1.0, -1.0 if self.mirror_y else 1.0, 1.0, 1.0])
        matrix: FloatArray = yaw_rotation(self.rotation_rad) @ mirror
        matrix[:3, :3] *= self.scale
        matrix[:3, 3] = self.translation_m
        return matrix

    def moved(self, annotations: Annotations) -> Annotations:
        """Return the boxes in the changed frame; without a change the very same."""
        if self == BevChange():
            return annotations
        boxes = transform_boxes(self.new_T_ego, annotations.boxes_N9)
        return Annotations(boxes, annotations.labels_N, annotations.num_points_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """One concrete augmentation of one sample: ``images`` in the order of the detector's cameras.

    Without ``images`` the images stay as they are. The default changes nothing, bit for bit.
    """

    images: tuple[ImageChange, ...] = ()
    bev: BevChange = field(default_factory=BevChange)

    def image(self, index: int) -> ImageChange:
        """Change of the detector's camera number ``index``."""
        return self.images[index] if self.images else ImageChange()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAugmentation:
    """Ranges of ``ImageChange``, drawn for each camera on its own; the default never changes an image."""

    resize: Range = (1.0, 1.0)
    shift_x: Range = (0.0, 0.0)
    shift_y: Range = (0.0, 0.0)
    flip_probability: float = 0.0
    rotation_rad: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        require_ranges(self.resize, self.shift_x, self.shift_y, self.rotation_rad)
        require_probabilities(self.flip_probability)
        low, high = self.resize
        require_range(at_least=1 / MAX_ZOOM, at_most=MAX_ZOOM, resize_from=low, resize_to=high)
        for low, high in (self.shift_x, self.shift_y, self.rotation_rad):
            require_range(at_least=-MAX_SHIFT, at_most=MAX_SHIFT, shift_or_turn_from=low, shift_or_turn_to=high)

    def draw(self, generator: np.random.Generator) -> ImageChange:
        """Draw one image's change; the same generator state gives the same change."""
        return ImageChange(
            resize=generator.uniform(*self.resize),
            shift_x=generator.uniform(*self.shift_x),
            shift_y=generator.uniform(*self.shift_y),
            flip=bool(generator.random() < self.flip_probability),
            rotation_rad=generator.uniform(*self.rotation_rad),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BevAugmentation:
    """Ranges of ``BevChange``; translations are normal with a standard deviation per axis. The default is none."""

    mirror_x_probability: float = 0.0
    mirror_y_probability: float = 0.0
    rotation_rad: Range = (0.0, 0.0)
    scale: Range = (1.0, 1.0)
    translation_std_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        require_ranges(self.rotation_rad, self.scale)
        require_probabilities(self.mirror_x_probability, self.mirror_y_probability)
        low, high = self.scale
        require_range(at_least=1 / MAX_ZOOM, at_most=MAX_ZOOM, scale_from=low, scale_to=high)
        low, high = self.rotation_rad
        require_range(at_least=-MAX_SHIFT, at_most=MAX_SHIFT, rotation_from=low, rotation_to=high)
        for axis, deviation in zip("xyz", self.translation_std_m, strict=True):
            require_range(at_least=0, at_most=MAX_SHIFT, **{f"translation_std_m along {axis}": deviation})

    def draw(self, generator: np.random.Generator) -> BevChange:
        """Draw one sample's change; the same generator state gives the same change."""
        x, y, z = generator.normal(0.0, self.translation_std_m).tolist()
        return BevChange(
            mirror_x=bool(generator.random() < self.mirror_x_probability),
            mirror_y=bool(generator.random() < self.mirror_y_probability),
            rotation_rad=generator.uniform(*self.rotation_rad),
            scale=generator.uniform(*self.scale),
            translation_m=(x, y, z),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """What training may do to a sample; the default is nothing.

    ``draws``: how many different changes a sample gets, one a turn, before they repeat; ``None``: they never do.
    """

    image: ImageAugmentation = field(default_factory=ImageAugmentation)
    bev: BevAugmentation = field(default_factory=BevAugmentation)
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.draws is not None and self.draws < 1:
            raise ValueError(f"a sample needs at least one draw of its augmentation, not {self.draws}")

    def draw_of(self, turn: int) -> int:
        """Number of the draw that a sample's turn, counted from 0 through all epochs, replays."""
        return turn if self.draws is None else turn % self.draws

    def draw(self, generator: np.random.Generator, cameras: int) -> Augmentation:
        """Draw the augmentation of one sample of a detector with this many cameras."""
        return Augmentation(
            images=tuple(self.image.draw(generator) for _ in range(cameras)), bev=self.bev.draw(generator)
        )


def require_ranges(*ranges: Range) -> None:
    """Raise ``ValueError`` unless every range is finite and ascending."""
    for low, high in ranges:
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ValueError(f"[{low}, {high}] is not a range of finite numbers in ascending order")


def require_probabilities(*probabilities: float) -> None:
    """Raise ``ValueError`` unless every number lies in [0, 1]."""
    for probability in probabilities:
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability must lie in [0, 1], not {probability}")
