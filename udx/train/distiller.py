"""From a teacher to a student: weighs and balances the objectives, and owns what they train or remember."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.errors import UdxError
from udx.models.taps import EncoderTaps, Taps
from udx.processes import mean_over_processes
from udx.train.averages import RunningMean
from udx.train.losses import EPS
from udx.train.methods import DistillationConfig
from udx.train.objectives import Lesson, Objective, Objects, Pair

Lessons = Mapping[str, Lesson]
"""What all objectives keep of the teacher for one sample, by the objective's name."""


class DistillationTerms(NamedTuple):
    """What the distiller adds to the detection loss, term by term, and the raw losses behind it (detached)."""

    weighted: dict[str, Tensor]
    raw: dict[str, Tensor]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum to add to the detection loss."""
        return torch.stack(list(self.weighted.values())).sum()


class Distiller(nn.Module):
    """Weighs objectives between two detectors, whatever their sensors.

    Holds neither of the detectors: its parameters, which the optimiser must get beside the student's, are those of
    the adapters; its buffers are running means. So a student's checkpoint never carries any of it.

    With balance ``share`` a term of weight w is scaled by ``w · mean detection loss / mean raw loss``, both running
    means over the steps whose batch has boxes, without gradient: on average it contributes the share w of the
    detection loss, whatever the scale of the maps and however far training has come. The detection loss is that of the
    heads; the cameras' depth, where it is supervised, is not in it.

    Raises:
        UdxError: the two detectors cannot be compared with this config.
    """

    def __init__(self, config: DistillationConfig, pair: Pair) -> None:
        super().__init__()
        used = {name: objective for name, objective in config.objectives.items() if objective.weight}
        self.weights = {name: objective.weight for name, objective in used.items()}
        self.objectives = nn.ModuleDict({name: objective.build(pair) for name, objective in used.items()})
        self.ramp = config.ramp
        self.means = RunningMean((1 + len(used),), decay=config.ema_decay) if config.balance == "share" else None
        if config.encoder_first and not self._of_encoder():
            raise UdxError(
                f"encoder_first {config.encoder_first} needs a loss that looks at the encoder alone, as 'feature'; "
                f"of {', '.join(used)} none does: raise its weight, or set encoder_first to 0"
            )

    @torch.no_grad()
    def read(self, teacher: Taps, objects: Objects) -> list[Lessons]:
        """Keep of the teacher's taps what the objectives need, sample by sample."""
        by_objective = {name: objective.read(teacher, objects) for name, objective in self._named()}
        return [{name: its[sample] for name, its in by_objective.items()} for sample in range(len(objects.boxes))]

    def forward(
        self,
        student: EncoderTaps,
        lessons: Sequence[Lessons],
        objects: Objects,
        detection_loss: Float[Tensor, ""] | None,
        progress: float,
    ) -> DistillationTerms:
        """Compare the student with the lessons of one batch; the detection loss is detached.

        Without a detection loss the sensor encoder learns alone: its objectives are all that is compared, and there
        is nothing to balance them against. ``progress`` through training in [0, 1] drives the warm-up of the weights.
        """
        assert 0 <= progress <= 1, progress
        compared = self._of_encoder() if detection_loss is None else self._named()
        losses = {
            name: objective(student, [lesson[name] for lesson in lessons], objects) for name, objective in compared
        }
        raw = {name: loss.detach() for name, loss in losses.items()}
        if detection_loss is None:
            return DistillationTerms({name: self.weights[name] * loss for name, loss in losses.items()}, raw)
        if self.means is not None and self.training:
            # Batches without boxes are left out of both means: there the raw losses are 0, and say nothing.
            # A process whose own batch has none counts where another's has some: the batch is that of all together.
            has_boxes = detection_loss.new_tensor(float(any(len(its) for its in objects.boxes)))
            observed = mean_over_processes(torch.stack([detection_loss.detach(), *raw.values(), has_boxes]))
            self.means.observe(observed[:-1], bool(observed[-1] > 0))
        factors = self._factors(progress)
        return DistillationTerms({name: factors[name] * loss for name, loss in losses.items()}, raw)

    def _named(self) -> list[tuple[str, Objective]]:
        return list(self.objectives.items())  # type: ignore[arg-type]

    def _of_encoder(self) -> list[tuple[str, Objective]]:
        return [(name, objective) for name, objective in self._named() if objective.of_encoder]

    def _factors(self, progress: float) -> dict[str, Tensor | float]:
        """Ramp, weight and balance of each term."""
        ramp = min(1.0, progress / self.ramp) if self.ramp else 1.0
        ramped = {name: ramp * weight for name, weight in self.weights.items()}
        if self.means is None:
            return dict(ramped)
        detection, *raw = self.means.value.unbind()
        # EPS lets a term go to sleep where teacher and student agree, instead of magnifying rounding errors.
        return {
            name: weight * detection / (mean + EPS) for (name, weight), mean in zip(ramped.items(), raw, strict=True)
        }


class FrozenTeacher:
    """A detector that teaches: in eval mode and without gradient at every call, on CUDA in half precision.

    It is no ``nn.Module``, so whatever module holds it registers none of its parameters: they reach neither the
    optimiser nor a checkpoint, and ``train()`` on the holder cannot wake its batch norms.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector.requires_grad_(False).eval()
        self.device = next(detector.parameters()).device

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Taps:
        """Run the detector; ``train()`` called on it elsewhere is undone."""
        with _half_precision(self.device):
            taps: Taps = self.detector.eval()(*inputs)
        return taps


def _half_precision(device: torch.device) -> AbstractContextManager[Any]:
    """BF16 where the GPU computes in it natively, else FP16; on the CPU whatever training runs in."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16)
