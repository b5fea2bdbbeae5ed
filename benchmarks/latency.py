"""How fast a detector is in every way that this machine can run it: torch, ONNX Runtime, plans.

    python benchmarks/latency.py [--recipe base] [--student cam --student lidar --student fusion] [--data ROOT]

All contestants of a student have the same weights, read the same frame, and are measured in one run, in interleaved
blocks in random order. Weights are random: what a network computes with does not change how long it takes, and that
exports agree with torch is shown elsewhere (udx export, benchmarks/parity.py). ``end to end`` adds what comes before
the network: the pooling plan of the calibration, and with --data decoding and resizing, too; then there is an INT8 file
that is calibrated on it as well. ``processor`` is the processor time of the network, of all threads together, which
other programs on the machine disturb least. Saves a table and a picture.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import onnx
import torch
from torch import nn

from udx.config import with_override
from udx.console import phases, say, table, ticking
from udx.data.dataset import default_splits
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.data.spec import Modality
from udx.entry import run_command
from udx.errors import UdxError
from udx.export.deploy import DeployableDetector
from udx.export.description import manifest_of
from udx.export.onnx_export import to_onnx
from udx.export.precision import to_fp16
from udx.files import sha256_of, write_json, write_text, write_with
from udx.formats import Format, Kept, Request, formats_of, open_format
from udx.manifest import Manifest, PrecisionPlan
from udx.models.detector import Detector, DetectorInputs
from udx.runtime import svg
from udx.runtime.conditions import conditions, interference
from udx.runtime.cuda_driver import cuda_driver, first_device
from udx.runtime.environment import environment
from udx.runtime.frames import Frame, generated_frame, keyframe_frames
from udx.runtime.measure import Protocol, measure
from udx.runtime.onnx_file import sealed
from udx.runtime.runner import Runner
from udx.runtime.statistics import Summary, summarise
from udx.train.checkpoint import CheckpointRecord, load_detector, save_checkpoint
from udx.train.generated import ring_of_cameras
from udx.train.recipes import RECIPES, RunConfig
from udx.train.run import Run

RESULTS = Path(__file__).parent / "results"
KEYFRAMES = 4
CALIBRATION = {"plain": True, "samples": 8}
"""Enough for a file that is as fast as any other; its accuracy is not what is measured here."""

Row = dict[str, Any]


@click.command()
@click.option("--recipe", default="base", show_default=True)
@click.option("--student", "students", multiple=True, default=("cam", "lidar", "fusion"), show_default=True)
@click.option("--data", "root", type=click.Path(path_type=Path), help="Dataroot to take frames from.")
@click.option("--version", help="Version of the dataroot.")
@click.option("--blocks", default=6, show_default=True)
@click.option("--threads", type=int, help="CPU threads of every contestant  [default: each backend's own choice]")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda", "all"]), default="all", show_default=True, help="What may take part."
)
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="Have torch.compile along.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON to write, and a picture beside it.")
def main(
    recipe: str,
    students: tuple[Modality, ...],
    root: Path | None,
    version: str | None,
    blocks: int,
    threads: int | None,
    device: str,
    compiled: bool,
    out: Path | None,
) -> None:
    """Measure every student in every format; print a table, save it and a picture."""
    if device == "cuda":
        first_device(cuda_driver())
    out = out or RESULTS / f"latency_{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    protocol = Protocol(warmup=1, blocks=blocks, frames=2)
    found: dict[str, Any] = {
        "recipe": recipe,
        "environment": dataclasses.asdict(environment()),
        "protocol": dataclasses.asdict(protocol),
        "students": {},
    }
    for student in students:
        with TemporaryDirectory(prefix="udx-latency-") as folder:
            run = untrained_run(RECIPES[recipe](student), Path(folder))
            request = Request(
                run=run.folder, root=root, version=version, threads=threads, protocol=protocol, calibration=CALIBRATION
            )
            opened: list[Row] = []

            def keep(row: Row, opened: list[Row] = opened, student: Modality = student) -> None:
                opened.append(row)
                write_json(out, found | {"opened": {student: opened}})

            found["students"][student] = one = compare(run, request, compiled, device, keep)
        write_json(out, found)  # a run that is interrupted keeps the students that are finished
        write_text(out.with_suffix(".svg"), picture(found["students"]))
        shown = [[row["format"], *row["cells"]] for row in one["formats"]]
        table(f"{recipe} {student}: {one['frames']}", HEADER, shown)
        for row in one["formats"]:
            if row["reason"]:
                say(f"{row['format']}: {row['reason']}")
    say(f"written: {out}")


STAGES = ("inputs", "network", "end_to_end", "network_cpu")
HEADER = ["format", "network, ms", "p90", "end to end, ms", "× torch", "processor, ms", "× torch"]


def untrained_run(config: RunConfig, folder: Path) -> Run:
    """A run as a training leaves it, of a detector with random weights of a fixed seed."""
    if config.detector.camera is not None:
        config = with_override(config, "detector.camera.pretrained=null")
    torch.manual_seed(0)
    detector = Detector(config.detector)
    spec = config.detector.spec
    rig = ring_of_cameras(spec.camera) if spec.camera else None
    manifest = Manifest(
        recipe=config.recipe,
        spec=spec,
        max_boxes=config.detector.max_boxes,
        checkpoint_sha256="0" * 64,
        git_commit="unknown",
        udx_version="0",
        rig=rig,
    )
    frame, _ = generated_frame(manifest, 0)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        inputs = DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in frame().items()})
        detector.train()(inputs)  # batch norms take the frame's statistics: no value runs out of range
    record = CheckpointRecord(
        config=config, step=0, data={"keyframes": "none"}, git_commit="unknown", rig=rig.to_json() if rig else None
    )
    run = Run(folder)
    save_checkpoint(run.checkpoint, detector, record)
    return run


def write_exports(run: Run, kept: Kept) -> None:
    """The run's FP32 and FP16 files as ``udx export`` makes them, but for its comparison with torch.

    Of random scores many are as good as equal, so that the last of the best are others in every way of computing.
    """
    detector, record = load_detector(run.checkpoint)
    manifest = manifest_of(run, record)
    frame, _ = generated_frame(manifest, 0)
    exact = to_onnx(DeployableDetector(detector), frame())
    for precision, (model, plan) in {"fp32": (exact, PrecisionPlan()), "fp16": to_fp16(exact)}.items():
        sealed(model, dataclasses.replace(manifest, precision=plan))
        path = kept.folder / f"student.{precision}.onnx"
        write_with(path, partial(onnx.save, model))
        kept.made(path)


def contestants(run: Run, folder: Path, request: Request, compiled: bool, device: str) -> Iterator[Format]:
    """Every format on a device, torch first, and torch's compiler; without data nothing can be calibrated."""
    for one in formats_of(run, folder, request, ticking, phases):
        if device not in ("all", "cuda" if one.gpu else "cpu"):
            continue
        if "INT8" not in one.name or request.root is not None:
            yield one
        if compiled and one.backend.startswith("torch"):
            backend = one.backend.replace("torch", "torch-compile")
            yield Format(one.name.replace("torch", "torch.compile"), None, None, backend, one.gpu)


