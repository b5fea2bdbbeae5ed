"""A detector's calibration inputs in a file, for programs that are not in Python: NumPy alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.data.images import ImageChange, ImageWarp
from udx.data.inputs import calibration_inputs
from udx.data.rig_file import Calibration, read_rig
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.files import write_with
from udx.runtime.engine_file import read_engine

MAX_SIDE_PX: Final = 100_000


def parse_size(text: str) -> tuple[int, int]:
    """Read a width and a height in pixels, as ``1600x900``.

    Raises:
        UdxError: it is none.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit() and len(text) <= 20):
        raise UdxError(f"{text!r} is no size of an image; give its width and height in pixels, as 1600x900")
    return int(width), int(height)


def write_calibration(
    rig_file: Path, engine: Path, out: Path, image_size: tuple[int, int] | None = None
) -> dict[str, NDArray[Any]]:
    """Write what ``calibration_arrays`` gives for an engine file as an uncompressed ``.npz``.

    Args:
        rig_file: a calibration as ``udx.data.rig_file`` reads it.
        engine: the ONNX file or plan that is to read the tensors.
        out: file to write.
        image_size: width and height in pixels of the images that the calibration is for.

    Raises:
        UdxError: a file cannot be read, or they do not fit one another.
    """
    arrays = calibration_arrays(read_rig(rig_file), read_engine(engine).manifest.spec, image_size)

    def write(partial: Path) -> None:
        with partial.open("wb") as stream:  # by name, NumPy would add a suffix
            np.savez(stream, **arrays)

    write_with(out, write)
    return arrays


def calibration_arrays(
    calibration: Calibration, spec: SensorSpec, image_size: tuple[int, int] | None = None
) -> dict[str, NDArray[Any]]:
    """Compute the tensors of a calibration that a detector reads, and what brings sensor data to its other inputs.

    Args:
        calibration: cameras with intrinsics at ``image_size``, and the LiDAR's pose.
        spec: the detector's sensors.
        image_size: width and height in pixels; None where they are the network's own.

    Returns:
        ``pool_index`` (P,) and ``pool_offsets`` (cells + 1,) INT32, the inputs of those names; ``cameras`` (N,) names
        in the order of ``images``; ``intrinsics`` (N, 3, 3) at the network's size; ``ego_T_cam`` (N, 4, 4), metres;
        ``network_T_image`` (3, 3), from pixels of an image on disk to those of ``images``; ``ego_T_lidar`` (4, 4),
        from the LiDAR's frame to that of ``points``.

    Raises:
        UdxError: the detector has no cameras, the calibration lacks one of them, or the size is impossible.
    """
    if spec.camera is None:
        raise UdxError("a lidar detector has no cameras, so no input depends on a calibration; leave it out")
    target = spec.camera.frustum.image_width_px, spec.camera.frustum.image_height_px
    size = image_size or target
    if not all(1 <= side <= MAX_SIDE_PX for side in size):
        raise UdxError(f"images of {size[0]} × {size[1]} px cannot be; give the size of the images on disk")
    network_T_image = ImageWarp(size, target, ImageChange()).new_T_old
    try:
        ordered = calibration.rig.select(spec.camera.names)
    except ValueError as error:
        raise UdxError(f"the calibration does not fit the detector: {error}; add the camera to it") from error
    rig = ordered.with_image_transforms(np.stack([network_T_image] * len(ordered.names)))
    plan: Mapping[str, NDArray[Any]] = calibration_inputs(rig, spec)
    return {
        **plan,
        "cameras": np.array(rig.names),
        "intrinsics": rig.intrinsics_N33,
        "ego_T_cam": rig.ego_T_cam_N44,
        "network_T_image": network_T_image,
        "ego_T_lidar": calibration.ego_T_lidar,
    }
