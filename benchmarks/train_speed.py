"""How fast a recipe trains: teacher, student and distilled student, the data loader alone and beside the model.

Each is measured in a fresh process on keyframes of a small synthetic world:

- ``model``: steps on one batch that stays where it is, so that nothing is loaded;
- ``training``: the steps of ``udx train`` itself, loader included, without the first ones;
- ``loader``: batches drawn as fast as the workers give them, for the student alone and with the teacher's sensors;
  ``sweep cache``: the same from a sweep cache that is filled.

    python benchmarks/train_speed.py [--recipe nano] [--steps 8] [--set train.compile=true] …
"""

import dataclasses
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from udx.config import to_plain, with_override
from udx.console import bar, say, table
from udx.data.load import ReadSweeps, read_sweeps
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.data.synth import WorldSpec, write_world
from udx.files import write_json
from udx.runtime.environment import environment
from udx.train.recipes import RECIPES, RunConfig
from udx.workers import end_with_parent

RESULTS = Path(__file__).parent / "results"
WARM_UP_STEPS = 2
LOADED_SAMPLES = 48
"""What the loader is timed over, at least: workers that read ahead hide how fast a few samples come."""
MODES = {
    "teacher": ("fusion", None),
    "LiDAR detector": ("lidar", None),
    "student": ("cam", None),
    "distilled student": ("cam", "fusion"),
}
"""What is trained, and who teaches it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One measurement in a process of its own."""

    config: RunConfig
    world: Path
    folder: Path
    teacher: Path | None
    steps: int


