"""Detectors with random weights, exported as ``udx export`` exports a run's."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from tests.tiny import ring_of_cameras, tiny_detector
from udx.data.frame import Annotations, Sample
from udx.data.inputs import inputs_of
from udx.data.spec import Modality
from udx.export.deploy import DeployableDetector
from udx.export.onnx_export import to_onnx
from udx.export.precision import to_fp16
from udx.geometry import CameraRig
from udx.manifest import Manifest
from udx.models.detector import Detector, DetectorConfig, DetectorInputs
from udx.runtime.onnx_file import sealed
from udx.train.recipes import RECIPES

MODALITIES: tuple[Modality, ...] = ("cam", "lidar", "fusion")


def config_of(recipe: str, modality: Modality) -> DetectorConfig:
    if recipe == "tiny":
        return tiny_detector(modality)
    config = RECIPES[recipe](modality).detector
    # Weights are random, and no hub is asked for others.
    return dataclasses.replace(config, camera=config.camera and dataclasses.replace(config.camera, pretrained=None))


def random_detector(config: DetectorConfig, frame: Mapping[str, np.ndarray] | None = None, seed: int = 0) -> Detector:
    """Random weights; with a frame, batch norms have the statistics of that frame: inputs show in the scores."""
    torch.manual_seed(seed)
    detector = Detector(config)
    if frame is not None:
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            detector.train()(DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in frame.items()}))
    return detector.eval()


def rig_for(config: DetectorConfig) -> CameraRig | None:
    """The ring of cameras at the size of the detector's images."""
    if config.spec.camera is None:
        return None
    frustum, rig = config.spec.camera.frustum, ring_of_cameras()
    scale = np.diag([frustum.image_width_px / 64, frustum.image_height_px / 32, 1.0])
    return rig.with_image_transforms(np.stack([scale] * len(rig.names)))


def exported_model(recipe: str, modality: Modality) -> tuple[onnx.ModelProto, Manifest]:
    """An FP32 export without its manifest in it, and the manifest; exports are made once."""
    made, manifest = _export(recipe, modality)
    model = onnx.ModelProto()
    model.CopyFrom(made)
    return model, manifest


def manifest_for(recipe: str, config: DetectorConfig) -> Manifest:
    """What an export of this detector says of itself."""
    return Manifest(
        recipe=recipe,
        spec=config.spec,
        max_boxes=config.max_boxes,
        checkpoint_sha256="0" * 64,
        git_commit="unknown",
        udx_version="0.1.0",
        rig=rig_for(config),
    )


@lru_cache(maxsize=6)
def _export(recipe: str, modality: Modality) -> tuple[onnx.ModelProto, Manifest]:
    config = config_of(recipe, modality)
    manifest = manifest_for(recipe, config)
    frame = frame_of(manifest)
    # A frame at full size takes seconds, and what is built at that size is not run.
    detector = random_detector(config, frame if recipe != "base" else None)
    return to_onnx(DeployableDetector(detector), frame), manifest


def write_sealed(path: Path, model: onnx.ModelProto, manifest: Manifest) -> Path:
    sealed(model, manifest)
    onnx.save(model, path)
    return path


def write_fp16(path: Path, model: onnx.ModelProto, manifest: Manifest) -> Path:
    halved, plan = to_fp16(model)
    return write_sealed(path, halved, dataclasses.replace(manifest, precision=plan))


def frame_of(manifest: Manifest, seed: int = 0, turn_rad: float = 0.0) -> dict[str, np.ndarray]:
    """Inputs full of everything: noise images, a rig turned by an angle, points on and off the grid, in heaps."""
    rng = np.random.default_rng(seed)
    spec = manifest.spec
    images = rig = points = None
    if spec.camera is not None:
        frustum = spec.camera.frustum
        shape = len(spec.camera.names), frustum.image_height_px, frustum.image_width_px, 3
        images, rig = rng.integers(256, size=shape, dtype=np.uint8), manifest.rig
        assert rig is not None
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(turn_rad), -np.sin(turn_rad)], [np.sin(turn_rad), np.cos(turn_rad)]]
        rig = rig.with_ego_transform(turn)
    if spec.lidar is not None:
        count, grid = spec.lidar.max_points * 3 // 4, spec.grid
        low, high = [grid.x_min - 2, grid.y_min - 2, spec.z_range_m[0] - 1], [grid.x_max, grid.y_max, spec.z_range_m[1]]
        points = rng.uniform([*low, 0, 0], [*high, 1, 0.5], (count, 5)).astype(np.float32)
        points[: count // 4, :3] *= 0.01
        points[:3, 2] = np.nan
    return inputs_of(Sample("frame", images, rig, points, Annotations.none()), spec)
