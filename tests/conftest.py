"""Fixtures that several test modules share."""

import importlib.util
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests import typechecks

typechecks.install()  # before anything imports udx

settings.register_profile("udx", deadline=None)  # a busy machine is no failure
settings.load_profile("udx")

# What udx keeps between commands is neither read nor written by tests.
_CACHE = tempfile.TemporaryDirectory(prefix="udx-cache-")
os.environ["UDX_CACHE"] = _CACHE.name

KEYFRAME_ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes-keyframe"


@pytest.fixture(autouse=True)
def _safe_path_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test runs in this process sets ``PYTHONSAFEPATH`` for its children, and not for later tests."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.delenv("PYTHONSAFEPATH")


@pytest.fixture(scope="session")
def keyframe_root() -> Path:
    """Dataroot (v1.0-mini, split ``keyframe``) with one real nuScenes keyframe."""
    if not KEYFRAME_ROOT.is_dir():
        pytest.skip(f"the real nuScenes keyframe is not at {KEYFRAME_ROOT}")
    return KEYFRAME_ROOT


@pytest.fixture(scope="session")
def world_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataroot: two scenes of three keyframes, one scene in each of the splits train and val."""
    from udx.data.synth import WorldSpec, write_world

    root = tmp_path_factory.mktemp("world") / "synth"
    write_world(root, WorldSpec(scenes=2, samples=3, seed=1, sweeps=0, image_width_px=128, val_fraction=0.5), workers=1)
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none; tests marked ``gpu(ask="doctor")`` find out by themselves."""
    marked = [item for item in items if (mark := item.get_closest_marker("gpu")) and "ask" not in mark.kwargs]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(
                pytest.mark.skip(reason="needs a CUDA device: run make gpu-check on a machine that has one")
            )


DEVKIT = ("nuscenes", "pyquaternion")
"""What nuscenes-devkit brings."""
NO_DEVKIT = "needs nuscenes-devkit: pip install 'udx[train]'"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Count a test as skipped if it needs nuscenes-devkit where that is not installed."""
    report = yield
    if call.excinfo is not None and lacks_devkit(call.excinfo.value):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {NO_DEVKIT}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Likewise a module that imports it."""
    report = yield
    if report.failed and any(f"No module named '{name}" in str(report.longrepr) for name in DEVKIT):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: {NO_DEVKIT}")
    return report


def lacks_devkit(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, is for want of nuscenes-devkit."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return error.name.partition(".")[0] in DEVKIT and importlib.util.find_spec(error.name.partition(".")[0]) is None
    return error.__cause__ is not None and lacks_devkit(error.__cause__)
