"""The greedy skip list, with mAP given by hand."""

import numpy as np
import pytest

from tests.build.exported import exported_model
from udx.calibration.budget import meet
from udx.calibration.placement import Placement, place
from udx.calibration.sensitivity import Sensitivity, relative_error


@pytest.fixture(scope="module")
def placement() -> Placement:
    return place(exported_model("tiny", "lidar")[0])


def ranked(placement: Placement) -> list[Sensitivity]:
    return [Sensitivity(layer.node, layer.block, 1, 1.0 / (1 + at)) for at, layer in enumerate(placement.layers)]


def test_nothing_is_left_out_where_nothing_is_lost(placement):
    outcome = meet(placement, ranked(placement), 0.5, lambda part: 0.497, 0.5)
    assert outcome.met and outcome.drop == pytest.approx(0.3)
    assert outcome.placement == placement
    assert "every layer quantized, within the budget" in outcome.sentence()


@pytest.mark.parametrize(("exact", "vacuous"), [(0.0, True), (0.005, True), (0.0051, False)])
def test_a_budget_that_cannot_be_missed_says_nothing(placement, exact, vacuous):
    outcome = meet(placement, ranked(placement), exact, lambda part: 0.0, 0.5)
    assert outcome.vacuous is vacuous
    assert ("within" in outcome.sentence()) is not vacuous
    assert ("this says nothing of the loss" in outcome.sentence()) is vacuous


def test_the_worst_layers_go_first_until_the_budget_is_kept(placement):
    """Two points lost, of which the worst layer causes 1 and the next 0.8."""
    order = ranked(placement)

    def measure(part: Placement) -> float:
        lost = 0.2 + 1.0 * (order[0].name in part.nodes) + 0.8 * (order[1].name in part.nodes)
        return 0.5 - lost / 100

    outcome = meet(placement, order, 0.5, measure, 0.5)
    assert [step.skipped for step in outcome.steps] == [None, order[0].name, order[1].name]
    assert [round(step.drop, 6) for step in outcome.steps] == [2.0, 1.0, 0.2]
    assert outcome.placement.kept["sensitive"] == (order[0].name, order[1].name)
    assert outcome.met and "2 of the most sensitive layers" in outcome.sentence()


def test_a_budget_that_cannot_be_kept_gives_the_best_there_is(placement):
    order = ranked(placement)

    def measure(part: Placement) -> float:
        return 0.4 if order[0].name in part.nodes else 0.45 if order[1].name in part.nodes else 0.43

    outcome = meet(placement, order, 0.5, measure, 0.5)
    assert not outcome.met and outcome.drop == pytest.approx(5.0)
    assert outcome.placement.kept["sensitive"] == (order[0].name,)
    assert "NOT within" in outcome.sentence()


def test_the_error_of_maps_is_noise_over_signal():
    exact = [{"a": np.float32([0.0, 2.0]), "b": np.float32([0.0, 4.0])}]
    other = [{"a": np.float32([0.1, 2.1]), "b": np.float32([0.0, 4.0])}]
    assert relative_error(exact, other) == pytest.approx((0.1 / 1.0 + 0.0) / 2)
