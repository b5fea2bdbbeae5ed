"""The list of runs: every state that a run can be in, and damaged ones beside whole ones."""

import dataclasses
import json

from udx.data.evaluation import Metrics
from udx.geometry import CLASSES
from udx.train.listing import list_runs
from udx.train.loop import Validation, train
from udx.train.run import Run


def test_runs_are_listed_with_their_figures(make_job, tmp_path):
    values = iter([0.4, 0.3])

    def validate(detector):
        value = next(values)
        return Validation(Metrics(mean_ap=value / 2, nds=value, per_class=dict.fromkeys(CLASSES, 0.0), tp_errors={}))

    config = make_job(tmp_path, epochs=2).config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, validate_every=1))
    job = make_job(tmp_path / "a" / "run", config=config, validate=validate)
    train(job)
    ((row,), problems) = list_runs(tmp_path)
    assert not problems
    assert (row.folder, row.recipe, row.student, row.teacher) == ("a/run", "nano", "lidar", None)
    assert (row.step, row.epochs, row.NDS, row.mAP, row.best_NDS) == (2, 2, 0.3, 0.15, 0.4)
    assert row.state == "epoch 2 of 2"
    job.run.metrics.write_text(json.dumps({"mAP": 0.15, "NDS": 0.3}))
    ((row,), _) = list_runs(tmp_path)
    assert row.state == "finished"


def test_a_damaged_run_does_not_hide_the_others(make_job, tmp_path):
    train(make_job(tmp_path / "whole", epochs=1))
    for name, text in (("cut", '{"config"'), ("foreign", '{"model": 3}')):
        (tmp_path / name).mkdir()
        Run(tmp_path / name).config.write_text(text)
    rows, problems = list_runs(tmp_path)
    assert [row.folder for row in rows] == ["whole"]
    assert len(problems) == 2 and all("config.json" in problem for problem in problems)
