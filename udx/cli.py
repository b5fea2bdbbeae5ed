"""The command line: one function a verb, no logic. Heavy libraries load when a verb needs them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from udx import __version__
from udx.arguments import (
    STDOUT,
    Input,
    JsonFile,
    Name,
    Output,
    OutputFolder,
    Verbs,
    command_line,
    file_of,
    given_options,
    put_json,
    refuse_options,
    reserve_stdout_for_json,
)
from udx.entry import run_command
from udx.errors import UdxError

FILE = Input(path_type=Path, dir_okay=False)
FOLDER = Input(path_type=Path, file_okay=False)
ANY = Input(path_type=Path)
NEW_FILE = Output(path_type=Path)
NEW_PICTURES = OutputFolder(path_type=Path)
NEW_FOLDER = OutputFolder(path_type=Path, file_okay=False)
CACHE = click.Path(path_type=Path, file_okay=False)
MODALITY = click.Choice(["cam", "lidar", "fusion"])
BACKENDS = click.Choice(["onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
ENGINE_BACKENDS = (
    "auto", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "torch", "torch-cuda", "torch-compile",
    "torch-compile-cuda",
)  # fmt: skip
SHOWN_FRAMES, SHOWN_BOXES = 3, 20
RECIPES = ("nano", "small", "base", "modern", "modern-swin")
METHODS = (
    "unidistill", "paper", "bevdistill", "s2m2", "monodistill", "distillbev", "labeldistill", "tigbev", "channel_wise",
)  # fmt: skip
JSON = click.option(
    "--json",
    "json_file",
    type=JsonFile(path_type=Path),
    callback=reserve_stdout_for_json,
    help="Write what the terminal shows to this file; - is standard output, and tables go to standard error.",
)
BACKEND = click.option(
    "--backend", type=Name("backend", ENGINE_BACKENDS), default="auto", show_default=True,
    help="What runs the engine; auto: ONNX files and runs on the CPU, plans on what they were built for.",
)  # fmt: skip
VERSION = click.option("--version", help="Version of the dataroot, as v1.0-mini; not needed where it has only one.")


def complete_calibrate(params: dict[str, Any]) -> dict[str, Path]:
    """Name the file after the precision; a report has its JSON beside it."""
    params["out"] = params["out"] or params["file"].with_suffix(f".{params['precision']}.onnx")
    page: Path | None = params["html_file"]
    return {"--report's JSON": page.with_suffix(".json")} if page else {}


def complete_build(params: dict[str, Any]) -> dict[str, Path]:
    """Name the plan after the file and what runs it; a plan of TensorRT has its record beside it."""
    from udx.build.job import default_plan

    params["out"] = params["out"] or default_plan(params["file"], params["backend"], params["segments"])
    out: Path = params["out"]
    return {"the plan's record": out.with_name(out.name + ".json")}


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="udx")
def main() -> None:
    """Train BEV 3D detectors on nuScenes, distil them across sensors, export and measure what ships.

    Exit status: 0 done; 1 a bug; 2 a mistake in what was given; 3 this machine lacks the GPU or driver that was asked
    for; 130 interrupted. Results are on standard output, progress and warnings on standard error.
    """


@main.group(cls=Verbs)
def data() -> None:
    """Make or check a dataroot."""


@data.command()
@click.argument("out", type=NEW_FOLDER)
@click.option("--scenes", default=10, show_default=True, help="Scenes; the last fifth is the split val.")
@click.option("--samples", default=20, show_default=True, help="Keyframes of a scene, half a second apart.")
@click.option("--seed", default=0, show_default=True, help="Another seed is another world.")
@click.option("--sweeps", default=2, show_default=True, help="LiDAR turns before each keyframe, besides its own.")
@click.option("--width", default=352, show_default=True, help="Width of the images in pixels; 16:9.")
@click.option("--device", default="cpu", show_default=True, help="Where to render: cpu or cuda.")
def synth(out: Path, scenes: int, samples: int, seed: int, sweeps: int, width: int, device: str) -> None:
    """Write a synthetic world as a nuScenes dataroot of version v1.0-synth to OUT."""
    from udx.console import say, tell, ticking
    from udx.data.synth import WorldSpec, write_world

    spec = WorldSpec(scenes=scenes, samples=samples, seed=seed, sweeps=sweeps, image_width_px=width)
    with ticking("rendering") as tick:
        write_world(out, spec, device=device, progress=tick)
    say(f"{out}: {scenes} scenes of {samples} keyframes, version v1.0-synth")
    tell(f"next: udx train --data {out}")


@data.command()
@click.argument("root", type=FOLDER)
@VERSION
@click.option("--files/--no-files", default=True, show_default=True, help="Decode every image and sweep.")
@JSON
def check(root: Path, version: str | None, files: bool, json_file: Path | None) -> None:
    """Check every table, reference, pose, box and file of the dataroot ROOT."""
    from udx.console import bar, say
    from udx.data.check import check_dataroot

    with bar("checking") as update:
        report = check_dataroot(
            root, version, files=files, progress=lambda what, done, total: update(done, total, what)
        )
    put_json(json_file, report.to_json())
    for line in report.lines():
        say(line)
    if report.problems:
        raise SystemExit(2)


@main.command()
@click.option(
    "--recipe",
    type=Name("recipe", RECIPES),
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
@click.option(
    "--method", type=Name("method of distillation", METHODS), help="Method of distillation  [default: the recipe's]"
)
@click.option(
    "--teacher-cache", type=CACHE, help="Folder to keep what the teacher says: later epochs and runs reuse it."
)
@click.option("--sweep-cache", type=CACHE, help="Folder to keep every keyframe's merged sweeps in, about 7 MB each.")
@click.option("--init", "start", type=FOLDER, help="Run whose weights to start from.")
@click.option("--out", type=NEW_FOLDER, help="Run folder  [default: runs/RECIPE-STUDENT…]")
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--config", "config_file", type=FILE, help="config.json of a run to take the configuration of.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change one field of the recipe; repeatable.")
@click.option("--dry-run", is_flag=True, help="Show configuration, sizes, memory and one timed step; write nothing.")
@click.option("--list-recipes", is_flag=True, help="Show what each recipe is, and end.")
@click.option("--list-methods", is_flag=True, help="Show what each method of distillation is, and end.")
@click.option("--help-config", is_flag=True, help="Show every field that --set changes, its type and value, and end.")
@JSON
def train(
    root: Path | None,
    json_file: Path | None,
    dry_run: bool,
    list_recipes: bool,
    list_methods: bool,
    help_config: bool,
    config_file: Path | None,
    **request: Any,
) -> None:
    """Train a detector, with a teacher if one is named, and evaluate it.

    Several processes, started by torchrun or accelerate launch, train together; the first one writes.
    """
    from udx.train import show

    if list_recipes:
        show.show_recipes()
    if list_methods:
        show.show_methods()
    if list_recipes or list_methods:
        return
    from udx.console import bar, say
    from udx.processes import is_main
    from udx.train.job import Request, configured, rehearse_request, resolve_config, run_request

    if config_file is not None:
        _refuse_beside("--config", ("recipe", "student", "method"))
        request |= configured(config_file)
    asked = Request(data=root, **request)
    if help_config:
        show.show_fields(resolve_config(asked))
        return
    if dry_run:
        rehearsal = rehearse_request(asked, bar)
        put_json(json_file, rehearsal.to_json())
        show.show_rehearsal(rehearsal)
        return
    run, metrics = run_request(asked, bar)
    if not is_main():
        return
    put_json(json_file, metrics.to_json())
    say(f"{run.folder}: {metrics.summary()}")
    show.tell_next(run)


def _refuse_beside(option: str, names: tuple[str, ...]) -> None:
    """Refuse options that another one decides, where they were named."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UdxError(f"{option} decides on --{name}: leave one of them out, or change fields with --set")


