"""How two lists of detections are compared."""

import dataclasses

import numpy as np
import pytest

from udx.data.detections import Detections
from udx.export.parity import compare

BOXES = np.array([[x, 0, 0, 4, 2, 1.5, 3.1, 0, 0] for x in (0.0, 10.0, 20.0)], np.float32)
ONE = Detections(boxes_K9=BOXES, scores_K=np.array([0.9, 0.8, 0.1], np.float32), labels_K=np.array([0, 1, 0]))


def test_equal_lists_have_no_difference_in_any_order():
    other = ONE[np.array([1, 0, 2])]
    assert compare(ONE, other).largest == 0


def test_a_shifted_box_counts_by_its_shift():
    boxes = BOXES.copy()
    boxes[1, 0] += 0.5
    assert compare(ONE, dataclasses.replace(ONE, boxes_K9=boxes)).box == pytest.approx(0.5)


def test_headings_are_compared_around_the_circle():
    boxes = BOXES.copy()
    boxes[:, 6] = -3.1
    assert compare(ONE, dataclasses.replace(ONE, boxes_K9=boxes)).box == pytest.approx(2 * np.pi - 6.2, abs=1e-5)


def test_a_box_without_counterpart_is_no_small_thing():
    assert compare(ONE, dataclasses.replace(ONE, labels_K=np.array([0, 2, 0]))).largest == np.inf


def test_scores_count_too():
    other = dataclasses.replace(ONE, scores_K=np.array([0.9, 0.7, 0.1], np.float32))
    assert compare(ONE, other).score == pytest.approx(0.1)


def test_the_last_of_a_list_may_be_another_that_ties_with_it():
    boxes = BOXES.copy()
    boxes[2, 0] = 33.0
    assert compare(ONE, dataclasses.replace(ONE, boxes_K9=boxes)).largest == 0
