"""``udx train``: from a dataroot and a recipe's name to an evaluated run, the teacher's first where it is missing."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from udx import processes
from udx.config import from_plain, with_override, with_overrides
from udx.data.dataset import WORLD_ROOT, default_splits, open_or_make
from udx.data.evaluation import Metrics, require_devkit
from udx.data.frame import KeyFrame
from udx.data.load import ReadSweeps, read_sweeps
from udx.data.nuscenes import load_keyframes
from udx.data.spec import Modality
from udx.errors import UdxError, unknown_name
from udx.files import read_json, write_json
from udx.models.outline import outline_detector
from udx.outputs import require_writable_folder
from udx.train.acceleration import join_processes
from udx.train.examiner import Examiner
from udx.train.keeping import require_free
from udx.train.loop import Job, Progress, train
from udx.train.matching import shared_overrides, stands_for
from udx.train.methods import METHODS
from udx.train.recipes import RECIPES, RunConfig
from udx.train.rehearsal import Rehearsal, device_name, rehearse, steps_of
from udx.train.run import RUNS, Run, finished_runs
from udx.train.sweep_cache import SweepCache

if TYPE_CHECKING:
    from nuscenes import NuScenes

Bar = Callable[[str], AbstractContextManager[Callable[[int, int, str], None]]]
"""Opens a progress bar of a title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """An open dataroot with the keyframes of two splits, and how their sweeps are read."""

    nusc: "NuScenes"
    train_split: str
    val_split: str
    train: Sequence[KeyFrame]
    val: Sequence[KeyFrame]
    read: ReadSweeps = read_sweeps

    @property
    def identity(self) -> dict[str, str]:
        """What a run records of its data; two runs with an equal ``keyframes`` saw the same training samples."""
        digest = hashlib.sha256(" ".join(keyframe.token for keyframe in self.train).encode()).hexdigest()
        return {
            "root": str(self.nusc.dataroot),
            "version": str(self.nusc.version),
            "train_split": self.train_split,
            "val_split": self.val_split,
            "keyframes": digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What ``udx train`` was asked for; ``None`` leaves a choice to the recipe or the data."""

    recipe: str = "nano"
    data: Path | None = None
    version: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    student: Modality = "cam"
    teacher: str = "none"
    start: Path | None = None
    method: str | None = None
    teacher_cache: Path | None = None
    sweep_cache: Path | None = None
    out: Path | None = None
    epochs: int | None = None
    seed: int | None = None
    resume: bool = False
    overrides: tuple[str, ...] = ()
    config: RunConfig | None = None
    """In place of the recipe's own."""


def configured(file: Path) -> dict[str, Any]:
    """The fields of a request for the configuration in a run's ``config.json``.

    Raises:
        UdxError: the file does not hold one.
    """
    plain = read_json(file)
    held = plain["config"] if isinstance(plain, dict) and "config" in plain else plain
    config = from_plain(RunConfig, held, str(file))
    return {"config": config, "recipe": config.recipe, "student": config.detector.spec.modality}


def run_request(request: Request, bar: Bar) -> tuple[Run, Metrics]:
    """Train and evaluate what was asked for; the run holds checkpoint and metrics.

    Started by ``torchrun`` or ``accelerate launch``, all processes do it together, and the first one writes.

    Raises:
        UdxError: the recipe, a split, an override, the teacher or the start does not exist or does not fit.
    """
    join_processes()
    bar = bar if processes.is_main() else _no_bar
    config = resolve_config(request)
    run = request_run(request, config)
    require_possible(request, run)
    data = open_data(request, config, bar)
    teacher = find_or_train_teacher(request, data, bar)
    lineup = Lineup(
        config,
        run,
        teacher=teacher,
        start=Run(request.start) if request.start else None,
        alone=find_alone(config, data) if teacher else None,
        teacher_cache=request.teacher_cache,
        resume=request.resume,
    )
    return fit(lineup, data, bar)


def require_possible(request: Request, run: Run) -> None:
    """Refuse what cannot be done before the data is opened, which may take minutes.

    Raises:
        UdxError: teacher or start are not runs, the folder holds a run or cannot be written, or a cache has no use.
    """
    require_devkit()
    named_teacher(request)
    if request.teacher == "none" and request.teacher_cache is not None:
        raise UdxError("--teacher-cache keeps what a teacher says: name a teacher with --teacher")
    if request.start is not None:
        _require_run("--init", request.start, "the folder of a run")
    if processes.is_main():
        require_free(run, resume=request.resume)
    require_writable_folder(run.folder, "--out")
    for option, folder in (("--teacher-cache", request.teacher_cache), ("--sweep-cache", request.sweep_cache)):
        if folder is not None:
            require_writable_folder(folder, option)


def named_teacher(request: Request) -> Run | None:
    """The run that the request names as teacher; ``None`` if it names sensors, or nobody.

    Raises:
        UdxError: it names something else.
    """
    sensors = get_args(Modality)
    if request.teacher in (*sensors, "none"):
        return None
    _require_run("--teacher", Path(request.teacher), f"{', '.join(sensors)}, none, or the folder of a run")
    return Run(Path(request.teacher))


def _require_run(option: str, folder: Path, expected: str) -> None:
    if not Run(folder).checkpoint.is_file():
        raise UdxError(f"{option} {folder} is no run, it has no {Run(folder).checkpoint.name}; name {expected}")
    Run(folder).record()


def rehearse_request(request: Request, bar: Bar) -> Rehearsal:
    """Take one step of what was asked for and measure it; nothing is written, no teacher is trained.

    Raises:
        UdxError: the recipe, a split, an override, the teacher or the data does not exist or does not fit.
    """
    config = resolve_config(request)
    named_teacher(request)
    data = open_data(request, config, bar) if request.data or WORLD_ROOT.exists() else None
    teacher: Run | Modality | None = None
    if request.teacher in get_args(Modality):
        modality: Modality = request.teacher  # type: ignore[assignment]
        teacher = (find_alone(teacher_config(request, modality), data) if data else None) or modality
    else:
        teacher = named_teacher(request)
    with bar("one step") as tick:
        fresh = teacher_config(request, teacher).detector if isinstance(teacher, str) else None
        return rehearse(
            config, data.train if data else [], teacher, lambda done, total: tick(done, total, ""), fresh=fresh
        )


def request_run(request: Request, config: RunConfig) -> Run:
    """The run folder: as named, or the next free one of recipe and modalities, the same in all processes."""
    return Run(processes.of_main(request.out or default_folder(config, request.teacher, request.resume)))


def resolve_config(request: Request) -> RunConfig:
    """The recipe with everything that the request changes in it."""
    if request.recipe not in RECIPES:
        raise unknown_name("recipe", request.recipe, RECIPES)
    config = with_method(request.config or RECIPES[request.recipe](request.student), request)
    named = {"train.epochs": request.epochs, "train.seed": request.seed}
    assignments = [f"{field}={value}" for field, value in named.items() if value is not None]
    config = with_overrides(config, (*assignments, *request.overrides))
    if config.recipe != request.recipe:
        raise UdxError(f"--set recipe={config.recipe} changes a name and nothing else; choose a recipe with --recipe")
    outline_detector(config.detector, f"recipe {request.recipe} and --set")
    if config.train.precision == "auto":
        config = with_override(config, f"train.precision={native_precision()}")
    return config


def with_method(config: RunConfig, request: Request) -> RunConfig:
    """The recipe with the method of distillation that was asked for; without one the recipe's own.

    Raises:
        UdxError: there is no such method, or it does not know the path.
    """
    if request.method is None:
        return config
    if request.method not in METHODS:
        raise unknown_name("method of distillation", request.method, METHODS)
    if request.teacher in get_args(Modality):
        teacher: Modality = request.teacher  # type: ignore[assignment]
    elif request.teacher == "none":
        raise UdxError(f"--method {request.method} needs somebody to learn from: name one with --teacher")
    else:
        run = named_teacher(request)
        assert run is not None
        teacher = run.record().config.detector.spec.modality
    return dataclasses.replace(config, distillation=METHODS[request.method](teacher, request.student))


def native_precision() -> str:
    """``bf16`` where this machine computes in it natively, else ``no``: emulated it would be slower than FP32."""
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "no"


def open_data(request: Request, config: RunConfig, bar: Bar) -> Dataset:
    """Open the dataroot, or the synthetic world, which is made once."""
    if not processes.is_main():
        processes.wait_for_all()  # until the world has been made
    with bar("opening the data") as tick:
        nusc = open_or_make(request.data, request.version, lambda done, total: tick(done, total, "keyframes rendered"))
    if processes.is_main():
        processes.wait_for_all()
    train_split, val_split = default_splits(nusc.version)
    train_split, val_split = request.train_split or train_split, request.val_split or val_split
    # The teacher's detector may read sweeps that the student's does not.
    sensors = (config.detector.spec, RECIPES[config.recipe]("fusion").detector.spec)
    sweeps = max(spec.lidar.sweeps for spec in sensors if spec.lidar)
    return Dataset(
        nusc=nusc,
        train_split=train_split,
        val_split=val_split,
        train=load_keyframes(nusc, train_split, max_sweeps=sweeps),
        val=load_keyframes(nusc, val_split, max_sweeps=sweeps),
        read=SweepCache(request.sweep_cache) if request.sweep_cache else read_sweeps,
    )


def find_or_train_teacher(request: Request, data: Dataset, bar: Bar) -> Run | None:
    """The teacher's run: as named, or the newest of the teacher's own configuration and data, or trained now."""
    if request.teacher not in get_args(Modality):
        return named_teacher(request)
    modality: Modality = request.teacher  # type: ignore[assignment]
    config = teacher_config(request, modality)
    found = find_alone(config, data)
    if found is not None:
        return found
    folder = Run(processes.of_main(default_folder(config, "none", request.resume)))
    run, _ = fit(Lineup(config, folder, resume=request.resume), data, bar)
    return run


def teacher_config(request: Request, modality: Modality) -> RunConfig:
    """The configuration of a teacher that is named by its sensors: the recipe's, changed as far as ``--set`` applies.

    ``--epochs`` is the student's alone.
    """
    overrides = shared_overrides(RECIPES[request.recipe](modality), request.overrides)
    return resolve_config(
        Request(recipe=request.recipe, student=modality, seed=request.seed, overrides=tuple(overrides))
    )


def find_alone(config: RunConfig, data: Dataset) -> Run | None:
    """The newest finished run of this configuration on this data that had neither teacher nor start."""
    return processes.of_main(_find_alone(config, data) if processes.is_main() else None)


def _find_alone(config: RunConfig, data: Dataset) -> Run | None:
    for run in finished_runs():
        try:
            if stands_for(run.record(), config, data.identity["keyframes"]):
                return run
        except UdxError:
            continue  # a damaged run need not stop another one
    return None


@dataclass(frozen=True, slots=True)
class Lineup:
    """Who trains: the configuration, the run, and the runs that it draws upon.

    ``alone``: a run of such a student without a teacher, to hold the teacher's mAP against. ``teacher_cache``: folder
    to keep the teacher's lessons in.
    """

    config: RunConfig
    run: Run
    teacher: Run | None = None
    start: Run | None = None
    alone: Run | None = None
    teacher_cache: Path | None = None
    resume: bool = False

    @property
    def student_mAP(self) -> float | None:
        """What a student without a teacher reaches, where one was evaluated."""
        metrics = self.alone.read_metrics() if self.alone else None
        return float(metrics["mAP"]) if metrics else None


def fit(lineup: Lineup, data: Dataset, bar: Bar) -> tuple[Run, Metrics]:
    """Train one run and evaluate it on the validation split."""
    from udx.console import losses_line, tell

    config, teacher = lineup.config, lineup.teacher
    modality = config.detector.spec.modality
    taught = f" from {teacher.record().config.detector.spec.modality}" if teacher else ""
    examiner = Examiner(data.nusc, data.val_split, data.val, config, data.read)
    if processes.is_main():
        for line in plan_of(lineup, data):
            tell(line)
    with bar(f"training {modality}{taught}") as tick:
        at = 0, 0

        def watch(progress: Progress) -> None:
            nonlocal at
            at = progress.step, progress.steps
            tick(*at, f"epoch {progress.epoch + 1} of {progress.epochs}, {losses_line(progress.losses)}")

        def evaluating(done: int, total: int) -> None:
            tick(*at, f"evaluating {done}/{total} of {data.val_split}")

        detector = train(
            Job(
                config=config,
                keyframes=data.train,
                data=data.identity,
                run=lineup.run,
                teacher=teacher,
                start=lineup.start,
                student_mAP=lineup.student_mAP,
                read=data.read,
                teacher_cache=lineup.teacher_cache,
                resume=lineup.resume,
                validate=lambda detector: examiner(detector, evaluating, brief=True),
                validate_at_end=lambda detector: examiner(detector, evaluating),
                watch=watch,
                warn=lambda sentence: tell(f"warning: {sentence}"),
            )
        )
    # A run that had come to its end before it was resumed has not been evaluated now.
    metrics = examiner.last or examiner(detector, lambda done, total: None).metrics
    if processes.is_main():
        write_json(lineup.run.metrics, metrics.to_json())
    processes.wait_for_all()
    return lineup.run, metrics


def plan_of(lineup: Lineup, data: Dataset) -> Iterator[str]:
    """What is about to be trained, on what, and where it goes, for the terminal."""
    config, train = lineup.config, lineup.config.train
    taught = f", taught by {lineup.teacher.folder} ({_mAP_of(lineup.teacher)})" if lineup.teacher else ""
    begun = f", starting from {lineup.start.folder}" if lineup.start else ""
    resumed = " (resumed)" if lineup.resume and lineup.run.state.is_file() else ""
    yield (
        f"run {lineup.run.folder}{resumed}: {config.detector.spec.modality} detector, recipe {config.recipe}"
        f"{taught}{begun}"
    )
    yield (
        f"data {data.nusc.dataroot} ({data.nusc.version}): {len(data.train)} keyframes of {data.train_split}, "
        f"{len(data.val)} of {data.val_split}"
    )
    together = f", {processes.count()} processes" if processes.count() > 1 else ""
    precision = "FP32" if train.precision == "no" else train.precision.upper()
    yield (
        f"{steps_of(config, data.train)} steps in {train.epochs} epochs, batches of {train.batch_size}{together}; "
        f"{device_name()}, {precision}; log in {lineup.run.log}"
    )


def _mAP_of(run: Run) -> str:
    metrics = run.read_metrics() or {}
    return f"mAP {metrics['mAP']:.3f}" if "mAP" in metrics else "not evaluated"


@contextmanager
def _no_bar(_: str) -> Iterator[Callable[[int, int, str], None]]:
    yield lambda done, total, said: None


def default_folder(config: RunConfig, teacher: str, resume: bool) -> Path:
    """A run folder by recipe and modalities: a new one, numbered where the name is taken, or the last one to resume."""
    taught = "" if teacher == "none" else f"-from-{Path(teacher).name}"
    name = f"{config.recipe}-{config.detector.spec.modality}{taught}"
    folders = [RUNS / name, *(RUNS / f"{name}-{number}" for number in range(2, 10_000))]
    free = next(index for index, folder in enumerate(folders) if not folder.exists())
    return folders[max(free - 1, 0) if resume else free]
