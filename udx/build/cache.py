"""Engines and timings that were paid for once, in a folder of the user's own: never served for another key."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from udx.config import to_plain
from udx.errors import UdxError
from udx.files import write_json, write_with
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.plan_file import EngineKey, PlanFile, PlanRecord, read_plan, record_path

PLAN: Final = "engine.plan"


@dataclass(frozen=True, slots=True)
class EngineCache:
    """Plans in folders named by their keys' hashes; the least recently used go when ``limit_bytes`` are exceeded."""

    folder: Path
    limit_bytes: int = 8 * 2**30

    def timings(self, tensorrt: str, device: CudaDevice) -> Path:
        """File for what TensorRT measures of its kernels; TensorRT itself refuses that of another GPU or version."""
        gpu = "".join(letter if letter.isalnum() else "-" for letter in device.name)
        return self.folder / "timings" / f"tensorrt-{tensorrt}-{gpu}-{device.arch}.cache"

    def find(self, key: EngineKey) -> PlanFile | None:
        """The plan of exactly this key, if it is there and whole."""
        path = self._path(key)
        try:
            found = read_plan(path)
        except UdxError:  # absent, damaged or of another version: it will be built and stored anew
            return None
        if found.record.key != key:
            return None
        with suppress(OSError):  # a cache that cannot be written can still be read
            os.utime(path)
        return found

    def store(self, plan: Path, record: PlanRecord) -> None:
        """Keep a plan, then make room.

        Raises:
            UdxError: the folder cannot be written.
        """
        deliver(plan, record, self._path(record.key))
        self._make_room(keep=self._path(record.key))

    def _path(self, key: EngineKey) -> Path:
        return self.folder / "engines" / key.digest[:32] / PLAN

    def _make_room(self, keep: Path) -> None:
        plans = [(path.stat(), path) for path in (self.folder / "engines").glob(f"*/{PLAN}")]
        total = sum(stat.st_size for stat, _ in plans)
        for stat, path in sorted(plans, key=lambda item: item[0].st_mtime_ns):
            if total > self.limit_bytes and path != keep:
                shutil.rmtree(path.parent, ignore_errors=True)
                total -= stat.st_size


def deliver(plan: Path, record: PlanRecord, to: Path) -> None:
    """Copy a plan to a path and write its record beside it: first the plan, so that a record never promises too much.

    Raises:
        UdxError: the files cannot be written.
    """
    write_with(to, lambda partial: shutil.copyfile(plan, partial))
    write_json(record_path(to), to_plain(record))
