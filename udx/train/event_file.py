"""A file of events for TensorBoard, written by the process itself, so that a full disk is told where it is met.

``SummaryWriter`` writes in a thread of its own: there a failure is a traceback, and nobody hears of it.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from udx.geometry.arrays import ByteArray


class EventFile:
    """Scalars and pictures by step. With ``purge_step``, readers forget what an earlier file has from there on."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        now = time.time()
        name = f"events.out.tfevents.{int(now):010}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._records = RecordWriter(open(folder / name, "wb"))  # noqa: SIM115
        self._event = Event
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        self._write(Event(wall_time=now, step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add one figure."""
        from torch.utils.tensorboard import summary

        self._add(summary.scalar(name, value), step)

    def add_image(self, name: str, picture_HW3: ByteArray, step: int) -> None:
        """Add a picture."""
        from torch.utils.tensorboard import summary

        self._add(summary.image(name, picture_HW3, dataformats="HWC"), step)

    def flush(self) -> None:
        """Let readers see everything."""
        self._records.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._records.close()

    def _add(self, summary: Any, step: int) -> None:
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
