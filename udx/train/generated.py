"""Samples made from nothing but a detector's ``SensorSpec``: of real shapes, for what needs no real content."""

from typing import Final

import numpy as np
import torch

from udx.data.frame import Annotations, Sample
from udx.data.inputs import inputs_of
from udx.data.spec import CameraSpec, SensorSpec
from udx.geometry import CLASSES, CameraRig
from udx.models.detector import DetectorInputs
from udx.runtime.frames import lidar_rings
from udx.train.batch import Batch
from udx.train.objects import Objects

OBJECTS: Final = 40
"""Objects of a generated sample: about as many as a keyframe of nuScenes has."""


def generated_sample(spec: SensorSpec, teacher_spec: SensorSpec | None, with_depth: bool, seed: int) -> Batch:
    """A sample of noise and rings that has the shapes of real ones, with objects anywhere on the grid."""
    generator = torch.Generator().manual_seed(seed)
    grid = spec.grid
    low = torch.tensor([grid.x_min, grid.y_min, 0.0, 0.5, 0.5, 0.5, -3.0, -1.0, -1.0])
    high = torch.tensor([grid.x_max, grid.y_max, 1.0, 5.0, 2.5, 2.0, 3.0, 1.0, 1.0])
    boxes = low + (high - low) * torch.rand(OBJECTS, 9, generator=generator)
    labels = torch.randint(len(CLASSES), (OBJECTS,), generator=generator)
    depth = cameras = None
    if spec.camera is not None:
        frustum = spec.camera.frustum
        shape = (1, len(spec.camera.names), *frustum.feature_shape)
        depth = torch.randint(frustum.depth_bins, shape, generator=generator) if with_depth else None
        cameras = torch.from_numpy(ring_of_cameras(spec.camera).pixels_T_ego_N34).float()[None]
    return Batch(
        inputs=_generated_inputs(spec, seed),
        teacher_inputs=_generated_inputs(teacher_spec, seed) if teacher_spec else None,
        objects=Objects([boxes], [labels], cameras),
        tokens=[f"generated-{seed}"],
        dropped_points=0,
        addresses=[(seed, 0)],
        lessons=[None],
        depth_BNhw=depth,
    )


def _generated_inputs(spec: SensorSpec, seed: int) -> DetectorInputs:
    images = rig = points = None
    if spec.camera is not None:
        rig, frustum = ring_of_cameras(spec.camera), spec.camera.frustum
        shape = len(spec.camera.names), frustum.image_height_px, frustum.image_width_px, 3
        images = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    if spec.lidar is not None:
        points = lidar_rings(spec, spec.lidar)
    sample = Sample("generated", images, rig, points, Annotations.none())
    return DetectorInputs(**{name: torch.from_numpy(value)[None] for name, value in inputs_of(sample, spec).items()})


def ring_of_cameras(camera: CameraSpec) -> CameraRig:
    """Level cameras 1.5 m above the ground that look outwards, evenly spread, each 70° wide."""
    names, frustum = camera.names, camera.frustum
    width, height = frustum.image_width_px, frustum.image_height_px
    focal = width / 2 / np.tan(np.deg2rad(35))
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    poses = np.tile(np.eye(4), (len(names), 1, 1))
    for pose, yaw in zip(poses, np.linspace(0, 2 * np.pi, len(names), endpoint=False), strict=True):
        # Columns: where the camera's right, down and forward point in the BEV frame.
        pose[:3, :3] = [[np.sin(yaw), 0, np.cos(yaw)], [-np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0]]
        pose[:3, 3] = [0, 0, 1.5]
    return CameraRig(names, np.stack([intrinsics] * len(names)), poses)
