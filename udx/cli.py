"""The command line: one function a verb, no logic. Heavy libraries load when a verb needs them."""

from pathlib import Path
from typing import Any

import click

from udx import __version__
from udx.entry import run_command
from udx.errors import UdxError

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
MODALITY = click.Choice(["cam", "lidar", "fusion"])
BACKENDS = click.Choice(["onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
JSON = click.option("--json", "json_file", type=FILE, help="Write what the terminal shows to this file.")
BACKEND = click.option("--backend", default="auto", show_default=True, help="What runs the engine.")
VERSION = click.option("--version", help="Version of the dataroot, as v1.0-mini; not needed where it has only one.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="udx")
def main() -> None:
    """Train BEV 3D detectors on nuScenes, distil them across sensors, export and measure what ships."""


@main.group()
def data() -> None:
    """Make or check a dataroot."""


@data.command()
@click.argument("out", type=FOLDER)
@click.option("--scenes", default=10, show_default=True, help="Scenes; the last fifth is the split val.")
@click.option("--samples", default=20, show_default=True, help="Keyframes of a scene, half a second apart.")
@click.option("--seed", default=0, show_default=True, help="Another seed is another world.")
@click.option("--sweeps", default=2, show_default=True, help="LiDAR turns before each keyframe, besides its own.")
@click.option("--width", default=352, show_default=True, help="Width of the images in pixels; 16:9.")
@click.option("--device", default="cpu", show_default=True, help="Where to render: cpu or cuda.")
def synth(out: Path, scenes: int, samples: int, seed: int, sweeps: int, width: int, device: str) -> None:
    """Write a synthetic world as a nuScenes dataroot of version v1.0-synth to OUT."""
    from udx.console import say, ticking
    from udx.data.synth import WorldSpec, write_world

    spec = WorldSpec(scenes=scenes, samples=samples, seed=seed, sweeps=sweeps, image_width_px=width)
    with ticking("rendering") as tick:
        write_world(out, spec, device=device, progress=tick)
    say(f"{out}: {scenes} scenes of {samples} keyframes, version v1.0-synth")


@data.command()
@click.argument("root", type=FOLDER)
@VERSION
@click.option("--files/--no-files", default=True, show_default=True, help="Decode every image and sweep.")
@JSON
def check(root: Path, version: str | None, files: bool, json_file: Path | None) -> None:
    """Check every table, reference, pose, box and file of the dataroot ROOT."""
    from udx.console import bar, say
    from udx.data.check import check_dataroot
    from udx.files import write_json

    with bar("checking") as update:
        report = check_dataroot(
            root, version, files=files, progress=lambda what, done, total: update(done, total, what)
        )
    if json_file:
        write_json(json_file, report.to_json())
    for line in report.lines():
        say(line)
    if report.problems:
        raise SystemExit(2)


@main.command()
@click.option(
    "--recipe",
    default="nano",
    show_default=True,
    help="nano: two CPU cores; small: one GPU, minutes; base: the paper; modern, modern-swin: as of today.",
)
@click.option("--data", "root", type=FOLDER, help="nuScenes dataroot; without it the synthetic world, made once.")
@VERSION
@click.option("--train-split", help="Split to train on  [default: train, or mini_train]")
@click.option("--val-split", help="Split to evaluate on  [default: val, or mini_val]")
@click.option("--student", type=MODALITY, default="cam", show_default=True, help="Sensors of the detector to train.")
@click.option("--teacher", default="none", show_default=True, help="fusion, lidar, cam, none, or a run folder.")
@click.option("--method", help="Method of distillation: unidistill, paper, …  [default: the recipe's]")
@click.option(
    "--teacher-cache", type=FOLDER, help="Folder to keep what the teacher says: later epochs and runs reuse it."
)
@click.option("--sweep-cache", type=FOLDER, help="Folder to keep every keyframe's merged sweeps in, about 7 MB each.")
@click.option("--init", "start", type=FOLDER, help="Run whose weights to start from.")
@click.option("--out", type=FOLDER, help="Run folder  [default: runs/RECIPE-STUDENT…]")
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change one field of the recipe; repeatable.")
@click.option("--dry-run", is_flag=True, help="Show configuration, sizes, memory and one timed step; write nothing.")
@JSON
def train(root: Path | None, json_file: Path | None, dry_run: bool, **request: Any) -> None:
    """Train a detector, with a teacher if one is named, and evaluate it.

    Several processes, started by torchrun or accelerate launch, train together; the first one writes.
    """
    from udx.console import bar, say
    from udx.files import write_json
    from udx.processes import is_main
    from udx.train.job import Request, rehearse_request, run_request
    from udx.train.show import show_rehearsal

    asked = Request(data=root, **request)
    if dry_run:
        rehearsal = rehearse_request(asked, bar)
        if json_file:
            write_json(json_file, rehearsal.to_json())
        show_rehearsal(rehearsal)
        return
    run, metrics = run_request(asked, bar)
    if not is_main():
        return
    if json_file:
        write_json(json_file, metrics.to_json())
    say(f"{run.folder}: mAP {metrics.mean_ap:.3f}, NDS {metrics.nds:.3f}")


@main.command(name="runs")
@click.argument("folder", type=FOLDER, default=Path("runs"))
@JSON
def list_runs(folder: Path, json_file: Path | None) -> None:
    """List the runs below FOLDER  [default: runs], the newest first, with their figures."""
    from udx.console import say
    from udx.files import write_json
    from udx.train.listing import list_runs as find_runs
    from udx.train.show import show_runs

    rows, problems = find_runs(folder)
    if json_file:
        write_json(json_file, [row.to_json() for row in rows])
    show_runs(rows)
    for problem in problems:
        say(f"left out: {problem}")


@main.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@JSON
def replay(run_folder: Path, json_file: Path | None) -> None:
    """Compute the step again at which RUN broke off without a finite loss, and tell where it breaks."""
    from udx.console import say
    from udx.files import write_json
    from udx.train.replay import replay as replay_run
    from udx.train.run import Run

    found = replay_run(Run(run_folder))
    if json_file:
        write_json(json_file, found.to_json())
    for line in found.lines():
        say(line)


@main.command(name="eval")
@click.option("--run", "run_folder", type=FOLDER, help="Run to evaluate in torch.")
@click.option("--engine", type=FILE, help="Engine file to evaluate.")
@click.option("--data", "root", type=FOLDER, help="nuScenes dataroot  [default: the synthetic world]")
@VERSION
@click.option("--split", help="Split to evaluate on  [default: val, or mini_val]")
@BACKEND
@JSON
def evaluate(run_folder: Path | None, engine: Path | None, json_file: Path | None, **source: Any) -> None:
    """Score a run or an engine file with nuScenes' own metrics."""
    from udx.commands import score
    from udx.console import say, table, ticking
    from udx.files import write_json

    with ticking("detecting") as tick:
        metrics = score(run_folder, engine, progress=tick, **source)
    if json_file:
        write_json(json_file, metrics.to_json())
    table("AP by class", ["class", "AP"], [[name, f"{value:.3f}"] for name, value in metrics.per_class.items()])
    errors = ", ".join(f"{name} {value:.3f}" for name, value in metrics.tp_errors.items())
    say(f"mAP {metrics.mean_ap:.3f}, NDS {metrics.nds:.3f} ({errors})")


@main.command()
@click.option("--student", type=MODALITY, required=True, help="Sensors of the detector to export.")
@click.option("--run", "run_folder", type=FOLDER, help="Run to export  [default: the newest of that student]")
@click.option("--out", type=FILE, default=Path("student.onnx"), show_default=True, help="ONNX file to write.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16: but for geometry, coordinates and decoding.",
)
@click.option("--dynamic", multiple=True, metavar="NAME", help="Dimension to leave open: points; repeatable.")
@JSON
def export(student: str, run_folder: Path | None, out: Path, json_file: Path | None, **variant: Any) -> None:
    """Write a student as one ONNX file: no teacher, adapter or loss in it."""
    from udx.console import say
    from udx.export.onnx_export import export_student
    from udx.files import write_json

    exported = export_student(student, run_folder, out, **variant)
    if json_file:
        write_json(json_file, exported.to_json())
    say(exported.summary())


@main.command(name="check")
@click.argument("file", type=FILE)
@JSON
def check_file(file: Path, json_file: Path | None) -> None:
    """Tell what is in FILE, an ONNX file that udx export wrote, and what each backend will do with it."""
    from udx.check.description import describe
    from udx.check.show import show
    from udx.console import ticking
    from udx.doctor.examine import examine
    from udx.files import write_json

    with ticking("asking the backends") as tick:
        description = describe(file, lambda: examine(tick))
    if json_file:
        write_json(json_file, description.to_json())
    show(description)


@main.command()
@click.argument("file", type=FILE)
@click.option("--data", "root", type=FOLDER, help="nuScenes dataroot  [default: the synthetic world]")
@VERSION
@click.option("--split", help="Split to calibrate on  [default: train, or mini_train]")
@click.option(
    "--method",
    type=click.Choice(["entropy", "mse", "percentile", "max"]),
    default="percentile",
    show_default=True,
    help="How the largest magnitude of an activation is chosen.",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp8", "fp16"]),
    default="int8",
    show_default=True,
    help="fp16: convert, but for what comes near FP16's largest value on the samples.",
)
@click.option("--samples", default=64, show_default=True, help="Keyframes to calibrate with, of all scenes alike.")
@click.option("--judged", default=48, show_default=True, help="Keyframes of other scenes to measure the loss on.")
@click.option("--max-map-drop", default=0.5, show_default=True, help="Points of mAP that may be lost.")
@click.option("--like", type=FILE, help="Take over placement and skip list of this calibrated file: its twin's.")
@click.option("--learn", type=FOLDER, help="Run that FILE was exported from: train it under quantization, scales too.")
@click.option(
    "--teacher", type=FOLDER, help="Run that teaches it, with UniDistill's losses  [default: itself, in FP32]"
)
@click.option("--steps", default=200, show_default=True, help="Steps of that training.")
@click.option("--plain", is_flag=True, help="No sensitivity and no skip list: quantize every layer.")
@click.option("--force", is_flag=True, help="Take the validation split if it is asked for.")
@click.option("--out", type=FILE, help="File to write  [default: FILE.int8.onnx, or .fp8.onnx]")
@click.option("--report", "html_file", type=FILE, help="Write a page with plots, and its JSON beside it.")
@JSON
def calibrate(json_file: Path | None, html_file: Path | None, **request: Any) -> None:
    """Quantize FILE, an FP32 file that udx export wrote, and tell what that costs."""
    from udx.calibration.command import convert
    from udx.calibration.report import write_report
    from udx.console import say, ticking

    converted = convert(request, ticking)
    write_report(converted, html_file=html_file, json_file=json_file)
    say(converted.summary())


@main.command()
@click.argument("file", type=FILE)
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "fp8"]),
    help="What FILE must compute in: the precision of a plan is that of its file.",
)
@click.option(
    "--segments",
    type=click.Choice(["onnxruntime"]),
    help="Run the parts between the kernels in ONNX Runtime: a partitioned plan for the CPU.",
)
@click.option("--arch", metavar="N,N", help="TensorRT-RTX: compute capabilities × 10  [default: all, 80 and later]")
@click.option("--level", type=int, help="TensorRT: how long to search for fast kernels, 0 to 5  [default: 3]")
@click.option("--tf32/--no-tf32", default=None, help="TensorRT: FP32 layers may round their inputs  [default: yes]")
@click.option("--workspace", type=float, metavar="GIB", help="TensorRT: memory for a layer's own use  [default: all]")
@click.option("--cache/--no-cache", default=None, help="TensorRT: reuse plans and timings of before  [default: yes]")
@click.option("--out", type=FILE, default=Path("student.plan"), show_default=True, help="Plan to write.")
@JSON
def build(json_file: Path | None, **request: Any) -> None:
    """Build a plan from FILE, an ONNX file that udx export wrote."""
    from udx.build.job import Request
    from udx.build.job import build as build_plan
    from udx.console import phases, say
    from udx.files import write_json

    with phases("building") as display:
        built = build_plan(Request(**request), display)
    if json_file:
        write_json(json_file, built.to_json())
    say(built.summary())


