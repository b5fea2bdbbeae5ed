"""The demo's page: what distillation gained comes first."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from tests.build.exported import exported_model, write_sealed
from udx.runtime.bench import bench
from udx.runtime.measure import Protocol
from udx.runtime.report import BenchReport, Gain
from udx.train.run import Run


@pytest.fixture(scope="module")
def demo():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import demo

        yield demo
    finally:
        sys.path.remove(folder)


def doubtful(report: BenchReport) -> BenchReport:
    assert report.comparison is not None
    found = dataclasses.replace(report.comparison.equivalence, verdict="cannot tell", reason="the machine is busy")
    stages = dict(report.comparison.stages) | {report.comparison.judged: found}
    return dataclasses.replace(report, comparison=dataclasses.replace(report.comparison, stages=stages))


def test_the_page_leads_with_the_gain(demo, tmp_path: Path) -> None:
    model, manifest = exported_model("tiny", "cam")
    student, distilled = (write_sealed(tmp_path / f"{name}.onnx", model, manifest) for name in ("student", "distilled"))
    quick = Protocol(warmup=1, blocks=2, frames=2, max_minutes=0)
    report = doubtful(bench(distilled, against=student, protocol=quick, threads=1))
    models = {}
    for name, mean_ap in (("teacher", 0.6), ("student", 0.265), ("distilled", 0.412)):
        run = Run(tmp_path / name)
        run.folder.mkdir()
        run.log.write_text("".join(json.dumps({"detection": 5.0 - step / 10}) + "\n" for step in range(30)))
        errors = {"mAOE": 0.4, "mAVE": 0.6}
        metrics = {"mAP": mean_ap, "NDS": mean_ap / 2, "per_class": {"car": mean_ap}, "tp_errors": errors}
        models[name] = demo.Trained(run, metrics)
    rows = demo.table_rows(models, dict.fromkeys(models, 12.0))
    text = demo.page(rows, models, report, 1e-6, b"jpeg", Gain(mean_ap=14.7, nds=7.35, split="val"))
    lead = text.partition("<section>")[0]
    assert "<title>distilled.onnx against student.onnx" in text
    assert "<b>+14.7 mAP at an identical graph and identical kernels</b>NDS +7.3" in lead
    assert "<small>The clock could not resolve a difference in latency of 1.00%: the machine is busy.</small>" in lead
    assert 'class="verdict plain"' in lead
    assert text.index("<b>+14.7 mAP") < text.index("Accuracy on the validation split")
