"""Does distillation cost anything at inference? The demo's two students, and a student with one more convolution.

    python benchmarks/proof.py runs/demo [--clock wall|cpu] [--max-minutes 10]

Two comparisons in three layers (structure, the backend's layers, time), each with its controls: the distilled student
against the one that learned alone, which must come out as equivalent, and a student whose BEV encoder has one
convolution more against the latter, which must not. One thread, one frame in flight. Saves the figures, and the first
comparison's whole report as a page.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from latency import untrained_run, write_exports

from udx.console import present, say, ticking
from udx.entry import run_command
from udx.errors import UdxError
from udx.files import write_json
from udx.formats import Kept
from udx.runtime.bench import bench, write_report
from udx.runtime.measure import Protocol
from udx.runtime.report import BenchReport
from udx.runtime.show import terminal
from udx.train.run import Run

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True)
@click.option("--max-minutes", default=10.0, show_default=True, help="For the first comparison; half for the second.")
@click.option("--blocks", default=40, show_default=True, help="At least, for each comparison.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "proof.json", show_default=True)
@click.option("--html", type=click.Path(path_type=Path), default=RESULTS / "example_report.html", show_default=True)
def main(demo: Path, clock: Any, max_minutes: float, blocks: int, out: Path, html: Path) -> None:
    """Compare; print and save what was found; fail if it is not what it must be."""
    protocol = Protocol(blocks=blocks, frames=2, max_minutes=max_minutes, clock=clock)
    student, distilled = demo / "student.onnx", demo / "distilled.onnx"
    with TemporaryDirectory(prefix="udx-proof-") as folder:
        deeper = deeper_student(Run(demo / "student"), Path(folder))
        same = compare("distilled against undistilled", distilled, student, protocol)
        command = shlex.join(["python", *sys.argv])
        write_report(dataclasses.replace(same, command=command), html=html)
        write_json(out, {"distilled": brief(same)})
        # A difference of several margins shows in less time than it takes to rule one out.
        other = compare(
            "one more convolution", deeper, student, dataclasses.replace(protocol, max_minutes=max_minutes / 2)
        )
    write_json(out, {"distilled": brief(same), "one_more_convolution": brief(other)})
    verdicts = [report.comparison.equivalence.verdict for report in (same, other) if report.comparison]
    if verdicts != ["equivalent", "different"]:
        raise UdxError(f"the verdicts are {' and '.join(verdicts)}; measure longer, or on a quieter machine")
    say(f"written: {out} and {html}")


def deeper_student(student: Run, folder: Path) -> Path:
    """A student like another, but for one convolution more in its BEV encoder, and with random weights."""
    config = student.record().config
    first, *others = config.detector.bev_encoder.convolutions
    encoder = dataclasses.replace(config.detector.bev_encoder, convolutions=(first + 1, *others))
    detector = dataclasses.replace(config.detector, bev_encoder=encoder)
    run = untrained_run(dataclasses.replace(config, detector=detector), folder)
    kept = Kept(run)
    write_exports(run, kept)
    return (kept.folder / "student.fp32.onnx").rename(folder / "deeper.onnx")


def compare(title: str, engine: Path, against: Path, protocol: Protocol) -> BenchReport:
    """Measure, and show what was found."""
    with ticking(title) as tick:
        report = bench(engine, against=against, threads=1, protocol=protocol, progress=tick)
    present(terminal(report))
    if report.stopped:
        raise UdxError(f"{title}: the measurement ended early: {report.stopped}; run it again")
    return report


def brief(report: BenchReport) -> dict[str, Any]:
    """A report without its samples."""
    plain = report.to_json()
    for equivalence in (plain["equivalence"], *plain["equivalence_by_stage"].values()):
        for ratio in (equivalence, equivalence["aa"], equivalence["positive"]):
            ratio.pop("block_ratios", None)
    for engine in (plain["engine"], plain["against"]):
        for summary in engine["stages"].values():
            del summary["samples_ms"], summary["histogram"]
    return plain


if __name__ == "__main__":
    run_command(main)