def compare(
    run: Run, request: Request, compiled: bool, device: str = "all", keep: Callable[[Row], None] = lambda row: None
) -> dict[str, Any]:
    """Open every contestant, measure them in turns, and tell how fast each is beside torch eager.

    Args:
        run: whose detector is measured.
        request: data, threads and protocol.
        compiled: whether torch's compiler takes part.
        device: ``cpu``, ``cuda`` or ``all``.
        keep: is given each contestant as soon as it was opened, with how long a frame took it while it was alone (the
            median, milliseconds), or why it cannot take part: what is left if there is no time for the comparison.

    Raises:
        UdxError: torch itself does not run on the device.
    """
    runners: dict[str, Runner] = {}
    reasons: dict[str, str] = {}
    kept = Kept(run)
    write_exports(run, kept)
    frames, frames_are = None, ""
    for one in contestants(run, kept.folder, request, compiled, device):
        try:
            runner = open_format(one, kept, run, request.threads)
            frames, frames_are = (frames, frames_are) if frames else frames_of(runner.manifest, request)
            with runner:  # the compiler works now, and fails now if it cannot
                runner.detect(frames[0]())
                keep({"format": one.name, "reason": None, "alone_ms": alone_ms(runner, frames)})
            runners[one.name] = runner
        except UdxError as error:
            reasons[one.name] = str(error)
            keep({"format": one.name, "reason": str(error)})
    if frames is None or next(iter(runners)) not in ("torch", "torch, CUDA"):
        raise UdxError(
            f"torch does not run here, and there is nothing to compare with ({next(iter(reasons.values()))})"
        )
    before = conditions()
    with ticking("measuring") as tick:
        measured = measure(list(runners.values()), frames, request.protocol, progress=tick)
    others = interference(before, conditions())
    rows = [
        row(name, runner, {stage: summarise(timings.samples(stage), 0) for stage in STAGES})
        for (name, runner), timings in zip(runners.items(), measured.timings, strict=True)
    ]
    for one_row in rows:
        for name, stage in (("speedup", "end_to_end"), ("speedup_processor", "network_cpu")):
            one_row[name] = rows[0][stage]["median"] / one_row[stage]["median"]
        one_row["cells"] = cells_of(one_row)
    missing = [{"format": name, "reason": reason, "cells": [""] * 6} for name, reason in reasons.items()]
    return {
        "checkpoint_sha256": sha256_of(run.checkpoint),
        "frames": frames_are,
        "blocks_measured": measured.timings[0].blocks,
        "stopped": measured.stopped,
        "interference": others and dataclasses.asdict(others),
        "formats": [*rows, *missing],
    }


