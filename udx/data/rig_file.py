"""Calibrations in JSON files: cameras, and where the LiDAR is.

    {"names": ["CAM_FRONT", …], "intrinsics": [[[fx, 0, cx], [0, fy, cy], [0, 0, 1]], …],
     "ego_T_cam": [[[r, r, r, x], [r, r, r, y], [r, r, r, z], [0, 0, 0, 1]], …], "ego_T_lidar": [[…], …]}

Intrinsics are those of the images as they are on disk, poses are in metres; ``ego_T_lidar`` may be left out where
points are in the BEV frame already. ``names``, ``intrinsics`` and ``ego_T_cam`` are what ``CameraRig.to_json`` gives.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from udx.errors import UdxError
from udx.files import read_json
from udx.geometry import CameraRig
from udx.geometry.arrays import FloatArray

MAX_RIG_BYTES: Final = 2**20
MAX_CAMERAS: Final = 64
MAX_OFFSET_M: Final = 1000.0
"""How far a sensor may be from the BEV frame's origin: a car drives no further while one frame is taken."""
RIGID: Final = 1e-3
"""How far a rotation's columns may be from orthonormal: calibrations are written with few digits."""


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """The cameras with intrinsics at the images' own size, and the LiDAR's pose in the BEV frame."""

    rig: CameraRig
    ego_T_lidar: FloatArray


def read_rig(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        UdxError: the file is missing or no JSON, lacks a part, or a camera has no possible intrinsics or pose.
    """
    value = read_json(path, MAX_RIG_BYTES)
    try:
        return _calibration(value)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UdxError(f"{path} is no calibration ({said}); its form is told in udx.data.rig_file") from error


def _calibration(value: Any) -> Calibration:
    names = value["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("names are no list of words")
    if len(names) > MAX_CAMERAS or len(set(names)) < len(names):
        raise ValueError(f"names are more than {MAX_CAMERAS}, or one is there twice")
    rig = CameraRig.from_json({"names": names, "intrinsics": value["intrinsics"], "ego_T_cam": value["ego_T_cam"]})
    for name, intrinsics, ego_T_cam in zip(rig.names, rig.intrinsics_N33, rig.ego_T_cam_N44, strict=True):
        _require_pinhole(name, intrinsics)
        _require_pose(name, ego_T_cam)
    ego_T_lidar = np.array(value.get("ego_T_lidar", np.eye(4)), dtype=np.float64)
    _require_pose("the LiDAR", ego_T_lidar)
    return Calibration(rig, ego_T_lidar)


def _require_pinhole(name: str, intrinsics_33: FloatArray) -> None:
    focal = np.diag(intrinsics_33)[:2]
    fixed = np.array_equal(intrinsics_33[2], [0, 0, 1]) and intrinsics_33[1, 0] == 0
    if not fixed or not ((focal >= 1) & (focal <= 1e6)).all() or np.abs(intrinsics_33).max() > 1e6:
        raise ValueError(f"the intrinsics of {name} are not [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels")


def _require_pose(name: str, ego_T_sensor: FloatArray) -> None:
    if ego_T_sensor.shape != (4, 4) or not np.isfinite(ego_T_sensor).all():
        raise ValueError(f"the pose of {name} is no 4 × 4 matrix of finite numbers")
    rotation = ego_T_sensor[:3, :3]
    rigid = np.abs(ego_T_sensor).max() <= MAX_OFFSET_M and np.abs(rotation.T @ rotation - np.eye(3)).max() < RIGID
    if not rigid or np.linalg.det(rotation) < 0 or not np.array_equal(ego_T_sensor[3], [0, 0, 0, 1]):
        raise ValueError(f"the pose of {name} is no rotation and an offset of at most {MAX_OFFSET_M:g} m")
