"""Writing the synthetic world: a nuScenes dataroot, rendered keyframe by keyframe by a pool of processes."""

import dataclasses
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw

import udx
from udx.data.synth.rig import CAMERA_MOUNTS, LIDAR_MOUNT, LIDAR_PERIOD_S, image_height_px
from udx.data.synth.street import PAVEMENT_END_M, Scene, make_scene
from udx.data.synth.tables import (
    VERSION,
    Annotated,
    KeyframeRecord,
    Recording,
    fixed_tables,
    joined,
    scene_tables,
    visibility_token,
)
from udx.errors import UdxError
from udx.files import lock_file, reason_of, remedy_of, write_json, write_with
from udx.geometry.arrays import FloatArray
from udx.geometry.boxes import points_in_box
from udx.geometry.se3 import inverse, transform_points
from udx.workers import end_with_parent

if TYPE_CHECKING:
    from udx.data.synth.render import Rendering

KEYFRAME_PERIOD_S: Final = 0.5
ANNOTATION_RANGE_M: Final = 60.0
FIRST_TIMESTAMP_US: Final = 1_532_402_927_000_000
SCENE_SPACING_US: Final = 3_600_000_000
CAMERA_JITTER_S: Final = 0.001
JPEG_QUALITY: Final = 90
MAP_CELL_M: Final = 0.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSpec:
    """What world to write.

    ``sweeps`` LiDAR turns before each keyframe are written besides its own, 50 ms apart; the last
    ``val_fraction`` of the scenes, one at least, are the split ``val``.

    Raises:
        UdxError: a number makes no world.
    """

    scenes: int = 10
    samples: int = 20
    seed: int = 0
    sweeps: int = 2
    image_width_px: int = 352
    val_fraction: float = 0.2

    def __post_init__(self) -> None:
        for name, least, most in (
            ("scenes", 2, 10_000),
            ("samples", 1, 400),
            ("seed", 0, 2**63),
            ("sweeps", 0, 9),
            ("image_width_px", 64, 1600),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UdxError(f"a synthetic world has {name} from {least} to {most}, not {value}; choose another")
        if not 0 < self.val_fraction < 1:
            raise UdxError(f"val_fraction must lie between 0 and 1, not {self.val_fraction}; choose another")

    @property
    def names(self) -> list[str]:
        """Names of the scenes."""
        return [f"synth-{number:04d}" for number in range(self.scenes)]

    def splits(self) -> dict[str, list[str]]:
        """Scenes of each split.

        nuscenes-devkit lets no version but trainval be evaluated on the splits named ``train`` and ``val``,
        so that the same scenes are also called ``synth_train`` and ``synth_val``.
        """
        held_out = min(max(1, round(self.scenes * self.val_fraction)), self.scenes - 1)
        train, val = self.names[:-held_out], self.names[-held_out:]
        return {"train": train, "val": val, "synth_train": train, "synth_val": val}

    def timestamp_us(self, scene: int, keyframe: int) -> int:
        """Timestamp of a keyframe's LiDAR."""
        return FIRST_TIMESTAMP_US + scene * SCENE_SPACING_US + round(keyframe * KEYFRAME_PERIOD_S * 1e6)


def write_world(
    out: Path,
    spec: WorldSpec,
    *,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    wait: bool = False,
) -> None:
    """Write a dataroot of version ``v1.0-synth``.

    The world grows in a hidden folder beside ``out`` and gets its name when it is complete; called again
    with the same spec after an interruption, the keyframes that are there already are kept.

    Args:
        out: folder to make; it may exist if it is empty.
        spec: what to write; the same spec gives the same bytes on the same kind of device.
        device: where to render: ``cpu``, or ``cuda``, where one process renders everything.
        workers: processes on the CPU; all of its cores by default.
        progress: called with the number of keyframes written and of all keyframes.
        wait: while another process writes ``out``, wait for it, and be content with what it has written.

    Raises:
        UdxError: ``out`` is not empty, cannot be written, or is being written by another process; the device is not
            there; a worker was killed.
    """
    out = out.resolve()
    _require_vacant(out)
    _require_device(device)
    growing = out.with_name(f".{out.name}.part")
    told = progress or (lambda done, total: None)

    def watch() -> None:
        told(_count_done(growing), spec.scenes * spec.samples)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(out.with_name(f".{out.name}.lock"), wait=watch if wait else None) as held:
            if not held:
                raise UdxError(
                    f"another process is writing {out}; wait until it has finished, or choose another folder"
                )
            if wait and _is_occupied(out):
                return
            _require_vacant(out)
            _start_or_resume(growing, spec)
            records = _render_all(growing, spec, device, workers, told)
            _write_tables(growing, spec, records)
            shutil.rmtree(growing / "keyframes")
            (growing / "spec.json").unlink()
            growing.replace(out)
    except OSError as error:
        raise UdxError(f"cannot write {out}: {reason_of(error)}; {remedy_of(error)}") from error
    except BrokenExecutor as error:
        raise UdxError(
            f"a process that renders {out} was killed, most often for want of memory; "
            "run the same command again with fewer workers and it goes on from there"
        ) from error


def _is_occupied(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _require_vacant(out: Path) -> None:
    if _is_occupied(out):
        raise UdxError(f"{out} exists and is not an empty folder; remove it or choose another")


def _count_done(growing: Path) -> int:
    """How many keyframes another process has rendered."""
    try:
        return sum(1 for path in (growing / "keyframes").iterdir() if path.suffix == ".json")
    except OSError:
        return 0


def _require_device(device: str) -> None:
    import torch

    try:
        usable = torch.device(device).type in ("cpu", "cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UdxError(f"torch cannot use the device {device!r} here; render with device 'cpu'") from error
    if not usable:
        raise UdxError(f"the world is rendered on cpu or cuda, not on {device!r}; choose one of them")


def _start_or_resume(growing: Path, spec: WorldSpec) -> None:
    """Keep an interrupted world of the same spec and the same udx; else start anew."""
    wanted = {"udx": udx.__version__, **dataclasses.asdict(spec)}
    stamp = growing / "spec.json"
    try:
        if json.loads(stamp.read_text(encoding="utf-8")) == wanted:
            return
    except (OSError, ValueError):
        pass
    shutil.rmtree(growing, ignore_errors=True)
    write_json(stamp, wanted)


def _render_all(
    growing: Path, spec: WorldSpec, device: str, workers: int | None, progress: Progress
) -> list[list[KeyframeRecord]]:
    """Render every keyframe of every scene; report progress as they finish."""
    jobs = [(scene, keyframe) for scene in range(spec.scenes) for keyframe in range(spec.samples)]
    render = functools.partial(_render_keyframe, growing, spec, device)
    records: list[KeyframeRecord] = []
    with _executor(device, workers, len(jobs)) as executor:
        results = executor.map(render, jobs) if executor else map(render, jobs)
        for record in results:
            records.append(record)
            progress(len(records), len(jobs))
    return [records[start : start + spec.samples] for start in range(0, len(jobs), spec.samples)]


@contextmanager
def _executor(device: str, workers: int | None, jobs: int) -> Iterator[Executor | None]:
    """A pool of single-threaded processes; none on a GPU and for one worker."""
    count = min(workers or len(os.sched_getaffinity(0)), jobs)
    if device != "cpu" or count == 1:
        yield None
        return
    executor = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_be_a_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _be_a_worker() -> None:
    """One thread each, Ctrl-C is the parent's business, and no worker outlives it."""
    end_with_parent()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@functools.lru_cache(maxsize=2)
def _scene(spec: WorldSpec, scene: int) -> Scene:
    return make_scene(np.random.default_rng([spec.seed, scene]), (spec.samples - 1) * KEYFRAME_PERIOD_S)


@functools.lru_cache(maxsize=2)
def _renderer(spec: WorldSpec, scene: int, device: str) -> Any:
    from udx.data.synth.render import Renderer

    return Renderer(_scene(spec, scene), image_width_px=spec.image_width_px, sweeps=spec.sweeps, device=device)


def _render_keyframe(growing: Path, spec: WorldSpec, device: str, job: tuple[int, int]) -> KeyframeRecord:
    """Write one keyframe's files and return its records; a keyframe that is complete already is only read."""
    number, keyframe = job
    done = growing / "keyframes" / f"{number}-{keyframe}.json"
    recordings = _recordings(spec, number, keyframe)
    if not done.exists():
        _write_keyframe(growing, spec, device, job, recordings, done)
    seen = json.loads(done.read_text(encoding="utf-8"))
    return KeyframeRecord(
        timestamp_us=spec.timestamp_us(number, keyframe),
        recordings=recordings,
        annotated=_annotated(_scene(spec, number), keyframe * KEYFRAME_PERIOD_S, seen),
    )


def _recordings(spec: WorldSpec, number: int, keyframe: int) -> tuple[Recording, ...]:
    """The files of one keyframe: its LiDAR turn, the turns before it from the latest, the cameras."""
    scene, name = _scene(spec, number), spec.names[number]
    rng = np.random.default_rng([spec.seed, number, keyframe])
    fired = [(LIDAR_MOUNT.channel, -turn * LIDAR_PERIOD_S) for turn in range(1 + spec.sweeps)]
    fired += [(mount.channel, mount.delay_s + rng.uniform(-1, 1) * CAMERA_JITTER_S) for mount in CAMERA_MOUNTS]
    height, width = image_height_px(spec.image_width_px), spec.image_width_px
    recordings = []
    for index, (channel, delay_s) in enumerate(fired):
        timestamp = spec.timestamp_us(number, keyframe) + round(delay_s * 1e6)
        is_lidar, is_key = channel == LIDAR_MOUNT.channel, index not in range(1, 1 + spec.sweeps)
        folder, ending = "samples" if is_key else "sweeps", "pcd.bin" if is_lidar else "jpg"
        pose = scene.global_T_scene @ scene.scene_T_ego(_scene_time_s(spec, number, timestamp))
        recordings.append(
            Recording(
                channel=channel,
                filename=f"{folder}/{channel}/{name}__{channel}__{timestamp}.{ending}",
                timestamp_us=timestamp,
                global_T_ego=pose,
                is_key_frame=is_key,
                height_px=0 if is_lidar else height,
                width_px=0 if is_lidar else width,
            )
        )
    return tuple(recordings)


def _scene_time_s(spec: WorldSpec, number: int, timestamp_us: int) -> float:
    return (timestamp_us - spec.timestamp_us(number, 0)) * 1e-6


def _write_keyframe(
    growing: Path,
    spec: WorldSpec,
    device: str,
    job: tuple[int, int],
    recordings: tuple[Recording, ...],
    done: Path,
) -> None:
    """Render one keyframe, write its files, and last the counts that mark it complete."""
    from udx.data.synth.render import Moments

    number, keyframe = job
    times = [_scene_time_s(spec, number, recording.timestamp_us) for recording in recordings]
    turns = 1 + spec.sweeps
    moments = Moments(lidar_s=tuple(times[:turns]), cameras_s=tuple(times[turns:]))
    seed = int(np.random.default_rng([spec.seed, number, keyframe]).integers(2**62))
    rendering: Rendering = _renderer(spec, number, device).render(moments, seed)
    for recording in recordings:
        (growing / recording.filename).parent.mkdir(parents=True, exist_ok=True)
    # Written in place: whatever is half there has no record of its counts, and is rendered again.
    for recording, points in zip(recordings[:turns], rendering.sweeps, strict=True):
        points.tofile(growing / recording.filename)
    for recording, image in zip(recordings[turns:], rendering.images_NHW3, strict=True):
        Image.fromarray(image).save(growing / recording.filename, "JPEG", quality=JPEG_QUALITY)
    inside = _lidar_points(_scene(spec, number), times[0], rendering.sweeps[0][:, :3].astype(np.float64))
    seen = {"points": inside, "pixels": rendering.pixels_A.tolist(), "covered": rendering.covered_A.tolist()}
    write_json(done, seen)


def _lidar_points(scene: Scene, time_s: float, points_M3: FloatArray) -> list[int]:
    """Points of the keyframe's sweep inside each actor's box."""
    in_scene = transform_points(scene.scene_T_ego(time_s) @ LIDAR_MOUNT.ego_T_sensor, points_M3)
    in_scene = in_scene[np.argsort(in_scene[:, 0])]  # so that a box need only look at the slab it stands in
    counts = []
    for actor, scene_T_actor in zip(scene.actors, scene.actor_poses(time_s), strict=True):
        length, width, height = actor.model.size_lwh_m
        reach = (length + width) / 2
        first, last = np.searchsorted(in_scene[:, 0], scene_T_actor[0, 3] + np.array([-reach, reach]))
        in_box = transform_points(inverse(scene_T_actor), in_scene[first:last])
        counts.append(int(points_in_box(in_box, np.array([0, 0, height / 2, length, width, height, 0, 0, 0])).sum()))
    return counts


def _annotated(scene: Scene, time_s: float, seen: dict[str, list[int]]) -> tuple[Annotated, ...]:
    """Annotate, as nuScenes does, every actor within range that at least one LiDAR point falls in."""
    ego = scene.scene_T_ego(time_s)[:2, 3]
    annotated = []
    for number, (actor, scene_T_actor) in enumerate(zip(scene.actors, scene.actor_poses(time_s), strict=True)):
        if not seen["points"][number] or np.linalg.norm(scene_T_actor[:2, 3] - ego) > ANNOTATION_RANGE_M:
            continue
        length, width, height = actor.model.size_lwh_m
        global_T_box = scene.global_T_scene @ scene_T_actor
        global_T_box[2, 3] += height / 2
        annotated.append(
            Annotated(
                actor=number,
                category=actor.model.category,
                attribute=actor.attribute,
                global_T_box=global_T_box,
                size_wlh_m=(width, length, height),
                lidar_points=seen["points"][number],
                visibility=visibility_token(seen["pixels"][number], seen["covered"][number]),
            )
        )
    return tuple(annotated)


def _write_tables(growing: Path, spec: WorldSpec, records: list[list[KeyframeRecord]]) -> None:
    """Write maps, tables and splits."""
    parts = [fixed_tables(spec.image_width_px)]
    for number, (name, keyframes) in enumerate(zip(spec.names, records, strict=True)):
        filename = f"maps/{name}.png"
        mask = _map_mask(_scene(spec, number), (spec.samples - 1) * KEYFRAME_PERIOD_S)
        write_with(growing / filename, lambda path, mask=mask: mask.save(path, "PNG"))  # type: ignore[misc]
        parts.append(scene_tables(spec.seed, name, filename, keyframes))
    for table, rows in joined(parts).items():
        write_json(growing / VERSION / f"{table}.json", rows)
    write_json(growing / VERSION / "splits.json", spec.splits())


def _map_mask(scene: Scene, duration_s: float) -> Image.Image:
    """Drivable surface and pavements as nuScenes' binary mask: 0.1 m a pixel, the origin at the bottom left."""
    s = np.linspace(*scene.extent_m(duration_s), 400)
    left, right = (scene.road.to_scene(s, np.full_like(s, side * PAVEMENT_END_M)) for side in (1, -1))
    outline = np.concatenate([left, right[::-1]])
    outline[:, 2] = 0
    pixels = transform_points(scene.global_T_scene, outline)[:, :2] / MAP_CELL_M
    width, height = (int(size) + round(20 / MAP_CELL_M) for size in pixels.max(axis=0))
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).polygon([(x, height - y) for x, y in pixels.tolist()], fill=255)
    return mask
