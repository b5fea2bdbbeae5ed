"""LiDAR sweeps: read, brought to the BEV frame through the car's motion, and fitted to a buffer."""

import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.data.frame import Sweep
from udx.data.spec import POINT_FEATURES
from udx.errors import UdxError, first_line
from udx.geometry.arrays import Float32Array, FloatArray
from udx.geometry.se3 import transform_points

SWEEP_COLUMNS: Final = 5
"""x, y, z in the sensor's frame (m), intensity (0 to 255), ring: little-endian float32 in a ``.pcd.bin``."""
POINT_BYTES: Final = 4 * SWEEP_COLUMNS
MAX_SWEEP_BYTES: Final = 2**28
MAX_POINTS: Final = 10**7
"""Points of a sweep, and of all sweeps of a keyframe: a LiDAR gives some hundred thousand in a turn."""
MAX_INTENSITY: Final = 255.0
OWN_VEHICLE_M: Final = 1.0


def read_sweep(path: Path) -> Float32Array:
    """Read the points (M, 5) of a sweep: x, y, z in the sensor's frame, intensity, ring.

    A file that ends in ``.npy``, in letters of any case, is NumPy's, of M × 4 (without ring, which is 0 then) or M × 5
    numbers; any other is as nuScenes has them (``.pcd.bin``). Points with NaN or an infinity are left out.

    Raises:
        UdxError: the file is missing, too large, holds no whole number of points, or more than ``MAX_POINTS``.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UdxError(f"sweep {path} is no file; restore it or unpack its archive")
        if state.st_size > MAX_SWEEP_BYTES:
            raise UdxError(f"sweep {path} is larger than {MAX_SWEEP_BYTES >> 20} MiB: not a file udx reads")
        points = _read_npy(path) if is_npy(path) else _read_binary(path, state.st_size)
    except OSError as error:
        raise UdxError(f"sweep {path} cannot be read ({error.strerror}); restore it or unpack its archive") from error
    finite: Float32Array = points[np.isfinite(points).all(axis=1)]
    return finite


def is_npy(path: Path) -> bool:
    """Whether a file is NumPy's by its name."""
    return path.suffix.lower() == ".npy"


def require_few(what: str, points: int) -> None:
    """Hold a number of points to ``MAX_POINTS``, before memory is taken for them.

    Raises:
        UdxError: there are more.
    """
    if points > MAX_POINTS:
        raise UdxError(f"{what} holds {points} points, more than the {MAX_POINTS} that udx reads; thin them out")


def _read_binary(path: Path, size: int) -> Float32Array:
    if size == 0 or size % POINT_BYTES:
        raise UdxError(
            f"sweep {path} has {size} bytes, not a multiple of {POINT_BYTES}: it is cut off; "
            "restore it from its archive"
        )
    require_few(f"sweep {path}", size // POINT_BYTES)
    points = np.fromfile(path, dtype="<f4", count=size // 4)
    if points.nbytes != size:
        raise UdxError(f"sweep {path} became shorter while it was read; try again")
    return points.reshape(-1, SWEEP_COLUMNS).astype(np.float32, copy=False)


def _read_npy(path: Path) -> Float32Array:
    """NumPy's files may say anything of themselves; mapping one into memory holds it to its size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that NumPy reads, but finds old
            stored: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    except OSError:
        raise
    except Exception as error:  # what hostile headers raise is not documented
        raise UdxError(
            f"sweep {path} is no whole .npy file ({first_line(error)}); save it again with numpy.save"
        ) from error
    columns = stored.shape[1] if stored.ndim == 2 else 0
    if stored.dtype.kind not in "fiu" or columns not in (SWEEP_COLUMNS - 1, SWEEP_COLUMNS) or not len(stored):
        raise UdxError(
            f"sweep {path} holds {stored.dtype} {list(stored.shape)}, not x, y, z, intensity and perhaps ring of one "
            "point or more; save it again"
        )
    require_few(f"sweep {path}", len(stored))
    points = np.zeros((len(stored), SWEEP_COLUMNS), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what single precision cannot hold is left out as infinite
        points[:, :columns] = stored
    return points


def on_own_vehicle(points: Float32Array) -> NDArray[np.bool_]:
    """Mask of returns from the car itself: |x| and |y| below 1 m in the sensor's frame, at any height."""
    mask: NDArray[np.bool_] = (np.abs(points[:, :2]) < OWN_VEHICLE_M).all(axis=1)
    return mask


def in_bev_frame(sweep: Sweep) -> Float32Array:
    """Points (M, 5) of a sweep in the keyframe's BEV frame (``POINT_FEATURES``), without those on the car itself.

    A sweep comes in through its own pose, so what stands still in the world stands still in the points of several.

    Raises:
        UdxError: the sweep's file is missing or damaged.
    """
    raw = read_sweep(sweep.path)
    raw = raw[~on_own_vehicle(raw)]
    points = np.empty((len(raw), len(POINT_FEATURES)), np.float32)
    points[:, :3] = _moved(sweep.ego_T_lidar, raw)
    points[:, 3] = np.clip(raw[:, 3] / MAX_INTENSITY, 0, 1)
    points[:, 4] = sweep.age_s
    reached = np.isfinite(points[:, :3]).all(axis=1)  # what is too far for single precision is off every grid
    return points if reached.all() else points[reached]


def accumulate(sweeps_M5: Iterable[Float32Array], new_T_ego: FloatArray) -> Float32Array:
    """All points (M, 5) of sweeps in the BEV frame, one after the other, moved by ``new_T_ego``."""
    points: Float32Array = np.concatenate([np.empty((0, len(POINT_FEATURES)), np.float32), *sweeps_M5])
    if not np.array_equal(new_T_ego, np.eye(4)):
        points[:, :3] = _moved(new_T_ego, points)
    return points


def _moved(new_T_old: FloatArray, points_M5: Float32Array) -> Float32Array:
    with np.errstate(over="ignore"):
        moved: Float32Array = transform_points(new_T_old, points_M5[:, :3].astype(np.float64)).astype(np.float32)
    return moved


def fit_to(points_M5: Float32Array, capacity: int) -> Float32Array:
    """Keep at most ``capacity`` points: the newest sweeps whole, and of the one that does not fit, an even sample.

    Which points stay depends on their values alone, never on their order: they are ranked by age and then by
    a hash of their bits.
    """
    if len(points_M5) <= capacity:
        return points_M5
    order = np.lexsort((_hash_of(points_M5), points_M5[:, 4]))
    kept: Float32Array = points_M5[np.sort(order[:capacity])]
    return kept


def _hash_of(points_M5: Float32Array) -> NDArray[np.uint64]:
    """64-bit FNV-1a over the words of each point, finished with splitmix64's mixer to spread the low bits up."""
    words = np.ascontiguousarray(points_M5).view(np.uint32).astype(np.uint64)
    state = np.full(len(words), 0xCBF29CE484222325, np.uint64)
    for column in words.T:
        state = (state ^ column) * np.uint64(0x100000001B3)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
