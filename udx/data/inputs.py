"""The tensors that a detector reads, the same in training, in ONNX and in an engine."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.data.frame import Sample
from udx.data.spec import POINT_FEATURES, SensorSpec
from udx.errors import UdxError
from udx.geometry import CameraRig, pooling_plan

Tensors = Mapping[str, NDArray[Any]]

CALIBRATION: Final = ("pool_index", "pool_offsets")
"""Inputs that follow from the rig alone: they stay as they are until a camera moves."""

COUNTED: Final[Mapping[str, str]] = {"points": "num_points"}
"""Inputs of which only the first rows hold data, each with the input that counts these rows."""


def input_shapes(spec: SensorSpec) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every input of a detector with this spec, in the order of its inputs.

    ``images`` (N, H, W, 3) RGB; ``pool_index`` (P,) and ``pool_offsets`` (cells + 1,): the rig's
    ``PoolingPlan``; ``points`` (max_points, 5) with ``num_points`` (1,) of them valid.
    """
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    if spec.camera is not None:
        frustum, cameras = spec.camera.frustum, len(spec.camera.names)
        shapes["images"] = (cameras, frustum.image_height_px, frustum.image_width_px, 3), "uint8"
        shapes["pool_index"] = (cameras * frustum.num_points,), "int32"
        shapes["pool_offsets"] = (spec.grid.num_cells + 1,), "int32"
    if spec.lidar is not None:
        shapes["points"] = (spec.lidar.max_points, len(POINT_FEATURES)), "float32"
        shapes["num_points"] = (1,), "int32"
    return shapes


def inputs_of(sample: Sample, spec: SensorSpec, *, pad: bool = True) -> dict[str, NDArray[Any]]:
    """Bring a sample to the tensors of ``input_shapes``; points beyond the buffer must be gone already.

    Without ``pad`` the point buffer is as long as there are points, and has one empty row if there are none.

    Raises:
        UdxError: the sample's rig cannot be used; see ``calibration_inputs``.
    """
    tensors = sensor_inputs(sample, spec, pad=pad)
    if spec.camera is not None:
        assert sample.rig is not None
        tensors |= calibration_inputs(sample.rig, spec)
    return {name: tensors[name] for name in input_shapes(spec)}


def sensor_inputs(sample: Sample, spec: SensorSpec, *, pad: bool = True) -> dict[str, NDArray[Any]]:
    """The tensors of ``inputs_of`` that change with every frame: all but ``CALIBRATION``."""
    tensors: dict[str, NDArray[Any]] = {}
    if spec.camera is not None:
        assert sample.images_NHW3 is not None
        tensors["images"] = sample.images_NHW3
    if spec.lidar is not None:
        assert sample.points_M5 is not None and len(sample.points_M5) <= spec.lidar.max_points
        rows = spec.lidar.max_points if pad else max(len(sample.points_M5), 1)
        points = np.zeros((rows, len(POINT_FEATURES)), np.float32)
        points[: len(sample.points_M5)] = sample.points_M5
        tensors |= {"points": points, "num_points": np.array([len(sample.points_M5)], np.int32)}
    return tensors


def calibration_inputs(rig: CameraRig, spec: SensorSpec) -> dict[str, NDArray[Any]]:
    """The tensors ``CALIBRATION`` of a rig whose intrinsics are at the network's image size.

    Raises:
        UdxError: the detector has no cameras, the rig lacks one of them, or an intrinsic matrix has no inverse.
    """
    if spec.camera is None:
        raise UdxError("this detector has no cameras, so it takes no rig; give it points alone")
    try:
        ordered = rig.select(spec.camera.names)
        plan = pooling_plan(ordered, spec.camera.frustum, spec.grid, spec.z_range_m)
    except ValueError as error:
        raise UdxError(f"the rig cannot be used ({error}); calibrate the cameras again") from error
    return dict(zip(CALIBRATION, (plan.point_index_P, plan.cell_offsets), strict=True))
