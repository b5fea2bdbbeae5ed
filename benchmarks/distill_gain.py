"""What distillation gains: every path of the paper, with and without, each loss alone, over seeds, on a test split.

    python benchmarks/distill_gain.py [--out runs/distill-gain] [--jobs 2]

A small synthetic world of its own is rendered, one teacher of each modality is trained, then every student of every
arm and seed. Within a seed all arms of a student begin with the same weights and see the same samples in the same
order under the same augmentation. Interrupted, it goes on where it was. What was chosen (shares, what to inherit) was
chosen on the split ``tune``, with a seed that is not among those reported; every figure here is of the split ``test``.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import click
from distill_report import Figures, PathResult, draw, to_markdown

from udx.console import bar, say
from udx.data.augment import AugmentationConfig, BevAugmentation
from udx.data.evaluation import evaluate
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.data.spec import CameraSpec, LidarSpec, Modality
from udx.data.synth import WorldSpec, write_world
from udx.entry import run_command
from udx.files import read_json, write_json, write_text
from udx.geometry import BevGrid, Frustum
from udx.models.bev_encoder import BevEncoderConfig
from udx.models.camera import CameraEncoderConfig
from udx.models.center_head import CenterHeadConfig
from udx.models.lidar import LidarEncoderConfig
from udx.runtime.environment import environment
from udx.train.job import native_precision
from udx.train.logbook import read_log
from udx.train.loop import Job, train
from udx.train.methods import DistillationConfig, unidistill
from udx.train.predict import predict
from udx.train.recipes import RunConfig, nano
from udx.train.run import Run
from udx.workers import end_with_parent

RESULTS: Final = Path(__file__).parent / "results" / "distill_gain"
WORLD: Final = WorldSpec(scenes=112, samples=4, sweeps=0, seed=7, image_width_px=264)
SPLITS: Final = {"train": range(64), "tune": range(64, 80), "test": range(80, 112)}
"""Scenes of each split."""

SEEDS: Final = (0, 1, 2)
"""Seeds of every arm and control."""

PAIRED_SEEDS: Final = (*SEEDS, 3, 4, 5)
"""Seeds of learning alone and of the best recipe, whose paired gain is what the table is about."""

TEACHER_EPOCHS: Final = 8
STUDENT_EPOCHS: Final = 4

PATHS: Final[tuple[tuple[Modality, Modality], ...]] = (
    ("fusion", "cam"),
    ("lidar", "cam"),
    ("fusion", "lidar"),
    ("cam", "lidar"),
)
"""The paper's paths, from teacher to student."""

SHARES: Final = {"feature": 0.1, "relation": 0.03, "response": 0.05}
"""Of the detection loss; several times as much does harm in so few steps."""


UNFELT: Final = 1e-9
"""Share of a loss that is left out: not 0, so that all arms of a path and seed read the same lessons of the teacher,
which are then read once."""


def best(teacher: Modality, student: Modality) -> DistillationConfig:
    """The best recipe that was found for a path on the split ``tune``."""
    return unidistill(**SHARES, inherit="all")


def arms(teacher: Modality, student: Modality) -> dict[str, DistillationConfig]:
    """Every way to distil along one path, by name."""
    none = dict.fromkeys(SHARES, UNFELT)
    alone = {name: unidistill(**{**none, name: share}) for name, share in SHARES.items()}
    return {**alone, "all": unidistill(**SHARES), "best": best(teacher, student)}


