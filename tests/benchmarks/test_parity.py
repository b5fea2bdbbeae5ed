"""The parity table on a tiny detector: every form is there, agrees as it should, and is told as it was measured."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.build.exported import config_of, exported_model, frame_of
from udx.data.detections import Detections

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FORMS = ["ONNX Runtime FP32", "ONNX Runtime FP16", "partitioned", "FP16, rounded"]


@pytest.fixture(scope="module")
def parity():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("parity")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def found(parity, tmp_path_factory):
    """What a frame shows of a LiDAR detector with random weights."""
    engines = sys.modules["parity_engines"]
    frame = frame_of(exported_model("tiny", "lidar")[1])
    subject = engines.random_subject("tiny", config_of("tiny", "lidar"), frame)
    assert not subject.trained
    forms = engines.forms_of(subject, frame, tmp_path_factory.mktemp("forms"))
    assert list(forms) == ["torch", *FORMS]
    with forms["torch"]() as opened:
        spread = float(opened.heads(frame)["heatmap"].std())
    told = parity.differences(forms, {"frame": frame})
    return {name: by_frame["frame"] for name, by_frame in told.items()}, spread


def test_random_heatmaps_are_not_flat(found):
    assert found[1] > 0.5


def test_fp32_is_torch_to_rounding_and_so_is_the_plan(found):
    by_form, _ = found
    assert by_form["ONNX Runtime FP32"]["heatmap"]["max"] < 1e-3 > by_form["ONNX Runtime FP32"]["regression"]["max"]
    for name in ("ONNX Runtime FP32", "partitioned"):
        assert by_form[name]["boxes"]["matched"] == by_form[name]["boxes"]["boxes"] > 10
        assert by_form[name]["all_boxes_within"] < 1e-3
    assert "heatmap" not in by_form["partitioned"]


def test_fp16_is_near_but_not_equal(found):
    by_form, _ = found
    for name in ("ONNX Runtime FP16", "FP16, rounded"):
        for which in ("heatmap", "regression"):
            assert 1e-5 < by_form[name][which]["relative"] < 0.02
            assert by_form[name][which]["mean"] < by_form[name][which]["max"]


def test_boxes_that_differ_are_counted(parity):
    boxes = np.ones((3, 9), np.float32)
    boxes[:, 0] = [0, 10, 20]
    one = Detections(boxes_K9=boxes, scores_K=np.array([0.9, 0.5, 0.05], np.float32), labels_K=np.zeros(3, np.int64))
    other = Detections(
        boxes_K9=boxes + np.eye(3, 9, dtype=np.float32)[[0, 1, 1]] * 0.25, scores_K=one.scores_K, labels_K=one.labels_K
    )
    told = parity._apart(one, {}, other, None)
    assert (told["boxes"]["boxes"], told["boxes"]["matched"], told["confident"]["boxes"]) == (2, 2, 2)
    assert told["all_boxes_within"] == told["boxes"]["centre_max_m"] == 0.25
    far = Detections(boxes_K9=boxes, scores_K=one.scores_K, labels_K=np.ones(3, np.int64))
    assert parity._apart(one, {}, far, None)["all_boxes_within"] is None


def test_results_of_other_detectors_stay(parity, tmp_path):
    path = tmp_path / "parity.json"
    for recipe, student, weights in (
        ("base", "cam", "a"), ("nano", "lidar", "b"), ("nano", "cam", "c"), ("base", "cam", "d"),
    ):  # fmt: skip
        parity._save(path, {"recipe": recipe, "student": student, "weights": weights})
    told = json.loads(path.read_text())["detectors"]
    assert [(one["recipe"], one["student"], one["weights"]) for one in told] == [
        ("nano", "cam", "c"), ("nano", "lidar", "b"), ("base", "cam", "d"),
    ]  # fmt: skip


def test_a_row_has_the_worst_frame_and_the_sum_of_boxes(parity):
    def frame(scale):
        boxes = {"boxes": 10, "matched": 9, "score_max": scale, "score_mean": 0.0}
        boxes |= {"centre_max_m": 2 * scale, "centre_mean_m": scale}
        return {"heatmap": {"max": scale, "mean": scale / 2}, "boxes": boxes, "confident": boxes}

    row = parity._row({"name": "form", "frames": {"a": frame(1e-3), "b": frame(3e-3)}, "mean_ap": -0.001})
    assert row == [
        "form",
        "3.0e-03 (1.0e-03)",
        "–",
        "3.0e-03 (0.0e+00)",
        "6.0e-03 (2.0e-03)",
        "18/20",
        "18/20",
        "-0.100",
    ]
