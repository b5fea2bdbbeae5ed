"""The dataroot that a command works on: the one that was named, or the synthetic world."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from udx.data.nuscenes import open_dataroot
from udx.data.synth import WorldSpec, write_world

if TYPE_CHECKING:
    from nuscenes import NuScenes

WORLD_ROOT: Final = Path("runs/synthetic-world")
WORLD: Final = WorldSpec(scenes=40, samples=8, sweeps=0)
"""Many short scenes: neighbouring keyframes teach little that is new."""

_SPLITS: Final = {"v1.0-mini": ("mini_train", "mini_val")}

Tick = Callable[[int, int], None]


def open_or_make(root: Path | None, version: str | None, tick: Tick) -> "NuScenes":
    """Open a dataroot; without one the synthetic world, which is rendered on first use, by one process for all.

    Raises:
        UdxError: the dataroot cannot be opened, or the world cannot be written.
    """
    if root is None:
        root = WORLD_ROOT
        if not root.exists():
            write_world(root, WORLD, progress=tick, wait=True)
    return open_dataroot(root, version)


def default_splits(version: str) -> tuple[str, str]:
    """Names of the training and the validation split of a version of nuScenes."""
    return _SPLITS.get(version, ("train", "val"))
