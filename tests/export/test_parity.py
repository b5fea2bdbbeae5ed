"""How two lists of detections are compared."""

import dataclasses

import numpy as np
import pytest

from udx.data.detections import Detections
from udx.export.parity import agreement, compare, difference

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


def test_lists_of_equal_boxes_agree_in_any_order():
    found = agreement(ONE, ONE[np.array([2, 1, 0])])
    assert (found.boxes, found.matched, found.share) == (2, 2, 1.0)  # the last ties with itself
    assert found.score_max == found.centre_max_m == 0


def test_boxes_agree_within_reach_and_by_label():
    boxes = BOXES.copy()
    boxes[0, :2] += (0.3, 0.4)
    near = agreement(ONE, dataclasses.replace(ONE, boxes_K9=boxes))
    assert (near.matched, near.centre_max_m, near.centre_mean_m) == (2, pytest.approx(0.5), pytest.approx(0.25))
    assert agreement(ONE, dataclasses.replace(ONE, boxes_K9=boxes), within_m=0.4).matched == 1
    assert agreement(ONE, dataclasses.replace(ONE, labels_K=np.array([0, 2, 0]))).matched == 1


def test_one_box_is_matched_once():
    twice = dataclasses.replace(
        ONE, boxes_K9=BOXES * np.array([0, 1, 1, 1, 1, 1, 1, 1, 1], np.float32), labels_K=np.array([0, 0, 0])
    )
    shift = np.zeros((3, 9), np.float32)
    shift[1:, 0] = 9.0
    other = dataclasses.replace(twice, boxes_K9=twice.boxes_K9 + shift)
    assert agreement(twice, other).matched == 1


def test_boxes_below_a_score_do_not_count():
    assert agreement(ONE, ONE, score=0.85).boxes == 1
    assert agreement(ONE, ONE[np.array([], int)], score=0.95).share == 1.0
    assert agreement(ONE, ONE[np.array([], int)]).share == 0.0


def test_difference_of_tensors():
    found = difference(np.array([1.0, -4.0, 0.0]), np.array([1.5, -4.0, 0.25], np.float16))
    assert (found.max, found.mean, found.scale, found.relative) == (0.5, 0.25, 4.0, 0.125)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_differs_infinitely_but_from_itself(odd):
    one, other = np.array([1.0, odd]), np.array([1.0, 2.0])
    assert difference(one, other).max == np.inf
    assert difference(other, one).max == np.inf
    if np.isinf(odd):
        assert difference(one, one).max == 0
