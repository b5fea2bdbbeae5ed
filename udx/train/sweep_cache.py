"""The sweep cache: all sweeps that a keyframe is trained with as one file, already in its BEV frame.

Reading and moving ten sweeps is most of what a LiDAR sample costs; both are done once, ever. A file is named by the
digest of what it was made of, so a sweep or a pose that has changed is simply not found and read anew. It holds a
SHA-256 of its name and its content, which is checked whenever it is read.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from udx.data.frame import KeyFrame, Sweep
from udx.data.load import read_sweeps
from udx.data.spec import POINT_FEATURES
from udx.errors import UdxError
from udx.files import read_bytes, write_with
from udx.geometry.arrays import Float32Array

FORMAT: Final = "udx-sweeps/2"
MAX_FILE_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class SweepCache:
    """A ``ReadSweeps`` that remembers in a folder; what it gives back is bit by bit what was read.

    Any number of processes may use a folder at the same time. A file that is damaged is written anew.
    """

    folder: Path

    def __call__(self, keyframe: KeyFrame, sweeps: int) -> Sequence[Float32Array]:
        """Read up to so many sweeps of a keyframe, from the cache if they are there.

        Raises:
            UdxError: a sweep's file is missing or damaged, or the cache cannot be written.
        """
        key = _digest_of(keyframe.sweeps[:sweeps])
        path = self.folder / f"{key}.safetensors"
        remembered = _stored(path, key, min(sweeps, len(keyframe.sweeps)))
        if remembered is not None:
            return remembered
        found = read_sweeps(keyframe, sweeps)
        if found:
            points, counts = np.concatenate(found), np.array([len(one) for one in found])
            content = save({"points_M5": points, "counts_S": counts, "sha256": _checksum(key, points, counts)})
            write_with(path, lambda partial: partial.write_bytes(content))
        return found


def _digest_of(sweeps: Sequence[Sweep]) -> str:
    """SHA-256 of what the points of these sweeps depend on: path, size and time of change of each, pose and age."""
    digest = hashlib.sha256(FORMAT.encode())
    for sweep in sweeps:
        try:
            stat = sweep.path.stat()
        except OSError as error:
            raise UdxError(f"sweep {sweep.path} cannot be read ({error.strerror}); restore it") from error
        digest.update(b"\n" + os.fsencode(sweep.path.absolute()))
        digest.update(f" {stat.st_size} {stat.st_mtime_ns} {sweep.age_s!r} ".encode())
        digest.update(np.ascontiguousarray(sweep.ego_T_lidar, np.float64).tobytes())
    return digest.hexdigest()


def _checksum(key: str, points: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.uint8]:
    digest = hashlib.sha256(key.encode())
    digest.update(np.ascontiguousarray(counts).data)
    digest.update(np.ascontiguousarray(points).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _stored(path: Path, key: str, sweeps: int) -> Sequence[Float32Array] | None:
    """What a file of the cache holds; ``None`` if it is not there or is none."""
    try:
        tensors = load(read_bytes(path, MAX_FILE_BYTES))
        points, counts, checksum = tensors["points_M5"], tensors["counts_S"], tensors["sha256"]
        intact = np.array_equal(checksum, _checksum(key, points, counts))
    except Exception:  # what damaged headers raise is not documented
        return None
    whole = points.dtype == np.float32 and points.shape[1:] == (len(POINT_FEATURES),) and counts.shape == (sweeps,)
    if not intact or not whole or (counts < 0).any() or counts.sum() != len(points):
        return None
    return [points[begin:end] for begin, end in pairwise(accumulate(counts.tolist(), initial=0))]
