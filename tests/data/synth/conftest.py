"""One small world for all tests of this folder."""

from pathlib import Path
from typing import Any

import pytest

from udx.data.synth import VERSION, WorldSpec, write_world

SPEC = WorldSpec(scenes=2, samples=3, seed=0, sweeps=2, image_width_px=352, val_fraction=0.5)


@pytest.fixture(scope="session")
def spec() -> WorldSpec:
    return SPEC


@pytest.fixture(scope="session")
def synth_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth") / "world"
    write_world(root, SPEC, workers=1)
    return root


@pytest.fixture(scope="session")
def nusc(synth_root: Path) -> Any:
    from nuscenes import NuScenes

    return NuScenes(version=VERSION, dataroot=str(synth_root), verbose=False)
