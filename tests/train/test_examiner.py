"""Evaluations while training are brief, the last one is whole; a run of any length fits in memory."""

import dataclasses
import json

import numpy as np
import pytest

from tests.tiny import tiny_run
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, _write_submission, submission_of
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.geometry import CLASSES
from udx.models.detector import Detector
from udx.train import examiner as module
from udx.train.acceleration import PATIENCE
from udx.train.examiner import Examiner
from udx.train.loop import Validation, train
from udx.train.predict import predict
from udx.train.recipes import RECIPES


def test_a_brief_evaluation_scores_the_best_boxes_and_is_not_the_last_word(world_root, monkeypatch):
    nusc = open_dataroot(world_root)
    val = load_keyframes(nusc, "val", max_sweeps=1)
    config = tiny_run("lidar")
    scored = []

    def evaluate(source, split, found, keyframes, modality):
        scored.append([len(found[keyframe.token]) for keyframe in keyframes])
        return Metrics(mean_ap=0.1, nds=0.1, per_class=dict.fromkeys(CLASSES, 0.1), tp_errors={})

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "BRIEF_BOXES", 7)
    examine = Examiner(nusc, "val", val, config)
    detector = Detector(config.detector)
    examine(detector, lambda done, total: None, brief=True)
    assert examine.last is None
    examine(detector, lambda done, total: None)
    assert examine.last is not None
    assert scored == [[7] * len(val), [config.detector.max_boxes] * len(val)]
    whole, best = predict(detector, val, workers=0), predict(detector, val, workers=0, most=7)
    for token, its in best.items():
        assert np.array_equal(its.scores_K, whole[token].scores_K[:7])


def test_the_last_evaluation_is_the_whole_one(make_job, tmp_path):
    called = []

    def evaluation(name):
        def validate(detector):
            called.append(name)
            metrics = Metrics(mean_ap=0.1, nds=0.1, per_class=dict.fromkeys(CLASSES, 0.1), tp_errors={})
            return Validation(metrics)

        return validate

    config = make_job(tmp_path, epochs=3).config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, validate_every=1))
    job = make_job(tmp_path / "run", config=config, validate=evaluation("brief"), validate_at_end=evaluation("whole"))
    train(job)
    assert called == ["brief", "brief", "whole"]


@pytest.mark.parametrize("empty", [False, True])
def test_a_submission_is_written_as_it_is_built(world_root, tmp_path, empty):
    val = load_keyframes(open_dataroot(world_root), "val", max_sweeps=1)
    count = 0 if empty else 3
    boxes = np.tile(np.array([[1, 2, 0, 4, 2, 1.5, 0.3, 1, 0]], np.float32), (count, 1))
    found = {
        keyframe.token: Detections(
            boxes_K9=boxes, scores_K=np.full(count, 0.5, np.float32), labels_K=np.zeros(count, np.int64)
        )
        for keyframe in val
    }
    _write_submission(tmp_path / "results.json", found, val, "lidar")
    assert json.loads((tmp_path / "results.json").read_text()) == submission_of(found, val, "lidar")


def test_processes_wait_for_an_evaluation_of_any_length():
    assert PATIENCE.total_seconds() >= 3600
    assert RECIPES["base"]("cam").train.validate_every > 1
