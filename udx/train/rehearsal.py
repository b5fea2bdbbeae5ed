"""A training before it begins: what it is, how large, how long a step takes; nothing of it is written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from udx import processes
from udx.config import to_plain
from udx.data.frame import KeyFrame
from udx.data.spec import Modality
from udx.models.detector import Detector, DetectorConfig, DetectorInputs
from udx.models.outline import without_pretrained
from udx.train.acceleration import make_accelerator
from udx.train.batch import Batch, KeyFrames, join
from udx.train.checkpoint import TeacherRecord
from udx.train.generated import generated_sample
from udx.train.learner import Learner
from udx.train.recipes import RECIPES, RunConfig
from udx.train.run import Run
from udx.train.sampling import class_balanced
from udx.train.schedule import make_optimiser
from udx.train.teaching import Teaching, begin_teaching, teaching_between

MOMENTS: Final = 2
"""Numbers that AdamW remembers of each weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a training would be.

    ``parameters``: by module, those of the teacher apart. ``memory_mib``: by what fills it, of one process;
    activations are what the backward pass of the step kept. ``peak_mib`` was measured, on CUDA. ``step_s``: of the
    second step, the first one warms up; ``load_s``: of one sample in one worker. Without data ``steps`` is ``None``.
    """

    config: RunConfig
    device: str
    batch: str
    parameters: dict[str, int]
    memory_mib: dict[str, float]
    peak_mib: float | None
    losses: dict[str, float]
    step_s: float
    load_s: float | None
    samples_per_step: int
    steps: int | None

    @property
    def total_mib(self) -> float:
        """All of ``memory_mib``."""
        return sum(self.memory_mib.values())

    def to_json(self) -> dict[str, Any]:
        """All fields, and the sum of the memory."""
        named = ("device", "batch", "parameters", "memory_mib", "peak_mib", "losses", "step_s", "load_s", "steps")
        figures = {name: getattr(self, name) for name in (*named, "samples_per_step", "total_mib")}
        return {"config": to_plain(self.config), **figures}

    def lines(self) -> list[str]:
        """Figures in sentences; the configuration is apart."""
        said = [f"one step on {self.device}, of {self.batch}: {self.step_s:.3f} s"]
        if self.load_s is not None:
            workers = max(self.config.train.workers, 1)
            each = self.samples_per_step / processes.count() / workers
            said.append(f"loading a sample takes {self.load_s:.3f} s: {self.load_s * each:.3f} s a step in the workers")
        if self.steps is not None:
            hours = self.steps * self.step_s / 3600
            said.append(f"{self.steps} steps of {self.samples_per_step} samples: {hours:.1f} h without evaluation")
        if self.peak_mib is not None:
            said.append(f"{self.peak_mib:.0f} MiB of the GPU were in use at the peak")
        return said


def rehearse(
    config: RunConfig,
    keyframes: Sequence[KeyFrame],
    teacher: Run | Modality | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    fresh: DetectorConfig | None = None,
) -> Rehearsal:
    """Take a step on the first keyframes, or on generated samples if there are none.

    ``teacher``: a run, or only the modality of one that is not trained yet: a fresh detector stands in for it, the
    recipe's own or that of ``fresh``.

    Raises:
        UdxError: the teacher cannot be read, the two cannot be compared, or a file of the data is damaged.
    """
    accelerator = make_accelerator(config.train.precision)
    student = Detector(config.detector)
    teaching = _teaching(config, teacher, student, accelerator.device, fresh)
    batch, load_s = _batch(config, keyframes, teaching)
    steps = steps_of(config, keyframes) if keyframes else None
    learner = Learner(student, teaching, config, steps or 1000, accelerator)
    optimiser = make_optimiser(learner.parameters, config.train.optimiser)
    learner.train()
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for done in range(2):
        kept = _Kept(student)
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
            terms = learner(batch.to(accelerator.device), 0)
        accelerator.backward(terms.total)
        accelerator.clip_grad_norm_(learner.parameters, config.train.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        losses = {name: float(loss.detach()) for name, loss in terms.losses.items()}
        step_s = time.perf_counter() - began
        progress(done + 1, 2)
    trained = sum(p.numel() * p.element_size() for p in learner.parameters)
    memory = {
        "weights": _size(student),
        "gradients": trained,
        "moments of AdamW": MOMENTS * trained,
        "average of weights": _size(student) if config.train.ema_decay else 0,
        "activations": kept.num_bytes,
        "batch": _batch_bytes(batch),
        "teacher": _size(teaching.teacher.detector) if teaching else 0,
    }
    on_cuda = accelerator.device.type == "cuda"
    return Rehearsal(
        config=config,
        device=device_name(),
        batch=f"{len(batch.tokens)} {'keyframes' if keyframes else 'generated samples'}",
        parameters=_parameters(student, teaching),
        memory_mib={name: round(size / 2**20, 1) for name, size in memory.items() if size},
        peak_mib=torch.cuda.max_memory_allocated() / 2**20 if on_cuda else None,
        losses=losses,
        step_s=step_s,
        load_s=load_s,
        samples_per_step=len(batch.tokens) * processes.count(),
        steps=steps,
    )


class _Kept:
    """Counts what autograd keeps for the backward pass: every storage once, weights not at all."""

    def __init__(self, module: nn.Module) -> None:
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}
        self.num_bytes = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.num_bytes += storage.nbytes()
        return tensor


def _teaching(
    config: RunConfig,
    teacher: Run | Modality | None,
    student: Detector,
    device: torch.device,
    fresh: DetectorConfig | None,
) -> Teaching | None:
    if teacher is None:
        return None
    if isinstance(teacher, Run):
        return begin_teaching(
            teacher, student, config, [], student_mAP=None, cache=None, device=device, warn=lambda sentence: None
        )
    record = TeacherRecord(run="", modality=teacher, checkpoint_sha256="0" * 64, mAP=None, NDS=None)
    detector = Detector(without_pretrained(fresh or RECIPES[config.recipe](teacher).detector))
    return teaching_between(detector, record, student, config, [], device=device)


def steps_of(config: RunConfig, keyframes: Sequence[KeyFrame]) -> int:
    """Steps of a whole training on these keyframes."""
    train = config.train
    samples = len(class_balanced(keyframes, train.seed)) if train.class_balanced else len(keyframes)
    # As the loop does: no batch is larger than there are samples.
    batch = min(train.batch_size, max(samples // processes.count(), 1))
    a_step = batch * processes.count()
    a_step *= min(train.accumulate, max(samples // a_step, 1))
    return samples // a_step * train.epochs


def device_name() -> str:
    """The device that this process trains on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"


