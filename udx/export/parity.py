"""How far two engines' detections of one frame are apart, and two graphs' values between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udx.data.detections import Detections
from udx.data.inputs import Tensors
from udx.geometry.boxes import wrap_angle

if TYPE_CHECKING:
    import onnx

TIE = 1e-6
"""Boxes whose score is this close to the last one's may be in one list and not in the other."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest differences over all matched boxes: of scores, and of box fields (m, rad, m/s)."""

    score: float
    box: float
    boxes_compared: int

    @property
    def largest(self) -> float:
        """The larger of the two."""
        return max(self.score, self.box)


def compare(reference: Detections, other: Detections) -> Parity:
    """Match every box of each list to the nearest of the same label in the other list, and take the worst match.

    Equal scores may come in any order, so position in the list says nothing; a box without a counterpart
    counts as an infinite difference, unless it ties with the last that was kept.
    """
    forward, backward = _worst(reference, other), _worst(other, reference)
    compared = int((reference.scores_K > _cut(reference)).sum())
    return Parity(max(forward[0], backward[0]), max(forward[1], backward[1]), compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many boxes of two lists are the same objects, and how far those are apart: scores, and centres in metres."""

    boxes: int
    matched: int
    score_max: float
    score_mean: float
    centre_max_m: float
    centre_mean_m: float

    @property
    def share(self) -> float:
        """The share of boxes that are matched; 1 if there are none."""
        return self.matched / self.boxes if self.boxes else 1.0


def agreement(reference: Detections, other: Detections, *, within_m: float = 0.5, score: float = 0.0) -> Agreement:
    """Match boxes of equal label one to one, best score first, each to the nearest that is left within ``within_m``.

    This is for engines of other precision, where a box may fall behind the last that is kept. Counted are the boxes
    of ``reference`` with a score of at least ``score``, but for those that tie with its last.
    """
    counted = np.flatnonzero((reference.scores_K > _cut(reference)) & (reference.scores_K >= score))
    left = np.ones(len(other), bool)
    scores, centres = [], []
    for at in counted[np.argsort(-reference.scores_K[counted], kind="stable")]:
        distance = np.linalg.norm(other.boxes_K9[:, :2] - reference.boxes_K9[at, :2], axis=1)
        distance = np.where(left & (other.labels_K == reference.labels_K[at]), distance, np.inf)
        if len(distance) and distance.min() <= within_m:
            nearest = int(distance.argmin())
            left[nearest] = False
            centres.append(float(distance[nearest]))
            scores.append(abs(float(reference.scores_K[at]) - float(other.scores_K[nearest])))
    return Agreement(
        boxes=len(counted),
        matched=len(centres),
        score_max=max(scores, default=0.0),
        score_mean=float(np.mean(scores)) if scores else 0.0,
        centre_max_m=max(centres, default=0.0),
        centre_mean_m=float(np.mean(centres)) if centres else 0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Largest and mean absolute difference of a tensor, and the largest absolute value of the reference."""

    max: float
    mean: float
    scale: float

    @property
    def relative(self) -> float:
        """The largest difference in units of the largest value."""
        return self.max / self.scale if self.scale else self.max


def difference(reference: NDArray[Any], other: NDArray[Any]) -> Difference:
    """Compare two tensors of one shape; a value that is not finite differs infinitely from any other."""
    assert reference.shape == other.shape, f"{reference.shape} against {other.shape}"
    one, two = reference.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(one == two, 0.0, np.abs(one - two))
    apart = np.where(np.isnan(apart), np.inf, apart)
    scale = np.abs(one[np.isfinite(one)])
    return Difference(max=float(apart.max(initial=0.0)), mean=float(apart.mean()), scale=float(scale.max(initial=0.0)))


def values_of(model: "onnx.ModelProto", names: Sequence[str], tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Run a model in ONNX Runtime on the CPU, and take values from within."""
    import onnx
    import onnxruntime as ort

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), dict(tensors)), strict=True))


def _worst(one: Detections, other: Detections) -> tuple[float, float]:
    """Largest score and box difference from the boxes of ``one`` to their nearest in ``other``."""
    score_K = np.full(len(one), np.inf)
    box_K = np.full(len(one), np.inf)
    for label in np.unique(one.labels_K):
        mine, theirs = np.flatnonzero(one.labels_K == label), np.flatnonzero(other.labels_K == label)
        if not len(theirs):
            continue
        difference = np.abs(one.boxes_K9[mine, None].astype(np.float64) - other.boxes_K9[None, theirs])
        difference[..., 6] = np.abs(wrap_angle(difference[..., 6]))
        score = np.abs(one.scores_K[mine, None].astype(np.float64) - other.scores_K[None, theirs])
        worst_field = difference.max(axis=-1)
        nearest = np.argmin(np.maximum(worst_field, score), axis=1)
        score_K[mine] = score[np.arange(len(mine)), nearest]
        box_K[mine] = worst_field[np.arange(len(mine)), nearest]
    counted = one.scores_K > _cut(one)
    return float(score_K[counted].max(initial=0.0)), float(box_K[counted].max(initial=0.0))


def _cut(detections: Detections) -> float:
    return float(detections.scores_K.min(initial=1.0)) + TIE
