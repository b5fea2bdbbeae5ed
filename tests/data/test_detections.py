"""Detections refuse what no evaluation could use."""

from typing import Any

import numpy as np
import pytest

from udx.data.detections import Detections


def fields(**changes: Any) -> dict[str, Any]:
    good = {
        "boxes_K9": np.ones((3, 9), np.float32),
        "scores_K": np.array([0.9, 0.5, 0.1], np.float32),
        "labels_K": np.array([0, 9, 5]),
    }
    return good | changes


def test_above_keeps_the_threshold_itself() -> None:
    kept = Detections(**fields()).above(0.5)
    assert len(kept) == 2
    assert kept.labels_K.tolist() == [0, 9]
    assert kept.boxes_K9.shape == (2, 9)


def test_no_detection_is_fine() -> None:
    assert len(Detections(**fields()).above(1.0)) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"boxes_K9": np.ones((3, 7), np.float32)}, "boxes must have shape"),
        ({"scores_K": np.ones(2, np.float32)}, "scores must have shape"),
        ({"labels_K": np.zeros((3, 1), np.int64)}, "labels must have shape"),
        ({"boxes_K9": np.full((3, 9), np.nan, np.float32)}, "boxes must be finite"),
        ({"scores_K": np.array([0.1, np.inf, 0.1], np.float32)}, "scores must be finite"),
        ({"scores_K": np.array([0.1, 1.5, 0.1], np.float32)}, "outside \\[0, 1\\]"),
        ({"boxes_K9": np.zeros((3, 9), np.float32)}, "not positive"),
        ({"labels_K": np.array([0, 1, 10])}, "outside 0 to 9"),
        ({"labels_K": np.array([0, -1, 1])}, "outside 0 to 9"),
    ],
)
def test_bad_detections_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Detections(**fields(**changes))
