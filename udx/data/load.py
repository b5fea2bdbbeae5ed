"""From a keyframe to a sample: decode, undo the car's motion, bring everything to a detector's ``SensorSpec``."""

from collections.abc import Callable, Sequence

import numpy as np

from udx.data.augment import Augmentation
from udx.data.frame import Annotations, KeyFrame, Sample
from udx.data.images import load_image
from udx.data.points import accumulate, fit_to, in_bev_frame, require_few
from udx.data.spec import CameraSpec, SensorSpec
from udx.errors import UdxError
from udx.geometry import BevGrid, CameraRig
from udx.geometry.arrays import ByteArray, Float32Array

ReadSweeps = Callable[[KeyFrame, int], Sequence[Float32Array]]
"""Reads up to so many of a keyframe's sweeps; points (M, 5) of each in the BEV frame, see ``in_bev_frame``."""


def read_sweeps(keyframe: KeyFrame, sweeps: int) -> Sequence[Float32Array]:
    """The ``ReadSweeps`` of files.

    Raises:
        UdxError: a sweep's file is missing or damaged, or they hold more points than udx reads.
    """
    found: list[Float32Array] = []
    for sweep in keyframe.sweeps[:sweeps]:
        found.append(in_bev_frame(sweep))
        require_few(f"keyframe {keyframe.token}", sum(map(len, found)))
    return found


def load_sample(keyframe: KeyFrame, spec: SensorSpec, augmentation: Augmentation | None = None) -> Sample:
    """Decode what ``spec`` asks for; see ``Reading``, which saves work where there are several specs."""
    return Reading(keyframe, augmentation).sample(spec)


class Reading:
    """One keyframe under one augmentation, read for one detector or several: what they share is decoded once."""

    def __init__(
        self, keyframe: KeyFrame, augmentation: Augmentation | None = None, read: ReadSweeps = read_sweeps
    ) -> None:
        self.keyframe, self.change, self._read = keyframe, augmentation or Augmentation(), read
        self._cameras: dict[CameraSpec, tuple[ByteArray, CameraRig]] = {}
        self._sweeps: Sequence[Float32Array] = ()

    def sample(self, spec: SensorSpec) -> Sample:
        """Decode what ``spec`` asks for; images, points, rig and boxes have changed together.

        Points off the grid or outside the height range are left out; those beyond the buffer are counted in
        ``Sample.dropped_points``. All boxes are kept: training takes those that are ``trainable``.

        Raises:
            UdxError: a file is missing or damaged, or the keyframe lacks a camera of the spec.
        """
        images = rig = points = None
        dropped = 0
        if spec.camera is not None:
            if spec.camera not in self._cameras:
                self._cameras[spec.camera] = load_images(self.keyframe, spec.camera, self.change)
            images, rig = self._cameras[spec.camera]
            rig = rig.with_ego_transform(self.change.bev.new_T_ego)
        if spec.lidar is not None:
            on_grid = self.points(spec, spec.lidar.sweeps)
            points = fit_to(on_grid, spec.lidar.max_points)
            dropped = len(on_grid) - len(points)
        return Sample(
            token=self.keyframe.token,
            images_NHW3=images,
            rig=rig,
            points_M5=points,
            annotations=self.change.bev.moved(self.keyframe.annotations),
            dropped_points=dropped,
        )

    def points(self, spec: SensorSpec, sweeps: int) -> Float32Array:
        """Points (M, 5) of up to ``sweeps`` sweeps that lie on the grid and in the height range of ``spec``.

        Raises:
            UdxError: a sweep's file is missing or damaged.
        """
        if len(self._sweeps) < min(sweeps, len(self.keyframe.sweeps)):
            self._sweeps = self._read(self.keyframe, sweeps)
        points = accumulate(self._sweeps[:sweeps], self.change.bev.new_T_ego)
        low, high = spec.z_range_m
        on_grid = spec.grid.flat_index(points[:, :2].astype(np.float64)) >= 0
        return points[on_grid & (points[:, 2] >= low) & (points[:, 2] < high)]


def trainable(annotations: Annotations, grid: BevGrid) -> Annotations:
    """Keep the boxes that can be learned: centre on the grid, at least one LiDAR or radar point inside."""
    return annotations[(annotations.num_points_N > 0) & (grid.flat_index(annotations.boxes_N9[:, :2]) >= 0)]


def load_images(keyframe: KeyFrame, camera: CameraSpec, change: Augmentation) -> tuple[ByteArray, CameraRig]:
    """Images (N, H, W, 3) at the frustum's size in the spec's order, and the rig with the intrinsics to match.

    Raises:
        UdxError: an image is missing or damaged, or the keyframe lacks a camera.
    """
    target = camera.frustum.image_width_px, camera.frustum.image_height_px
    names = keyframe.rig.names
    missing = [name for name in camera.names if name not in names]
    if missing:
        raise UdxError(f"keyframe {keyframe.token} has no camera {missing[0]}; it has {', '.join(names)}")
    paths = [keyframe.image_paths[names.index(name)] for name in camera.names]
    loaded = [load_image(path, target, change.image(slot)) for slot, path in enumerate(paths)]
    rig = keyframe.rig.select(camera.names)
    new_T_old_N33 = np.stack([new_T_old for _, new_T_old in loaded])
    return np.stack([image for image, _ in loaded]), rig.with_image_transforms(new_T_old_N33)