@main.command(name="runs")
@click.argument("folder", type=FOLDER, default=Path("runs"))
@JSON
def list_runs(folder: Path, json_file: Path | None) -> None:
    """List the runs below FOLDER  [default: runs], the newest first, with their figures."""
    from udx.console import say
    from udx.train.listing import list_runs as find_runs
    from udx.train.show import show_runs

    rows, problems = find_runs(folder)
    put_json(json_file, [row.to_json() for row in rows])
    show_runs(rows)
    for problem in problems:
        say(f"left out: {problem}")


@main.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@JSON
def replay(run_folder: Path, json_file: Path | None) -> None:
    """Compute the step again at which RUN broke off without a finite loss, and tell where it breaks."""
    from udx.console import say
    from udx.train.replay import replay as replay_run
    from udx.train.run import Run

    found = replay_run(Run(run_folder))
    put_json(json_file, found.to_json())
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

    with ticking("detecting") as tick:
        scored = score(run_folder, engine, progress=tick, **source)
    put_json(json_file, scored.metrics.to_json())
    rows = [[name, f"{100 * value:.1f}"] for name, value in scored.metrics.per_class.items()]
    table("average precision by class", ["class", "AP, %"], rows)
    for line in scored.lines():
        say(line)


@main.command()
@click.option("--student", type=MODALITY, help="Sensors of the detector to export  [default: those of --run]")
@click.option("--run", "run_folder", type=FOLDER, help="Run to export  [default: the newest of that student]")
@click.option(
    "--out",
    type=NEW_FILE,
    help="ONNX file to write  [default: student.onnx, student-lidar.onnx, student-fusion.onnx; fp16: …-fp16.onnx]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16: but for geometry, coordinates and decoding.",
)
@click.option("--dynamic", multiple=True, metavar="NAME", help="Dimension to leave open: points; repeatable.")
@click.option(
    "--portable", is_flag=True, help="No functions, standard operators, fixed shapes: for OpenVINO and others."
)
@JSON
def export(
    student: str | None, run_folder: Path | None, out: Path | None, json_file: Path | None, **variant: Any
) -> None:
    """Write a student as one ONNX file: no teacher, adapter or loss in it."""
    if student is None and run_folder is None:
        raise click.UsageError("name what to export: the sensors of a student with --student, or a run with --run")
    from udx.console import say, tell, ticking
    from udx.export.onnx_export import default_file, export_run, find_run
    from udx.outputs import check_outputs

    run, modality = find_run(student, run_folder)
    out = out or default_file(modality, variant["precision"], portable=variant["portable"])
    outputs = {"--out": out, "--json": file_of(json_file)}
    check_outputs({option: file for option, file in outputs.items() if file}, {"--run": run.folder})
    tell(f"exporting {run.folder}, a {modality} detector, as {out}")
    with ticking("exporting") as tick:
        exported = export_run(run, out, progress=tick, **variant)
    put_json(json_file, exported.to_json())
    say(exported.summary())
    tell(f"next: udx bench --engine {out}; udx check {out} tells what runs it here")