@main.command()
@click.option("--engine", type=FILE, help="Engine file to measure.")
@click.option("--run", "run_folder", type=FOLDER, help="Run to evaluate and measure in every format that runs here.")
@click.option("--against", type=FILE, help="Engine file to compare with, in interleaved blocks.")
@click.option("--positive", type=FILE, help="Engine known to cost more, as a control  [default: made of an ONNX file]")
@BACKEND
@click.option("--data", "root", type=FOLDER, help="Feed keyframes of this dataroot  [default: one generated frame]")
@VERSION
@click.option("--split", help="Split of the keyframes  [default: val, or mini_val]")
@click.option("--accuracy/--no-accuracy", default=True, show_default=True, help="With --data: evaluate on the split.")
@click.option("--blocks", type=int, help="Blocks of frames; a comparison takes more until it is precise.")
@click.option("--max-minutes", type=float, help="When a comparison ends at the latest  [default: 10]")
@click.option("--warmup", type=int, help="Frames before measuring starts.")
@click.option("--margin", type=float, help="Relative difference that counts as equal  [default: 0.01]")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    help="What the verdict is on: latency, or processor time, which busy machines disturb less  [default: wall]",
)
@click.option("--core", type=int, help="Pin this process to a CPU core, with one thread.")
@click.option("--threads", type=int, help="CPU threads of the backend.")
@JSON
@click.option("--html", "html_file", type=FILE, help="Write the report as a self-contained page.")
def bench(
    engine: Path | None, run_folder: Path | None, json_file: Path | None, html_file: Path | None, **request: Any
) -> None:
    """Measure an engine's latency; with --against, prove whether two engines cost the same."""
    from udx.commands import bench_engine, bench_run
    from udx.console import phases, present, say, table, ticking
    from udx.files import write_json, write_text
    from udx.runtime.bench import write_report
    from udx.runtime.show import terminal

    if (engine is None) == (run_folder is None):
        raise click.UsageError("name what to measure: an engine with --engine, or a run with --run")
    if run_folder is not None:
        from udx.formats import HEADER, formats_page  # a run needs torch; an engine does not

        found = bench_run(run_folder, ticking=ticking, phases=phases, **request)
        if json_file:
            write_json(json_file, found.to_json())
        if html_file:
            write_text(html_file, formats_page(found))
        table(f"{found.run} on split {found.split}", HEADER, [row.cells() for row in found.rows])
        for line in found.reasons():
            say(line)
        stopped = found.stopped
    else:
        assert engine is not None
        report = bench_engine(engine, ticking=ticking, **request)
        write_report(report, json=json_file, html=html_file)
        present(terminal(report))
        stopped = report.stopped
    if stopped:
        raise UdxError(f"the measurement ended early: {stopped}; what was measured is in the report")


