"""Everything that resuming a training needs, in one file beside the checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from udx.errors import UdxError
from udx.files import write_with
from udx.train.checkpoint import CheckpointRecord

STATE_FORMAT: Final = "udx-state/2"
FREE: Final = (
    *("batch_size", "workers", "compile", "recompute"),
    *("checkpoint_every_s", "gradient_norms_every", "keep_epochs", "pictures"),
)
"""Settings of ``TrainConfig`` that may be others when a training is resumed. The size of a process's batch is one of
them, because the samples of a step over all processes are held to be the same."""


def identity_of(record: CheckpointRecord, samples_per_step: int) -> dict[str, Any]:
    """What must not change until a training is resumed: whatever decides on its steps."""
    identity: dict[str, Any] = json.loads(record.to_json())
    for name in ("git_commit", "step", "udx_version"):
        del identity[name]
    for name in FREE:
        identity["config"]["train"].pop(name, None)
    return identity | {"samples_per_step": samples_per_step}


def write_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a training's state whole; ``identity`` is what must not change until it is resumed."""
    stamped = {"format": STATE_FORMAT, "identity": json.dumps(identity), **state}
    write_with(path, lambda partial: save_tensors(stamped, partial))


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read what ``write_state`` wrote; nothing in it is unpickled but tensors.

    Raises:
        UdxError: the file is damaged, or of a training of another identity.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        assert state["format"] == STATE_FORMAT
        saved = json.loads(state["identity"])
    except Exception as error:  # torch.load has no narrower promise
        raise UdxError(f"{path} cannot be read ({type(error).__name__}); start again with another --out") from error
    changed = sorted(_changed(saved, identity))
    if changed:
        raise UdxError(
            f"{path.parent} was begun with another {changed[0]}; resume it as it was begun, or choose another --out"
        )
    return state


def save_tensors(value: Any, path: Path) -> None:
    """``torch.save`` with an ``OSError`` where the disk is full, for which torch has no name of its own."""
    try:
        torch.save(value, path)
    except RuntimeError as error:
        raise OSError("not all of it could be written, as when the disk is full") from error


def _changed(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the fields in which two configurations differ."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in saved.keys() | now.keys():
            yield from _changed(saved.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif saved != now:
        yield path
