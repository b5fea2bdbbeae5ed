import pytest

from udx.data.spec import CAMERAS, CameraSpec, LidarSpec, SensorSpec
from udx.geometry import BevGrid, Frustum

GRID = BevGrid(-8, 8, -8, 8, 1.0)
CAMERA = CameraSpec(
    frustum=Frustum(image_height_px=32, image_width_px=64, stride_px=16, depth_min_m=1, depth_step_m=1, depth_bins=4)
)
LIDAR = LidarSpec(sweeps=2, max_points=100)


@pytest.mark.parametrize(
    ("camera", "lidar", "modality"), [(CAMERA, None, "cam"), (None, LIDAR, "lidar"), (CAMERA, LIDAR, "fusion")]
)
def test_modality(camera, lidar, modality):
    assert SensorSpec(grid=GRID, z_range_m=(-3, 3), camera=camera, lidar=lidar).modality == modality


def test_impossible_specs_are_refused():
    with pytest.raises(ValueError, match="a camera or a LiDAR"):
        SensorSpec(grid=GRID, z_range_m=(-3, 3), camera=None, lidar=None)
    with pytest.raises(ValueError, match="height range"):
        SensorSpec(grid=GRID, z_range_m=(3, 3), camera=CAMERA, lidar=None)
    for wrong in ({"sweeps": 0}, {"max_points": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            LidarSpec(**({"sweeps": 1, "max_points": 1} | wrong))


def test_cameras_are_nuscenes_own():
    assert len(set(CAMERAS)) == 6
    assert CAMERA.names == CAMERAS
