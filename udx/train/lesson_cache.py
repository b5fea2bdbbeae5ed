"""The teacher cache: what a teacher taught of each sample, written once, read ever after, never silently stale.

A cache is one folder. ``cache.json`` holds the format and, in the plain, all that the lessons depend on. The lessons
stand in shards, safetensors files named by the SHA-256 of their content; a shard never changes once it is there, so
any number of processes may read and write at the same time.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from udx import __version__
from udx.config import to_plain
from udx.data.frame import KeyFrame
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.files import read_json, sha256_of, write_json, write_with
from udx.geometry.arrays import FloatArray

FORMAT: Final = "udx-lessons/1"
METADATA_KEY: Final = "udx"
KEY_FILE: Final = "cache.json"
SHARD_BYTES: Final = 64 * 2**20
TENSOR_OVERHEAD_BYTES: Final = 256
"""What a tensor takes beside its content: without it, empty tensors would never fill a shard."""
RESOLUTION: Final = 1e-5
"""Metres, radians, pixels, metres a second, seconds: poses and boxes that differ by less are the same."""
SHIFT: Final = 0.3141592653589793
UNKNOWN: Final = -(2.0**62)
MAX_MAPPED: Final = 64
"""Shards that one process keeps mapped; the one that was read the longest ago makes room."""

Address = tuple[int, int]
"""Position in the training set, and number of the replayable augmentation draw (0 without augmentation)."""

Lessons = Mapping[str, Mapping[str, Tensor]]
"""What the objectives keep of the teacher for one sample: name of the objective → name of the tensor → tensor."""

Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""

_SHARD_NAME: Final = re.compile(r"[0-9a-f]{64}\.safetensors")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_TENSOR_NAME: Final = re.compile(rf"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)/({_NAME.pattern}/{_NAME.pattern})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """All that lessons depend on; a cache serves no other key than its own.

    ``teacher_sha256``: of its checkpoint. ``dataset_sha256``: see ``data_digest``. ``augmentation``: the ranges that
    are drawn from, with the seed of the draws; ``None`` without augmentation, and then no seed either, so that one
    cache serves runs of every seed. ``objectives``: by name, the settings under which each reads the teacher, without
    those of the comparison (weight, adapter). ``student`` and ``teacher``: what reading depends on of the two
    detectors, their grids and the strides of their taps. ``precision`` and ``device``: what the teacher computes in
    and on, as both change its last bits.

    Raises:
        ValueError: a digest is not one, a field is not plain JSON, or there is an augmentation without seed or a seed
            without augmentation.
    """

    teacher_sha256: str
    dataset_sha256: str
    augmentation: dict[str, Any] | None
    augmentation_seed: int | None
    objectives: dict[str, Any]
    student: dict[str, Any]
    teacher: dict[str, Any]
    precision: str
    device: str
    udx_version: str = __version__

    def __post_init__(self) -> None:
        for sha256 in (self.teacher_sha256, self.dataset_sha256):
            if not re.fullmatch(r"[0-9a-f]{64}", sha256):
                raise ValueError(f"a SHA-256 has 64 hex digits, unlike {sha256!r}")
        if (self.augmentation is None) != (self.augmentation_seed is None):
            raise ValueError("augmentation and its seed belong together: give both or neither")
        for name in ("augmentation", "objectives", "student", "teacher"):
            _require_plain(name, getattr(self, name))

    @property
    def sha256(self) -> str:
        """Digest of the whole key, as 64 hex digits."""
        return hashlib.sha256(_canonical(to_plain(self)).encode()).hexdigest()


def data_digest(keyframes: Sequence[KeyFrame], spec: SensorSpec, progress: Progress = lambda done, total: None) -> str:
    """SHA-256 of what a teacher with ``spec`` sees of these keyframes, in this order.

    That is tokens, calibration, poses and annotations, to ``RESOLUTION``, and of every image and sweep that it reads
    the name, size and time of change. So a dataroot that was edited or rendered anew has another digest, one that was
    moved or copied with its times has the same.

    Raises:
        UdxError: a file is missing.
    """
    digest = hashlib.sha256()
    for done, keyframe in enumerate(keyframes, 1):
        of_keyframe = hashlib.sha256()
        for part in _seen(keyframe, spec):
            of_keyframe.update(len(part).to_bytes(8, "little") + part)
        digest.update(of_keyframe.digest())
        progress(done, len(keyframes))
    return digest.hexdigest()


class _Place(NamedTuple):
    """Where lessons stand: the shard's path, and their tensors' names without the address."""

    shard: Path
    names: tuple[str, ...]


class _State(NamedTuple):
    """Identity of a file's content as far as the file system tells it: size, time of change, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "_State":
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)


