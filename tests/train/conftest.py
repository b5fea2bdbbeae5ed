"""Short trainings of tiny detectors on the synthetic keyframes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import tiny_run
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.train.loop import Job
from udx.train.run import Run


@pytest.fixture(scope="session")
def keyframes(world_root: Path):
    return load_keyframes(open_dataroot(world_root), "train", max_sweeps=1)


@pytest.fixture
def make_job(keyframes) -> Callable[..., Job]:
    def make(folder: Path, modality: str = "lidar", **given) -> Job:
        train = {
            name: given.pop(name)
            for name in ("epochs", "seed", "augmentation", "workers", "gradient_norms_every")
            if name in given
        }
        config = given.pop("config", None) or tiny_run(modality, **train)
        return Job(config=config, keyframes=keyframes, data={"keyframes": "tiny"}, run=Run(folder), **given)

    return make