def _batch(config: RunConfig, keyframes: Sequence[KeyFrame], teaching: Teaching | None) -> tuple[Batch, float | None]:
    """A batch, and how long one sample of it took to load if it is of real data."""
    size, spec = config.train.batch_size, config.detector.spec
    teacher_spec = teaching.spec if teaching else None
    with_depth = config.loss.depth > 0 and spec.camera is not None
    if not keyframes:
        samples = [generated_sample(spec, teacher_spec, with_depth, seed) for seed in range(size)]
        return join(samples), None
    dataset = KeyFrames(
        keyframes, spec, teacher_spec, config.train.augmentation, config.train.seed, with_depth=with_depth
    )
    began = time.perf_counter()
    samples = [dataset[position, 0] for position in range(min(size, len(dataset)))]
    return join(samples), (time.perf_counter() - began) / len(samples)


def _parameters(student: Detector, teaching: Teaching | None) -> dict[str, int]:
    """Trained and other parameters by module; those of the teacher and of adapters in one sum each."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in student.named_children()}
    if teaching is not None:
        counts["adapters"] = sum(p.numel() for p in teaching.distiller.parameters())
        counts["teacher"] = sum(p.numel() for p in teaching.teacher.detector.parameters())
    return {name: count for name, count in counts.items() if count}


def _size(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _batch_bytes(batch: Batch) -> int:
    inputs = [given for given in (batch.inputs, batch.teacher_inputs) if given is not None]
    tensors = [getattr(given, name) for given in inputs for name in DetectorInputs.__slots__]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