def setting(modality: Modality, epochs: int, seed: int) -> RunConfig:
    """A detector smaller than recipe nano's: images of 96 × 264, ±40 m in cells of 1 m; batches of 2."""
    config = nano(modality)
    spec = config.detector.spec
    frustum = Frustum(
        image_height_px=96, image_width_px=264, stride_px=12, depth_min_m=2.0, depth_step_m=1.0, depth_bins=44
    )
    detector = dataclasses.replace(
        config.detector,
        spec=dataclasses.replace(
            spec,
            grid=BevGrid(-40.0, 40.0, -40.0, 40.0, 1.0),
            camera=CameraSpec(frustum=frustum) if spec.camera else None,
            lidar=LidarSpec(sweeps=1, max_points=30_000) if spec.lidar else None,
        ),
        camera=CameraEncoderConfig(
            backbone="resnet", settings=config.detector.camera.settings, neck_channels=32, context_channels=32
        ),
        lidar=LidarEncoderConfig(pillar_channels=32, pillars_per_cell=1),
        low_channels=32,
        bev_encoder=BevEncoderConfig(channels=(48, 96), strides=(2, 2), convolutions=(2, 2), out_channels=(24, 24)),
        head=CenterHeadConfig(shared_channels=24, task_channels=12),
    )
    turned = AugmentationConfig(
        bev=BevAugmentation(
            mirror_x_probability=0.5, mirror_y_probability=0.5, rotation_rad=(-0.4, 0.4), scale=(0.95, 1.05)
        )
    )
    return dataclasses.replace(
        config,
        recipe="distill-gain",
        detector=detector,
        train=dataclasses.replace(
            config.train,
            epochs=epochs,
            seed=seed,
            batch_size=2,
            workers=0,
            augmentation=turned,
            precision=native_precision(),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of the matrix: ``name`` is its folder below the output, ``cache`` that of the teacher's lessons."""

    name: str
    config: RunConfig
    teacher: str | None = None
    cache: str | None = None


def teacher_task(modality: Modality) -> Task:
    """The teacher of a modality."""
    return Task(name=f"teacher-{modality}", config=setting(modality, TEACHER_EPOCHS, seed=1000))


def plain_task(student: Modality, epochs: int, seed: int) -> Task:
    """A student that learns alone."""
    return Task(name=f"{student}/alone-{epochs}-{seed}", config=setting(student, epochs, seed))


def arm_task(teacher: Modality, student: Modality, arm: str, distillation: DistillationConfig, seed: int) -> Task:
    """A student that is taught."""
    config = dataclasses.replace(setting(student, STUDENT_EPOCHS, seed), distillation=distillation)
    return Task(
        name=f"{student}/{arm}-from-{teacher}-{seed}",
        config=config,
        teacher=teacher_task(teacher).name,
        cache=f"lessons/{teacher}-{student}-{seed}",
    )


def perform(task: Task, out: Path, split: str) -> str:
    """Train and evaluate one task in this process, or take it up, or leave it if it is done."""
    import torch

    torch.set_num_threads(1)
    run = Run(out / task.name)
    if run.metrics.is_file():
        return task.name
    nusc = open_dataroot(out / "world")
    keyframes = load_keyframes(nusc, "train", max_sweeps=1)
    detector = train(
        Job(
            config=task.config,
            keyframes=keyframes,
            data={"keyframes": "train"},
            run=run,
            teacher=Run(out / task.teacher) if task.teacher else None,
            teacher_cache=out / task.cache if task.cache else None,
            resume=run.config.is_file(),
        )
    )
    held_out = load_keyframes(nusc, split, max_sweeps=1)
    modality = task.config.detector.spec.modality
    metrics = evaluate(nusc, split, predict(detector, held_out, workers=0), held_out, modality=modality)
    write_json(run.metrics, metrics.to_json())
    return task.name


def perform_all(tasks: Sequence[Task], out: Path, split: str, jobs: int, title: str) -> None:
    """Perform tasks side by side, one thread each."""
    tasks = [task for task in {task.name: task for task in tasks}.values() if not metrics_file(out, task).is_file()]
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=end_with_parent) as pool,
        bar(title) as tick,
    ):
        running: set[Future[str]] = {pool.submit(perform, task, out, split) for task in tasks}
        done = 0
        tick(done, len(tasks), "")
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                done += 1
                tick(done, len(tasks), future.result())


def metrics_file(out: Path, task: Task) -> Path:
    """Where a task's figures are once it is done."""
    return Run(out / task.name).metrics


def figures(out: Path, tasks: Sequence[Task]) -> Figures:
    """MAP and NDS in % of some finished tasks, and the seconds that their steps took."""
    metrics = [read_json(metrics_file(out, task)) for task in tasks]
    return Figures(
        mAP=tuple(100 * each["mAP"] for each in metrics),
        NDS=tuple(100 * each["NDS"] for each in metrics),
        seconds=tuple(seconds_of(Run(out / task.name)) for task in tasks),
        mAOE=tuple(each["tp_errors"]["mAOE"] for each in metrics),
        mAVE=tuple(each["tp_errors"]["mAVE"] for each in metrics),
    )


def seconds_of(run: Run) -> float:
    """Seconds of all steps, without loading; the first, which warms up, is left out."""
    return sum(line["seconds"] for line in read_log(run.log)[1:])


def equal_time_epochs(out: Path, teacher: Modality, student: Modality) -> int:
    """Epochs of learning alone that take at least as long as the best recipe of a path: rounded up."""
    alone = figures(out, [plain_task(student, STUDENT_EPOCHS, seed) for seed in SEEDS])
    taught = figures(out, [best_task(teacher, student, seed) for seed in SEEDS])
    return math.ceil(STUDENT_EPOCHS * sum(taught.seconds) / sum(alone.seconds))