@main.command()
@click.argument("rig_file", metavar="FILE", type=FILE)
@click.option("--engine", type=FILE, required=True, help="ONNX file or plan that is to read the tensors.")
@click.option("--image-size", metavar="WxH", help="Size of the images on disk, as 1600x900  [default: the network's]")
@click.option("--out", type=NEW_FILE, default=Path("plan.npz"), show_default=True, help="File to write.")
def rig(rig_file: Path, engine: Path, image_size: str | None, out: Path) -> None:
    """Write the inputs of an engine that follow from the calibration in FILE: pool_index, pool_offsets and more.

    FILE is a calibration in JSON; docs/pooling-plan.md tells its form, and how programs in other languages read the
    result or compute it.
    """
    from udx.console import say, tell
    from udx.runtime.calibration_file import parse_size, write_calibration

    size = parse_size(image_size) if image_size is not None else None
    arrays = write_calibration(rig_file, engine, out, size)
    pooled = f"{int(arrays['pool_offsets'][-1])} of {len(arrays['pool_index'])} points are pooled"
    say(f"{out}: {', '.join(arrays)}; {pooled}")
    if size is None:
        tell("intrinsics are taken for the network's image size; give that of the images on disk with --image-size")


@main.command(name="check")
@click.argument("file", type=FILE)
@JSON
def check_file(file: Path, json_file: Path | None) -> None:
    """Tell what is in FILE, an ONNX file that udx export wrote, and what each backend will do with it."""
    from udx.check.description import describe
    from udx.check.show import show
    from udx.console import ticking
    from udx.doctor.examine import examine

    with ticking("asking the backends") as tick:
        description = describe(file, lambda: examine(tick))
    put_json(json_file, description.to_json())
    show(description)


