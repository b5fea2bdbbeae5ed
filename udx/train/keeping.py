"""What a training leaves on the disk: state and checkpoint, those of single epochs, and the best."""

import dataclasses
import shutil
from collections.abc import Mapping
from typing import Any

from torch import nn

from udx.config import to_plain
from udx.errors import UdxError
from udx.files import write_json
from udx.train.checkpoint import CheckpointRecord, save_checkpoint
from udx.train.lock import LOCK
from udx.train.run import Run
from udx.train.state import identity_of, read_state, write_state


def require_free(run: Run, *, resume: bool) -> None:
    """Refuse a folder that holds something, unless it is a run to resume.

    Raises:
        UdxError: the folder is not empty.
    """
    if resume and run.state.is_file():
        return
    # A run that broke off before its first checkpoint has nothing to lose: resuming it begins anew.
    broke_off_early = run.config.is_file() and not run.state.exists() and not run.checkpoint.exists()
    taken = run.folder.exists() and any(path.name != LOCK for path in run.folder.iterdir())
    if taken and not (resume and broke_off_early):
        raise UdxError(f"{run.folder} holds a run already; continue it with --resume, or choose another --out")


class Keeper:
    """Writes into one run directory; every file is written whole or stays as it was."""

    def __init__(self, run: Run, record: CheckpointRecord, samples_per_step: int) -> None:
        self.run, self.record = run, record
        self.identity = identity_of(record, samples_per_step)

    def begin(self, *, resume: bool) -> dict[str, Any] | None:
        """Return the state that training goes on from, or ``None`` if it begins anew.

        Raises:
            UdxError: the folder holds a run that is not to be resumed, or one of another configuration.
        """
        require_free(self.run, resume=resume)
        return read_state(self.run.state, self.identity) if resume and self.run.state.is_file() else None

    def describe(self) -> None:
        """Write the configuration."""
        self.run.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.run.config, to_plain(self.record))

    def save(self, state: dict[str, Any], detector: nn.Module) -> None:
        """Write the state for resuming, then the checkpoint."""
        write_state(self.run.state, self.identity, state)
        save_checkpoint(self.run.checkpoint, detector, self._record_at(state["step"]))

    def save_epoch(self, epoch: int, step: int, detector: nn.Module, keep: int) -> None:
        """Write the weights after an epoch, and remove those of all but the last ``keep``."""
        if keep:
            save_checkpoint(self.run.checkpoint_of(epoch), detector, self._record_at(step))
        kept = {self.run.checkpoint_of(last) for last in range(epoch - keep + 1, epoch + 1)}
        for path in self.run.checkpoint_of(epoch).parent.glob("*.safetensors"):
            if path not in kept:
                path.unlink()

    def save_metrics(self, epoch: int, step: int, metrics: Mapping[str, Any]) -> None:
        """Write what an evaluation after an epoch found."""
        write_json(self.run.metrics_of(epoch), {"epoch": epoch, "step": step, **metrics})

    def save_best(self, epoch: int, step: int, detector: nn.Module, metrics: Mapping[str, Any]) -> None:
        """Write weights and metrics of the best epoch so far."""
        best = self.run.best
        save_checkpoint(best.checkpoint, detector, self._record_at(step))
        write_json(best.config, to_plain(self._record_at(step)))
        write_json(best.metrics, {"epoch": epoch, **metrics})

    def require_space(self, num_bytes: int) -> None:
        """Make sure before training that so many bytes can be written.

        Raises:
            UdxError: the disk has not as much space left.
        """
        folder = self.run.folder.absolute()
        free = shutil.disk_usage(next(at for at in (folder, *folder.parents) if at.exists())).free
        if free < num_bytes:
            raise UdxError(
                f"the disk of {self.run.folder} has {free / 2**30:.1f} GiB left, checkpoint and state need "
                f"{num_bytes / 2**30:.1f}: free some space or choose another --out"
            )

    def _record_at(self, step: int) -> CheckpointRecord:
        return dataclasses.replace(self.record, step=step)