def best_task(teacher: Modality, student: Modality, seed: int) -> Task:
    """A student of the best recipe."""
    return arm_task(teacher, student, "best", best(teacher, student), seed)


def matrix() -> Iterator[Task]:
    """Every run but the controls: those that matter most come first."""
    for seed in SEEDS:
        for arm in ("all", "feature", "relation", "response"):
            for teacher, student in PATHS:
                yield arm_task(teacher, student, arm, arms(teacher, student)[arm], seed)
    for seed in PAIRED_SEEDS:
        for student in ("cam", "lidar"):
            yield plain_task(student, STUDENT_EPOCHS, seed)
        for teacher, student in PATHS:
            yield best_task(teacher, student, seed)


def controls(out: Path) -> Iterator[Task]:
    """Students alone for as long as the taught ones took, and, one seed, for the teacher's epochs and theirs."""
    for seed in SEEDS:
        for teacher, student in PATHS:
            yield plain_task(student, equal_time_epochs(out, teacher, student), seed)
    for student in ("cam", "lidar"):
        yield plain_task(student, TEACHER_EPOCHS + STUDENT_EPOCHS, SEEDS[0])


def make_world(out: Path) -> None:
    """Render the world once, and name its splits."""
    root = out / "world"
    if not root.exists():
        with bar("rendering the world") as tick:
            write_world(root, WORLD, progress=lambda done, total: tick(done, total, "keyframes"))
    splits = root / "v1.0-synth" / "splits.json"
    names = {split: [WORLD.names[scene] for scene in scenes] for split, scenes in SPLITS.items()}
    write_json(splits, WORLD.splits() | names)


def results(out: Path) -> dict[str, PathResult]:
    """All paths' figures."""
    found = {}
    for teacher, student in PATHS:
        epochs = {
            "alone": (STUDENT_EPOCHS, PAIRED_SEEDS),
            "equal_time": (equal_time_epochs(out, teacher, student), SEEDS),
            "all_epochs": (TEACHER_EPOCHS + STUDENT_EPOCHS, SEEDS[:1]),
        }
        ablation = {arm: config for arm, config in arms(teacher, student).items() if arm != "best"}
        found[f"{teacher}->{student}"] = PathResult(
            teacher=figures(out, [teacher_task(teacher)]),
            best=figures(out, [best_task(teacher, student, seed) for seed in PAIRED_SEEDS]),
            arms={
                arm: figures(out, [arm_task(teacher, student, arm, config, seed) for seed in SEEDS])
                for arm, config in ablation.items()
            },
            **{
                name: figures(out, [plain_task(student, count, seed) for seed in seeds])
                for name, (count, seeds) in epochs.items()
            },
        )
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/distill-gain"), show_default=True)
@click.option("--jobs", type=int, default=2, show_default=True, help="Trainings side by side, one thread each.")
@click.option("--results", "stem", type=click.Path(path_type=Path), default=RESULTS, help="Results without suffix.")
def main(out: Path, jobs: int, stem: Path) -> None:
    """Run the whole matrix, or what is left of it, and write JSON, table and picture."""
    out.mkdir(parents=True, exist_ok=True)
    make_world(out)
    perform_all([teacher_task(modality) for modality in ("fusion", "lidar", "cam")], out, "test", jobs, "teachers")
    perform_all(list(matrix()), out, "test", jobs, "students")
    perform_all(list(controls(out)), out, "test", jobs, "controls")
    found = results(out)
    record: dict[str, Any] = {
        "paths": {path: result.to_json() for path, result in found.items()},
        "seeds": {"losses and equal time": list(SEEDS), "alone and best": list(PAIRED_SEEDS), "all epochs": SEEDS[:1]},
        "epochs": {"teacher": TEACHER_EPOCHS, "student": STUDENT_EPOCHS},
        "world": dataclasses.asdict(WORLD),
        "recipes": {f"{teacher}->{student}": described(best(teacher, student)) for teacher, student in PATHS},
        "command": "python benchmarks/distill_gain.py",
        "machine": dataclasses.asdict(environment()),
        "versions": {name: version(name) for name in ("torch", "transformers", "nuscenes-devkit")},
    }
    write_json(stem.with_suffix(".json"), record)
    write_text(stem.with_suffix(".md"), to_markdown(found))
    draw(found, stem.with_suffix(".png"))
    say(to_markdown(found))


def described(config: DistillationConfig) -> dict[str, Any]:
    """A recipe in plain JSON."""
    from udx.config import to_plain

    return json.loads(json.dumps(to_plain(config)))  # type: ignore[no-any-return]


if __name__ == "__main__":
    run_command(main)
