"""What a detector asks of the sensors: one value object, saved in every run and every artefact."""

from dataclasses import dataclass
from typing import Final, Literal

from udx.geometry import BevGrid, Frustum
from udx.ranges import require_range

CAMERAS: Final = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
LIDAR: Final = "LIDAR_TOP"
Modality = Literal["cam", "lidar", "fusion"]
MAX_CAMERAS: Final = 32
MAX_SWEEPS: Final = 100
MAX_POINTS: Final = 10**7
MAX_HEIGHT_M: Final = 1e4
POINT_FEATURES: Final = ("x", "y", "z", "intensity", "age")
"""Columns of a point: metres in the BEV frame, reflectance in [0, 1], seconds before the keyframe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraSpec:
    """Cameras, and the frustum their feature maps are lifted to; the frustum holds the image size.

    An image is scaled to the frustum's width; of its height the bottom is kept.
    """

    names: tuple[str, ...] = CAMERAS
    frustum: Frustum

    def __post_init__(self) -> None:
        require_range(at_least=1, at_most=MAX_CAMERAS, cameras=len(self.names))
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"a camera is named twice in {', '.join(self.names)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarSpec:
    """How many LiDAR sweeps are accumulated (1: the keyframe alone), and the capacity of the point buffer."""

    sweeps: int
    max_points: int

    def __post_init__(self) -> None:
        require_range(at_least=1, at_most=MAX_SWEEPS, sweeps=self.sweeps)
        require_range(at_least=1, at_most=MAX_POINTS, max_points=self.max_points)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorSpec:
    """The sensors of one detector, and the grid and height range of its BEV maps, metres."""

    grid: BevGrid
    z_range_m: tuple[float, float]
    camera: CameraSpec | None
    lidar: LidarSpec | None

    def __post_init__(self) -> None:
        if self.camera is None and self.lidar is None:
            raise ValueError("a detector needs a camera or a LiDAR")
        require_range(
            at_least=-MAX_HEIGHT_M, at_most=MAX_HEIGHT_M, z_min_m=self.z_range_m[0], z_max_m=self.z_range_m[1]
        )
        if not self.z_range_m[0] < self.z_range_m[1]:
            raise ValueError(f"the height range {self.z_range_m} m is empty")

    @property
    def modality(self) -> Modality:
        """Which sensors there are."""
        if self.camera is None:
            return "lidar"
        return "cam" if self.lidar is None else "fusion"
