"""Run directories: where everything of one training stands, and how runs are found."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from udx.errors import UdxError
from udx.files import read_json

if TYPE_CHECKING:
    from udx.train.checkpoint import CheckpointRecord

RUNS: Final = Path("runs")
BEST: Final = "best"


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory: ``config.json``, ``log.jsonl``, ``checkpoint.safetensors``, ``state.pt``, ``metrics.json``.

    Beside them, where the recipe asks for it: ``epochs`` with the metrics and weights of single epochs, and ``best``,
    which is itself a run directory. ``broken`` holds steps that could not be taken.
    """

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, data, teacher and start."""
        return self.folder / "config.json"

    @property
    def log(self) -> Path:
        """One JSON object a step."""
        return self.folder / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Weights and their record."""
        return self.folder / "checkpoint.safetensors"

    @property
    def state(self) -> Path:
        """Everything that resuming needs; removed nowhere, so that a finished run can be told from a broken one."""
        return self.folder / "state.pt"

    @property
    def metrics(self) -> Path:
        """``{"mAP", "NDS", "per_class", "tp_errors"}`` on the validation split; written when training has ended."""
        return self.folder / "metrics.json"

    @property
    def best(self) -> "Run":
        """Checkpoint and metrics of the epoch with the best NDS, as a run of their own."""
        return Run(self.folder / BEST)

    @property
    def broken(self) -> Path:
        """Folder of the batches that gave no finite loss, with all that is needed to compute it again."""
        return self.folder / "broken"

    def metrics_of(self, epoch: int) -> Path:
        """The metrics after an epoch, which count from 1."""
        return self.folder / "epochs" / f"{epoch:03}.json"

    def checkpoint_of(self, epoch: int) -> Path:
        """The weights after an epoch; only the newest are kept."""
        return self.folder / "epochs" / f"{epoch:03}.safetensors"

    def read_metrics(self) -> dict[str, Any] | None:
        """The metrics, or ``None`` before the evaluation.

        Raises:
            UdxError: the file is damaged: mAP or NDS is no share.
        """
        if not self.metrics.is_file():
            return None
        metrics = read_json(self.metrics)
        if not isinstance(metrics, dict):
            raise UdxError(f"{self.metrics} does not hold metrics; remove it and evaluate the run again")
        for name in ("mAP", "NDS"):
            value = metrics.get(name, 0.0)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise UdxError(f"{self.metrics} has {name} {value!r:.40}, which is no share; evaluate the run again")
        return metrics

    def record(self) -> "CheckpointRecord":
        """The record of the checkpoint."""
        from udx.train.checkpoint import read_checkpoint  # with torch, which listing runs does not need

        return read_checkpoint(self.checkpoint)[0]


def finished_runs(runs: Path = RUNS) -> list[Run]:
    """Runs below a folder that have been trained and evaluated, the newest first."""
    metrics = sorted(runs.glob("**/metrics.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = [Run(path.parent) for path in metrics if path.parent.name != BEST]
    return [run for run in found if run.checkpoint.is_file()]


def newest_run(modality: str, runs: Path = RUNS) -> Run:
    """The newest finished run of a student of this modality.

    Raises:
        UdxError: there is none.
    """
    for run in finished_runs(runs):
        if run.record().config.detector.spec.modality == modality:
            return run
    raise UdxError(
        f"there is no finished run of a {modality} detector in {runs}; train one: udx train --student {modality}"
    )


def git_commit() -> str:
    """Commit that the running code stands at, with ``+`` if it was changed since; ``unknown`` outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