def alone_ms(runner: Runner, frames: list[Frame], repetitions: int = 5) -> float:
    """Time a few frames of an active runner: the median from the sensors' tensors to the boxes, milliseconds."""
    took = []
    for index in range(repetitions):
        tensors = frames[index % len(frames)]()
        begun = time.perf_counter()
        runner.infer(tensors)
        took.append((time.perf_counter() - begun) * 1e3)
    return median(took)


def frames_of(manifest: Manifest, request: Request) -> tuple[list[Frame], str]:
    """Keyframes of the dataroot, or one generated frame."""
    if request.root is None:
        frame, said = generated_frame(manifest, 0)
        return [frame], said
    nusc = open_dataroot(request.root, request.version)
    split = default_splits(nusc.version)[1]
    sweeps = manifest.spec.lidar.sweeps if manifest.spec.lidar else 1
    keyframes = load_keyframes(nusc, split, max_sweeps=sweeps)[:KEYFRAMES]
    return keyframe_frames(keyframes, manifest), f"{len(keyframes)} keyframes of split {split} of {request.root.name}"


def row(name: str, runner: Runner, stages: dict[str, Summary]) -> Row:
    """A contestant's figures."""
    plain = {stage: dataclasses.asdict(summary) for stage, summary in stages.items()}
    return {"format": name, "settings": dict(runner.settings), "reason": None} | plain


def cells_of(row: Row) -> list[str]:
    """How the table shows a contestant."""
    network, whole, processor = (row[stage] for stage in STAGES[1:])
    return [
        f"{network['median']:.1f}",
        f"{network['p90']:.1f}",
        f"{whole['median']:.1f}",
        f"{row['speedup']:.2f}",
        f"{processor['median']:.1f}",
        f"{row['speedup_processor']:.2f}",
    ]


def picture(students: dict[str, Any]) -> str:
    """Medians of all contestants as bars."""
    bars = {
        f"{student}, {one['format']}": {stage: one[stage]["median"] for stage in ("inputs", "network")}
        for student, found in students.items()
        for one in found["formats"]
        if one["reason"] is None
    }
    return svg.standalone(svg.bars_svg(bars))


if __name__ == "__main__":
    run_command(main)
