"""The training loop: one student, optionally one teacher, from a start to a run directory."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from udx import processes
from udx.data.augment import Augmentation
from udx.data.evaluation import Metrics
from udx.data.frame import KeyFrame
from udx.data.load import ReadSweeps, load_images, read_sweeps
from udx.errors import Interrupted, UdxError
from udx.files import sha256_of
from udx.geometry.arrays import ByteArray
from udx.models.detector import Detector
from udx.train.acceleration import make_accelerator
from udx.train.batch import Batch, KeyFrames, batches, make_loader
from udx.train.checkpoint import CheckpointRecord, load_strictly, read_checkpoint
from udx.train.ema import AverageOfWeights
from udx.train.interrupt import interruptible
from udx.train.keeping import Keeper
from udx.train.learner import Learner, Terms
from udx.train.lock import locked
from udx.train.logbook import LogBook, memory_mb
from udx.train.recipes import RunConfig
from udx.train.replay import Breakage
from udx.train.rng import restore_rng, rng_state
from udx.train.run import Run, git_commit
from udx.train.sampling import EpochSampler, class_balanced
from udx.train.schedule import learning_rate, make_optimiser
from udx.train.state import require_state
from udx.train.teaching import Teaching, begin_teaching


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step tells whoever watches: its number, how many there are, and every loss term by name."""

    step: int
    steps: int
    epoch: int
    epochs: int
    losses: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Validation:
    """What an evaluation found, and pictures (H, W, 3) of what the detector sees, by name."""

    metrics: Metrics
    pictures: Mapping[str, ByteArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training: configuration, training keyframes and where they are from, teacher and start if any, run folder.

    ``teacher`` and ``start`` are runs; the start has the same detector, and only its weights are taken.
    ``student_mAP`` is that of such a student without a teacher, where it is known: the teacher is held against it.
    ``read`` reads the sweeps. ``teacher_cache`` is a folder to keep the teacher's lessons in. ``validate`` evaluates a
    detector after epochs, in all processes together, and ``validate_at_end`` after the last one in its place, where
    there is one. ``warn`` is told what may be wrong.
    """

    config: RunConfig
    keyframes: Sequence[KeyFrame]
    data: dict[str, str]
    run: Run
    teacher: Run | None = None
    start: Run | None = None
    student_mAP: float | None = None
    read: ReadSweeps = read_sweeps
    teacher_cache: Path | None = None
    resume: bool = False
    validate: Callable[[Detector], Validation] | None = None
    validate_at_end: Callable[[Detector], Validation] | None = None
    watch: Callable[[Progress], None] = field(default=lambda progress: None)
    warn: Callable[[str], None] = field(default=lambda sentence: None)


def train(job: Job) -> Detector:
    """Train a detector into ``job.run`` and return it, in eval mode.

    Training that was interrupted continues at the very step with ``resume``. Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save
    before it ends.

    Raises:
        Interrupted: one of these signals came.
        UdxError: the run exists and is not to be resumed, or is of another configuration; the teacher, its cache or
            the start does not fit; a loss or gradient is not finite; the disk is full; another process trains in
            the run's folder.
    """
    with locked(job.run.folder):
        session = _Session(job)
        try:
            session.fit()
        finally:
            session.close()
    return session.shipped.eval()


class _Session:
    """The live objects of one training."""

    def __init__(self, job: Job) -> None:
        self.job = job
        config = job.config.train
        set_seed(config.seed)
        self.accelerator = make_accelerator(config.precision)
        detector = Detector(job.config.detector)
        start_sha256 = _start(detector, job.start)
        self.teaching = self._teach(detector)
        self.record = CheckpointRecord(
            config=job.config,
            step=0,
            data=job.data,
            git_commit=git_commit(),
            teacher=self.teaching.record if self.teaching else None,
            start_sha256=start_sha256,
            rig=_example_rig(job),
        )
        self.loader, self.sampler = self._data()
        self.steps_per_epoch = len(self.loader) // self.accumulate
        self.steps = self.steps_per_epoch * config.epochs
        # Copied before the learner changes how the detector computes.
        self.average = AverageOfWeights(detector, config.ema_decay) if config.ema_decay else None
        self.learner = Learner(detector, self.teaching, job.config, self.steps, self.accelerator)
        if self.average is not None:
            self.average.detector.to(self.accelerator.device)
        self._prepare()
        self.keeper = Keeper(job.run, self.record, self.samples_per_step)
        self.step, self.validated, self.best_nds = 0, 0, -1.0
        self.saved_at = time.monotonic()
        self._open()

    @property
    def shipped(self) -> Detector:
        """The detector that is evaluated and kept: the average of weights where there is one."""
        shipped: Detector = self.average.detector if self.average else self.learner.detector
        return shipped

    def _teach(self, detector: Detector) -> Teaching | None:
        job = self.job
        if job.teacher is None:
            return None
        return begin_teaching(
            job.teacher,
            detector,
            job.config,
            job.keyframes,
            student_mAP=job.student_mAP,
            cache=job.teacher_cache,
            device=self.accelerator.device,
            warn=job.warn,
        )

    def _data(self) -> tuple[DataLoader[Batch], EpochSampler]:
        config = self.job.config
        dataset = KeyFrames(
            self.job.keyframes,
            config.detector.spec,
            teacher_spec=self.teaching.spec if self.teaching else None,
            augmentation=config.train.augmentation,
            seed=config.train.seed,
            with_depth=config.loss.depth > 0 and config.detector.spec.camera is not None,
            remembered=self.teaching.cache if self.teaching else None,
            read=self.job.read,
        )
        seed = config.train.seed
        balanced = class_balanced(self.job.keyframes, seed).tolist() if config.train.class_balanced else None
        positions: Sequence[int] = range(len(dataset)) if balanced is None else balanced
        count = processes.count()
        batch_size = min(config.train.batch_size, max(len(positions) // count, 1))
        self.accumulate = min(config.train.accumulate, max(len(positions) // (count * batch_size), 1))
        self.samples_per_step = batch_size * count * self.accumulate
        if len(positions) < self.samples_per_step:
            raise UdxError(
                f"{len(positions)} training samples are too few for {count} processes: start no more than there are"
            )
        return make_loader(
            dataset,
            batch_size,
            config.train.workers,
            seed,
            drop_last=True,
            positions=positions,
            share=(processes.rank(), count),
            accumulate=self.accumulate,
        )

    def _prepare(self) -> None:
        """Bring optimiser and schedule to the device."""
        config = self.job.config.train.optimiser
        optimiser = make_optimiser(self.learner.parameters, config)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate(step, self.steps, config)
        )
        self.optimiser = self.accelerator.prepare_optimizer(optimiser)

    def _open(self) -> None:
        """Begin a new run, or take up an old one."""
        state = self.keeper.begin(resume=self.job.resume)
        processes.wait_for_all()
        if processes.rank():
            set_seed(self.job.config.train.seed + processes.rank())  # what is dropped at random differs by process
        if state is not None:
            self._restore(state)
        if processes.is_main():
            weights = sum(p.numel() * p.element_size() for p in self.learner.parameters)
            # The state holds weights, two moments and perhaps an average; the old one stays until the new one is whole.
            self.keeper.require_space(2 * (weights * (5 if self.average else 4)))
            self.keeper.describe()
            self.log = LogBook(self.job.run, at=(self.step, state["log_bytes"] if state else 0))
            if self.log.lost:
                self.job.warn(f"{self.job.run.log} has lost lines; training goes on, their steps are not in the log")

    def fit(self) -> None:
        """Run the steps and evaluations that are left; an interruption ends after the step that it falls in."""
        with interruptible() as interrupted:
            while True:
                epoch, done = divmod(self.step, self.steps_per_epoch)
                if epoch > self.validated and not done:
                    self._end_epoch(epoch)
                if self.step >= self.steps:
                    break
                for step in batched(self._batches(epoch, done), self.accumulate):
                    self._take_step(step, epoch, interrupted)
        self.save()

    def _batches(self, epoch: int, done: int) -> Iterator[Batch]:
        """What is left of an epoch."""
        self.sampler.begin(epoch, done * self.samples_per_step)
        if self.teaching is not None and self.teaching.cache is not None:
            self.teaching.cache.flush()  # for the loader's workers
            self.teaching.cache.refresh()
        self.learner.train()
        yield from batches(self.loader, self.accelerator.device)

    def _take_step(self, step: Sequence[Batch], epoch: int, interrupted: Callable[[], int | None]) -> None:
        """One step, and what is due after it in all processes: to save, to end."""
        self._one_step(step, epoch)
        overdue = time.monotonic() - self.saved_at > self.job.config.train.checkpoint_every_s
        number = interrupted()
        wishes = torch.tensor([float(number is not None), float(overdue and processes.is_main())])
        end, save = processes.mean_over_processes(wishes.to(self.accelerator.device)).tolist()
        if end or save:
            self.save()
        if end:
            raise Interrupted(number or signal.SIGINT)

    def _one_step(self, step: Sequence[Batch], epoch: int) -> None:
        began = time.perf_counter()
        window = None
        if len(step) > 1:
            window, step = self.learner.counts(step, self.step)
        sums: dict[str, float] = {}
        for number, batch in enumerate(step, 1):
            generators = rng_state()
            with self.learner.gradients_shared(number == len(step)):
                with window.replay() if window else nullcontext():
                    terms = self.learner(batch, self.step)
                figures = _over_processes(terms)
                if not math.isfinite(figures["loss"]):
                    self._give_up(f"loss is {figures['loss']}", batch, generators, terms)
                pulls = self._pulls(terms)
                self.accelerator.backward(terms.total / len(step))
            sums = {name: sums.get(name, 0.0) + value / len(step) for name, value in figures.items()}
        figures = sums
        config = self.job.config.train
        norm = float(self.accelerator.clip_grad_norm_(self.learner.parameters, config.optimiser.clip_norm) or 0.0)
        # With a loss scale a step that overflows is left out, and the scale lowered.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            self._give_up(f"norm of the gradients is {norm}", batch, generators, terms)
        self.optimiser.step()
        rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.optimiser.zero_grad()
        self.step += 1
        if self.average is not None:
            self.average.follow(self.learner.detector, self.step)
        figures |= {"lr": rate, "gradient_norm": norm, **pulls}
        figures |= {"seconds": round(time.perf_counter() - began, 4), "memory_mb": round(memory_mb(), 1)}
        self._tell(epoch, figures | {"dropped_points": sum(batch.dropped_points for batch in step)})

    def _pulls(self, terms: Terms) -> dict[str, float]:
        """How hard each term pulls, now and then."""
        every = self.job.config.train.gradient_norms_every
        if self.teaching is None or not every or self.step % every:
            return {}
        return self.learner.pulls(terms.losses)

    def _give_up(self, what: str, batch: Batch, generators: dict[str, Any], terms: Terms) -> None:
        """Keep the step for ``udx replay`` and end; every process whose own loss is broken keeps its batch."""
        folder = self.job.run.broken
        if processes.is_main() or not bool(terms.total.detach().isfinite()):
            breakage = Breakage(
                record=self.record,
                step=self.step,
                steps=self.steps,
                batch=batch.to(torch.device("cpu")),
                learner=self.learner.state(),
                rng=generators,
                student_mAP=self.job.student_mAP,
            )
            breakage.save(folder / f"step-{self.step + 1:07}-{processes.rank()}.pt")
        raise UdxError(
            f"the {what} at step {self.step + 1} of {self.job.run.folder}; udx replay {self.job.run.folder} tells "
            "where it breaks; lower the rate with --set train.optimiser.learning_rate=…, the last checkpoint is kept"
        )

    def _tell(self, epoch: int, figures: dict[str, float]) -> None:
        if not processes.is_main():
            return
        self.log.write(self.step, epoch, figures)
        self.job.watch(Progress(self.step, self.steps, epoch, self.job.config.train.epochs, figures))

    def _end_epoch(self, epoch: int) -> None:
        """Save, evaluate if it is time to, and keep the best; ``epoch`` counts from 1."""
        config = self.job.config.train
        self.validated = epoch
        last = epoch == config.epochs
        if processes.is_main():
            self.keeper.save_epoch(epoch, self.step, self.shipped, config.keep_epochs)
        due = last or (config.validate_every > 0 and epoch % config.validate_every == 0)
        validate = (self.job.validate_at_end if last else None) or self.job.validate
        if validate is None or not due:
            return
        self.validated = epoch - 1  # an evaluation that is cut short is made again
        self.save()
        found = validate(self.shipped)
        self.validated = epoch
        if processes.is_main():
            self._keep_validation(epoch, found)
        self.best_nds = max(self.best_nds, found.metrics.nds)

    def _keep_validation(self, epoch: int, found: Validation) -> None:
        metrics = found.metrics.to_json()
        self.keeper.save_metrics(epoch, self.step, metrics)
        if self.job.config.train.validate_every and found.metrics.nds > self.best_nds:
            self.keeper.save_best(epoch, self.step, self.shipped, metrics)
        self.log.write_validation(self.step, found.metrics, found.pictures)

    def save(self) -> None:
        """Write the state for resuming, then the checkpoint, each whole; and the lessons that are not written yet."""
        self.saved_at = time.monotonic()
        if self.teaching is not None and self.teaching.cache is not None:
            self.teaching.cache.flush()
        generators = processes.of_all(rng_state())
        if processes.is_main():
            self.keeper.save(self._state(self.log.sync(), generators), self.shipped)

    def _state(self, log_bytes: int, generators: list[dict[str, Any]]) -> dict[str, Any]:
        """Everything that resuming needs."""
        scaler, optimiser = self.accelerator.scaler, self.optimiser.state_dict()
        return {
            "step": self.step,
            "validated": self.validated,
            "best_nds": self.best_nds,
            "log_bytes": log_bytes,
            "learner": self.learner.state(),
            "average": self.average.detector.state_dict() if self.average else {},
            "optimiser": optimiser,
            "moments": len(optimiser["state"]),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "rng": generators,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Take up the state that was saved.

        Raises:
            UdxError: it is not the state of such a training.
        """
        require_state(
            state,
            self._state(0, [rng_state()]),
            self.learner.parameters,
            steps=self.steps,
            epochs=self.job.config.train.epochs,
            path=self.job.run.state,
        )
        self.learner.restore(state["learner"])
        if self.average is not None:
            self.average.detector.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if processes.rank() < len(state["rng"]):
            restore_rng(state["rng"][processes.rank()])
        self.step, self.validated, self.best_nds = state["step"], state["validated"], state["best_nds"]

    def close(self) -> None:
        """Close the log."""
        if hasattr(self, "log"):
            self.log.close()


def batched(batches: Iterator[Batch], number: int) -> Iterator[list[Batch]]:
    """Batches in lists of ``number``."""
    while step := list(islice(batches, number)):
        assert len(step) == number
        yield step


def _start(detector: Detector, start: Run | None) -> str | None:
    """Give a detector the weights of a run; return the hash of its checkpoint."""
    if start is None:
        return None
    _, tensors = read_checkpoint(start.checkpoint)
    load_strictly(detector, tensors, start.checkpoint)
    return sha256_of(start.checkpoint)


def _example_rig(job: Job) -> dict[str, Any] | None:
    camera = job.config.detector.spec.camera
    if camera is None:
        return None
    _, rig = load_images(job.keyframes[0], camera, Augmentation())
    return rig.to_json()


def _over_processes(terms: Terms) -> dict[str, float]:
    """Every term, the figures beside them and the loss, each the mean over the processes."""
    named = {**terms.losses, **terms.figures, "loss": terms.total}
    means = processes.mean_over_processes(torch.stack([value.detach().float() for value in named.values()]))
    return dict(zip(named, means.tolist(), strict=True))
