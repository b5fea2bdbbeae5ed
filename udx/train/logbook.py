"""What a training says while it runs: ``log.jsonl``, TensorBoard, and how both are read and taken up again."""

import json
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import torch

from udx.data.evaluation import Metrics
from udx.errors import UdxError
from udx.geometry.arrays import ByteArray
from udx.train.event_file import EventFile
from udx.train.run import Run

FLUSH_EVERY_S: Final = 10.0


class LogBook:
    """One line a step in ``log.jsonl``, and the same figures for TensorBoard.

    ``at``: the step and the length of the log that training goes on from; what stands behind belongs to steps that
    are taken again, and is cut off. A log that is shorter than it was, or gone, is gone on with from its last whole
    line: ``lost`` tells of it.

    Raises:
        UdxError: a file cannot be written, as when the disk is full; so does every method.
    """

    def __init__(self, run: Run, *, at: tuple[int, int] = (0, 0)) -> None:
        step, length = at
        self.run, self.flushed_at = run, time.monotonic()
        with self._writing():
            self.log = open(run.log, "ab" if run.log.is_file() else "wb")  # noqa: SIM115
            self.lost = length - self.log.tell() if self.log.tell() < length else 0
            self.log.truncate(_whole_lines(run.log, min(length, self.log.tell())) if self.lost else length)
            self.board = EventFile(run.folder, purge_step=step)

    def write(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Add a step's figures."""
        line = {"step": step, "epoch": epoch, **figures}
        with self._writing():
            self.log.write((json.dumps(line) + "\n").encode())
            self.log.flush()
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
            if time.monotonic() - self.flushed_at > FLUSH_EVERY_S:
                self.board.flush()
                self.flushed_at = time.monotonic()

    def write_validation(self, step: int, metrics: Metrics, pictures: Mapping[str, ByteArray]) -> None:
        """Add the metrics after a step, and pictures (H, W, 3) by name, for TensorBoard."""
        figures = {"mAP": metrics.mean_ap, "NDS": metrics.nds, **metrics.tp_errors}
        figures |= {f"AP/{name}": value for name, value in metrics.per_class.items()}
        with self._writing():
            for name, value in figures.items():
                self.board.add_scalar(f"val/{name}", value, step)
            for name, picture in pictures.items():
                self.board.add_image(f"val/{name}", picture, step)
            self.board.flush()

    def sync(self) -> int:
        """Bring the log to the disk, so that no state that names its length outlives it; return its bytes so far."""
        with self._writing():
            os.fsync(self.log.fileno())
            return self.log.tell()

    def close(self) -> None:
        """Close the files; what cannot be written any more has been told of before."""
        for file in (self.log, self.board):
            with suppress(OSError):
                file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UdxError(
                f"cannot write the log in {self.run.folder}: {error.strerror or error}; free some space, "
                "and continue with --resume"
            ) from error


def _whole_lines(path: Path, length: int) -> int:
    """Bytes of the whole lines among the first ``length`` bytes."""
    return path.read_bytes()[:length].rfind(b"\n") + 1


def memory_mb() -> float:
    """Peak memory so far: of the device on CUDA, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a run's ``log.jsonl``; an unfinished last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
