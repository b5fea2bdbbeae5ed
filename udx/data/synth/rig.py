"""The nuScenes sensor rig as numbers: six cameras and one 32-beam LiDAR, calibrated in the ego frame."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from udx.geometry.arrays import FloatArray
from udx.geometry.se3 import from_quaternion

NATIVE_WIDTH_PX: Final = 1600
NATIVE_HEIGHT_PX: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Where a sensor sits: its pose in the ego frame, and when it fires relative to the LiDAR's timestamp."""

    channel: str
    rotation_wxyz: tuple[float, float, float, float]
    translation_m: tuple[float, float, float]
    delay_s: float = 0.0

    @property
    def ego_T_sensor(self) -> FloatArray:
        """4×4 transform from the sensor's frame to the ego frame."""
        return from_quaternion(np.array(self.rotation_wxyz), np.array(self.translation_m))


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraMount(Mount):
    """A camera: ``focal_px`` and the principal point at nuScenes' native 1600 × 900 pixels."""

    focal_px: float
    centre_px: tuple[float, float]

    def intrinsic(self, width_px: int) -> FloatArray:
        """3×3 intrinsic matrix of the image scaled to ``width_px``; whole numbers are pixel centres."""
        scale = width_px / NATIVE_WIDTH_PX
        u, v = ((centre + 0.5) * scale - 0.5 for centre in self.centre_px)
        return np.array([[self.focal_px * scale, 0.0, u], [0.0, self.focal_px * scale, v], [0.0, 0.0, 1.0]])


LIDAR_MOUNT: Final = Mount(
    channel="LIDAR_TOP",
    rotation_wxyz=(0.7077955119163518, -0.006492242056004365, 0.010646214713995808, -0.7063073142877817),
    translation_m=(0.943713, 0.0, 1.84023),
)
LIDAR_BEAMS: Final = 32
LIDAR_LOWEST_RAD: Final = float(np.deg2rad(-30.67))
LIDAR_BEAM_STEP_RAD: Final = float(np.deg2rad(4 / 3))
LIDAR_AZIMUTHS: Final = 1080
LIDAR_RANGE_M: Final = 100.0
LIDAR_PERIOD_S: Final = 0.05

CAMERA_MOUNTS: Final = (
    CameraMount(
        channel="CAM_FRONT",
        rotation_wxyz=(0.4998015430569128, -0.5030316162024876, 0.4997798114386805, -0.49737083824542755),
        translation_m=(1.70079118954, 0.0159456324149, 1.51095763913),
        delay_s=-0.035491,
        focal_px=1266.417203046554,
        centre_px=(816.2670197447984, 491.50706579294757),
    ),
    CameraMount(
        channel="CAM_FRONT_RIGHT",
        rotation_wxyz=(0.2060347966337182, -0.2026940577919598, 0.6824507824531167, -0.6713610884174485),
        translation_m=(1.5508477543, -0.493404796419, 1.49574800619),
        delay_s=-0.027612,
        focal_px=1260.8474446004698,
        centre_px=(807.968244525554, 495.3344268742088),
    ),
    CameraMount(
        channel="CAM_FRONT_LEFT",
        rotation_wxyz=(0.6757265034669446, -0.6736266522251881, 0.21214015046209478, -0.21122827103904068),
        translation_m=(1.52387798135, 0.494631336551, 1.50932822144),
        delay_s=-0.043107,
        focal_px=1272.5979470598488,
        centre_px=(826.6154927353808, 479.75165386361925),
    ),
    CameraMount(
        channel="CAM_BACK",
        rotation_wxyz=(0.5037872666382278, -0.49740249788611096, -0.4941850223835201, 0.5045496097725578),
        translation_m=(0.0283260309358, 0.00345136761476, 1.57910346144),
        delay_s=-0.010426,
        focal_px=809.2209905677063,
        centre_px=(829.2196003259838, 481.77842384512485),
    ),
    CameraMount(
        channel="CAM_BACK_LEFT",
        rotation_wxyz=(0.6924185592174665, -0.7031619420114925, -0.11648342771943819, 0.11203317912370753),
        translation_m=(1.03569100218, 0.484795032713, 1.59097014818),
        delay_s=-0.000528,
        focal_px=1256.7414812095406,
        centre_px=(792.1125740759628, 492.7757465151356),
    ),
    CameraMount(
        channel="CAM_BACK_RIGHT",
        rotation_wxyz=(0.12280980120078765, -0.132400842670559, -0.7004305821388234, 0.690496031265798),
        translation_m=(1.0148780988, -0.480568219723, 1.56239545128),
        delay_s=-0.020058,
        focal_px=1259.5137405846733,
        centre_px=(807.2529053838625, 501.19579884916527),
    ),
)


def image_height_px(width_px: int) -> int:
    """Height of an image of ``width_px`` with nuScenes' 16:9 format."""
    return round(width_px * NATIVE_HEIGHT_PX / NATIVE_WIDTH_PX)
