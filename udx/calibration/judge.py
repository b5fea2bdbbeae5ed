"""mAP of graphs in memory, on the scenes that a calibration set keeps apart."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from udx.calibration.activations import values
from udx.calibration.samples import CalibrationSet
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate
from udx.data.inputs import Tensors
from udx.data.load import load_sample
from udx.errors import UdxError
from udx.manifest import Manifest
from udx.runtime.frames import tensors_of

if TYPE_CHECKING:
    import onnx
    from nuscenes import NuScenes

Tick = Callable[[int, int], None]
OUTPUTS = ("boxes", "scores", "labels")


class Judge:
    """Scores detectors of one manifest on the same keyframes, which are decoded once and kept."""

    def __init__(self, nusc: "NuScenes", chosen: CalibrationSet, manifest: Manifest, tick: Tick) -> None:
        if not chosen.judged:
            raise UdxError(
                f"split {chosen.split!r} has one scene alone, so none is left to measure the loss of mAP on; give a "
                "split of several, or calibrate with --plain, which measures nothing"
            )
        self.nusc = nusc
        self.chosen = chosen
        self.manifest = manifest
        self.tick = tick
        self.frames: list[Tensors] = []

    def metrics(self, model: "onnx.ModelProto", source: str) -> Metrics:
        """Score a detector with nuScenes' metrics.

        Raises:
            UdxError: it gives no usable boxes, for example NaN.
        """
        found = {}
        judged = self.chosen.judged
        if not self.frames:
            self.frames = [tensors_of(load_sample(frame, self.manifest.spec), self.manifest) for frame in judged]
        for done, outputs in enumerate(values(model, OUTPUTS, self.frames, source), start=1):
            try:
                found[judged[done - 1].token] = Detections(
                    boxes_K9=outputs["boxes"], scores_K=outputs["scores"], labels_K=outputs["labels"]
                )
            except ValueError as error:
                raise UdxError(f"{source} gives no usable boxes ({error}); choose another method") from error
            self.tick(done, len(judged))
        return evaluate(
            self.nusc,
            self.chosen.split,
            found,
            judged,
            scenes=self.chosen.judged_scenes,
            modality=self.manifest.spec.modality,
        )
