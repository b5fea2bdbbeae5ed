"""Which keyframes calibrate a detector, and which ones its loss is measured on: never those that it is judged by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from udx.data.dataset import default_splits
from udx.data.frame import KeyFrame
from udx.data.nuscenes import scenes_of_split
from udx.errors import UdxError

if TYPE_CHECKING:
    from nuscenes import NuScenes

SAMPLES: Final = 64
JUDGED_SAMPLES: Final = 48


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Keyframes to calibrate with, stratified by scene; and whole scenes, none of them among the former, to judge by.

    Keyframes of one scene are much alike, so the two share none; where the split has one scene only, there is nothing
    to judge by.
    """

    split: str
    keyframes: tuple[KeyFrame, ...]
    judged: tuple[KeyFrame, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens of the keyframes to calibrate with."""
        return tuple(keyframe.token for keyframe in self.keyframes)

    @property
    def judged_scenes(self) -> tuple[str, ...]:
        """Names of the scenes to judge by."""
        return tuple(dict.fromkeys(keyframe.scene for keyframe in self.judged))


def digest(tokens: Sequence[str]) -> str:
    """SHA-256 of a list of sample tokens."""
    return hashlib.sha256(" ".join(tokens).encode()).hexdigest()


def choose(split: str, keyframes: Sequence[KeyFrame], count: int, judged: int) -> CalibrationSet:
    """Choose ``count`` keyframes of a split to calibrate with, and scenes of about ``judged`` to judge by.

    Raises:
        UdxError: there is no keyframe to calibrate with, or a single one.
    """
    by_scene: dict[str, list[KeyFrame]] = {}
    for keyframe in keyframes:
        by_scene.setdefault(keyframe.scene, []).append(keyframe)
    apart = _judged_scenes(by_scene, judged)
    chosen = stratified({name: its for name, its in by_scene.items() if name not in apart}, count)
    if not chosen:
        raise UdxError(f"split {split!r} gives no sample to calibrate with; ask for some with --samples")
    if len(chosen) == 1:
        raise UdxError(
            f"a single sample ({chosen[0].token} of split {split!r}) cannot tell how large activations become; "
            f"calibrate with more, as --samples {SAMPLES}"
        )
    return CalibrationSet(split, chosen, tuple(frame for name in by_scene if name in apart for frame in by_scene[name]))


def stratified(by_scene: dict[str, list[KeyFrame]], count: int) -> tuple[KeyFrame, ...]:
    """Spread ``count`` keyframes over scenes as evenly as can be, and within each over time."""
    total = sum(len(its) for its in by_scene.values())
    quotas = dict.fromkeys(by_scene, 0)
    order = [list(by_scene)[at] for at in _spread(len(by_scene), min(count, len(by_scene)))]
    order += [name for name in by_scene if name not in order]
    for _ in range(min(max(count, 0), total)):
        open_scenes = [name for name in order if quotas[name] < len(by_scene[name])]
        quotas[min(open_scenes, key=lambda name: quotas[name])] += 1
    return tuple(its[at] for name, its in by_scene.items() for at in _spread(len(its), quotas[name]))


def require_training_split(nusc: "NuScenes", split: str, keyframes: Sequence[KeyFrame]) -> None:
    """Refuse keyframes of the validation split: scales that were fitted to it make its metrics worthless.

    Raises:
        UdxError: a scene of the split is also in the version's validation split.
    """
    validation = default_splits(nusc.version)[1]
    try:
        held_back = set(scenes_of_split(nusc, validation))
    except UdxError:
        return  # this dataroot has no such split
    shared = next((keyframe.scene for keyframe in keyframes if keyframe.scene in held_back), None)
    if shared is not None:
        raise UdxError(
            f"split {split!r} holds {shared}, a scene of the validation split {validation!r}: metrics on it would be "
            "worth nothing after calibration; use --split train, or insist with --force"
        )


def _judged_scenes(by_scene: dict[str, list[KeyFrame]], judged: int) -> set[str]:
    """Every n-th scene until there are enough keyframes, at most half of the scenes."""
    names = list(by_scene)
    mean = sum(map(len, by_scene.values())) / max(len(names), 1)
    wanted = min(len(names) // 2, int(np.ceil(judged / mean)) if mean else 0)
    return {names[at] for at in _spread(len(names), wanted)}


def _spread(length: int, count: int) -> list[int]:
    """``count`` of ``length`` positions, evenly spaced, in the middle of their shares."""
    return [int((at + 0.5) * length / count) for at in range(count)]
