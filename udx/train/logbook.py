"""What a training says while it runs: ``log.jsonl``, TensorBoard, and how both are read and taken up again."""

import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from udx.data.evaluation import Metrics
from udx.geometry.arrays import ByteArray
from udx.train.run import Run


class LogBook:
    """One line a step in ``log.jsonl``, and the same figures for TensorBoard.

    ``at``: the step and the length of the log that training goes on from; what stands behind belongs to steps that
    are taken again, and is cut off.
    """

    def __init__(self, run: Run, *, at: tuple[int, int] = (0, 0)) -> None:
        from torch.utils.tensorboard import SummaryWriter

        step, length = at
        self.log = open(run.log, "ab" if run.log.is_file() else "wb")  # noqa: SIM115
        self.log.truncate(length)
        self.board = SummaryWriter(str(run.folder), purge_step=step)

    def write(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Add a step's figures."""
        line = {"step": step, "epoch": epoch, **figures}
        self.log.write((json.dumps(line) + "\n").encode())
        self.log.flush()
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def write_validation(self, step: int, metrics: Metrics, pictures: Mapping[str, ByteArray]) -> None:
        """Add the metrics after a step, and pictures (H, W, 3) by name, for TensorBoard."""
        figures = {"mAP": metrics.mean_ap, "NDS": metrics.nds, **metrics.tp_errors}
        figures |= {f"AP/{name}": value for name, value in metrics.per_class.items()}
        for name, value in figures.items():
            self.board.add_scalar(f"val/{name}", value, step)
        for name, picture in pictures.items():
            self.board.add_image(f"val/{name}", picture, step, dataformats="HWC")
        self.board.flush()

    @property
    def length(self) -> int:
        """Bytes of the log so far."""
        return self.log.tell()

    def close(self) -> None:
        """Close the files."""
        self.log.close()
        self.board.close()


def memory_mb() -> float:
    """Peak memory so far: of the device on CUDA, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a run's ``log.jsonl``; an unfinished last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
