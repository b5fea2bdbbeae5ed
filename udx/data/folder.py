"""Frames from a folder of images and files of points, without nuScenes' tables.

One frame is a folder with an image for each camera, as ``CAM_FRONT.jpg``; many are a folder with a folder for each
camera, as ``CAM_FRONT/000017.jpg``, whose files are frames in the order of their names. Points are one file, or a
folder of as many files as there are frames.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from udx.data.frame import Annotations, KeyFrame, Sweep
from udx.data.images import ImageChange, ImageWarp, opened
from udx.data.load import Reading
from udx.data.points import POINT_BYTES
from udx.data.rig_file import Calibration
from udx.data.spec import CameraSpec, SensorSpec
from udx.errors import UdxError
from udx.geometry import CameraRig
from udx.geometry.arrays import FloatArray
from udx.geometry.se3 import linear_inverse

IMAGES: Final = (".jpg", ".jpeg", ".png")
POINTS: Final = (".bin", ".npy")
NO_CAMERAS: Final = CameraRig((), np.zeros((0, 3, 3)), np.zeros((0, 4, 4)))


def folder_frames(
    spec: SensorSpec,
    *,
    images: Path | None,
    points: Path | None,
    calibration: Calibration | None,
    network_rig: CameraRig | None,
) -> list[KeyFrame]:
    """Frames as a detector of ``spec`` reads them, in order; nothing is decoded yet.

    Without ``calibration`` the cameras are those of ``network_rig``, whose intrinsics are at the network's image size,
    and points are in the BEV frame.

    Raises:
        UdxError: images or points are missing that the detector needs, one camera has other frames than another, or
            there is no calibration.
    """
    if (images is None) != (spec.camera is None):
        raise UdxError(
            f"a {spec.modality} detector reads {'images: give them' if images is None else 'no images: leave them out'}"
            " (--images)"
        )
    if points is None and spec.lidar is not None:
        raise UdxError(f"a {spec.modality} detector reads points: give them, too (--points)")
    cameras = _image_files(images, spec.camera) if images is not None and spec.camera is not None else []
    clouds = _files(points, POINTS) if points is not None else []
    counts = {len(files) for files in (*cameras, clouds) if files}
    if len(counts) != 1:
        raise UdxError(
            f"{images or points} and {points or images} hold different numbers of frames "
            f"({', '.join(map(str, sorted(counts)))}); give one file for each frame"
        )
    frames = [
        _frame(spec, [files[at] for files in cameras], clouds[at] if clouds else None, calibration, network_rig)
        for at in range(counts.pop())
    ]
    for one, other in pairwise(sorted(frame.token for frame in frames)):
        if one == other:
            raise UdxError(f"{images or points} holds two frames named {one}; give every frame a name of its own")
    return frames


def thinned(frames: Sequence[KeyFrame], spec: SensorSpec) -> Iterator[tuple[str, int]]:
    """Frames with more points on the grid than the detector's buffer holds, and how many do not fit.

    Raises:
        UdxError: a file of points is damaged.
    """
    if spec.lidar is None:
        return
    for frame in frames:
        # A file that holds no more points than the buffer is not worth reading twice.
        if sum(sweep.path.stat().st_size for sweep in frame.sweeps) > spec.lidar.max_points * POINT_BYTES // 2:
            beyond = len(Reading(frame).points(spec, spec.lidar.sweeps)) - spec.lidar.max_points
            if beyond > 0:
                yield frame.token, beyond


def _image_files(folder: Path, camera: CameraSpec) -> list[list[Path]]:
    """For each camera of the spec its images, in order."""
    if not folder.is_dir():
        raise UdxError(f"there is no folder of images {folder}; check the path")
    found = [_images_of(folder, name) for name in camera.names]
    for name, files in zip(camera.names, found, strict=True):
        if not files:
            raise UdxError(
                f"{folder} has no image of camera {name} ({name}.jpg, or a folder {name} of images); the detector "
                f"reads {', '.join(camera.names)}"
            )
        if len(files) != len(found[0]):
            raise UdxError(
                f"{folder} has {len(files)} images of {name} and {len(found[0])} of {camera.names[0]}; every frame "
                "needs one of each"
            )
    return found


def _images_of(folder: Path, name: str) -> list[Path]:
    single = [folder / f"{name}{suffix}" for suffix in IMAGES if (folder / f"{name}{suffix}").is_file()]
    return single[:1] or _listed(folder / name, IMAGES)


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """A file by itself, or all of a folder."""
    files = _listed(path, suffixes) if path.is_dir() else [path]
    if not files:
        raise UdxError(f"{path} holds no file of points ({', '.join(suffixes)}); check the path")
    if not files[0].is_file():
        raise UdxError(f"there is no file or folder of points {path}; check the path")
    if files[0].suffix.lower() not in suffixes:
        raise UdxError(f"{path} is no file of points that udx reads ({', '.join(suffixes)}); convert it")
    return files


def _listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())


def _frame(
    spec: SensorSpec,
    images: list[Path],
    cloud: Path | None,
    calibration: Calibration | None,
    network_rig: CameraRig | None,
) -> KeyFrame:
    ego_T_lidar = calibration.ego_T_lidar if calibration is not None else np.eye(4)
    first = cloud if not images else images[0]
    assert first is not None
    single = bool(images) and spec.camera is not None and first.stem == spec.camera.names[0]
    return KeyFrame(
        token=first.resolve().parent.name if single else first.name.partition(".")[0],
        scene="folder",
        timestamp_us=0,
        image_paths=tuple(images),
        rig=_rig(spec.camera, images, calibration, network_rig) if spec.camera is not None else NO_CAMERAS,
        sweeps=(Sweep(cloud, ego_T_lidar, 0.0),) if cloud is not None else (),
        global_T_ego=np.eye(4),
        annotations=Annotations.none(),
    )


def _rig(
    camera: CameraSpec, images: list[Path], calibration: Calibration | None, network_rig: CameraRig | None
) -> CameraRig:
    """Cameras in the spec's order, with intrinsics at the size of the images on disk."""
    if calibration is None and network_rig is None:
        raise UdxError("the engine holds no calibration; give that of the cameras with --rig")
    rig = calibration.rig if calibration is not None else network_rig
    assert rig is not None
    try:
        ordered = rig.select(camera.names)
    except ValueError as error:
        raise UdxError(f"the calibration does not fit the detector: {error}; add the camera to it") from error
    return ordered if calibration is not None else ordered.with_image_transforms(_file_T_network(camera, images))


def _file_T_network(camera: CameraSpec, images: list[Path]) -> FloatArray:
    target = camera.frustum.image_width_px, camera.frustum.image_height_px
    transforms = []
    for path in images:
        with opened(path) as image:
            transforms.append(linear_inverse(ImageWarp(image.size, target, ImageChange()).new_T_old))
    return np.stack(transforms)
