"""The convex solids that everything in the synthetic world is composed of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from udx.geometry.arrays import FloatArray

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]


class Primitive(IntEnum):
    """Shape of a solid in its own frame, where it fills at most [−1, 1]³ before scaling by its half size."""

    BLOCK = 0  # tapers (front, rear, side): how far the top edges of x = ±1 and y = ±1 are drawn in
    ROUND = 1  # axis z; the first taper is how far the top's radius shrinks
    BALL = 2


class Surface(IntEnum):
    """What a solid is covered with: how cameras colour it and how strongly the LiDAR beam returns."""

    MATT = 0
    PAINT = 1
    GLASS = 2
    RUBBER = 3
    PANELS = 4
    FACADE = 5
    FOLIAGE = 6
    BARRIER = 7
    CONE = 8
    LAMP = 9


REFLECTANCE: dict[Surface, float] = {
    Surface.MATT: 22.0,
    Surface.PAINT: 45.0,
    Surface.GLASS: 8.0,
    Surface.RUBBER: 5.0,
    Surface.PANELS: 60.0,
    Surface.FACADE: 30.0,
    Surface.FOLIAGE: 14.0,
    Surface.BARRIER: 90.0,
    Surface.CONE: 130.0,
    Surface.LAMP: 170.0,
}
"""LiDAR intensity, 0 to 255, of a perpendicular hit nearby."""


def _identity() -> FloatArray:
    return np.eye(3)


@dataclass(frozen=True, eq=False, slots=True)
class Solid:
    """One convex solid in its object's frame (x forward, y left, z up; z = 0 is the ground), metres."""

    primitive: Primitive
    centre_m: Vector
    half_m: Vector
    colour: Colour
    surface: Surface = Surface.MATT
    taper: Vector = (0.0, 0.0, 0.0)
    rotation_33: FloatArray = field(default_factory=_identity)

    def bounds_m(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest corner of the tight axis-aligned box in the object's frame."""
        x, y, z = self.half_m
        axes = self.rotation_33 * np.array([x, y, z])
        if self.primitive is Primitive.BALL:
            reach = np.linalg.norm(axes, axis=1)
            points = np.stack([-reach, reach])
        elif self.primitive is Primitive.ROUND:
            ring = np.hypot(axes[:, 0], axes[:, 1])
            top = ring * (1 - self.taper[0])
            points = np.stack([-axes[:, 2] - ring, -axes[:, 2] + ring, axes[:, 2] - top, axes[:, 2] + top])
        else:
            points = self._block_corners() @ axes.T
        centre = np.array(self.centre_m)
        return centre + points.min(axis=0), centre + points.max(axis=0)

    def _block_corners(self) -> FloatArray:
        front, rear, side = self.taper
        bottom = [(x, y, -1.0) for x in (-1.0, 1.0) for y in (-1.0, 1.0)]
        top = [(x, y * (1 - side), 1.0) for x in (rear - 1, 1 - front) for y in (-1.0, 1.0)]
        return np.array(bottom + top)


def turned(solid: Solid, pitch_rad: float = 0.0, roll_rad: float = 0.0, yaw_rad: float = 0.0) -> Solid:
    """Return the solid turned about its own centre; a positive pitch lowers the front."""
    cp, sp, cr, sr, cy, sy = (f(a) for a in (pitch_rad, roll_rad, yaw_rad) for f in (np.cos, np.sin))
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return replace(solid, rotation_33=yaw @ pitch @ roll @ solid.rotation_33)


def bounds_of(solids: Iterable[Solid]) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest corner of the tight axis-aligned box around solids of one object."""
    lows, highs = zip(*(solid.bounds_m() for solid in solids), strict=True)
    return np.min(lows, axis=0), np.max(highs, axis=0)


@dataclass(frozen=True, eq=False, slots=True)
class SolidArrays:
    """All solids of a scene as arrays, S rows; ``owner_S`` is the row of the object each one moves with."""

    primitive_S: NDArray[np.int64]
    surface_S: NDArray[np.int64]
    owner_S: NDArray[np.int64]
    centre_S3: FloatArray
    half_S3: FloatArray
    taper_S3: FloatArray
    rotation_S33: FloatArray
    colour_S3: FloatArray

    def __len__(self) -> int:
        return len(self.owner_S)

    @classmethod
    def of(cls, objects: Sequence[Sequence[Solid]]) -> "SolidArrays":
        """Stack the solids of all objects in order."""
        solids = [solid for parts in objects for solid in parts]
        return cls(
            primitive_S=np.array([solid.primitive for solid in solids], np.int64),
            surface_S=np.array([solid.surface for solid in solids], np.int64),
            owner_S=np.repeat(np.arange(len(objects)), [len(parts) for parts in objects]),
            centre_S3=np.array([solid.centre_m for solid in solids], np.float64).reshape(-1, 3),
            half_S3=np.array([solid.half_m for solid in solids], np.float64).reshape(-1, 3),
            taper_S3=np.array([solid.taper for solid in solids], np.float64).reshape(-1, 3),
            rotation_S33=np.array([solid.rotation_33 for solid in solids], np.float64).reshape(-1, 3, 3),
            colour_S3=np.array([solid.colour for solid in solids], np.float64).reshape(-1, 3),
        )
