"""A world with two scenes to train on, and exported detectors to calibrate on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.build.exported import exported_model, write_sealed


@pytest.fixture(scope="session")
def two_scenes(world_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic dataroot with both of its scenes in the split train, and none in val."""
    root = tmp_path_factory.mktemp("two") / "world"
    root.mkdir()
    for folder in ("samples", "sweeps", "maps"):
        if (world_root / folder).is_dir():
            (root / folder).symlink_to(world_root / folder)
    shutil.copytree(world_root / "v1.0-synth", root / "v1.0-synth")
    splits = json.loads((root / "v1.0-synth" / "splits.json").read_text())
    scenes = [*splits["train"], *splits["val"]]
    (root / "v1.0-synth" / "splits.json").write_text(json.dumps({"train": scenes}))
    return root


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """FP32 exports of tiny detectors with random weights."""
    folder = tmp_path_factory.mktemp("exports")

    def export(modality: str) -> Path:
        path = folder / f"{modality}.onnx"
        return path if path.exists() else write_sealed(path, *exported_model("tiny", modality))

    return export


@pytest.fixture
def changed(exports, tmp_path) -> Callable[..., Path]:
    """The LiDAR export with its model changed in place, its manifest kept true."""

    def change(edit: Callable[[onnx.ModelProto], object]) -> Path:
        model, manifest = exported_model("tiny", "lidar")
        edit(model)
        return write_sealed(tmp_path / "changed.onnx", model, manifest)

    return change
