"""Quantization-aware distillation: a student that feels its rounding learns from a teacher, scales included.

Weights and activations are rounded in the forward pass as the quantized file rounds them, and gradients pass as if they
were not (straight-through). The scale of an activation is learned: within its range its gradient is the rounding error,
beyond it the saturation (Esser et al., "Learned Step Size Quantization", ICLR 2020). The scale of a weight's channel
follows the channel's largest magnitude. Batch norms keep their statistics: they are folded when the student is
exported, and folding changes a channel's scale but not which values it rounds to.

What is added is not learned through: a pair at the shortcut of a residual addition keeps its calibrated scale.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.utils import parametrize

from udx.calibration.insert import LARGEST, Scales
from udx.calibration.placement import Placement
from udx.data.frame import KeyFrame
from udx.errors import UdxError
from udx.models.detector import Detector
from udx.train.batch import KeyFrames, batches, make_loader
from udx.train.checkpoint import TeacherRecord, load_detector
from udx.train.learner import Learner
from udx.train.methods import unidistill
from udx.train.recipes import RunConfig
from udx.train.run import Run
from udx.train.schedule import make_optimiser, one_cycle
from udx.train.teaching import begin_teaching

LEVELS: Final = LARGEST["int8"]
RATE: Final = 0.05
"""Of the recipe's learning rate: the student is trained already."""

SCALE_RATE: Final = 1e-3
"""Of the logarithms of the scales, whatever the recipe."""

WARMUP: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What to train: a run, its teacher's, on which keyframes, how long; ``warn`` is told what may be wrong."""

    run: Run
    teacher: Run
    keyframes: Sequence[KeyFrame]
    steps: int
    seed: int = 0
    tick: Callable[[int, int], None] = lambda done, total: None
    warn: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A student with its own modules and nothing else, its activations' scales, and the loss at every step."""

    detector: Detector
    scales: Scales
    teacher: TeacherRecord
    losses: tuple[float, ...]


class FakeQuantizer(nn.Module):
    """Rounds to INT8 and back with one learned scale."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(largest / LEVELS).log())

    @property
    def largest(self) -> float:
        """Largest magnitude that does not saturate."""
        return float(self.log_scale.detach().exp()) * LEVELS

    def forward(self, values: Tensor) -> Tensor:
        """The values as the quantized graph reads them."""
        scale = self.log_scale.exp()
        return _rounded((values / scale).clamp(-LEVELS, LEVELS)) * scale


class FakeWeight(nn.Module):
    """Rounds a weight to INT8 and back, each channel along ``axis`` by its largest magnitude."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the quantized graph reads it."""
        others = [at for at in range(weight.dim()) if at != self.axis]
        scale = weight.detach().abs().amax(dim=others, keepdim=True) / LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return _rounded(weight / scale) * scale


@contextmanager
def quantized(detector: Detector, placement: Placement, scales: Scales) -> Iterator[Mapping[str, FakeQuantizer]]:
    """Make a detector compute as its quantized file will; yield the quantizers by the tensors' names in the graph.

    When the block ends, the detector is what it was, with the weights that it has then.
    """
    modules = dict(detector.named_modules())
    quantizers: dict[str, FakeQuantizer] = {}
    hooks, changed = [], []
    for layer in placement.layers:
        module = modules.get(layer.weight.removeprefix("detector.").removesuffix(".weight"))
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        if layer.reads not in quantizers:
            quantizers[layer.reads] = FakeQuantizer(scales.activations[layer.reads])
        parametrize.register_parametrization(
            module, "weight", FakeWeight(1 if isinstance(module, nn.ConvTranspose2d) else 0)
        )
        changed.append(module)
        hooks.append(module.register_forward_pre_hook(_reading_through(quantizers[layer.reads])))
    try:
        yield quantizers
    finally:
        for hook in hooks:
            hook.remove()
        for module in changed:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def distil_quantized(lesson: Lesson, placement: Placement, scales: Scales) -> Learned:
    """Train a run's detector for some steps, quantized, with UniDistill's losses from the teacher beside its own.

    Raises:
        UdxError: run or teacher cannot be read or compared, no layer of the placement is found in the run, or the
            loss is not finite.
    """
    set_seed(lesson.seed)
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="no")  # BF16 rounds as coarsely as INT8 does
    detector, record = load_detector(lesson.run.checkpoint)
    config = _config(record.config, lesson)
    teaching = begin_teaching(
        lesson.teacher,
        detector,
        config,
        lesson.keyframes,
        student_mAP=None,
        cache=None,
        device=accelerator.device,
        warn=lesson.warn,
    )
    with quantized(detector, placement, scales) as quantizers:
        if not quantizers:
            raise UdxError(f"no layer that the graph quantizes is found in {lesson.run.folder}; export that run again")
        learner = Learner(detector, teaching, config, lesson.steps, accelerator)
        losses = _train(learner, quantizers, lesson, config)
        learned = {name: quantizer.largest for name, quantizer in quantizers.items()}
    activations = {**scales.activations, **learned}
    return Learned(
        detector=detector.cpu().eval(),
        scales=dataclasses.replace(scales, activations=activations),
        teacher=teaching.record,
        losses=tuple(losses),
    )


