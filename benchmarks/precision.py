"""What each precision costs and brings: metrics, bytes, latency on the CPU, and whether TensorRT-RTX builds it.

Every run is exported, calibrated on its training split in every way that ``udx calibrate`` knows, and scored through
its engine on the validation split. Latencies are processor time on one thread, taken in turns, compared within their
turn. Rows of other students that the JSON holds already stay, so that students can be measured one after the other.
"""

import dataclasses
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from udx.build.partitioned import build_partitioned
from udx.calibration.activations import values
from udx.calibration.job import Calibration, Request, prepare, quantize_with
from udx.calibration.thresholds import METHODS, Method
from udx.console import phases, say, table, ticking
from udx.data.dataset import default_splits, open_or_make
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate
from udx.data.frame import KeyFrame
from udx.data.inputs import Tensors
from udx.data.load import load_sample
from udx.data.nuscenes import load_keyframes, scenes_of_split
from udx.entry import run_command
from udx.errors import UdxError
from udx.export.onnx_export import export_run
from udx.files import read_json, sha256_of, write_json
from udx.runtime.engine import open_engine
from udx.runtime.frames import tensors_of
from udx.runtime.onnx_file import read_onnx
from udx.train.run import Run, git_commit

TURNS: Final = 15
OUTPUTS: Final = ("boxes", "scores", "labels")


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One row: a file, and how it came about."""

    precision: str
    method: str
    file: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Whole scenes of a validation split, decoded for one detector."""

    nusc: Any
    name: str
    scenes: tuple[str, ...]
    keyframes: tuple[KeyFrame, ...]
    frames: tuple[Tensors, ...]


@click.command()
@click.option("--run", "runs", type=click.Path(path_type=Path), multiple=True, required=True, help="Run of a student.")
@click.option("--teacher", type=click.Path(path_type=Path), help="Run that teaches under quantization.")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Dataroot  [default: the synthetic world]")
@click.option("--version", help="Version of the dataroot.")
@click.option("--scenes", default=10_000, help="Scenes of the validation split to score  [default: all]")
@click.option("--samples", default=64, show_default=True, help="Samples to calibrate with.")
@click.option("--judged", default=48, show_default=True, help="Samples that the skip list is chosen by.")
@click.option("--method", type=click.Choice(METHODS), default="percentile", show_default=True, help="Of the skip list.")
@click.option("--steps", default=200, show_default=True, help="Steps of training under quantization.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/precision"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), required=True, help="Where the figures go.")
def main(runs: tuple[Path, ...], scenes: int, out: Path, json_file: Path, **request: Any) -> None:
    """Measure every precision of the students in these runs."""
    before = read_json(json_file) if json_file.exists() else {"rows": [], "command": []}
    commands = list(dict.fromkeys([*before["command"], command()]))
    rows = before["rows"]
    for folder in runs:
        done = {identity(row) for row in rows if row["checkpoint_sha256"] == sha256_of(Run(folder).checkpoint)}
        for row in rows_of(Run(folder), scenes, out, request, done):
            rows = [*(old for old in rows if identity(old) != identity(row)), row]
            figures = {"rows": rows, "command": commands, "machine": machine(), "versions": versions()}
            write_json(json_file, figures)
    header = ["student", "precision", "mAP", "NDS", "mAOE", "mAVE", "latency", "MiB", "RTX"]
    shown = [
        [row["student"], f"{row['precision']} {row['method']}", f"{100 * row['mAP']:.2f}", f"{100 * row['NDS']:.2f}",
         f"{row['mAOE']:.2f}", f"{row['mAVE']:.2f}",
         f"{row['latency_ratio']:.2f}", f"{row['bytes'] / 2**20:.2f}", "yes" if row["rtx_builds"] else "no"]
        for row in rows
    ]  # fmt: skip
    table("precisions (mAP and NDS in %, mAOE in rad, mAVE in m/s, latency relative to FP32)", header, shown)


def identity(row: dict[str, Any]) -> tuple[str, str, str]:
    """What a new row takes the place of."""
    return row["student"], row["precision"], row["method"]


def rows_of(
    run: Run, scenes: int, out: Path, asked: dict[str, Any], done: set[tuple[str, str, str]]
) -> Iterator[dict[str, Any]]:
    """All rows of one student but those that are done, one after the other."""
    modality = run.record().config.detector.spec.modality
    built: dict[str, tuple[bool, int, str]] = {}
    split: Split | None = None
    exact: Path | None = None
    for variant in variants_of(run, out / modality, asked):
        began = time.monotonic()
        exact = exact or variant.file
        if (modality, variant.precision, variant.method) in done:
            continue
        file = read_onnx(variant.file)
        split = split or validation(asked, file.manifest, scenes)
        metrics = score(variant.file, split, modality)
        assert file.manifest.graph is not None
        sha256, plan = file.manifest.graph.sha256, file.manifest.precision
        if sha256 not in built:  # an engine's size follows from its graph
            built[sha256] = build(variant.file)
        builds, engine_bytes, reason = built[sha256]
        yield {
            "student": modality,
            "precision": variant.precision,
            "method": variant.method,
            "mAP": metrics.mean_ap,
            "NDS": metrics.nds,
            **metrics.tp_errors,
            "latency_ratio": latency_ratio(exact, variant.file, split.frames[0]),
            "bytes": variant.file.stat().st_size,
            "quantized_layers": len(plan.quantization.layers) if plan.quantization else 0,
            "skipped": list(plan.float32.get("sensitive", ())),
            "rtx_builds": builds,
            "rtx_engine_bytes": engine_bytes,
            "rtx_refusal": reason,
            "samples": len(split.keyframes),
            "checkpoint_sha256": sha256_of(run.checkpoint),
        }
        said = f"{modality} {variant.precision} {variant.method}: mAP {metrics.mean_ap:.4f}"
        say(f"{said} on {len(split.keyframes)} samples ({time.monotonic() - began:.0f} s)")


