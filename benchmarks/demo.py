"""The main job end to end: teacher, student, distilled student, evaluation, export, parity, latency, report.

Both students take the same steps on the same samples in the same order: one alone, one taught by the fusion teacher as
recipe nano would have it, from whom it also inherits weights. Interrupted, it goes on where it was.
"""

import io
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from udx.console import bar, say, table
from udx.data.detections import Detections
from udx.data.frame import KeyFrame
from udx.data.inputs import inputs_of
from udx.data.load import load_sample
from udx.entry import run_command
from udx.errors import UdxError
from udx.export.onnx_export import Export, detections_of, export_run
from udx.export.parity import compare
from udx.files import write_json, write_text, write_with
from udx.runtime import html, svg
from udx.runtime.bench import bench
from udx.runtime.draw import draw_frame
from udx.runtime.engine import open_engine
from udx.runtime.frames import keyframe_frames
from udx.runtime.measure import Protocol
from udx.runtime.report import BenchReport, Gain
from udx.runtime.show import bench_lead, bench_sections
from udx.train.checkpoint import load_detector
from udx.train.job import Dataset, Lineup, Request, fit, open_data, resolve_config
from udx.train.logbook import read_log
from udx.train.run import Run

TEACHER_EPOCHS = 4
STUDENT_EPOCHS = 5
BENCH_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that is finished, with its metrics."""

    run: Run
    metrics: dict[str, Any]

    @property
    def brief(self) -> dict[str, float]:
        """The two figures that sum the metrics up, and the errors of heading and velocity, which NDS may hide."""
        errors = self.metrics["tp_errors"]
        return {"mAP": self.metrics["mAP"], "NDS": self.metrics["NDS"], "mAOE": errors["mAOE"], "mAVE": errors["mAVE"]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option(
    "--data", "root", type=click.Path(path_type=Path), help="nuScenes dataroot instead of the synthetic world."
)
@click.option("--version", help="Version of the dataroot, as v1.0-mini.")
def main(out: Path, root: Path | None, version: str | None) -> None:
    """Every step of the road, then table, summary.json and report.html in OUT."""
    began = time.monotonic()
    common = {"data": root, "version": version}
    teacher_request = Request(student="fusion", epochs=TEACHER_EPOCHS, **common)
    data = open_data(teacher_request, resolve_config(teacher_request), bar)
    teacher = trained(teacher_request, data, Run(out / "teacher"))
    request = Request(student="cam", epochs=STUDENT_EPOCHS, **common)
    student = trained(request, data, Run(out / "student"))
    distilled = trained(request, data, Run(out / "distilled"), teacher=teacher.run)
    exports = {
        name: export_run(run.run, out / f"{name}.onnx")
        for name, run in {"student": student, "distilled": distilled, "teacher": teacher}.items()
    }
    keyframe = most_boxes(data.val)
    parity = max(
        parity_on(exports[name], run, keyframe) for name, run in (("student", student), ("distilled", distilled))
    )
    report = measure(exports["distilled"], data, against=exports["student"])
    report = replace(report, command=shlex.join(["python", *sys.argv]))
    teacher_report = measure(exports["teacher"], data, against=None)
    models = {"teacher": teacher, "student": student, "distilled": distilled}
    latency = {
        "teacher": teacher_report.engine.network.median,
        "student": report.against.network.median if report.against else float("nan"),
        "distilled": report.engine.network.median,
    }
    summary = {name: model.brief for name, model in models.items()} | {
        "gain": {name: distilled.metrics[name] - student.metrics[name] for name in ("mAP", "NDS")},
        "parity": parity,
        "bench": report.to_json(),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(out / "summary.json", summary)
    picture = draw(exports["distilled"], keyframe, out / "distilled.png")
    rows = table_rows(models, latency)
    gain = Gain(**{key: 100 * summary["gain"][name] for key, name in GAINED.items()}, split=data.val_split)
    write_text(out / "report.html", page(rows, models, report, parity, picture, gain))
    table("fusion teaches camera (metrics in %, latency of the network in ms)", HEADER, rows)
    say(f"largest difference between torch and ONNX Runtime: {parity:.1e}; report: {out / 'report.html'}")


def trained(request: Request, data: Dataset, run: Run, *, teacher: Run | None = None) -> Trained:
    """Train into ``run``, or go on, or take it as it is if it is finished."""
    metrics = run.read_metrics()
    if metrics is not None:
        seen = run.record().data["keyframes"]
        if seen != data.identity["keyframes"]:
            raise UdxError(f"{run.folder} was trained on other data; remove it, or choose another OUT")
        return Trained(run, metrics)
    lineup = Lineup(resolve_config(request), run, teacher=teacher, resume=run.state.is_file())
    _, fresh = fit(lineup, data, bar)
    return Trained(run, fresh.to_json())


def parity_on(export: Export, model: Trained, keyframe: KeyFrame) -> float:
    """Largest output error of an export against torch, on its check's frame and on a keyframe."""
    detector, _ = load_detector(model.run.checkpoint)
    tensors = inputs_of(load_sample(keyframe, export.manifest.spec), export.manifest.spec)
    with open_engine(export.path) as runner:
        on_keyframe = compare(detections_of(detector, tensors), runner.detect(tensors))
    return max(export.parity.largest, on_keyframe.largest)


