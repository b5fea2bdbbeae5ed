"""The training loop: one student, optionally one teacher, from a start to a run directory."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

from udx.config import to_plain
from udx.data.augment import Augmentation
from udx.data.frame import KeyFrame
from udx.data.load import load_images
from udx.errors import UdxError
from udx.files import sha256_of, write_json
from udx.models.detection_loss import depth_loss, detection_loss
from udx.models.detector import Detector, DetectorInputs
from udx.models.taps import EncoderTaps
from udx.train.batch import Batch, EpochSampler, KeyFrames, batches, make_loader
from udx.train.checkpoint import CheckpointRecord, load_strictly, read_checkpoint, save_checkpoint
from udx.train.gradients import gradient_norms
from udx.train.interrupt import interruptible
from udx.train.logbook import LogBook, memory_mb
from udx.train.recipes import RunConfig
from udx.train.run import Run, git_commit
from udx.train.schedule import one_cycle
from udx.train.state import read_state, write_state
from udx.train.teaching import Teaching, begin_teaching


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
    ``student_mAP`` is that of such a student without a teacher, where it is known: the teacher is held against it.
    ``teacher_cache`` is a folder to keep the teacher's lessons in. ``warn`` is told what may be wrong.
    """

    config: RunConfig
    keyframes: Sequence[KeyFrame]
    data: dict[str, str]
    run: Run
    teacher: Run | None = None
    start: Run | None = None
    student_mAP: float | None = None
    teacher_cache: Path | None = None
    resume: bool = False
    watch: Callable[[Progress], None] = field(default=lambda progress: None)
    warn: Callable[[str], None] = field(default=lambda sentence: None)


def train(job: Job) -> Detector:
    """Train a detector into ``job.run`` and return it, in eval mode.

    Training that was interrupted continues at the very step with ``resume``; Ctrl-C saves before it ends.

    Raises:
        UdxError: the run exists and is not to be resumed, or is of another configuration; the teacher, its cache or
            the start does not fit.
    """
    session = _Session(job)
    try:
        session.fit()
    finally:
        session.close()
    return session.detector.eval()