def variants_of(run: Run, folder: Path, asked: dict[str, Any]) -> Iterator[Variant]:
    """Export and calibrate a run in every way; the activations are looked at once.

    A file that is in the folder already is taken as it is: what was interrupted goes on where it was.
    """
    exact = folder / "fp32.onnx"
    request = Request(
        file=exact, root=asked["root"], version=asked["version"], samples=asked["samples"], judged=asked["judged"]
    )
    found: list[Calibration] = []

    def quantized(row: str, **changes: Any) -> Variant:
        wanted = dataclasses.replace(request, **changes)
        if not wanted.target.exists():
            if not found:
                found.append(prepare(request, ticking))
            say(quantize_with(found[0], wanted, ticking).summary())
        return Variant(row, wanted.method, wanted.target)

    for precision in ("fp32", "fp16"):
        path = folder / f"{precision}.onnx"
        if not path.exists():
            export_run(run, path, precision=precision)  # type: ignore[arg-type]
        yield Variant(precision, "", path)
    for method in METHODS:
        yield quantized("int8", method=method, plain=True, out=folder / f"int8-{method}.onnx")
    chosen: Method = asked["method"]
    skip = folder / "int8-skip.onnx"
    yield quantized("fp8", method=chosen, precision="fp8", plain=True, out=folder / "fp8.onnx")
    yield quantized("int8+skip", method=chosen, out=skip)
    learned = {"learn": run.folder, "teacher": asked["teacher"], "steps": asked["steps"]}
    yield quantized("int8+qad", method=chosen, like=skip, out=folder / "int8-qad.onnx", **learned)


def validation(asked: dict[str, Any], manifest: Any, limit: int) -> Split:
    """Decode the validation split, or its first scenes."""
    with ticking("opening the data") as tick:
        nusc = open_or_make(asked["root"], asked["version"], tick)
    name = default_splits(nusc.version)[1]
    scenes = scenes_of_split(nusc, name)[:limit]
    sweeps = manifest.spec.lidar.sweeps if manifest.spec.lidar else 1
    keyframes = tuple(one for one in load_keyframes(nusc, name, max_sweeps=sweeps) if one.scene in scenes)
    frames = tuple(tensors_of(load_sample(keyframe, manifest.spec), manifest) for keyframe in keyframes)
    return Split(nusc, name, scenes, keyframes, frames)


def score(file: Path, split: Split, modality: str) -> Metrics:
    """Score a file with nuScenes' metrics; a value that is not finite is an error."""
    found = {}
    outputs = values(read_onnx(file).model, OUTPUTS, split.frames, str(file))
    for keyframe, its in zip(split.keyframes, outputs, strict=True):
        found[keyframe.token] = Detections(boxes_K9=its["boxes"], scores_K=its["scores"], labels_K=its["labels"])
    return evaluate(split.nusc, split.name, found, split.keyframes, scenes=split.scenes, modality=modality)


def latency_ratio(exact: Path, file: Path, frame: Tensors) -> float:
    """Latency of a file relative to FP32's on one thread: the median over turns of the ratio within a turn."""
    taken: dict[str, list[float]] = {"exact": [], "other": []}
    with open_engine(exact, threads=1) as one, open_engine(file, threads=1) as other:
        for turn in range(TURNS + 1):
            for name, runner in (("exact", one), ("other", other)):
                began = time.process_time()  # of one thread: other programs on the machine do not count
                runner.infer(frame)
                if turn:  # the first one warms up
                    taken[name].append(time.process_time() - began)
    return float(np.median(np.array(taken["other"]) / np.array(taken["exact"])))


def build(file: Path) -> tuple[bool, int, str]:
    """Whether TensorRT-RTX builds a plan, the bytes of its engines, and why not."""
    try:
        with phases(f"building {file.name}") as display:
            plan = build_partitioned(
                file, file.with_suffix(".plan"), backend="tensorrt-rtx", arches=(89,), display=display
            )
    except UdxError as error:
        return False, 0, str(error)
    return True, sum(plan.engine_bytes.values()), ""


def command() -> str:
    """What was typed, without the folders of the machine."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in sys.argv)


def machine() -> dict[str, Any]:
    """The processor, and whether it has INT8 instructions."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    return {"processor": platform.machine(), "vnni": any("vnni" in flag for flag in flags), "threads": 1}


def versions() -> dict[str, str]:
    """Of whatever the figures depend on."""
    names = ("onnx", "onnxruntime", "torch", "tensorrt-rtx-cu13-libs")
    found = {name: metadata.version(name) for name in names if _installed(name)}
    return found | {"python": platform.python_version(), "udx": git_commit()}


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    run_command(main)