class LessonCache:
    """Lessons by address, in one folder; what comes back is bit by bit what was added.

    Every shard is hashed before anything of it is served: when it is found (``open``, ``refresh``) or written, and
    again by whoever reads it later if the file has changed since. A cache may be given to the workers of a loader,
    forked or spawned: they map the shards for themselves, and take over what is verified, so that they need not hash
    it all again. Lessons that are still in the buffer are not pickled: ``flush`` before workers start.
    """

    def __init__(self, folder: Path, key: CacheKey, shard_bytes: int = SHARD_BYTES) -> None:
        """Know nothing of the folder yet; ``open`` is what callers want."""
        assert shard_bytes > 0, shard_bytes
        self.folder, self.shard_bytes = folder, shard_bytes
        self._stamp = f"{FORMAT} {key.sha256}"
        self._places: dict[Address, _Place] = {}
        self._verified: dict[Path, _State] = {}
        self._mapped: dict[Path, Any] = {}
        self._pending: dict[Address, dict[str, Tensor]] = {}
        self._pending_bytes = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        key: CacheKey,
        *,
        shard_bytes: int = SHARD_BYTES,
        progress: Progress = lambda done, total: None,
    ) -> "LessonCache":
        """Open the cache in ``folder``, or begin one, and verify what it holds; ``progress`` counts shards.

        ``shard_bytes``: size from which on the buffer is written; about twice as much memory is used while it is.

        Raises:
            UdxError: the folder holds lessons of another key or files of another kind, ``cache.json`` or a shard is
                damaged, or the folder cannot be read or written.
        """
        _claim(folder, key)
        cache = cls(folder, key, shard_bytes)
        cache.refresh(progress)
        return cache

    def refresh(self, progress: Progress = lambda done, total: None) -> None:
        """Take up the shards that other processes have written since.

        Raises:
            UdxError: a shard is damaged or of another cache.
        """
        found = [self.folder / name for name in _names_in(self.folder) if _SHARD_NAME.fullmatch(name)]
        new = [path for path in found if path not in self._verified]
        for done, path in enumerate(new, 1):
            self._take_up(path)
            progress(done, len(new))

    def __len__(self) -> int:
        return len(self._places) + len(self._pending)

    def __contains__(self, address: Address) -> bool:
        return address in self._places or address in self._pending

    def missing(self, addresses: Iterable[Address]) -> list[Address]:
        """Those of the addresses that have no lessons yet, in their order."""
        return [address for address in addresses if address not in self]

    def lookup(self, position: int, draw: int = 0) -> Lessons | None:
        """Return the lessons of one sample, ``None`` if there are none yet; the tensors are the caller's own.

        Raises:
            UdxError: their shard has been altered or removed since it was verified.
        """
        address = (position, draw)
        if address in self._pending:
            return _by_objective((name, tensor.clone()) for name, tensor in self._pending[address].items())
        if address not in self._places:
            return None
        path, names = self._places[address]
        shard = self._map(path)
        # What safetensors returns is the mapping itself: a change to it would be served to the next caller.
        return _by_objective((name, shard.get_tensor(_tensor_name(address, name)).clone()) for name in names)

    def add(self, position: int, draw: int, lessons: Lessons) -> None:
        """Keep a copy of one sample's lessons; nothing happens if they are there already.

        Raises:
            UdxError: the buffer is full and cannot be written; it is kept, and written the next time.
            ValueError: a name has characters beside letters, digits and ``_.-``, or there is no tensor to keep.
        """
        address = (position, draw)
        assert position >= 0 and draw >= 0, address
        if address in self:
            return
        kept = {
            f"{_checked(objective)}/{_checked(name)}": _copy(tensor)
            for objective, lesson in lessons.items()
            for name, tensor in lesson.items()
        }
        if not lessons or not all(lessons.values()):
            raise ValueError(f"the lessons of sample {position}, draw {draw}, lack a tensor; keep one that is empty")
        self._pending[address] = kept
        self._pending_bytes += sum(tensor.nbytes + TENSOR_OVERHEAD_BYTES for tensor in kept.values())
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is in the buffer as one shard, whole or not at all.

        Raises:
            UdxError: the folder cannot be written or the disk is full; the buffer is kept.
        """
        if not self._pending:
            return
        content = save(
            {
                _tensor_name(address, name): tensor
                for address, kept in self._pending.items()
                for name, tensor in kept.items()
            },
            metadata={METADATA_KEY: self._stamp},
        )
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        if not path.exists():  # another process may have had the same lessons to write
            write_with(path, lambda partial: partial.write_bytes(content))
        self._take_up(path)
        self._pending, self._pending_bytes = {}, 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}, "_pending": {}, "_pending_bytes": 0}

    def _take_up(self, path: Path) -> None:
        """Verify a shard and note which lessons it holds; of lessons that stand in two shards, the first are kept."""
        self._verify(path)
        with _opened(path) as shard:
            stamp, tensor_names = (shard.metadata() or {}).get(METADATA_KEY), shard.keys()
        if stamp != self._stamp:
            raise UdxError(f"{path} is not a shard of this teacher cache; remove it from the folder")
        names: dict[Address, list[str]] = {}
        for tensor_name in tensor_names:
            match = _TENSOR_NAME.fullmatch(tensor_name)
            if match is None:
                raise UdxError(f"{path} holds {tensor_name!r}, which is no tensor of a lesson; remove it")
            names.setdefault((int(match[1]), int(match[2])), []).append(match[3])
        shared: dict[tuple[str, ...], _Place] = {}  # all lessons of a shard have the same few names
        for address, its in names.items():
            place = shared.setdefault(tuple(its), _Place(path, tuple(its)))
            self._places.setdefault(address, place)

    def _verify(self, path: Path) -> None:
        try:
            # Taken before the file is hashed: a change that comes in between is then found the next time.
            state = _State.of(path)
            if self._verified.get(path) == state:
                return
            intact = sha256_of(path) == path.stem
        except OSError as error:
            raise UdxError(f"cannot read {path}: {error.strerror}; start again, its lessons are made anew") from error
        if not intact:
            raise UdxError(f"{path} is truncated or altered; remove it, and its lessons are made anew")
        self._verified[path] = state

    def _map(self, path: Path) -> Any:
        shard = self._mapped.pop(path, None)
        if shard is None:
            self._verify(path)
            shard = _opened(path)
            while len(self._mapped) >= MAX_MAPPED:
                del self._mapped[next(iter(self._mapped))]
        self._mapped[path] = shard  # as the last one
        return shard


def _claim(folder: Path, key: CacheKey) -> None:
    """Make sure that ``folder`` is a cache of ``key`` and of nothing else."""
    path = folder / KEY_FILE
    names = [name for name in _names_in(folder) if name != KEY_FILE]
    foreign = [name for name in names if not _SHARD_NAME.fullmatch(name)]
    if foreign:
        raise UdxError(f"{folder} holds {foreign[0]}, which is no part of a teacher cache; choose a folder of its own")
    if not path.exists():
        if names:
            raise UdxError(f"{folder} is a teacher cache that has lost its {KEY_FILE}; restore it or remove the folder")
        write_json(path, {"format": FORMAT, "key": to_plain(key)})
    # Read even what was just written: another process may have begun a cache here at the same moment. Should both
    # read their own, the stamps in the shards tell them apart.
    written = read_json(path)
    if not (isinstance(written, dict) and written.get("format") == FORMAT and isinstance(written.get("key"), dict)):
        raise UdxError(f"{path} is damaged or not of the format {FORMAT}; remove the folder {folder}")
    try:
        differing = _differing(written["key"], to_plain(key))
    except RecursionError as error:
        raise UdxError(f"{path} is damaged: it is nested too deeply; remove the folder {folder}") from error
    if differing:
        raise UdxError(
            f"the lessons in {folder} were made with a different {', '.join(differing)}; "
            "choose another folder for the teacher cache, or remove this one"
        )


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Fields in which two keys differ, as words, in the order of the fields."""
    absent = object()
    return [
        name.removesuffix("_sha256").replace("_", " ")
        for name in {**other, **one}
        if one.get(name, absent) is absent
        or other.get(name, absent) is absent
        or _canonical(one[name]) != _canonical(other[name])
    ]


