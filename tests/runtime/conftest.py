"""A small but true engine: an ONNX file with the inputs, outputs and manifest of the contract."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.data.inputs import input_shapes
from udx.data.spec import CameraSpec, LidarSpec, SensorSpec
from udx.geometry import BevGrid, CameraRig, Frustum
from udx.manifest import Manifest
from udx.runtime.onnx_file import sealed

EngineMaker = Callable[..., Path]
ManifestMaker = Callable[..., Manifest]
ModelMaker = Callable[..., onnx.ModelProto]
MAX_BOXES = 7
GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, 2.0)


def ring_rig(width_px: int, height_px: int) -> CameraRig:
    """Six cameras that look outwards, 60° apart, 1.5 m above the ground."""
    intrinsics = np.array([[width_px * 0.8, 0, width_px / 2], [0, width_px * 0.8, height_px / 2], [0, 0, 1.0]])
    poses = np.tile(np.eye(4), (6, 1, 1))
    for index, yaw in enumerate(np.deg2rad([60, 0, -60, 120, 180, -120])):
        forward, right = [np.cos(yaw), np.sin(yaw), 0], [np.sin(yaw), -np.cos(yaw), 0]
        poses[index, :3, :3] = np.stack([right, [0, 0, -1], forward], axis=1)
        poses[index, :3, 3] = [*np.array(forward[:2]) * 0.5, 1.5]
    names = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
    return CameraRig(names, np.tile(intrinsics, (6, 1, 1)), poses)


def manifest_of(modality: str = "cam", max_boxes: int = MAX_BOXES) -> Manifest:
    frustum = Frustum(
        image_height_px=32, image_width_px=64, stride_px=16, depth_min_m=1.0, depth_step_m=2.0, depth_bins=4
    )
    return Manifest(
        recipe="nano",
        spec=SensorSpec(
            grid=GRID,
            z_range_m=(-5.0, 3.0),
            camera=CameraSpec(frustum=frustum) if modality != "lidar" else None,
            lidar=LidarSpec(sweeps=2, max_points=500) if modality != "cam" else None,
        ),
        max_boxes=max_boxes,
        checkpoint_sha256="0" * 64,
        git_commit="unknown",
        udx_version="0.1.0",
        metrics={"mAP": 0.25, "NDS": 0.3},
        rig=ring_rig(64, 32) if modality != "lidar" else None,
    )


def detector_nodes(manifest: Manifest, repeats: int) -> list[onnx.NodeProto]:
    """Every input is read and moves the scores; ``repeats`` is how often a 3×3 convolution is applied."""
    nodes = []
    terms = []
    for name in input_shapes(manifest.spec):
        nodes.append(helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT))
        if name == "images":
            nodes.append(helper.make_node("Transpose", ["images_f"], ["image_0"], perm=[0, 3, 1, 2]))
            for index in range(repeats):
                pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
                nodes.append(helper.make_node("Conv", [f"image_{index}", "conv_w"], [f"image_{index + 1}"], **pads))
            nodes.append(helper.make_node("ReduceMean", [f"image_{repeats}"], [f"{name}_mean"], keepdims=0))
        else:
            nodes.append(helper.make_node("ReduceMean", [f"{name}_f"], [f"{name}_mean"], keepdims=0))
        terms.append(f"{name}_mean")
    nodes += [
        helper.make_node("Sum", terms, ["total"]),
        helper.make_node("Sin", ["total"], ["bounded"]),
        helper.make_node("Abs", ["bounded"], ["strength"]),
        helper.make_node("Mul", ["score_w", "strength"], ["scores"]),
        helper.make_node("Identity", ["box_w"], ["boxes"]),
        helper.make_node("Identity", ["label_w"], ["labels"]),
    ]
    return nodes


def detector_model(manifest: Manifest, *, seed: int = 0, repeats: int = 1) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    count = manifest.max_boxes
    boxes = rng.uniform(1.0, 5.0, (count, 9)).astype(np.float32)
    weights = {
        "conv_w": rng.normal(0, 0.05, (3, 3, 3, 3)).astype(np.float32),
        "score_w": np.linspace(1.0, 0.1, count).astype(np.float32),
        "box_w": boxes,
        "label_w": np.arange(count) % 10,
    }
    if manifest.spec.camera is None:
        del weights["conv_w"]
    graph = helper.make_graph(
        detector_nodes(manifest, repeats),
        "detector",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (shape, dtype) in input_shapes(manifest.spec).items()
        ],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (count, 9)),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, (count,)),
            helper.make_tensor_value_info("labels", TensorProto.INT64, (count,)),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    sealed(model, manifest)
    return model


@pytest.fixture
def make_manifest() -> ManifestMaker:
    """Describe a detector: ``modality`` is cam, lidar or fusion."""
    return manifest_of


@pytest.fixture
def make_model() -> ModelMaker:
    """Build a detector: ``seed`` changes its weights only, ``repeats`` its depth."""

    def make(modality: str = "cam", seed: int = 0, repeats: int = 1) -> onnx.ModelProto:
        return detector_model(manifest_of(modality), seed=seed, repeats=repeats)

    return make


@pytest.fixture
def make_engine(tmp_path: Path, make_model: ModelMaker) -> EngineMaker:
    """Write a detector of ``make_model`` to a file."""

    def make(name: str = "student.onnx", modality: str = "cam", seed: int = 0, repeats: int = 1) -> Path:
        path = tmp_path / name
        onnx.save(make_model(modality, seed=seed, repeats=repeats), str(path))
        return path

    return make
