"""A step that gave no finite loss: kept with all that it was computed from, and computed again to find out why."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from udx.errors import UdxError
from udx.files import write_with
from udx.models.detector import Detector, DetectorInputs
from udx.models.outline import outline_detector, without_pretrained
from udx.train.acceleration import make_accelerator
from udx.train.batch import Batch
from udx.train.checkpoint import CheckpointRecord, load_strictly, require_same_shapes
from udx.train.learner import Learner
from udx.train.objects import Objects
from udx.train.rng import restore_rng
from udx.train.run import Run
from udx.train.state import save_tensors
from udx.train.teaching import Teaching, begin_teaching

FORMAT: Final = "udx-broken-step/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """A step as it was before it was taken: ``learner`` is ``Learner.state()``, ``rng`` the generators' state.

    ``step`` counts from 0, ``steps`` is how many there are; ``student_mAP`` is what the teacher was held against.
    """

    record: CheckpointRecord
    step: int
    steps: int
    batch: Batch
    learner: Mapping[str, Any]
    rng: Mapping[str, Any]
    student_mAP: float | None

    def save(self, path: Path) -> None:
        """Write everything into one file."""
        plain = {
            "format": FORMAT,
            "record": self.record.to_json(),
            **{name: getattr(self, name) for name in ("step", "steps", "learner", "rng", "student_mAP")},
            "batch": dataclasses.asdict(self.batch),
        }
        write_with(path, lambda partial: save_tensors(plain, partial))

    @classmethod
    def read(cls, path: Path) -> "Breakage":
        """Read what ``save`` wrote; nothing in it is unpickled but tensors.

        Raises:
            UdxError: there is no such file, or it is damaged or of another kind.
        """
        try:
            plain = torch.load(path, map_location="cpu", weights_only=True)
            assert plain.pop("format") == FORMAT
            batch, record = plain.pop("batch"), CheckpointRecord.from_json(plain.pop("record"), path)
            return cls(record=record, batch=_batch_of(batch), **plain)
        except UdxError:
            raise
        except Exception as error:  # torch.load has no narrower promise
            raise UdxError(f"{path} holds no broken step that can be read ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of a step that was computed again.

    ``losses``: every term; ``weights``: parameters that were not finite before the step; ``module``: the first one
    whose output is not finite; ``gradients``: parameters whose gradients are not, if the loss itself is.
    """

    step: int
    tokens: list[str]
    losses: dict[str, float]
    weights: list[str]
    module: str | None
    gradients: list[str]

    def to_json(self) -> dict[str, Any]:
        """The fields; a term that is not finite is its name, as JSON has no number for it."""
        plain = dataclasses.asdict(self)
        losses = {name: value if math.isfinite(value) else str(value) for name, value in self.losses.items()}
        return plain | {"losses": losses}

    def lines(self) -> list[str]:
        """Say it in sentences."""
        said = [f"step {self.step} of the keyframes {', '.join(self.tokens)}"]
        said += [f"  {name} {value:.6g}" for name, value in self.losses.items()]
        if self.weights:
            said.append(f"weights that were not finite before the step: {_some(self.weights)}")
        if self.module:
            said.append(f"the first output that is not finite is that of {self.module}")
        if self.gradients:
            said.append(f"gradients that are not finite: {_some(self.gradients)}")
        if not (self.weights or self.module or self.gradients):
            said.append("everything is finite here: it depends on the machine, or on how the processes divide the work")
        return said


def broken_file(run: Run) -> Path:
    """The newest broken step of a run.

    Raises:
        UdxError: there is none.
    """
    files = sorted(run.broken.glob("*.pt"))
    if not files:
        raise UdxError(f"{run.folder} has no broken step to replay: its loss was finite whenever it was trained")
    return files[-1]


def replay(run: Run) -> Replay:
    """Compute the last broken step of a run again, on this machine and in one process.

    Raises:
        UdxError: there is no such step, or its teacher is gone.
    """
    broken = Breakage.read(broken_file(run))
    config = broken.record.config
    accelerator = make_accelerator(config.train.precision)
    require_same_shapes(
        outline_detector(config.detector, str(broken_file(run))), broken.learner["detector"], broken_file(run)
    )
    detector = Detector(without_pretrained(config.detector))
    teaching = _teaching(broken, detector, accelerator.device)
    load_strictly(detector, broken.learner["detector"], broken_file(run))
    learner = Learner(detector, teaching, config, broken.steps, accelerator)
    learner.restore(broken.learner)
    weights = [name for name, weight in detector.named_parameters() if not bool(weight.isfinite().all())]
    learner.train()
    restore_rng(dict(broken.rng))
    with _first_not_finite(detector) as found:
        terms = learner(broken.batch.to(accelerator.device), broken.step)
    gradients: list[str] = []
    if bool(terms.total.isfinite()):
        accelerator.backward(terms.total)
        named = {name: weight.grad for name, weight in detector.named_parameters()}
        gradients = [name for name, its in named.items() if its is not None and not bool(its.isfinite().all())]
    return Replay(
        step=broken.step + 1,
        tokens=broken.batch.tokens,
        losses={name: float(loss.detach()) for name, loss in terms.losses.items()},
        weights=weights,
        module=next(iter(found), None),
        gradients=gradients,
    )


def _teaching(broken: Breakage, detector: Detector, device: torch.device) -> Teaching | None:
    teacher = broken.record.teacher
    if teacher is None:
        return None
    return begin_teaching(
        Run(Path(teacher.run)),
        detector,
        broken.record.config,
        [],
        student_mAP=broken.student_mAP,
        cache=None,
        device=device,
        warn=lambda sentence: None,
    )


@contextmanager
def _first_not_finite(module: nn.Module) -> Iterator[list[str]]:
    """Yield the names of the innermost modules, in the order that they run, whose output is not finite."""
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and not bool(output.isfinite().all()):
            found.append(name)

    leaves = [(name, leaf) for name, leaf in module.named_modules() if not list(leaf.children())]
    hooks = [leaf.register_forward_hook(lambda _, __, output, name=name: look(name, output)) for name, leaf in leaves]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _batch_of(plain: dict[str, Any]) -> Batch:
    teacher_inputs = plain.pop("teacher_inputs")
    return Batch(
        inputs=DetectorInputs(**plain.pop("inputs")),
        teacher_inputs=DetectorInputs(**teacher_inputs) if teacher_inputs else None,
        objects=Objects(**plain.pop("objects")),
        **plain,
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