class _Student(nn.Module):
    """A detector whose sensor encoder can be run alone, through the one ``forward`` that gradients are shared in."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, inputs: DetectorInputs, encoder_alone: bool) -> EncoderTaps:
        taps: EncoderTaps = self.detector.encode(inputs) if encoder_alone else self.detector(inputs)
        return taps


class _Session:
    """The live objects of one training."""

    def __init__(self, job: Job) -> None:
        self.job = job
        config = job.config.train
        set_seed(config.seed)
        # Accelerate keeps the precision of a process's first Accelerator; a teacher may have had another.
        AcceleratorState._reset_state()
        encoder_first = job.config.distillation.encoder_first if job.teacher else 0.0
        # While the encoder learns alone, the rest of the detector has no gradients to share.
        sharing = DistributedDataParallelKwargs(find_unused_parameters=encoder_first > 0)
        self.accelerator = Accelerator(mixed_precision=config.precision, kwargs_handlers=[sharing])
        self.detector = Detector(job.config.detector)
        start_sha256 = self._start(job.start)
        self.teaching = self._teach()
        self.record = CheckpointRecord(
            config=job.config,
            step=0,
            data=job.data,
            git_commit=git_commit(),
            teacher=self.teaching.record if self.teaching else None,
            start_sha256=start_sha256,
            rig=self._example_rig(),
        )
        self.loader, self.sampler = self._data()
        self.steps_per_epoch = len(self.loader)
        self.steps = self.steps_per_epoch * config.epochs
        self.encoder_steps = round(self.steps * encoder_first)
        self._prepare()
        self.step = 0
        self.saved_at = time.monotonic()
        self._open()

    def _start(self, start: Run | None) -> str | None:
        if start is None:
            return None
        _, tensors = read_checkpoint(start.checkpoint)
        load_strictly(self.detector, tensors, start.checkpoint)
        return sha256_of(start.checkpoint)

    def _teach(self) -> Teaching | None:
        job = self.job
        if job.teacher is None:
            return None
        return begin_teaching(
            job.teacher,
            self.detector,
            job.config,
            job.keyframes,
            student_mAP=job.student_mAP,
            cache=job.teacher_cache,
            device=self.accelerator.device,
            warn=job.warn,
        )

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
            teacher_spec=self.teaching.spec if self.teaching else None,
            augmentation=config.train.augmentation,
            seed=config.train.seed,
            with_depth=config.loss.depth > 0 and config.detector.spec.camera is not None,
            remembered=self.teaching.cache if self.teaching else None,
        )
        processes = self.accelerator.num_processes
        batch_size = min(config.train.batch_size, max(len(dataset) // processes, 1))
        loader, sampler = make_loader(dataset, batch_size, config.train.workers, config.train.seed, drop_last=True)
        return self.accelerator.prepare_data_loader(loader, device_placement=False), sampler

    def _prepare(self) -> None:
        """Bring student, distiller, optimiser and schedule to the device, and to the other processes."""
        config, distiller = self.job.config.train, self.teaching.distiller if self.teaching else None
        modules = [self.detector] + ([distiller] if distiller else [])
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            self.parameters, config.optimiser.learning_rate, weight_decay=config.optimiser.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: one_cycle(step, self.steps, config.optimiser.warmup)
        )
        self.optimiser = self.accelerator.prepare_optimizer(optimiser)
        self.student = self.accelerator.prepare_model(_Student(self.detector))
        # Without adapters there is nothing to synchronise: its running means agree across processes already.
        trains = distiller is not None and any(True for _ in distiller.parameters())
        self.distiller: Any = (
            self.accelerator.prepare_model(distiller) if trains else distiller and distiller.to(self.accelerator.device)
        )

    def _open(self) -> None:
        """Begin a new run, or take up an old one."""
        run, at = self.job.run, (0, 0)
        # A run that broke off before its first checkpoint has nothing to lose: resuming it begins anew.
        broke_off_early = run.config.is_file() and not run.state.exists() and not run.checkpoint.exists()
        if self.job.resume and run.state.is_file():
            at = self._restore()
        elif run.folder.exists() and any(run.folder.iterdir()) and not (self.job.resume and broke_off_early):
            raise UdxError(f"{run.folder} holds a run already; continue it with --resume, or choose another --out")
        if self.accelerator.is_main_process:
            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(run.config, to_plain(self.record))
            self.log = LogBook(run, at=at)

    def fit(self) -> None:
        """Run the steps that are left; Ctrl-C ends training after the step that it falls in, and saves."""
        with interruptible() as interrupted:
            while self.step < self.steps:
                epoch, done = divmod(self.step, self.steps_per_epoch)
                self.sampler.begin(epoch, done * self.loader.total_batch_size)
                if self.teaching is not None and self.teaching.cache is not None:
                    self.teaching.cache.flush()  # for the loader's workers
                    self.teaching.cache.refresh()
                self.student.train()
                if self.distiller is not None:
                    self.distiller.train()
                for batch in batches(self.loader, self.accelerator.device):
                    self._one_step(batch, epoch)
                    if interrupted():
                        self.save()
                        raise KeyboardInterrupt
                    if time.monotonic() - self.saved_at > self.job.config.train.checkpoint_every_s:
                        self.save()
        self.save()

    def _one_step(self, batch: Batch, epoch: int) -> None:
        began = time.perf_counter()
        with self.accelerator.autocast():
            losses, raw = self._encoder_losses(batch) if self.step < self.encoder_steps else self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not math.isfinite(float(total.detach())):
            raise UdxError(
                f"the loss is {float(total.detach())} at step {self.step + 1} of {self.job.run.folder}; lower the rate "
                "with --set train.optimiser.learning_rate=…, the last checkpoint is kept"
            )
        pulls = self._pulls(losses)
        self.accelerator.backward(total)
        clip_norm = self.job.config.train.optimiser.clip_norm
        gradient_norm: Any = self.accelerator.clip_grad_norm_(self.parameters, clip_norm)
        self.optimiser.step()
        rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.optimiser.zero_grad()
        self.step += 1
        figures = {name: float(loss.detach()) for name, loss in (losses | raw).items()}
        figures |= {"loss": float(total.detach()), "lr": rate, "gradient_norm": float(gradient_norm), **pulls}
        figures |= {"seconds": round(time.perf_counter() - began, 4), "memory_mb": round(memory_mb(), 1)}
        self._tell(epoch, figures | {"dropped_points": batch.dropped_points})

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every term of the loss, and figures for the log beside them."""
        taps = self.student(batch.inputs, False)
        objects, weights = batch.objects, self.job.config.loss
        grid = self.job.config.detector.spec.grid
        losses = detection_loss(taps.heads, list(objects.boxes), list(objects.labels), grid, weights)
        losses |= self._depth(taps, batch)
        detection = torch.stack(list(losses.values())).sum().detach()
        if self.teaching is None:
            return losses, {"detection": detection}
        lessons = self.teaching.lessons(batch)
        distilled = self.distiller(taps, lessons, objects, detection, self.step / self.steps)
        return losses | distilled.weighted, {"detection": detection, **_named_raw(distilled.raw)}

    def _encoder_losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The same while the sensor encoder learns alone."""
        assert self.teaching is not None
        taps = self.student(batch.inputs, True)
        lessons = self.teaching.lessons(batch)
        distilled = self.distiller(taps, lessons, batch.objects, None, self.step / self.steps)
        return distilled.weighted | self._depth(taps, batch), _named_raw(distilled.raw)

    def _depth(self, taps: EncoderTaps, batch: Batch) -> dict[str, Tensor]:
        if batch.depth_BNhw is None or taps.depth_BNDhw is None:
            return {}
        return {"depth": self.job.config.loss.depth * depth_loss(taps.depth_BNDhw, batch.depth_BNhw)}

    def _pulls(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Gradient norms of the detection loss and of each term beside it, now and then."""
        every = self.job.config.train.gradient_norms_every
        if self.teaching is None or not every or self.step % every:
            return {}
        apart = {name: loss for name, loss in losses.items() if name in self.teaching.distiller.weights}
        detection = [loss for name, loss in losses.items() if name not in apart]
        if detection:
            apart["detection"] = torch.stack(detection).sum()
        scaler = self.accelerator.scaler
        norms = gradient_norms(apart, self.parameters, scaler.get_scale() if scaler else 1.0)
        return {f"{name}_gradient_norm": norm for name, norm in norms.items()}

    def _tell(self, epoch: int, figures: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.log.write(self.step, epoch, figures)
        self.job.watch(Progress(self.step, self.steps, epoch, self.job.config.train.epochs, figures))

    def save(self) -> None:
        """Write the state for resuming, then the checkpoint, each whole; and the lessons that are not written yet."""
        self.saved_at = time.monotonic()
        if self.teaching is not None and self.teaching.cache is not None:
            self.teaching.cache.flush()
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "log_bytes": self.log.length,
            "detector": self.detector.state_dict(),
            "distiller": self._unwrapped_distiller().state_dict() if self.distiller is not None else {},
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        write_state(self.job.run.state, self._identity(), state)
        save_checkpoint(self.job.run.checkpoint, self.detector, dataclasses.replace(self.record, step=self.step))

    def _restore(self) -> tuple[int, int]:
        """Take up the state that was saved; return the step and the length of the log then."""
        state = read_state(self.job.run.state, self._identity())
        self.detector.load_state_dict(state["detector"])
        if self.distiller is not None:
            self._unwrapped_distiller().load_state_dict(state["distiller"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        return self.step, state["log_bytes"]

    def _identity(self) -> dict[str, Any]:
        return to_plain(dataclasses.replace(self.record, git_commit="", step=0))

    def _unwrapped_distiller(self) -> nn.Module:
        module: nn.Module = self.accelerator.unwrap_model(self.distiller)
        return module

    def close(self) -> None:
        """Close the log."""
        if hasattr(self, "log"):
            self.log.close()


def _named_raw(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}_raw": loss for name, loss in raw.items()}
