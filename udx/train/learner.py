"""A student and what it learns by: labels, the cameras' depth, and a teacher's lessons if it has a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from udx.models.detection_loss import depth_loss, detection_loss
from udx.models.detector import Detector, DetectorInputs
from udx.models.taps import EncoderTaps, Taps
from udx.processes import MicroBatches
from udx.train.batch import Batch
from udx.train.gradients import gradient_norms
from udx.train.recipes import RunConfig
from udx.train.speed import prepare_for_speed
from udx.train.sync_norm import synchronise_norms
from udx.train.teaching import Teaching


class Terms(NamedTuple):
    """Every term of a step's loss, which is their sum, and figures for the log beside them."""

    losses: dict[str, Tensor]
    figures: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The loss."""
        return torch.stack(list(self.losses.values())).sum()


class _Student(nn.Module):
    """A detector whose sensor encoder can be run alone, through the one ``forward`` that gradients are shared in."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, inputs: DetectorInputs, encoder_alone: bool) -> EncoderTaps:
        taps: EncoderTaps = self.detector.encode(inputs) if encoder_alone else self.detector(inputs)
        return taps


class Learner:
    """From a batch to every term of the loss, on the accelerator's device and together with the other processes.

    In a distributed run each process's terms are normalised by the mean number of boxes a process: their mean over the
    processes is what one process would find for all samples together.
    """

    def __init__(
        self, detector: Detector, teaching: Teaching | None, config: RunConfig, steps: int, accelerator: Accelerator
    ) -> None:
        """Share detector and adapters with the other processes; the detector itself is brought to the device."""
        self.teaching, self.config, self.steps, self.accelerator = teaching, config, steps, accelerator
        self.encoder_steps = round(steps * config.distillation.encoder_first) if teaching else 0
        synchronise_norms(detector, accelerator.device)
        prepare_for_speed(detector, config.train)
        distiller = teaching.distiller if teaching else None
        if distiller is not None:
            synchronise_norms(distiller, accelerator.device)
        modules = [detector] + ([distiller] if distiller else [])
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.detector: Any = detector
        self.student = accelerator.prepare_model(_Student(detector))
        # Without adapters there is nothing to synchronise: its running means agree across processes already.
        trains = distiller is not None and any(True for _ in distiller.parameters())
        self.distiller: Any = (
            accelerator.prepare_model(distiller) if trains else distiller and distiller.to(accelerator.device)
        )

    def train(self) -> None:
        """Put student and adapters into training mode."""
        self.student.train()
        if self.distiller is not None:
            self.distiller.train()

    def __call__(self, batch: Batch, step: int) -> Terms:
        """Every term of the loss of a batch; ``step`` counts from 0."""
        encoder_alone = step < self.encoder_steps
        with self.accelerator.autocast():
            taps = self.student(batch.inputs, encoder_alone)
            # Shares are of what the boxes ask for: the cameras' depth, which is a loss beside it, is none of it.
            of_boxes = {} if encoder_alone else self._detection(taps, batch)
            losses = of_boxes | self._depth(taps, batch)
            detection = torch.stack(list(of_boxes.values())).sum().detach() if of_boxes else None
            figures = {} if detection is None else {"detection": detection}
            if self.teaching is None:
                return Terms(losses, figures)
            lessons = self.teaching.lessons(batch)
            taught = self.distiller(taps, lessons, batch.objects, detection, step / self.steps)
        raw = {f"{name}_raw": loss for name, loss in taught.raw.items()}
        return Terms(losses | taught.weighted, figures | raw)

    @torch.no_grad()
    def counts(self, step: Sequence[Batch], number: int) -> tuple[MicroBatches, list[Batch]]:
        """What the losses of the micro-batches of a step are divided by; it depends on the objects alone.

        So the first one's maps stand for all of them, and nothing is learned: running means and norms stay. The
        micro-batches come back with the teacher's lessons.
        """
        window, taught = MicroBatches(), []
        modules = [module for module in (self.detector, self.distiller) if module is not None]
        training = [module.training for module in modules]
        for module in modules:
            module.eval()
        encoder_alone = number < self.encoder_steps
        with self.accelerator.autocast():
            taps = self.detector.encode(step[0].inputs) if encoder_alone else self.detector(step[0].inputs)
            for batch in step:
                with window.record():
                    of_boxes = {} if encoder_alone else self._detection(taps, batch)
                    self._depth(taps, batch)
                    if self.teaching is not None:
                        detection = torch.stack(list(of_boxes.values())).sum() if of_boxes else None
                        lessons = self.teaching.lessons(batch)
                        batch = replace(batch, lessons=list(lessons))
                        distiller = self.accelerator.unwrap_model(self.distiller)
                        distiller(taps, lessons, batch.objects, detection, number / self.steps)
                taught.append(batch)
        for module, was in zip(modules, training, strict=True):
            module.train(was)
        return window, taught

    @contextmanager
    def gradients_shared(self, shared: bool) -> Iterator[None]:
        """Leave out in the block, unless ``shared``, to average the gradients over the processes."""
        with ExitStack() as stack:
            for module in (self.student, self.distiller):
                if not shared and module is not None:
                    stack.enter_context(self.accelerator.no_sync(module))
            yield

    def pulls(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Gradient norms of the detection loss, without the depth's, and of each term of the teacher's beside it."""
        assert self.teaching is not None
        apart = {name: loss for name, loss in losses.items() if name in self.teaching.distiller.weights}
        detection = [loss for name, loss in losses.items() if name not in apart and name != "depth"]
        if detection:
            apart["detection"] = torch.stack(detection).sum()
        scaler = self.accelerator.scaler
        norms = gradient_norms(apart, self.parameters, scaler.get_scale() if scaler else 1.0)
        return {f"{name}_gradient_norm": norm for name, norm in norms.items()}

    def state(self) -> dict[str, Any]:
        """Weights and running means, without those of the teacher."""
        distiller = self.accelerator.unwrap_model(self.distiller).state_dict() if self.distiller is not None else {}
        return {"detector": self.detector.state_dict(), "distiller": distiller}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self.detector.load_state_dict(state["detector"])
        if self.distiller is not None:
            self.accelerator.unwrap_model(self.distiller).load_state_dict(state["distiller"])

    def _detection(self, taps: Taps, batch: Batch) -> dict[str, Tensor]:
        objects, grid = batch.objects, self.config.detector.spec.grid
        return detection_loss(taps.heads, list(objects.boxes), list(objects.labels), grid, self.config.loss)

    def _depth(self, taps: EncoderTaps, batch: Batch) -> dict[str, Tensor]:
        if batch.depth_BNhw is None or taps.depth_BNDhw is None:
            return {}
        return {"depth": self.config.loss.depth * depth_loss(taps.depth_BNDhw, batch.depth_BNhw)}
