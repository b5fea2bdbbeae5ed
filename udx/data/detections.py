"""What a detector says of one keyframe."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udx.geometry import BOX_CONVENTION, BOX_SIZE, CLASSES
from udx.geometry.arrays import Float32Array, require_finite, require_shape


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Detections:
    """K boxes (K, 9) in the BEV frame, their scores (K,) in [0, 1], and their labels (K,) into ``CLASSES``.

    Raises:
        ValueError: shapes disagree, a value is not finite, a size is not positive, or a score or label is out of range.
    """

    boxes_K9: Float32Array
    scores_K: Float32Array
    labels_K: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.boxes_K9)
        require_shape("boxes", self.boxes_K9, (count, BOX_SIZE))
        require_shape("scores", self.scores_K, (count,))
        require_shape("labels", self.labels_K, (count,))
        require_finite("boxes", self.boxes_K9)
        require_finite("scores", self.scores_K)
        if (self.boxes_K9[:, 3:6] <= 0).any():
            raise ValueError("a box has a size that is not positive")
        if ((self.scores_K < 0) | (self.scores_K > 1)).any():
            raise ValueError("a score is outside [0, 1]")
        if ((self.labels_K < 0) | (self.labels_K >= len(CLASSES))).any():
            raise ValueError(f"a label is outside 0 to {len(CLASSES) - 1}")

    def __len__(self) -> int:
        return len(self.boxes_K9)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Detections":
        return Detections(boxes_K9=self.boxes_K9[keep], scores_K=self.scores_K[keep], labels_K=self.labels_K[keep])

    def above(self, score: float) -> "Detections":
        """Keep the boxes with a score of at least ``score``."""
        return self[self.scores_K >= score]

    def to_json(self) -> dict[str, object]:
        """Lists, with the names of the classes and the convention of the boxes."""
        return {
            "box_convention": BOX_CONVENTION,
            "boxes": self.boxes_K9.tolist(),
            "scores": self.scores_K.tolist(),
            "labels": [CLASSES[label] for label in self.labels_K],
        }
