"""A keyframe on disk, and a sample of it in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udx.geometry import BOX_SIZE, CLASSES, CameraRig
from udx.geometry.arrays import ByteArray, Float32Array, FloatArray, require_shape


@dataclass(frozen=True, eq=False, slots=True)
class Sweep:
    """One LiDAR sweep: its file, the pose that brings it into the keyframe's BEV frame, seconds before it."""

    path: Path
    ego_T_lidar: FloatArray
    age_s: float


@dataclass(frozen=True, eq=False, slots=True)
class Annotations:
    """Boxes (N, 9) in the BEV frame, labels (N,) into ``CLASSES``, LiDAR and radar points counted in each.

    An unknown velocity is NaN; everything else is finite.
    """

    boxes_N9: FloatArray
    labels_N: NDArray[np.int64]
    num_points_N: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.boxes_N9)
        require_shape("boxes", self.boxes_N9, (count, BOX_SIZE))
        require_shape("labels", self.labels_N, (count,))
        require_shape("num_points", self.num_points_N, (count,))
        if not np.isfinite(self.boxes_N9[:, :7]).all():
            raise ValueError("a box has a centre, size or yaw that is not finite")
        if (self.boxes_N9[:, 3:6] <= 0).any():
            raise ValueError("a box has a size that is not positive")
        if ((self.labels_N < 0) | (self.labels_N >= len(CLASSES))).any():
            raise ValueError(f"a label is outside 0 to {len(CLASSES) - 1}")

    def __len__(self) -> int:
        return len(self.boxes_N9)

    def __getitem__(self, keep: NDArray[np.bool_]) -> "Annotations":
        return Annotations(self.boxes_N9[keep], self.labels_N[keep], self.num_points_N[keep])

    @classmethod
    def none(cls) -> "Annotations":
        """No boxes."""
        return cls(np.zeros((0, BOX_SIZE)), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class KeyFrame:
    """What the tables say of one keyframe: files, calibration, poses and annotations; nothing is decoded yet.

    ``rig`` and ``image_paths`` are in the same order; ``sweeps[0]`` is the keyframe's own LiDAR.
    """

    token: str
    scene: str
    timestamp_us: int
    image_paths: tuple[Path, ...]
    rig: CameraRig
    sweeps: tuple[Sweep, ...]
    global_T_ego: FloatArray
    annotations: Annotations


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """A keyframe in memory, brought to a detector's ``SensorSpec``, with or without augmentation.

    ``images_NHW3`` are RGB at the network's size, ``rig`` has their intrinsics; ``points_M5`` have the
    columns of ``POINT_FEATURES``. A sensor that the spec does not ask for is ``None``. ``dropped_points`` counts
    the points on the grid that did not fit the spec's buffer.
    """

    token: str
    images_NHW3: ByteArray | None
    rig: CameraRig | None
    points_M5: Float32Array | None
    annotations: Annotations
    dropped_points: int = 0