@main.command()
@click.option("--engine", type=FILE, required=True, help="Engine file to run.")
@click.option("--data", "root", type=FOLDER, help="nuScenes dataroot, for --sample and --split.")
@VERSION
@click.option("--sample", help="Token of the keyframe, or the beginning of one.")
@click.option("--split", help="Instead of one keyframe all of this split: --json writes a submission.")
@click.option("--images", type=FOLDER, help="Instead of a dataroot: CAM_FRONT.jpg, … or folders CAM_FRONT, …")
@click.option(
    "--points", type=click.Path(path_type=Path), help="LiDAR of --images: .pcd.bin, .npy, or a folder of many."
)
@click.option("--rig", type=FILE, help="Calibration of --images and --points, as JSON  [default: the engine's own]")
@BACKEND
@click.option("--score", default=0.3, show_default=True, help="Lowest score to draw and to print.")
@click.option("--png", type=click.Path(path_type=Path), help="Picture to write, of many frames a folder of them.")
@JSON
def predict(engine: Path, backend: str, score: float, png: Path | None, json_file: Path | None, **source: Any) -> None:
    """Detect objects in one keyframe, a whole split, or a folder of images and points, and draw them."""
    from udx.commands import Source, predict_source
    from udx.console import boxes, say, ticking
    from udx.files import write_json

    with ticking("detecting") as tick:
        found = predict_source(engine, Source(**source), backend=backend, score=score, png=png, progress=tick)
    if json_file:
        write_json(json_file, found.json)
    for frame, detections in found.frames.items():
        boxes(f"{frame}: boxes in the ego frame (m, rad)", detections)
    for line in found.lines:
        say(line)


@main.command()
@click.option("--require", "required", multiple=True, type=BACKENDS, help="Fail if it does not work; repeatable.")
@JSON
def doctor(required: tuple[str, ...], json_file: Path | None) -> None:
    """Tell what builds and runs on this machine, what does not, and how to mend it."""
    from udx.console import ticking
    from udx.doctor.examine import examine
    from udx.doctor.show import show
    from udx.files import write_json

    with ticking("asking") as tick:
        diagnosis = examine(tick)
    if json_file:
        write_json(json_file, diagnosis.to_json())
    show(diagnosis)
    for backend in required:
        diagnosis.require(backend)


def run(command: click.Command = main) -> None:
    """Entry point."""
    run_command(command)
