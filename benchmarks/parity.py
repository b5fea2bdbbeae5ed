"""How far a detector is from itself: torch, ONNX Runtime in FP32 and FP16, and the partitioned plan.

    python benchmarks/parity.py [--runs DIR] [--keyframe ROOT] [--data ROOT] [--recipe R] [--student S]

Every form of every detector sees the same frames: the real nuScenes keyframe if it is there, and synthetic ones. The
weights are those of the run below DIR with the best mAP, of the same recipe and sensors; without one they are random,
and the table says so. Trained detectors are also evaluated, in every form, on the whole validation split. Figures of
detectors that a run leaves out stay in the file as they are.

*ONNX Runtime FP16* is what the CPU makes of the FP16 file: it computes most of it in FP32. *FP16, rounded* is what a
backend makes of it that has halves: every tensor that is FP16 in the file is rounded (``udx.export.rounding``).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from parity_engines import Maps, Opener, Subject, forms_of, random_subject

from udx.console import bar, say, table, ticking
from udx.data.dataset import default_splits, open_or_make
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate
from udx.data.frame import KeyFrame
from udx.data.inputs import Tensors, inputs_of
from udx.data.load import load_sample
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.data.spec import SensorSpec
from udx.entry import run_command
from udx.export.parity import agreement, compare, difference
from udx.files import read_json, write_json
from udx.runtime.environment import environment
from udx.train.checkpoint import load_detector
from udx.train.recipes import RECIPES
from udx.train.run import finished_runs

RESULTS = Path(__file__).parent / "results" / "parity.json"
KEYFRAME = Path(__file__).parents[2] / "shared" / "data" / "nuscenes-keyframe"
STUDENTS = ("lidar", "cam", "fusion")
RECIPES_SHOWN = ("nano", "base")
CONFIDENT = 0.1
"""Boxes that score less are rarely drawn; most of a list is such boxes."""

FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where frames are from; ``keyframe`` has one real frame, ``world`` is synthetic."""

    keyframe: Path | None
    world: Any
    frames: int

    def keyframes(self, spec: SensorSpec) -> dict[str, KeyFrame]:
        """Frames to compare on, by what they are."""
        sweeps = spec.lidar.sweeps if spec.lidar else 1
        found = {}
        if self.keyframe is not None:
            (real,) = load_keyframes(open_dataroot(self.keyframe), "keyframe", max_sweeps=sweeps)
            found["real keyframe"] = real
        val = self.val(spec)
        for number in range(self.frames):
            found[f"synthetic {number + 1}"] = val[number * len(val) // self.frames]
        return found

    def val(self, spec: SensorSpec) -> Sequence[KeyFrame]:
        """All keyframes of the synthetic validation split."""
        sweeps = spec.lidar.sweeps if spec.lidar else 1
        return load_keyframes(self.world, default_splits(self.world.version)[1], max_sweeps=sweeps)


@click.command()
@click.option("--runs", type=FOLDER, help="Folder with runs whose weights to take.")
@click.option("--keyframe", type=FOLDER, default=KEYFRAME, help="Dataroot of a real keyframe, with a split keyframe.")
@click.option("--data", "root", type=FOLDER, help="Synthetic dataroot  [default: the synthetic world, made once]")
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(RECIPES_SHOWN), default=RECIPES_SHOWN)
@click.option("--student", "students", multiple=True, type=click.Choice(STUDENTS), default=STUDENTS)
@click.option("--frames", default=3, show_default=True, help="Synthetic frames to compare on.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=RESULTS, show_default="results/")
def main(
    runs: Path | None,
    keyframe: Path,
    root: Path | None,
    recipes: Sequence[str],
    students: Sequence[str],
    frames: int,
    json_file: Path,
) -> None:
    """Compare every form of every detector, print tables, save them."""
    with ticking("opening the data") as tick:
        world = open_or_make(root, None, tick)
    sources = Sources(keyframe=keyframe if keyframe.is_dir() else None, world=world, frames=frames)
    if sources.keyframe is None:
        say("the real keyframe is not there: synthetic frames only")
    for recipe in recipes:
        for student in students:
            entry = compared(subject_of(recipe, student, runs, sources), sources)
            _save(json_file, entry | {"environment": _environment()})
    say(f"saved to {json_file}")


def _environment() -> dict[str, Any]:
    here = environment()
    versions = {name: metadata.version(name) for name in ("torch", "onnxruntime", "onnx")}
    return asdict(here) | {"versions": here.versions | versions, "threads": torch.get_num_threads()}


def _save(path: Path, entry: dict[str, Any]) -> None:
    """Write a detector's figures beside those of others, in place of older ones of its own."""
    others = read_json(path)["detectors"] if path.is_file() else []
    key = ("recipe", "student")
    kept = [other for other in others if [other[name] for name in key] != [entry[name] for name in key]]
    report = {
        "command": "python benchmarks/parity.py",
        "confident": CONFIDENT,
        "detectors": sorted([*kept, entry], key=lambda one: (RECIPES_SHOWN.index(one["recipe"]), one["student"])),
    }
    write_json(path, report)


def subject_of(recipe: str, student: str, runs: Path | None, sources: Sources) -> Subject:
    """The run with the best mAP of this recipe and these sensors, or random weights."""
    found = []
    for run in finished_runs(runs) if runs else []:
        config = run.record().config
        if (config.recipe, config.detector.spec.modality) == (recipe, student):
            found.append(((run.read_metrics() or {})["mAP"], run))
    if found:
        mean_ap, run = max(found, key=lambda pair: pair[0])
        said = f"run {run.folder.name}, mAP {mean_ap:.3f}"
        return Subject(recipe=recipe, modality=student, detector=load_detector(run.checkpoint)[0], weights=said)
    untrained = RECIPES[recipe](student).detector  # type: ignore[arg-type]
    frame = next(iter(sources.keyframes(untrained.spec).values()))
    return random_subject(recipe, untrained, tensors_of(frame, untrained.spec))


def tensors_of(keyframe: KeyFrame, spec: SensorSpec) -> Tensors:
    """What a detector of fixed shapes reads."""
    return inputs_of(load_sample(keyframe, spec), spec)


# -- comparing ---------------------------------------------------------------------------------------------------------


def compared(subject: Subject, sources: Sources) -> dict[str, Any]:
    """All forms of one detector on all frames, and their metrics if it was trained."""
    spec = subject.detector.config.spec
    frames = {name: tensors_of(keyframe, spec) for name, keyframe in sources.keyframes(spec).items()}
    with tempfile.TemporaryDirectory() as folder:
        forms = forms_of(subject, next(iter(frames.values())), Path(folder))
        rows = differences(forms, frames)
        metrics = _metrics(forms, spec, sources) if subject.trained else {}
    entry: dict[str, Any] = {"recipe": subject.recipe, "student": subject.modality, "weights": subject.weights}
    entry["forms"] = []
    for name, by_frame in rows.items():
        row: dict[str, Any] = {"name": name, "frames": by_frame}
        if metrics:
            row |= {what: getattr(metrics[name], what) - getattr(metrics["torch"], what) for what in ("mean_ap", "nds")}
        entry["forms"].append(row)
    if metrics:
        entry["torch"] = {"mAP": metrics["torch"].mean_ap, "NDS": metrics["torch"].nds}
    _show(entry)
    return entry


def differences(forms: Mapping[str, Opener], frames: Mapping[str, Tensors]) -> dict[str, dict[str, Any]]:
    """For every form but torch and every frame, how far it is from torch."""
    rows: dict[str, dict[str, Any]] = {}
    expected: dict[str, tuple[Detections, Maps]] = {}
    for name, opened in forms.items():
        with opened() as engine:
            for frame, tensors in frames.items():
                found, maps = engine.detect(tensors), engine.heads(tensors)
                if name == "torch":
                    assert maps is not None
                    expected[frame] = found, maps
                else:
                    rows.setdefault(name, {})[frame] = _apart(*expected[frame], found, maps)
    return rows


def _apart(reference: Detections, maps: Maps, found: Detections, its_maps: Maps | None) -> dict[str, Any]:
    """Differences of the maps, if they can be seen, and of the boxes: all of them, and the confident ones."""
    told: dict[str, Any] = {}
    for name, map_ in (its_maps or {}).items():
        apart = difference(maps[name], map_)
        told[name] = asdict(apart) | {"relative": apart.relative}
    told["boxes"] = asdict(agreement(reference, found))
    told["confident"] = asdict(agreement(reference, found, score=CONFIDENT))
    worst = compare(reference, found).largest
    told["all_boxes_within"] = worst if np.isfinite(worst) else None
    return told


def _metrics(forms: Mapping[str, Opener], spec: SensorSpec, sources: Sources) -> dict[str, Metrics]:
    """NuScenes' metrics of every form on the synthetic validation split."""
    keyframes, split = sources.val(spec), default_splits(sources.world.version)[1]
    metrics = {}
    for name, opened in forms.items():
        found = {}
        with opened() as engine, bar(f"evaluating {name}") as update:
            for done, keyframe in enumerate(keyframes, start=1):
                found[keyframe.token] = engine.detect(tensors_of(keyframe, spec))
                update(done, len(keyframes), "")
        metrics[name] = evaluate(sources.world, split, found, keyframes, modality=spec.modality)
    return metrics


# -- telling -----------------------------------------------------------------------------------------------------------

HEADER = ["", "heatmap", "regression", "score", "centre, m", "boxes", f"≥ {CONFIDENT}", "mAP"]
"""Largest difference from torch (and the mean), over all frames, maps in their own units; boxes that are matched, all
and those with some score; points of mAP."""


def _show(entry: Mapping[str, Any]) -> None:
    title = f"{entry['recipe']} {entry['student']} ({entry['weights']})"
    if "torch" in entry:
        title += f"; torch has mAP {100 * entry['torch']['mAP']:.2f} %"
    table(title, HEADER, [_row(form) for form in entry["forms"]])


def _row(form: Mapping[str, Any]) -> list[str]:
    frames = list(form["frames"].values())
    cells = [form["name"]]
    for name in ("heatmap", "regression"):
        maps = [frame[name] for frame in frames if name in frame]
        cells.append(_largest([one["max"] for one in maps], [one["mean"] for one in maps]))
    boxes = [frame["boxes"] for frame in frames]
    for name in ("score_{}", "centre_{}_m"):
        cells.append(_largest(*([one[name.format(what)] for one in boxes] for what in ("max", "mean"))))
    for which in ("boxes", "confident"):
        counts = [sum(frame[which][what] for frame in frames) for what in ("matched", "boxes")]
        cells.append("/".join(map(str, counts)))
    return [*cells, f"{100 * form['mean_ap']:+.3f}" if "mean_ap" in form else "–"]


def _largest(largest: Sequence[float], means: Sequence[float]) -> str:
    return f"{max(largest):.1e} ({np.mean(means):.1e})" if largest else "–"


if __name__ == "__main__":
    run_command(main)
