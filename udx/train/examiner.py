"""The evaluation of a detector while it is trained: nuScenes' metrics, and pictures of a few keyframes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from udx import processes
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate
from udx.data.frame import KeyFrame
from udx.data.load import ReadSweeps, read_sweeps
from udx.geometry.arrays import ByteArray
from udx.models.detector import Detector
from udx.train.loop import Validation
from udx.train.predict import predict_together
from udx.train.recipes import RunConfig

if TYPE_CHECKING:
    from nuscenes import NuScenes

PICTURE_WIDTH_PX = 1600
PICTURE_SCORE = 0.2
BRIEF_BOXES: Final = 200


class Examiner:
    """Evaluates on a split, in all processes together; the first one scores and draws.

    While training goes on, ``brief`` scores the ``BRIEF_BOXES`` best boxes of a keyframe, for nuScenes' own code takes
    about 2 KB of memory and 0.1 ms a box: 500 boxes of each of val's 6,019 keyframes are 5 GiB and 5 minutes.
    """

    def __init__(
        self,
        nusc: "NuScenes",
        split: str,
        keyframes: Sequence[KeyFrame],
        config: RunConfig,
        read: ReadSweeps = read_sweeps,
    ) -> None:
        self.nusc, self.split, self.keyframes, self.config, self.read = nusc, split, keyframes, config, read
        self.last: Metrics | None = None

    def __call__(self, detector: Detector, progress: Callable[[int, int], None], *, brief: bool = False) -> Validation:
        """Detect on every keyframe once, and score; pictures are drawn in the first process alone."""
        train = self.config.train
        found = predict_together(
            detector,
            self.keyframes,
            workers=train.workers,
            read=self.read,
            progress=progress,
            most=BRIEF_BOXES if brief else None,
        )
        metrics = None
        pictures: Mapping[str, ByteArray] = {}
        if processes.is_main():
            modality = self.config.detector.spec.modality
            metrics = evaluate(self.nusc, self.split, found, self.keyframes, modality=modality)
            pictures = draw(self.keyframes, found, train.pictures)
        metrics = processes.of_main(metrics)
        assert metrics is not None
        if not brief:
            self.last = metrics
        return Validation(metrics, pictures)


def draw(keyframes: Sequence[KeyFrame], found: Mapping[str, Detections], number: int) -> dict[str, ByteArray]:
    """Draw detections and truth of some keyframes, evenly spread over the split, on the map and all cameras."""
    from udx.runtime.draw import draw_frame

    spread = np.linspace(0, len(keyframes) - 1, min(number, len(keyframes))).round().astype(int)
    return {
        f"{keyframe.scene}-{keyframe.token[:8]}": np.asarray(
            draw_frame(keyframe, found[keyframe.token], score=PICTURE_SCORE, width_px=PICTURE_WIDTH_PX)
        )
        for keyframe in (keyframes[at] for at in spread)
    }