def _names_in(folder: Path) -> list[str]:
    """Names in a folder but the hidden ones: leftovers of interrupted writing, and what file systems put there."""
    try:
        return sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UdxError(f"cannot read the folder {folder}: {error.strerror}; choose another teacher cache") from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UdxError(f"{path} is not a shard of a teacher cache ({error}); remove it") from error


def _tensor_name(address: Address, name: str) -> str:
    position, draw = address
    return f"{position}.{draw}/{name}"


def _by_objective(tensors: Iterable[tuple[str, Tensor]]) -> Lessons:
    lessons: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors:
        objective, name = path.split("/")
        lessons.setdefault(objective, {})[name] = tensor
    return lessons


def _copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU: a slice of a batch would keep the whole batch in memory."""
    assert tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_complex()
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a lesson's names are of letters, digits and '_.-', unlike {name!r}")
    return name


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _require_plain(name: str, value: Any) -> None:
    try:
        same = json.loads(_canonical(value)) == value
    except TypeError as error:
        raise ValueError(f"the cache key's {name} is not plain JSON: {error}") from error
    if not same:
        raise ValueError(f"the cache key's {name} does not survive JSON: use lists for tuples and strings for keys")


def _seen(keyframe: KeyFrame, spec: SensorSpec) -> Iterator[bytes]:
    """What a detector with ``spec`` depends on of a keyframe; only the last kind of parts, sweeps, varies in number."""
    rig, annotations = keyframe.rig, keyframe.annotations
    yield keyframe.token.encode()
    yield json.dumps(rig.names).encode()
    for numbers in (rig.intrinsics_N33, rig.ego_T_cam_N44, keyframe.global_T_ego, annotations.boxes_N9):
        yield _bytes(numbers)
    for counts in (annotations.labels_N, annotations.num_points_N):
        yield counts.astype("<i8").tobytes()
    if spec.camera is not None:
        for name, path in zip(rig.names, keyframe.image_paths, strict=True):
            if name in spec.camera.names:
                yield _file(path)
    if spec.lidar is not None:
        for sweep in keyframe.sweeps[: spec.lidar.sweeps]:
            yield _bytes(sweep.ego_T_lidar)
            yield _bytes(np.array([sweep.age_s]))
            yield _file(sweep.path)


def _bytes(array: FloatArray) -> bytes:
    """Numbers to ``RESOLUTION``: their last bits, which come of products of matrices, differ between processes."""
    known = np.isfinite(array)
    # Shifted, so that round numbers do not lie where the last bit decides which way they are rounded.
    steps = np.rint(np.where(known, array, 0.0) / RESOLUTION + SHIFT)
    return np.where(known, steps, UNKNOWN).astype("<i8").tobytes()


def _file(path: Path) -> bytes:
    try:
        state = _State.of(path)
    except OSError as error:
        raise UdxError(f"cannot read {path}: {error.strerror}; restore it or unpack its archive") from error
    return os.fsencode(path.name) + f" {state.size} {state.mtime_ns}".encode()
