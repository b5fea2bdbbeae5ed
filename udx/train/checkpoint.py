"""Checkpoints of a detector: weights in safetensors, everything else about them as JSON in its header."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from udx import __version__
from udx.config import from_plain, to_plain
from udx.errors import UdxError
from udx.files import write_with
from udx.geometry import BOX_CONVENTION, CLASSES, CameraRig
from udx.models.detector import Detector
from udx.models.outline import outline_detector, without_pretrained
from udx.ranges import require_range
from udx.train.recipes import RunConfig

FORMAT: Final = "udx-checkpoint/1"
METADATA_KEY: Final = "udx"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRecord:
    """Which teacher a student learned from: the SHA-256 of its checkpoint, and its metrics where they are known."""

    run: str
    modality: str
    checkpoint_sha256: str
    mAP: float | None
    NDS: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """All that is known of a checkpoint's weights: how they were trained, on what, from what, and how far.

    ``rig`` is the calibration of one training keyframe, as ``CameraRig.to_json`` gives it: an example for exports.
    """

    config: RunConfig
    step: int
    data: dict[str, str]
    git_commit: str
    teacher: TeacherRecord | None = None
    start_sha256: str | None = None
    rig: dict[str, Any] | None = None
    udx_version: str = __version__
    classes: tuple[str, ...] = CLASSES
    box_convention: str = BOX_CONVENTION
    format: str = field(default=FORMAT)

    def __post_init__(self) -> None:
        require_range(at_least=0, step=self.step)
        if self.rig is not None:
            CameraRig.from_json(self.rig)  # refuses what is no rig

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(to_plain(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: Path) -> "CheckpointRecord":
        """Read what ``to_json`` wrote.

        Raises:
            UdxError: another format, other classes or another box convention.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UdxError(f"{source} has a damaged record ({error}); train again") from error
        for name, expected in (("format", FORMAT), ("classes", list(CLASSES)), ("box_convention", BOX_CONVENTION)):
            found = plain.get(name) if isinstance(plain, dict) else None
            if found != expected:
                raise UdxError(f"{source} was written with {name} {found!r}, this udx uses {expected!r}; train again")
        return from_plain(cls, plain, str(source))


def save_checkpoint(path: Path, detector: nn.Module, record: CheckpointRecord) -> None:
    """Write weights and record as one file, whole or not at all.

    Raises:
        UdxError: the folder cannot be written, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in detector.state_dict().items()}

    def save(partial: Path) -> None:
        try:
            save_file(tensors, partial, metadata={METADATA_KEY: record.to_json()})
        except SafetensorError as error:
            raise OSError("not all of it could be written, as when the disk is full") from error

    write_with(path, save)


def read_checkpoint(path: Path) -> tuple[CheckpointRecord, dict[str, Tensor]]:
    """Read a checkpoint; nothing in it is unpickled.

    Raises:
        UdxError: the file is missing, damaged, or not a checkpoint of this udx.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UdxError(f"there is no checkpoint {path}; train the run first, or name another with --run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UdxError(f"{path} is not a whole safetensors file ({error}); train again or restore it") from error
    if METADATA_KEY not in metadata:
        raise UdxError(f"{path} is a safetensors file that udx did not write; name a udx run")
    return CheckpointRecord.from_json(metadata[METADATA_KEY], path), tensors


def load_detector(path: Path) -> tuple[Detector, CheckpointRecord]:
    """Build the detector of a checkpoint, with its weights, in eval mode.

    Raises:
        UdxError: see ``read_checkpoint``; or the weights are not those of the recorded configuration.
    """
    record, tensors = read_checkpoint(path)
    # Held to the shapes first: what the file cannot fill takes no memory.
    require_same_shapes(outline_detector(record.config.detector, str(path)), tensors, path)
    # Every weight comes from the checkpoint: a pretrained backbone need not be there any more.
    detector = Detector(without_pretrained(record.config.detector))
    load_strictly(detector, tensors, path)
    return detector.eval(), record


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load weights whose names and shapes all match.

    Raises:
        UdxError: see ``require_same_shapes``.
    """
    require_same_shapes(module, tensors, source)
    module.load_state_dict(tensors)


def require_same_shapes(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Make sure that tensors have the names and shapes of a module's.

    Raises:
        UdxError: a name or shape differs; the first few of each kind are listed.
    """
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differences = {
        "missing": sorted(own.keys() - given.keys()),
        "unknown": sorted(given.keys() - own.keys()),
        "of another shape": sorted(name for name in own.keys() & given.keys() if own[name] != given[name]),
    }
    if any(differences.values()):
        listed = "; ".join(
            f"{len(names)} {kind}, as {', '.join(names[:3])}" for kind, names in differences.items() if names
        )
        raise UdxError(
            f"{source} is a checkpoint of another detector: {listed}; use the recipe that it was trained with"
        )
