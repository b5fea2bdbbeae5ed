"""How far two engines' detections of one frame are apart."""

from dataclasses import dataclass

import numpy as np

from udx.data.detections import Detections
from udx.geometry.boxes import wrap_angle

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
