import numpy as np
import pytest

from udx.data.frame import Annotations


def annotations(**changes):
    boxes = np.tile([1.0, 2, 0, 4, 2, 1.5, 0.1, np.nan, np.nan], (3, 1))
    fields = {"boxes_N9": boxes, "labels_N": np.array([0, 5, 9]), "num_points_N": np.array([0, 1, 2])} | changes
    return Annotations(**fields)


def test_masked():
    kept = annotations()[np.array([True, False, True])]
    assert kept.labels_N.tolist() == [0, 9]
    assert kept.num_points_N.tolist() == [0, 2]
    assert len(kept) == 2
    assert len(Annotations.none()) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"boxes_N9": np.ones((3, 7))}, r"boxes must have shape \(3, 9\), not \(3, 7\)"),
        ({"labels_N": np.array([0, 5])}, r"labels must have shape \(3,\), not \(2,\)"),
        ({"labels_N": np.array([0, 5, 10])}, "a label is outside 0 to 9"),
        ({"labels_N": np.array([0, 5, -1])}, "a label is outside 0 to 9"),
        ({"num_points_N": np.zeros(4, np.int64)}, r"num_points must have shape \(3,\)"),
        ({"boxes_N9": np.zeros((3, 9))}, "a size that is not positive"),
        ({"boxes_N9": np.full((3, 9), np.nan)}, "not finite"),
    ],
)
def test_what_is_no_annotation(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        annotations(**changes)
