"""The statistics that claims of a gain rest upon, by hand."""

from dataclasses import replace

import pytest

from benchmarks.distill_report import Figures, PathResult, interval, to_markdown


def figures(*mAP: float) -> Figures:
    errors = {"mAOE": tuple(1.5 for _ in mAP), "mAVE": tuple(3.25 for _ in mAP)}
    return Figures(mAP=mAP, NDS=mAP, seconds=tuple(10.0 for _ in mAP), **errors)


def result() -> PathResult:
    arms = {arm: figures(10.0, 11.0, 12.0) for arm in ("feature", "relation", "response", "all")}
    return PathResult(
        teacher=figures(50.0),
        alone=figures(9.0, 10.0, 11.0),
        best=figures(14.0, 14.0, 17.0),
        equal_time=figures(10.0, 10.0),
        all_epochs=figures(15.0, 14.0),
        arms=arms,
    )


def test_the_interval_is_students() -> None:
    """Differences 5, 4, 6: mean 5, deviation 1, and t = 4.303 at two degrees of freedom."""
    assert interval([5.0, 4.0, 6.0]) == pytest.approx((5 - 4.303 / 3**0.5, 5 + 4.303 / 3**0.5))


def test_gains_are_paired_by_seed_and_set_against_the_teacher() -> None:
    found = result().to_json()
    assert found["gain"] == pytest.approx(5.0)
    assert found["gain_ci95"] == pytest.approx(list(interval([5.0, 4.0, 6.0])))
    assert found["gap_closed"] == pytest.approx(5.0 / 40.0)
    assert found["gain_over_equal_time"] == pytest.approx(4.0)  # of the two seeds that both have
    assert found["gain_over_all_epochs"] == pytest.approx(-0.5)
    assert found["time_ratio"] == 1.0


def test_a_teacher_behind_its_student_leaves_no_gap() -> None:
    weak = replace(result(), teacher=figures(5.0))
    assert weak.to_json()["gap_closed"] is None
    assert "–" in to_markdown({"cam->lidar": weak})
    assert "1.50 | 3.25 |" in to_markdown({"cam->lidar": weak}), "what NDS may hide"
    assert weak.to_json()["distilled_mAOE"] == [1.5] * len(weak.best.mAP)
