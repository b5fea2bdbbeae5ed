"""Fixtures that several test modules share."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("udx", deadline=None)  # a busy machine is no failure
settings.load_profile("udx")

KEYFRAME_ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes-keyframe"


@pytest.fixture(scope="session")
def keyframe_root() -> Path:
    """Dataroot (v1.0-mini, split ``keyframe``) with one real nuScenes keyframe."""
    if not KEYFRAME_ROOT.is_dir():
        pytest.skip(f"the real nuScenes keyframe is not at {KEYFRAME_ROOT}")
    return KEYFRAME_ROOT
