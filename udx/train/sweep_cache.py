"""The sweep cache: all sweeps that a keyframe is trained with as one file, already in its BEV frame.

Reading and moving ten sweeps is most of what a LiDAR sample costs; both are done once, ever. A file is named by the
digest of what it was made of, so a sweep or a pose that has changed is simply not found and read anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from udx.data.frame import KeyFrame, Sweep
from udx.data.load import read_sweeps
from udx.data.spec import POINT_FEATURES
from udx.errors import UdxError
from udx.files import write_with
from udx.geometry.arrays import Float32Array

FORMAT: Final = "udx-sweeps/1"


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
        path = self.folder / f"{_digest_of(keyframe.sweeps[:sweeps])}.safetensors"
        remembered = _stored(path, min(sweeps, len(keyframe.sweeps)))
        if remembered is not None:
            return remembered
        found = read_sweeps(keyframe, sweeps)
        if found:
            tensors = {"points_M5": np.concatenate(found), "counts_S": np.array([len(one) for one in found])}
            write_with(path, lambda partial: save_file(tensors, partial))
        return found


def _digest_of(sweeps: Sequence[Sweep]) -> str:
    digest = hashlib.sha256(FORMAT.encode())
    for sweep in sweeps:
        try:
            stat = sweep.path.stat()
        except OSError as error:
            raise UdxError(f"sweep {sweep.path} cannot be read ({error.strerror}); restore it") from error
        digest.update(f"\n{sweep.path.name} {stat.st_size} {stat.st_mtime_ns} {sweep.age_s!r} ".encode())
        digest.update(np.ascontiguousarray(sweep.ego_T_lidar, np.float64).tobytes())
    return digest.hexdigest()


def _stored(path: Path, sweeps: int) -> Sequence[Float32Array] | None:
    """What a file of the cache holds; ``None`` if it is not there or is none."""
    try:
        tensors = load_file(path)
        points, counts = tensors["points_M5"], tensors["counts_S"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = points.dtype == np.float32 and points.shape[1:] == (len(POINT_FEATURES),) and counts.shape == (sweeps,)
    if not whole or (counts < 0).any() or counts.sum() != len(points):
        return None
    return [points[begin:end] for begin, end in pairwise(accumulate(counts.tolist(), initial=0))]