@main.command(complete=complete_calibrate)
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
@click.option("--out", type=NEW_FILE, help="File to write  [default: FILE.int8.onnx, or .fp8.onnx, or .fp16.onnx]")
@click.option("--report", "html_file", type=NEW_FILE, help="Write a page with plots, and its JSON beside it.")
@JSON
@click.pass_context
def calibrate(ctx: click.Context, /, json_file: Path | None, html_file: Path | None, **request: Any) -> None:
    """Quantize FILE, an FP32 file that udx export wrote, and tell what that costs."""
    from udx.calibration.command import convert, require_used
    from udx.calibration.report import write_report
    from udx.console import say, tell, ticking

    require_used(request, given_options(ctx))
    converted = convert(request, ticking)
    write_report(converted, html_file=html_file, json_file=file_of(json_file))
    if json_file == STDOUT:
        put_json(json_file, converted.to_json())
    say(converted.summary())
    for warning in converted.warnings():
        tell(f"warning: {warning}")


@main.command(complete=complete_build)
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
@click.option("--arch", metavar="N,N", help="TensorRT-RTX: compute capabilities × 10  [default: all that it supports]")
@click.option("--level", type=int, help="TensorRT: how long to search for fast kernels, 0 to 5  [default: 3]")
@click.option("--tf32/--no-tf32", default=None, help="TensorRT: FP32 layers may round their inputs  [default: yes]")
@click.option("--workspace", type=float, metavar="GIB", help="TensorRT: memory for a layer's own use  [default: all]")
@click.option("--cache/--no-cache", default=None, help="TensorRT: reuse plans and timings of before  [default: yes]")
@click.option("--out", type=NEW_FILE, help="Plan to write  [default: FILE.BACKEND.plan, as student.tensorrt.plan]")
@JSON
def build(json_file: Path | None, **request: Any) -> None:
    """Build a plan from FILE, an ONNX file that udx export wrote."""
    from udx.build.job import Request
    from udx.build.job import build as build_plan
    from udx.console import phases, say, tell

    with phases(f"building {request['out'].name}") as display:
        built = build_plan(Request(**request), display)
    put_json(json_file, built.to_json())
    say(built.summary())
    tell(f"next: udx bench --engine {request['out']}")


@main.command()
@click.option("--engine", type=FILE, help="Engine file to measure.")
@click.option("--run", "run_folder", type=FOLDER, help="Run to evaluate and measure in every format that runs here.")
@click.option("--against", type=FILE, help="Engine file to compare with, in interleaved blocks.")
@click.option("--positive", type=FILE, help="Engine known to cost more, as a control  [default: made of an ONNX file]")
@BACKEND
@click.option("--data", "root", type=FOLDER, help="Feed keyframes of this dataroot  [default: one generated frame]")
@VERSION
@click.option("--split", help="Split of the keyframes  [default: val, or mini_val]")
@click.option(
    "--accuracy/--no-accuracy",
    default=None,
    help="With --data: evaluate on the split  [default: yes, where nuscenes-devkit is installed]",
)
@click.option("--blocks", type=int, help="Blocks of frames; a comparison takes more until it is precise.")
@click.option(
    "--max-minutes",
    type=float,
    help="When measuring ends, after two blocks at least; 0: after --blocks  [default: 10]",
)
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
@click.option("--html", "html_file", type=NEW_FILE, help="Write the report as a self-contained page.")
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    engine: Path | None,
    run_folder: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    **request: Any,
) -> None:
    """Measure an engine's latency; with --against, prove whether two engines cost the same."""
    given = given_options(ctx)
    if request["accuracy"] is False:
        given |= {"no_accuracy"}
    if (engine is None) == (run_folder is None):
        raise click.UsageError("name what to measure: an engine with --engine, or a run with --run")
    if engine is not None and request["root"] is None:
        refuse_options(
            given, ("version", "split", "no_accuracy", "accuracy"), "is of a dataroot, and none is named with --data"
        )
    if engine is not None and request["against"] is None:
        refuse_options(given, ("positive", "margin"), "is for a comparison, and nothing is named with --against")
    from udx.commands import bench_engine, bench_run, hint_of_gpu
    from udx.console import phases, present, say, table, tell, ticking
    from udx.files import write_text
    from udx.runtime.bench import write_report
    from udx.runtime.show import terminal

    if run_folder is not None:
        from udx.formats import HEADER, formats_page  # a run needs torch; an engine does not

        found = replace(bench_run(run_folder, ticking=ticking, phases=phases, **request), command=command_line(ctx))
        put_json(json_file, found.to_json())
        if html_file:
            write_text(html_file, formats_page(found))
        table(f"{found.run} on split {found.split}", HEADER, [row.cells() for row in found.rows])
        for line in found.reasons():
            say(line)
        stopped = found.stopped
    else:
        assert engine is not None
        if hint := hint_of_gpu(engine, request["backend"]):
            tell(hint)
        report = replace(bench_engine(engine, ticking=ticking, **request), command=command_line(ctx))
        write_report(report, json=file_of(json_file), html=html_file)
        if json_file == STDOUT:
            put_json(json_file, report.to_json())
        present(terminal(report))
        stopped = report.stopped
    if stopped:
        raise UdxError(f"the measurement ended early: {stopped}; what was measured is in the report")


