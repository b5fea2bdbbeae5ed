"""The training loop: one student, optionally one teacher, from a start to a run directory."""

import dataclasses
import json
import math
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

from udx.config import to_plain
from udx.data.augment import Augmentation
from udx.data.frame import KeyFrame
from udx.data.load import load_images
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.files import sha256_of, write_json, write_with
from udx.models.detection_loss import depth_loss, detection_loss
from udx.models.detector import Detector
from udx.train.batch import Batch, EpochSampler, KeyFrames, batches, make_loader
from udx.train.checkpoint import (
    CheckpointRecord,
    TeacherRecord,
    load_detector,
    load_strictly,
    read_checkpoint,
    save_checkpoint,
)
from udx.train.distiller import Distiller, FrozenTeacher
from udx.train.objectives import teacher_is_weaker
from udx.train.recipes import RunConfig
from udx.train.run import Run, git_commit

STATE_FORMAT: Final = "udx-state/1"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step tells whoever watches: its number, how many there are, and every loss term by name."""

    step: int
    steps: int
    epoch: int
    epochs: int
    losses: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training: configuration, training keyframes and where they are from, teacher and start if any, run folder.

    ``teacher`` and ``start`` are runs; the start has the same detector, and only its weights are taken.
    """

    config: RunConfig
    keyframes: Sequence[KeyFrame]
    data: dict[str, str]
    run: Run
    teacher: Run | None = None
    start: Run | None = None
    resume: bool = False
    watch: Callable[[Progress], None] = field(default=lambda progress: None)


def train(job: Job) -> Detector:
    """Train a detector into ``job.run`` and return it, in eval mode.

    Training that was interrupted continues at the very step with ``resume``; Ctrl-C saves before it ends.

    Raises:
        UdxError: the run exists and is not to be resumed, or is of another configuration; the teacher or the
            start does not fit.
    """
    session = _Session(job)
    try:
        session.fit()
    finally:
        session.close()
    return session.detector.eval()


