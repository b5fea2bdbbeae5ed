"""Input frames for measurements: real keyframes, or one made from nothing but an engine's manifest."""

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from udx.data.frame import Annotations, KeyFrame, Sample
from udx.data.inputs import Tensors, inputs_of
from udx.data.load import load_sample
from udx.data.spec import LidarSpec, SensorSpec
from udx.errors import UdxError
from udx.geometry.arrays import Float32Array
from udx.manifest import Manifest

Frame = Callable[[], Tensors]
"""Produces one frame's tensors: decoding, resizing and the pooling plan are its cost."""

# nuScenes' LiDAR: 32 beams, a turn in 50 ms, mounted 1.84 m above the ground.
BEAM_ELEVATIONS_RAD: Final = np.deg2rad(np.linspace(-30.67, 10.67, 32))
AZIMUTH_STEPS: Final = 1084
MOUNT_M: Final = np.array([0.94, 0.0, 1.84])
SWEEP_PERIOD_S: Final = 0.05
WALL_M: Final = 45.0


def generated_frame(manifest: Manifest, seed: int) -> tuple[Frame, str]:
    """Return one deterministic frame that fits the detector, and a sentence that describes it.

    The images are noise, the rig is the manifest's own (a real calibration), the points are what a 32-beam
    LiDAR sees on flat ground within a round wall. Each call builds the rig's pooling plan anew.

    Raises:
        UdxError: the detector has cameras, but its manifest no rig.
    """
    spec = manifest.spec
    rng = np.random.default_rng(seed)
    images, said = None, []
    if spec.camera is not None:
        if manifest.rig is None:
            raise UdxError(f"the manifest of recipe {manifest.recipe} holds no camera rig; give real data instead")
        frustum = spec.camera.frustum
        shape = len(spec.camera.names), frustum.image_height_px, frustum.image_width_px, 3
        images = rng.integers(256, size=shape, dtype=np.uint8)
        said.append(f"{shape[0]} images of noise at {shape[1]}×{shape[2]} px with the manifest's rig")
    points = None
    if spec.lidar is not None:
        points = lidar_rings(spec, spec.lidar)
        said.append(f"{len(points)} points of a 32-beam LiDAR on flat ground (buffer: {spec.lidar.max_points})")
    sample = Sample("generated", images, manifest.rig if spec.camera else None, points, Annotations.none())
    return lambda: tensors_of(sample, manifest), " and ".join(said)


def tensors_of(sample: Sample, manifest: Manifest) -> Tensors:
    """Bring a sample to a detector's inputs; an open point buffer is as long as there are points."""
    return inputs_of(sample, manifest.spec, pad="points" not in manifest.dynamic)


def keyframe_frames(keyframes: Iterable[KeyFrame], manifest: Manifest) -> list[Frame]:
    """Return frames that load keyframes from disk: decoding, resizing, accumulating and planning, every time anew."""

    def frame(keyframe: KeyFrame) -> Frame:
        return lambda: tensors_of(load_sample(keyframe, manifest.spec), manifest)

    return [frame(keyframe) for keyframe in keyframes]


def lidar_rings(spec: SensorSpec, lidar: LidarSpec) -> Float32Array:
    """Points (M, 5) of ``lidar.sweeps`` turns on flat ground, a wall around; thinned evenly to the buffer."""
    elevation, azimuth = np.meshgrid(
        BEAM_ELEVATIONS_RAD, np.arange(AZIMUTH_STEPS) * (2 * math.pi / AZIMUTH_STEPS), indexing="ij"
    )
    fall = np.maximum(-np.tan(elevation), 1e-9)
    distance = np.minimum(MOUNT_M[2] / fall, WALL_M).ravel()
    height = MOUNT_M[2] + distance * np.tan(elevation).ravel()
    x = MOUNT_M[0] + distance * np.cos(azimuth).ravel()
    y = MOUNT_M[1] + distance * np.sin(azimuth).ravel()
    sweep = np.stack([x, y, height, np.full_like(x, 0.2), np.zeros_like(x)], axis=1).astype(np.float32)
    inside = (spec.grid.flat_index(sweep[:, :2].astype(np.float64)) >= 0) & (
        (sweep[:, 2] >= spec.z_range_m[0]) & (sweep[:, 2] < spec.z_range_m[1])
    )
    turns = np.tile(sweep[inside], (lidar.sweeps, 1))
    turns[:, 4] = np.repeat(np.arange(lidar.sweeps) * SWEEP_PERIOD_S, int(inside.sum()))
    keep = np.linspace(0, len(turns) - 1, min(len(turns), lidar.max_points)).astype(np.int64)
    points: Float32Array = turns[keep]
    return points
