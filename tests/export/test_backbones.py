"""Every image backbone that a configuration may name is exported, and its file is one that udx reads and runs."""

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tests.build.exported import frame_of, manifest_for, random_detector
from tests.tiny import tiny_detector
from udx.export.deploy import DeployableDetector
from udx.export.onnx_export import detections_of, to_onnx
from udx.export.parity import compare
from udx.models.camera import BACKBONES
from udx.runtime.engine import open_engine
from udx.runtime.onnx_file import sealed

STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
WINDOWS = {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 64}
PATCHES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "layer_type": "basic", **{k: v for k, v in STAGES.items() if k != "num_stages"}},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "dinov2": PATCHES,
    "dinov2_with_registers": PATCHES,
}


def test_every_backbone_has_a_small_one() -> None:
    assert set(SMALL) == BACKBONES


@pytest.mark.parametrize("backbone", sorted(SMALL))
def test_a_backbone_is_exported_and_runs(backbone: str, tmp_path: Path) -> None:
    config = tiny_detector("cam")
    assert config.camera is not None
    camera = dataclasses.replace(config.camera, backbone=backbone, settings=SMALL[backbone], pretrained=None)
    config = dataclasses.replace(config, camera=camera)
    manifest = manifest_for("tiny", config)
    frame = frame_of(manifest)
    detector = random_detector(config, frame)
    model = to_onnx(DeployableDetector(detector), frame)
    sealed(model, manifest)
    path = tmp_path / f"{backbone}.onnx"
    onnx.save(model, path)
    with torch.no_grad(), open_engine(path, threads=1) as runner:
        parity = compare(detections_of(detector, frame), runner.detect(frame))
    assert parity.boxes_compared > 0
    assert parity.largest < 1e-3
