"""nuScenes' detection metrics, computed by the devkit's own ``DetectionEval`` and nothing else."""

import contextlib
import copy
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from udx.data.detections import Detections
from udx.data.frame import KeyFrame
from udx.data.nuscenes import has_devkit, open_dataroot, scenes_of_split
from udx.errors import UdxError, first_line
from udx.files import write_json, write_with
from udx.geometry import CLASSES
from udx.geometry.arrays import FloatArray
from udx.geometry.se3 import quaternion_of, transform_points

if TYPE_CHECKING:
    from nuscenes import NuScenes

CONFIG: Final = "detection_cvpr_2019"
MAX_BOXES: Final = 500
"""Boxes of one sample that the metric admits; the best scores are kept."""

MOVING_MPS: Final = 0.2
ATTRIBUTES: Final[Mapping[str, tuple[str, str]]] = {
    "car": ("vehicle.parked", "vehicle.moving"),
    "truck": ("vehicle.parked", "vehicle.moving"),
    "bus": ("vehicle.stopped", "vehicle.moving"),
    "trailer": ("vehicle.parked", "vehicle.moving"),
    "construction_vehicle": ("vehicle.parked", "vehicle.moving"),
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
    "motorcycle": ("cycle.without_rider", "cycle.with_rider"),
    "bicycle": ("cycle.without_rider", "cycle.with_rider"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}
"""Attribute of a box with a speed up to ``MOVING_MPS``, and above: the detectors of udx predict no attributes."""

TP_ERRORS: Final = {
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}

_BEYOND_RANGE: Final = Detections(
    boxes_K9=np.array([[1e4, 0, 0, 1, 1, 1, 0, 0, 0]], np.float32),
    scores_K=np.zeros(1, np.float32),
    labels_K=np.zeros(1, np.int64),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """nuScenes' detection metrics; ``per_class`` has the AP (mean over the distances) of each class.

    ``tp_errors`` has the mean true positive errors by their usual names: mATE (m), mASE (1 − IoU), mAOE (rad),
    mAVE (m/s), mAAE (1 − accuracy).
    """

    mean_ap: float
    nds: float
    per_class: Mapping[str, float]
    tp_errors: Mapping[str, float]

    def __post_init__(self) -> None:
        numbers = [self.mean_ap, self.nds, *self.per_class.values(), *self.tp_errors.values()]
        if not np.isfinite(numbers).all():
            raise ValueError(f"metrics must be finite: {self}")

    def summary(self) -> str:
        """MAP and NDS in per cent, for the terminal."""
        return f"mAP {100 * self.mean_ap:.1f} %, NDS {100 * self.nds:.1f} %"

    def to_json(self) -> dict[str, Any]:
        """``{"mAP", "NDS", "per_class", "tp_errors"}``."""
        return {
            "mAP": self.mean_ap,
            "NDS": self.nds,
            "per_class": dict(self.per_class),
            "tp_errors": dict(self.tp_errors),
        }


def require_devkit() -> None:
    """Refuse to evaluate where nuScenes' own code is not installed, before anything is detected.

    Raises:
        UdxError: it is not.
    """
    if not has_devkit():
        python = " (for Python 3.11 and 3.12)" if sys.version_info >= (3, 13) else ""
        raise UdxError(
            "nuScenes' metrics are computed by nuscenes-devkit, which is not installed; pip install 'udx[train]' "
            f"brings it{python}"
        )


def evaluate(
    source: "NuScenes | Path",
    split: str,
    detections: Mapping[str, Detections],
    keyframes: Sequence[KeyFrame],
    *,
    scenes: tuple[str, ...] | None = None,
    out_dir: Path | None = None,
    modality: str = "fusion",
) -> Metrics:
    """Score detections of all keyframes of a split with nuScenes' metrics (configuration ``detection_cvpr_2019``).

    Args:
        source: an open dataroot, or the path of one that holds a single version.
        split: a predefined split or one of ``splits.json``.
        detections: by keyframe token, in the BEV frame of that keyframe.
        keyframes: all keyframes of the split, as ``load_keyframes`` gives them.
        scenes: the scenes of the split to score, if not all; then ``keyframes`` are all of these.
        out_dir: where to keep the submission, ``results_nusc.json``; ``None`` keeps none.
        modality: ``cam``, ``lidar`` or ``fusion``: the sensors that the submission declares.

    Raises:
        UdxError: the split is unknown or has no box of a detection class, a keyframe has no detections given, or the
            devkit cannot evaluate on these tables.
    """
    nusc = open_dataroot(source) if isinstance(source, Path) else source
    if not any(len(keyframe.annotations) for keyframe in keyframes):
        raise UdxError(
            f"split {split!r} of {nusc.dataroot} has no box of a detection class: nothing to evaluate against"
        )
    with tempfile.TemporaryDirectory(prefix="udx-eval-") as scratch:
        submission = (out_dir or Path(scratch)) / "results_nusc.json"
        write_with(submission, lambda partial: _write_submission(partial, detections, keyframes, modality))
        scored = scenes or scenes_of_split(nusc, split)
        try:
            return _official(nusc, scored, submission, Path(scratch))
        except Exception as error:  # the devkit assumes that tables are right
            raise UdxError(
                f"nuScenes' evaluation fails on split {split!r} of {nusc.dataroot} ({type(error).__name__}: "
                f"{first_line(error)}); `udx data check {nusc.dataroot} --version {nusc.version}` names each bad record"
            ) from error


def submission_of(
    detections: Mapping[str, Detections], keyframes: Sequence[KeyFrame], modality: str = "fusion"
) -> dict[str, Any]:
    """Build a nuScenes detection submission: boxes in the global frame, sizes as width, length, height.

    Raises:
        UdxError: a keyframe has no detections given.
    """
    return {"meta": _meta(modality), "results": dict(_results(detections, keyframes))}


def _write_submission(
    path: Path, detections: Mapping[str, Detections], keyframes: Sequence[KeyFrame], modality: str
) -> None:
    """Write ``submission_of`` keyframe by keyframe: as one text that of val would take gigabytes."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"meta": {json.dumps(_meta(modality))}, "results": {{')
        for number, (token, records) in enumerate(_results(detections, keyframes)):
            file.write(f"{', ' if number else ''}{json.dumps(token)}: {json.dumps(records, allow_nan=False)}")
        file.write("}}")


def _results(
    detections: Mapping[str, Detections], keyframes: Sequence[KeyFrame]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Token and records of each keyframe.

    Raises:
        UdxError: a keyframe has no detections given.
    """
    missing = [keyframe.token for keyframe in keyframes if keyframe.token not in detections]
    if missing:
        raise UdxError(
            f"there are no detections of sample {missing[0]}; run the detector on every keyframe of the split"
        )
    # DetectionEval fails without a single box; this one is far beyond every class's range, so it is never scored.
    empty = not any(len(detections[keyframe.token]) for keyframe in keyframes)
    for number, keyframe in enumerate(keyframes):
        its = _BEYOND_RANGE if empty and number == 0 else detections[keyframe.token]
        yield keyframe.token, _records(keyframe, its)


def _meta(modality: str) -> dict[str, bool]:
    return {
        "use_camera": modality != "lidar",
        "use_lidar": modality != "cam",
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }


def _records(keyframe: KeyFrame, detections: Detections) -> list[dict[str, Any]]:
    best = np.argsort(-detections.scores_K, kind="stable")[:MAX_BOXES]
    boxes_K9 = detections.boxes_K9[best].astype(np.float64)
    global_R_ego = keyframe.global_T_ego[:3, :3]
    centre_K3 = transform_points(keyframe.global_T_ego, boxes_K9[:, :3])
    rotation_K4 = _quaternions(global_R_ego, boxes_K9[:, 6])
    velocity_K3 = np.pad(boxes_K9[:, 7:9], ((0, 0), (0, 1))) @ global_R_ego.T
    moving_K = np.hypot(boxes_K9[:, 7], boxes_K9[:, 8]) > MOVING_MPS
    names = [CLASSES[label] for label in detections.labels_K[best]]
    return [
        {
            "sample_token": keyframe.token,
            "translation": centre_K3[index].tolist(),
            "size": boxes_K9[index, [4, 3, 5]].tolist(),
            "rotation": rotation_K4[index].tolist(),
            "velocity": velocity_K3[index, :2].tolist(),
            "detection_name": name,
            "detection_score": float(detections.scores_K[best[index]]),
            "attribute_name": ATTRIBUTES[name][int(moving_K[index])],
        }
        for index, name in enumerate(names)
    ]


def _quaternions(global_R_ego: FloatArray, yaw_K: FloatArray) -> FloatArray:
    """Quaternions (K, 4) as w, x, y, z of ``global_R_ego`` after a rotation by yaw about +z."""
    w, x, y, z = quaternion_of(global_R_ego)
    cos, sin = np.cos(yaw_K / 2), np.sin(yaw_K / 2)
    return np.stack([w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, z * cos + w * sin], axis=-1)


def _official(nusc: "NuScenes", scenes: tuple[str, ...], submission: Path, scratch: Path) -> Metrics:
    """Let ``DetectionEval`` score ``scenes``.

    It ties the names ``train`` and ``val`` to the scenes and versions of nuScenes proper. A copy of the handle
    (the tables are shared) that looks for ``splits.json`` in ``scratch`` makes every split a custom one, and
    changes nothing of the metric.
    """
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    handle = copy.copy(nusc)
    handle.dataroot = str(scratch)
    write_json(scratch / nusc.version / "splits.json", {"udx": list(scenes)})
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        scorer = DetectionEval(handle, config_factory(CONFIG), str(submission), "udx", str(scratch), verbose=False)
        scores = scorer.evaluate()[0].serialize()
    return Metrics(
        mean_ap=float(scores["mean_ap"]),
        nds=float(scores["nd_score"]),
        per_class={name: float(scores["mean_dist_aps"][name]) for name in CLASSES},
        tp_errors={ours: float(scores["tp_errors"][theirs]) for theirs, ours in TP_ERRORS.items()},
    )