def measure(export: Export, data: Dataset, *, against: Export | None) -> BenchReport:
    """Latency on keyframes of the validation split."""
    keyframes = data.val[:BENCH_FRAMES]
    with bar(f"measuring {export.path.stem}") as tick:
        return bench(
            export.path,
            against=against.path if against else None,
            frames=keyframe_frames(keyframes, export.manifest),
            frames_are=f"{len(keyframes)} keyframes of split {data.val_split}",
            protocol=Protocol(warmup=4, blocks=30 if against else 8, max_minutes=1),
            progress=lambda done, total: tick(done, total, ""),
        )


def most_boxes(keyframes: Any) -> KeyFrame:
    """The keyframe with most annotations."""
    busiest: KeyFrame = max(keyframes, key=lambda keyframe: len(keyframe.annotations))
    return busiest


def draw(export: Export, keyframe: KeyFrame, png: Path) -> bytes:
    """Draw what an engine sees; return the picture as JPEG for the report."""
    with open_engine(export.path) as runner:
        found: Detections = runner.detect(inputs_of(load_sample(keyframe, export.manifest.spec), export.manifest.spec))
    picture = draw_frame(keyframe, found, score=0.25)
    write_with(png, lambda partial: picture.save(partial, format="PNG"))
    encoded = io.BytesIO()
    picture.convert("RGB").save(encoded, format="JPEG", quality=85)
    return encoded.getvalue()


GAINED = {"mean_ap": "mAP", "nds": "NDS"}
HEADER = ["model", "mAP", "NDS", "mAP +", "NDS +", "mAOE", "mAVE", "median, ms"]
"""mAP and NDS in per cent, mAOE in rad, mAVE in m/s; the gains are the distilled student's over the other; the latency
is the network's."""


def table_rows(models: dict[str, Trained], latency: dict[str, float]) -> list[list[str]]:
    """One row a model; gains are over the student that learned alone."""
    alone = models["student"].metrics
    names = {"teacher": "fusion teacher", "student": "camera, alone", "distilled": "camera, distilled"}
    rows = []
    for name, model in models.items():
        figures = model.metrics
        gains = [f"{100 * (figures[m] - alone[m]):+.2f}" if name == "distilled" else "" for m in ("mAP", "NDS")]
        shown = [f"{100 * figures[m]:.2f}" for m in ("mAP", "NDS")]
        errors = [f"{model.brief[error]:.2f}" for error in ("mAOE", "mAVE")]
        rows.append([names[name], *shown, *gains, *errors, f"{latency[name]:.1f}"])
    return rows


def page(
    rows: list[list[str]],
    models: dict[str, Trained],
    report: BenchReport,
    parity: float,
    picture: bytes,
    gain: Gain,
) -> str:
    """Return the report as HTML: accuracy, what the distilled student sees, loss curves, latency.

    Args:
        rows: the table of all models, in the order of ``HEADER``.
        models: teacher, student and distilled student.
        report: latency of the distilled student against the student that learned alone.
        parity: largest difference between torch and ONNX Runtime.
        picture: what the distilled student sees, as JPEG.
        gain: what the distilled student has over the other.
    """
    losses = {name: smoothed([line["detection"] for line in read_log(model.run.log)]) for name, model in models.items()}
    students = {name: losses[name] for name in ("student", "distilled")}
    classes = models["teacher"].metrics["per_class"]
    per_class = [
        [name, *(f"{100 * model.metrics['per_class'][name]:.1f}" for model in models.values())] for name in classes
    ]
    sections = [
        html.Section("Accuracy on the validation split, %", html.table(HEADER, rows)),
        html.Section(
            "What the distilled student sees",
            html.figure(
                html.image(picture, "boxes on six cameras and on the map", "image/jpeg"), "White: annotations."
            ),
        ),
        html.Section("Average precision by class, %", html.table(["class", *models], per_class), half=True),
        html.Section(
            "Detection loss of the students",
            html.figure(
                svg.curves_svg(students, label="Detection loss over steps"),
                "Mean over 20 steps; the distilled one began with the teacher's weights.",
            ),
            half=True,
        ),
        *bench_sections(report),
    ]
    lead = html.paragraph(
        f"A fusion teacher taught a camera student. Largest difference between torch and ONNX Runtime: {parity:.1e}. "
        f"{html.moment(report.created)}.",
        soft=True,
    )
    files = [engine.identity.file for engine in (report.engine, report.against) if engine]
    title = f"{' against '.join(files)}: from data to a measured engine"
    return html.page(title, sections, lead=lead + bench_lead(report, gain))


def smoothed(values: list[float], over: int = 20) -> list[float]:
    """Running mean."""
    window = min(over, len(values))
    mean: list[float] = np.convolve(values, np.ones(window) / window, mode="valid").tolist()
    return mean


if __name__ == "__main__":
    run_command(main)