@main.command()
@click.option("--engine", type=FILE, help="Engine file to run.")
@click.option("--data", "root", type=FOLDER, help="nuScenes dataroot  [default: the synthetic world]")
@VERSION
@click.option(
    "--sample", help="Token of the keyframe, or the beginning of one  [default: the first of the validation split]"
)
@click.option("--list-samples", is_flag=True, help="Show the tokens of a split's keyframes, and end.")
@click.option("--split", help="Instead of one keyframe all of this split: --json writes a submission.")
@click.option("--images", type=FOLDER, help="Instead of a dataroot: CAM_FRONT.jpg, … or folders CAM_FRONT, …")
@click.option("--points", type=ANY, help="LiDAR of --images: .pcd.bin, .npy, or a folder of many.")
@click.option("--rig", type=FILE, help="Calibration of --images and --points, as JSON  [default: the engine's own]")
@BACKEND
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Lowest score to draw and to print."
)
@click.option("--png", type=NEW_PICTURES, help="Picture to write, of many frames a folder of them.")
@JSON
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    engine: Path | None,
    list_samples: bool,
    backend: str,
    score: float,
    png: Path | None,
    json_file: Path | None,
    **source: Any,
) -> None:
    """Detect objects in one keyframe, a whole split, or a folder of images and points, and draw them."""
    from udx.commands import Source, list_keyframes, predict_source
    from udx.console import boxes, say, table, tell, ticking

    if list_samples:
        unused = ("engine", "sample", "images", "points", "rig", "backend", "score", "png")
        refuse_options(given_options(ctx), unused, "is not used by --list-samples")
        with ticking("opening the data") as tick:
            rows = list_keyframes(source["root"], source["version"], source["split"], tick)
        put_json(json_file, [dict(zip(("token", "scene", "timestamp_us"), row, strict=True)) for row in rows])
        table("keyframes", ["token", "scene", "time, s"], [[t, scene, f"{us / 1e6:.3f}"] for t, scene, us in rows],
              texts=("scene",))  # fmt: skip
        return
    if engine is None:
        raise click.UsageError("name the engine file to run with --engine")
    with ticking("detecting") as tick:
        found = predict_source(engine, Source(**source), backend=backend, score=score, png=png, progress=tick)
    put_json(json_file, found.json)
    left_out = 0
    for position, (frame, detections) in enumerate(found.frames.items()):
        if position < SHOWN_FRAMES:
            boxes(f"{frame}: boxes in the ego frame (m, rad)", detections, SHOWN_BOXES)
            left_out += max(len(detections) - SHOWN_BOXES, 0)
        else:
            left_out += len(detections)
    for line in found.lines:
        say(line)
    if left_out:
        tell(f"{left_out} boxes are not listed here; --json FILE writes all of them, and --score shows fewer")


@main.command()
@click.option("--require", "required", multiple=True, type=BACKENDS, help="Fail if it does not work; repeatable.")
@JSON
def doctor(required: tuple[str, ...], json_file: Path | None) -> None:
    """Tell what builds and runs on this machine, what does not, and how to mend it."""
    from udx.console import ticking
    from udx.doctor.examine import examine
    from udx.doctor.show import show

    with ticking("asking") as tick:
        diagnosis = examine(tick)
    put_json(json_file, diagnosis.to_json())
    show(diagnosis)
    for backend in required:
        diagnosis.require(backend)


def run(command: click.Command = main) -> None:
    """Entry point."""
    run_command(command)