class _Session:
    """The live objects of one training."""

    def __init__(self, job: Job) -> None:
        self.job = job
        config = job.config.train
        set_seed(config.seed)
        # Accelerate keeps the precision of a process's first Accelerator; a teacher may have had another.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=config.precision)
        self.detector = Detector(job.config.detector)
        start_sha256 = self._start(job.start)
        self.teacher, self.teacher_spec, teacher_record, distiller = self._teach(job)
        self.record = CheckpointRecord(
            config=job.config,
            step=0,
            data=job.data,
            git_commit=git_commit(),
            teacher=teacher_record,
            start_sha256=start_sha256,
            rig=self._example_rig(),
        )
        self.loader, self.sampler = self._data()
        self.steps_per_epoch = len(self.loader)
        self.steps = self.steps_per_epoch * config.epochs
        modules = [self.detector] + ([distiller] if distiller else [])
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            parameters, config.optimiser.learning_rate, weight_decay=config.optimiser.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: one_cycle(step, self.steps, config.optimiser.warmup)
        )
        self.optimiser, self.schedule = self.accelerator.prepare_optimizer(optimiser), schedule
        self.student = self.accelerator.prepare_model(self.detector)
        # Without adapters there is nothing to synchronise: its running means agree across processes already.
        trains = distiller is not None and any(True for _ in distiller.parameters())
        self.distiller = (
            self.accelerator.prepare_model(distiller) if trains else distiller and distiller.to(self.accelerator.device)
        )
        self.parameters = parameters
        self.step = 0
        self.saved_at = time.monotonic()
        self._open()

    def _start(self, start: Run | None) -> str | None:
        if start is None:
            return None
        _, tensors = read_checkpoint(start.checkpoint)
        load_strictly(self.detector, tensors, start.checkpoint)
        return sha256_of(start.checkpoint)

    def _teach(
        self, job: Job
    ) -> tuple[FrozenTeacher | None, SensorSpec | None, TeacherRecord | None, Distiller | None]:
        if job.teacher is None:
            return None, None, None, None
        detector, record = load_teacher(job.teacher)
        weaker = teacher_is_weaker(teacher=record.modality, student=job.config.detector.spec.modality)
        distiller = Distiller.unidistill(
            job.config.distillation, student=self.detector.taps, teacher=detector.taps, teacher_is_weaker=weaker
        )
        return FrozenTeacher(detector.to(self.accelerator.device)), detector.config.spec, record, distiller

    def _example_rig(self) -> dict[str, Any] | None:
        camera = self.job.config.detector.spec.camera
        if camera is None:
            return None
        _, rig = load_images(self.job.keyframes[0], camera, Augmentation())
        return rig.to_json()

    def _data(self) -> tuple[Any, EpochSampler]:
        config = self.job.config
        dataset = KeyFrames(
            self.job.keyframes,
            config.detector.spec,
            teacher_spec=self.teacher_spec,
            augmentation=config.train.augmentation,
            seed=config.train.seed,
            with_depth=config.loss.depth > 0 and config.detector.spec.camera is not None,
        )
        processes = self.accelerator.num_processes
        batch_size = min(config.train.batch_size, max(len(dataset) // processes, 1))
        loader, sampler = make_loader(dataset, batch_size, config.train.workers, config.train.seed, drop_last=True)
        return self.accelerator.prepare_data_loader(loader, device_placement=False), sampler

    def _open(self) -> None:
        """Begin a new run, or take up an old one."""
        run, identity = self.job.run, to_plain(dataclasses.replace(self.record, git_commit="", step=0))
        # A run that broke off before its first checkpoint has nothing to lose: resuming it begins anew.
        broke_off_early = run.config.is_file() and not run.state.exists() and not run.checkpoint.exists()
        if self.job.resume and run.state.is_file():
            self._restore(identity)
        elif run.folder.exists() and any(run.folder.iterdir()) and not (self.job.resume and broke_off_early):
            raise UdxError(f"{run.folder} holds a run already; continue it with --resume, or choose another --out")
        if self.accelerator.is_main_process:
            from torch.utils.tensorboard import SummaryWriter

            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(run.config, to_plain(self.record))
            self.log = open(run.log, "a" if self.step else "w", encoding="utf-8")  # noqa: SIM115
            self.board = SummaryWriter(str(run.folder), purge_step=self.step)

    def fit(self) -> None:
        """Run the steps that are left; Ctrl-C ends training after the step that it falls in, and saves."""
        with interruptible() as interrupted:
            while self.step < self.steps:
                epoch, done = divmod(self.step, self.steps_per_epoch)
                self.sampler.begin(epoch, done * self.loader.total_batch_size)
                self._set_train()
                for batch in batches(self.loader, self.accelerator.device):
                    self._one_step(batch, epoch)
                    if interrupted():
                        self.save()
                        raise KeyboardInterrupt
                    if time.monotonic() - self.saved_at > self.job.config.train.checkpoint_every_s:
                        self.save()
        self.save()

    def _set_train(self) -> None:
        self.student.train()
        if self.distiller is not None:
            self.distiller.train()

    def _one_step(self, batch: Batch, epoch: int) -> None:
        began = time.perf_counter()
        losses, total = self._losses(batch)
        if not math.isfinite(float(total.detach())):
            raise UdxError(
                f"the loss is {float(total.detach())} at step {self.step + 1} of {self.job.run.folder}; lower the rate "
                "with --set train.optimiser.learning_rate=…, the last checkpoint is kept"
            )
        self.accelerator.backward(total)
        clip_norm = self.job.config.train.optimiser.clip_norm
        gradient_norm: Any = self.accelerator.clip_grad_norm_(self.parameters, clip_norm)
        self.optimiser.step()
        rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.optimiser.zero_grad()
        self.step += 1
        values = {name: float(value) for name, value in losses.items()} | {"loss": float(total.detach())}
        self._tell(
            epoch,
            values,
            rate,
            float(gradient_norm),
            time.perf_counter() - began,
            batch.dropped_points,
        )

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Every term for the log, and their weighted sum."""
        grid = self.job.config.detector.spec.grid
        with self.accelerator.autocast():
            taps = self.student(batch.inputs)
            weights = self.job.config.loss
            terms = detection_loss(taps.heads, batch.boxes, batch.labels, grid, weights)
            if batch.depth_BNhw is not None:
                terms["depth"] = weights.depth * depth_loss(taps.depth_BNDhw, batch.depth_BNhw)
            total = torch.stack(list(terms.values())).sum()
            losses = {name: term.detach() for name, term in terms.items()} | {"detection": total.detach()}
            if self.distiller is not None and self.teacher is not None:
                taught = self.teacher(batch.teacher_inputs)
                distilled = self.distiller(taps, taught, batch.boxes, total.detach(), self.step / self.steps)
                total = total + torch.stack(list(distilled.weighted.values())).sum()
                losses |= {name: term.detach() for name, term in distilled.weighted.items()}
                losses |= {f"{name}_raw": term for name, term in distilled.raw.items()}
        return losses, total

    def _tell(
        self, epoch: int, losses: dict[str, float], rate: float, gradient_norm: float, seconds: float, dropped: int
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        line = {"step": self.step, "epoch": epoch, "lr": rate, **losses, "gradient_norm": gradient_norm}
        line |= {"seconds": round(seconds, 4), "memory_mb": round(memory_mb(), 1), "dropped_points": dropped}
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()
        for name, value in line.items():
            if name not in ("step", "epoch"):
                self.board.add_scalar(name, value, self.step)
        config = self.job.config.train
        self.job.watch(Progress(self.step, self.steps, epoch, config.epochs, losses))

    def save(self) -> None:
        """Write the state for resuming, then the checkpoint, each whole."""
        self.saved_at = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        record = dataclasses.replace(self.record, step=self.step)
        state = {
            "format": STATE_FORMAT,
            "identity": json.dumps(to_plain(dataclasses.replace(self.record, git_commit="", step=0))),
            "step": self.step,
            "log_bytes": self.log.tell(),
            "detector": self.detector.state_dict(),
            "distiller": _unwrapped(self.accelerator, self.distiller),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        write_with(self.job.run.state, lambda partial: torch.save(state, partial))
        save_checkpoint(self.job.run.checkpoint, self.detector, record)

    def _restore(self, identity: dict[str, Any]) -> None:
        path = self.job.run.state
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            assert state["format"] == STATE_FORMAT
            saved = json.loads(state["identity"])
        except Exception as error:  # torch.load has no narrower promise
            raise UdxError(f"{path} cannot be read ({type(error).__name__}); start again with another --out") from error
        changed = sorted(_changed(saved, identity))
        if changed:
            raise UdxError(
                f"{self.job.run.folder} was begun with another {changed[0]}; resume it as it was begun, "
                "or choose another --out"
            )
        self.detector.load_state_dict(state["detector"])
        if self.distiller is not None:
            self.accelerator.unwrap_model(self.distiller).load_state_dict(state["distiller"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        if self.job.run.log.is_file():
            # Steps after the last checkpoint are taken again: their lines would stand twice.
            with open(self.job.run.log, "r+b") as log:
                log.truncate(state["log_bytes"])

    def close(self) -> None:
        """Close the log."""
        if self.accelerator.is_main_process and hasattr(self, "log"):
            self.log.close()
            self.board.close()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C, so that no step is cut in two; yield whether it came. A second one acts at once."""
    came = False

    def hold(_: int, __: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, previous)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    previous = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, previous)


def load_teacher(run: Run) -> tuple[Detector, TeacherRecord]:
    """Load a run's detector as a teacher, with the record that its student's checkpoint will carry.

    Raises:
        UdxError: the run has no readable checkpoint of this udx.
    """
    detector, record = load_detector(run.checkpoint)
    metrics = run.read_metrics() or {}
    return detector, TeacherRecord(
        run=str(run.folder),
        modality=record.config.detector.spec.modality,
        checkpoint_sha256=sha256_of(run.checkpoint),
        mAP=metrics.get("mAP"),
        NDS=metrics.get("NDS"),
    )


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear from 1/25 up to 1 over ``warmup · steps``, then half a cosine down to 0."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return 1 / 25 + (1 - 1 / 25) * step / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))


def memory_mb() -> float:
    """Peak memory so far: of the device on CUDA, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _unwrapped(accelerator: Accelerator, module: nn.Module | None) -> dict[str, Any]:
    if module is None:
        return {}
    state: dict[str, Any] = accelerator.unwrap_model(module).state_dict()
    return state


def _changed(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the fields in which two configurations differ."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in saved.keys() | now.keys():
            yield from _changed(saved.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif saved != now:
        yield path


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a run's ``log.jsonl``; an unfinished last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