def _train(learner: Learner, quantizers: Mapping[str, FakeQuantizer], lesson: Lesson, config: RunConfig) -> list[float]:
    optimiser = make_optimiser(learner.parameters, config.train.optimiser)
    of_scales = nn.ModuleList(quantizers.values()).to(learner.accelerator.device)
    optimiser.add_param_group({"params": list(of_scales.parameters()), "lr": SCALE_RATE, "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: one_cycle(step, lesson.steps, WARMUP))
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    losses: list[float] = []
    for step, batch in enumerate(_batches(learner, lesson, config)):
        learner.train()
        _keep_statistics(learner.detector)
        loss = learner(batch, step).total
        if not bool(loss.isfinite()):
            raise UdxError(
                f"the loss of {lesson.run.folder} under quantization is {float(loss)} at step {step + 1}; calibrate "
                "with another --method, which training begins with"
            )
        optimiser.zero_grad()
        learner.accelerator.backward(loss)
        nn.utils.clip_grad_norm_(parameters, config.train.optimiser.clip_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        lesson.tick(step + 1, lesson.steps)
    return losses


def _batches(learner: Learner, lesson: Lesson, config: RunConfig) -> Iterator[Any]:
    """As many batches as there are steps, epoch after epoch."""
    assert learner.teaching is not None
    dataset = KeyFrames(
        lesson.keyframes,
        config.detector.spec,
        teacher_spec=learner.teaching.spec,
        augmentation=config.train.augmentation,
        seed=lesson.seed,
        with_depth=config.loss.depth > 0 and config.detector.spec.camera is not None,
    )
    size = min(config.train.batch_size, len(dataset))
    loader, sampler = make_loader(dataset, size, config.train.workers, lesson.seed, drop_last=True)
    done = epoch = 0
    while done < lesson.steps:
        sampler.begin(epoch, 0)
        for batch in batches(loader, learner.accelerator.device):
            yield batch
            done += 1
            if done == lesson.steps:
                return
        epoch += 1


def _config(config: RunConfig, lesson: Lesson) -> RunConfig:
    """The run's own configuration, gentler, and with UniDistill's losses whatever it was distilled by."""
    optimiser = dataclasses.replace(config.train.optimiser, learning_rate=RATE * config.train.optimiser.learning_rate)
    train = dataclasses.replace(config.train, optimiser=optimiser, precision="no", seed=lesson.seed)
    return dataclasses.replace(config, train=train, distillation=unidistill(inherit="nothing"))


def _keep_statistics(detector: nn.Module) -> None:
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _reading_through(quantizer: FakeQuantizer) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (quantizer(inputs[0]), *inputs[1:])

    return hook


def _rounded(values: Tensor) -> Tensor:
    """Round, with the gradient of doing nothing."""
    return values + (values.round() - values).detach()