def peak_memory_mib() -> float:
    """Peak memory so far: of the device on CUDA, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def keyframes_of(task: Task, at_least: int = 0) -> Any:
    """As many keyframes as the steps need, the world's over and over."""
    sensors = [RECIPES[task.config.recipe](name).detector.spec for name in ("cam", "fusion")]  # type: ignore[arg-type]
    sweeps = max(spec.lidar.sweeps for spec in sensors if spec.lidar)
    few = load_keyframes(open_dataroot(task.world), "train", max_sweeps=sweeps)
    needed = max((task.steps + WARM_UP_STEPS + 1) * task.config.train.batch_size, at_least)
    return (few * -(-needed // len(few)))[:needed]


def model_alone(task: Task) -> float:
    """Steps on one generated batch."""
    import torch

    from udx.models.detector import Detector
    from udx.train.acceleration import make_accelerator
    from udx.train.batch import join
    from udx.train.generated import generated_sample
    from udx.train.learner import Learner
    from udx.train.run import Run
    from udx.train.schedule import make_optimiser
    from udx.train.teaching import begin_teaching

    config = task.config
    accelerator = make_accelerator(config.train.precision)
    detector = Detector(config.detector)
    teaching = None
    if task.teacher is not None:
        teaching = begin_teaching(
            Run(task.teacher), detector, config, [], student_mAP=None, cache=None, device=accelerator.device,
            warn=lambda sentence: None,
        )  # fmt: skip
    learner = Learner(detector, teaching, config, 1000, accelerator)
    optimiser = make_optimiser(learner.parameters, config.train.optimiser)
    spec, with_depth = config.detector.spec, config.loss.depth > 0 and config.detector.spec.camera is not None
    teacher_spec = teaching.spec if teaching else None
    samples = [generated_sample(spec, teacher_spec, with_depth, seed) for seed in range(config.train.batch_size)]
    batch = join(samples).to(accelerator.device)
    learner.train()

    def step() -> float:
        began = time.perf_counter()
        accelerator.backward(learner(batch, 500).total)
        optimiser.step()
        optimiser.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds = [step() for _ in range(WARM_UP_STEPS + task.steps)][WARM_UP_STEPS:]
    return statistics.median(seconds)


def training(task: Task) -> float:
    """The steps of a training, from one end to the next, loader included."""
    from udx.train.loop import Job, train
    from udx.train.run import Run

    ends: list[float] = []
    job = Job(
        config=task.config,
        keyframes=keyframes_of(task),
        data={"keyframes": "speed"},
        run=Run(task.folder),
        teacher=Run(task.teacher) if task.teacher else None,
        watch=lambda progress: ends.append(time.perf_counter()),
    )
    train(job)
    steps = [after - before for before, after in zip(ends[WARM_UP_STEPS:], ends[WARM_UP_STEPS + 1 :], strict=False)]
    # The mean: a loader that falls behind shows in some of the steps only.
    return statistics.mean(steps)


def loader_alone(task: Task) -> float:
    """Batches of the loader, as fast as they come, after the first."""
    return draw_all(task, read_sweeps)


def loader_with_sweep_cache(task: Task) -> float:
    """The same, once all sweeps have been read before."""
    from udx.train.sweep_cache import SweepCache

    cache = SweepCache(task.folder.with_name("sweep-cache"))
    draw_all(task, cache)
    return draw_all(task, cache)


def draw_all(task: Task, read: ReadSweeps) -> float:
    """Seconds a batch of the loader."""
    from udx.train.batch import KeyFrames, make_loader

    config = task.config
    teacher_spec = RECIPES[config.recipe]("fusion").detector.spec if task.teacher else None
    spec, augmentation = config.detector.spec, config.train.augmentation
    keyframes, with_depth = keyframes_of(task, LOADED_SAMPLES), config.loss.depth > 0 and spec.camera is not None
    dataset = KeyFrames(keyframes, spec, teacher_spec, augmentation, with_depth=with_depth, read=read)
    loader, _ = make_loader(dataset, config.train.batch_size, config.train.workers, seed=0, drop_last=True)
    batches: Iterator[Any] = iter(loader)
    next(batches)
    began = time.perf_counter()
    number = sum(1 for _ in batches)
    return (time.perf_counter() - began) / number


def measure(task: Task) -> dict[str, float]:
    """Samples a second of all three, and the peak memory of the training and what it needs."""
    size = task.config.train.batch_size
    measures = {
        "loader": loader_alone,
        "sweep_cache": loader_with_sweep_cache,
        "training": training,
        "model": model_alone,
    }
    rates = {f"{name}_samples_per_s": size / seconds_a_step(task) for name, seconds_a_step in measures.items()}
    return {**rates, "memory_mib": peak_memory_mib()}


def fresh_teacher(config: RunConfig, folder: Path) -> Path:
    """A teacher that has learned nothing: it takes as long as one that has."""
    from udx.models.detector import Detector
    from udx.train.checkpoint import CheckpointRecord, save_checkpoint
    from udx.train.run import Run

    record = CheckpointRecord(config=config, step=0, data={"keyframes": "speed"}, git_commit="unknown")
    save_checkpoint(Run(folder).checkpoint, Detector(config.detector), record)
    return folder


def without_weights(config: RunConfig, overrides: tuple[str, ...]) -> RunConfig:
    """The recipe as a benchmark needs it: one epoch, no pretrained weights, nothing inherited, FP32 or native BF16."""
    from udx.train.job import native_precision

    settings = ["train.epochs=1", "train.gradient_norms_every=0", "train.class_balanced=false",
                "distillation.inherit=nothing", f"train.precision={native_precision()}"]  # fmt: skip
    if config.detector.camera is not None:
        settings.append("detector.camera.pretrained=null")
    for assignment in (*settings, *overrides):
        config = with_override(config, assignment)
    return config


@click.command()
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="nano", show_default=True)
@click.option("--data", "root", type=click.Path(path_type=Path), help="Dataroot  [default: a small world, made anew]")
@click.option("--steps", default=8, show_default=True, help="Steps that are measured, after two that warm up.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change one field of the recipe; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="[default: results/train_speed_DEVICE.json]")
def main(recipe: str, root: Path | None, steps: int, overrides: tuple[str, ...], json_file: Path | None) -> None:
    """Measure, print a table and save it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: dict[str, dict[str, float]] = {}
    with TemporaryDirectory(prefix="train-speed-") as scratch:
        folder = Path(scratch)
        world = root or folder / "world"
        if root is None:
            with bar("rendering") as tick:
                spec = WorldSpec(scenes=2, samples=6, sweeps=2, val_fraction=0.5)
                write_world(world, spec, progress=lambda done, total: tick(done, total, ""))
        configs = {name: without_weights(RECIPES[recipe](name), overrides) for name in ("cam", "lidar", "fusion")}  # type: ignore[arg-type]
        teacher = fresh_teacher(configs["fusion"], folder / "teacher")
        with bar("measuring") as tick:
            for done, (mode, (student, taught_by)) in enumerate(MODES.items()):
                tick(done, len(MODES), mode)
                task = Task(configs[student], world, folder / f"run-{done}", teacher if taught_by else None, steps)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
                    rows[mode] = pool.submit(measure, task).result()
    result = {
        "recipe": recipe,
        "device": device,
        "overrides": list(overrides),
        "batch_size": configs["cam"].train.batch_size,
        "workers": configs["cam"].train.workers,
        "precision": configs["cam"].train.precision,
        "steps": steps,
        "data": root.name if root else "rendered",
        "environment": to_plain(environment()),
        "modes": rows,
    }
    write_json(json_file or RESULTS / f"train_speed_{device}.json", result)
    header = ["trained", "model, samples/s", "training, samples/s", "loader, samples/s", "sweep cache, samples/s",
              "peak memory, MiB"]  # fmt: skip
    columns = ("model_samples_per_s", "training_samples_per_s", "loader_samples_per_s", "sweep_cache_samples_per_s",
               "memory_mib")  # fmt: skip
    cells = [[mode, *(f"{row[name]:.1f}" for name in columns)] for mode, row in rows.items()]
    table(f"{recipe} on {device}", header, cells)
    say("memory is the device's on CUDA, else the process's, its libraries included")


if __name__ == "__main__":
    main()
