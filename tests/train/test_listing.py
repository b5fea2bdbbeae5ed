"""The list of runs: every state that a run can be in, and damaged ones beside whole ones."""

import dataclasses
import json

import pytest

from udx.data.evaluation import Metrics
from udx.geometry import CLASSES
from udx.train.listing import list_runs
from udx.train.loop import Validation, train
from udx.train.run import Run
from udx.train.show import show_runs


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


DAMAGES = [
    ("metrics.json", "[1, 2]"),
    ("metrics.json", '{"mAP": "high", "NDS": 0.3}'),
    ("metrics.json", '{"mAP": 1e400, "NDS": 0.3}'),
    ("metrics.json", '{"mAP": NaN, "NDS": 0.3}'),
    ("log.jsonl", '{"step": 1, "loss": "low"}\n'),
    ("log.jsonl", '{"step": [1], "epoch": {}, "loss": NaN}\n'),
    ("log.jsonl", '{"step": 1, "loss": }\n'),
    ("log.jsonl", "[" * 70_000 + "}\n{}}\n"),
    ("log.jsonl", '{"step": 1e999, "epoch": -1e999, "loss": 1e999}\n'),
    ("epochs/001.json", "[3]"),
    ("epochs/001.json", '{"mAP": {}, "NDS": []}'),
    ("best/metrics.json", "null"),
    ("config.json", "[]"),
    ("config.json", '{"config": {"recipe": "x", "detector": {"spec": 3}}}'),
]


@pytest.mark.parametrize(("name", "text"), DAMAGES)
def test_damaged_figures_hide_no_other_run_and_are_never_shown(make_job, tmp_path, capsys, name, text):
    for folder in ("whole", "damaged [/red]"):
        train(make_job(tmp_path / folder, epochs=1))
        Run(tmp_path / folder).metrics.write_text('{"mAP": 0.1, "NDS": 0.2}')
    path = tmp_path / "damaged [/red]" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    rows, problems = list_runs(tmp_path)
    assert "whole" in [row.folder for row in rows]
    assert len(rows) + len(problems) == 2
    json.dumps([row.to_json() for row in rows], allow_nan=False)
    show_runs(rows)
