"""A recipe that trains in seconds: tiny detectors on a grid that is not square, so that swapped axes show."""

import dataclasses

import numpy as np
import torch

from udx.data.spec import CAMERAS, CameraSpec, LidarSpec, SensorSpec
from udx.geometry import BevGrid, CameraRig, Frustum, pooling_plan
from udx.models.bev_encoder import BevEncoderConfig
from udx.models.camera import CameraEncoderConfig
from udx.models.center_head import CenterHeadConfig
from udx.models.detector import DetectorConfig, DetectorInputs
from udx.models.lidar import LidarEncoderConfig
from udx.train.recipes import Modality, RunConfig, nano

GRID = BevGrid(-25.6, 25.6, -12.8, 12.8, 0.8)
FRUSTUM = Frustum(image_height_px=32, image_width_px=64, stride_px=16, depth_min_m=2.0, depth_step_m=3.0, depth_bins=8)


def tiny_detector(modality: Modality, low_channels: int = 8) -> DetectorConfig:
    return DetectorConfig(
        spec=SensorSpec(
            grid=GRID,
            z_range_m=(-3.0, 5.0),
            camera=CameraSpec(frustum=FRUSTUM) if modality != "lidar" else None,
            lidar=LidarSpec(sweeps=1, max_points=2000) if modality != "cam" else None,
        ),
        camera=CameraEncoderConfig(
            backbone="resnet",
            settings={
                "layer_type": "basic",
                # No narrower: in strided 1×1 convolutions of 8 channels, channels last, oneDNN reads out of bounds.
                "embedding_size": 16,
                "hidden_sizes": [16, 16, 16, 16],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage2", "stage3"],
            },
            neck_channels=8,
            context_channels=8,
        ),
        lidar=LidarEncoderConfig(pillar_channels=8, pillars_per_cell=2),
        low_channels=low_channels,
        bev_encoder=BevEncoderConfig(channels=(8, 16), strides=(2, 2), convolutions=(1, 1), out_channels=(8, 8)),
        head=CenterHeadConfig(shared_channels=8, task_channels=8),
        max_boxes=30,
    )


def tiny_run(modality: Modality, epochs: int = 2, **train: object) -> RunConfig:
    config = nano(modality)
    settings = {"epochs": epochs, "batch_size": 2, "workers": 0, "precision": "no"} | train
    return dataclasses.replace(
        config,
        detector=tiny_detector(modality),
        train=dataclasses.replace(config.train, **settings),
        distillation=dataclasses.replace(config.distillation, inherit="nothing"),
    )


def ring_of_cameras(turn_rad: float = 0.0) -> CameraRig:
    """Six level cameras that look outwards, 60° apart, 1.5 m above the ground."""
    poses = []
    for index in range(len(CAMERAS)):
        yaw = turn_rad + index * np.pi / 3
        pose = np.eye(4)
        # Columns: where the camera's right, down and forward point in the BEV frame.
        pose[:3, :3] = np.array([[np.sin(yaw), 0, np.cos(yaw)], [-np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0]])
        pose[:3, 3] = [0, 0, 1.5]
        poses.append(pose)
    intrinsics = np.array([[40.0, 0, 31.5], [0, 40.0, 15.5], [0, 0, 1]])
    return CameraRig(CAMERAS, np.stack([intrinsics] * len(CAMERAS)), np.stack(poses))


def tiny_inputs(batch: int = 2, seed: int = 0, rig: CameraRig | None = None) -> DetectorInputs:
    """Inputs of all sensors: noise images, points all over the grid."""
    generator = torch.Generator().manual_seed(seed)
    plan = pooling_plan(rig or ring_of_cameras(), FRUSTUM, GRID, (-3.0, 5.0))
    points = torch.rand(batch, 2000, 5, generator=generator) * torch.tensor([50, 25, 3, 1, 0]) - torch.tensor(
        [25, 12.5, 1, 0, 0]
    )
    return DetectorInputs(
        images=torch.randint(0, 256, (batch, 6, 32, 64, 3), dtype=torch.uint8, generator=generator),
        pool_index=torch.from_numpy(plan.point_index_P).expand(batch, -1).contiguous(),
        pool_offsets=torch.from_numpy(plan.cell_offsets).expand(batch, -1).contiguous(),
        points=points,
        num_points=torch.tensor([[1500]] * batch).int(),
    )
