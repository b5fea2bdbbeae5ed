"""The thirteen nuScenes tables of a synthetic dataroot, and its splits."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from udx.data.synth.rig import CAMERA_MOUNTS, LIDAR_MOUNT, Mount
from udx.geometry.arrays import FloatArray

Record = dict[str, Any]
Tables = dict[str, list[Record]]

VERSION: Final = "v1.0-synth"
SENSORS: Final[tuple[Mount, ...]] = (LIDAR_MOUNT, *CAMERA_MOUNTS)
CATEGORIES: Final = (
    "vehicle.car",
    "vehicle.truck",
    "vehicle.bus.rigid",
    "vehicle.trailer",
    "vehicle.construction",
    "human.pedestrian.adult",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "movable_object.trafficcone",
    "movable_object.barrier",
)
ATTRIBUTES: Final = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
VISIBILITIES: Final = (("1", "v0-40", 0.4), ("2", "v40-60", 0.6), ("3", "v60-80", 0.8), ("4", "v80-100", 1.0))
"""Token, level, and the largest visible share of the level."""


def token(*names: object) -> str:
    """32 hex digits, the same for the same names: worlds of one seed are equal byte for byte."""
    return hashlib.sha256("/".join(map(str, names)).encode()).hexdigest()[:32]


def visibility_token(pixels: int, covered: int) -> str:
    """Token of the level that holds the share of an object's pixels that nothing hides."""
    share = pixels / covered if covered else 0.0
    return next(name for name, _, most in VISIBILITIES if share <= most)


def quaternion_of(rotation_33: FloatArray) -> list[float]:
    """Unit quaternion (w, x, y, z), w >= 0: the eigenvector for the largest eigenvalue of Bar-Itzhack's matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation_33
    matrix = np.array(
        [
            [xx + yy + zz, 0, 0, 0],
            [zy - yz, xx - yy - zz, 0, 0],
            [xz - zx, xy + yx, yy - xx - zz, 0],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    quaternion = np.linalg.eigh(matrix)[1][:, -1]
    return [float(value) for value in quaternion * (1 if quaternion[0] >= 0 else -1)]


def pose_fields(dst_T_src: FloatArray) -> Record:
    """The ``translation`` and ``rotation`` fields of a pose."""
    return {
        "translation": [float(value) for value in dst_T_src[:3, 3]],
        "rotation": quaternion_of(dst_T_src[:3, :3]),
    }


def fixed_tables(image_width_px: int) -> Tables:
    """The tables that are the same for every scene."""
    sensors, calibrated = [], []
    for mount in SENSORS:
        camera = mount if mount in CAMERA_MOUNTS else None
        sensors.append(
            {
                "token": token("sensor", mount.channel),
                "channel": mount.channel,
                "modality": "camera" if camera else "lidar",
            }
        )
        calibrated.append(
            {
                "token": token("calibrated_sensor", mount.channel),
                "sensor_token": token("sensor", mount.channel),
                "translation": list(mount.translation_m),
                "rotation": list(mount.rotation_wxyz),
                "camera_intrinsic": camera.intrinsic(image_width_px).tolist() if camera else [],
            }
        )
    return {
        "category": [
            {"token": token("category", name), "name": name, "description": "", "index": index}
            for index, name in enumerate(CATEGORIES)
        ],
        "attribute": [{"token": token("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES],
        "visibility": [{"token": name, "level": level, "description": ""} for name, level, _ in VISIBILITIES],
        "sensor": sensors,
        "calibrated_sensor": calibrated,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One file of a sensor: when it was taken, and the ego pose ``global_T_ego`` at that moment."""

    channel: str
    filename: str
    timestamp_us: int
    global_T_ego: FloatArray
    is_key_frame: bool
    height_px: int = 0
    width_px: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """One annotation: the actor's number in its scene, its box and what the sensors saw of it."""

    actor: int
    category: str
    attribute: str
    global_T_box: FloatArray
    size_wlh_m: tuple[float, float, float]
    lidar_points: int
    visibility: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeRecord:
    """What the tables need to know of one keyframe."""

    timestamp_us: int
    recordings: tuple[Recording, ...]
    annotated: tuple[Annotated, ...]


@dataclass(slots=True)
class _Chain:
    """Links the records of one chain to their neighbours as they come."""

    records: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> Record:
        record |= {"prev": "", "next": ""}
        if self.records:
            record["prev"] = self.records[-1]["token"]
            self.records[-1]["next"] = record["token"]
        self.records.append(record)
        return record


def scene_tables(seed: int, name: str, map_filename: str, keyframes: Sequence[KeyframeRecord]) -> Tables:
    """The tables of one scene: its log and map, samples, files, poses, instances and annotations."""
    samples = _Chain()
    files = {mount.channel: _Chain() for mount in SENSORS}
    instances: dict[int, _Chain] = {}
    poses: list[Record] = []
    for number, keyframe in enumerate(keyframes):
        sample = token(seed, name, "sample", number)
        samples.add({"token": sample, "timestamp": keyframe.timestamp_us, "scene_token": token(seed, name)})
        for recording in sorted(keyframe.recordings, key=lambda each: each.timestamp_us):
            data = _sample_data(token(seed, recording.filename), sample, recording)
            files[recording.channel].add(data)
            poses.append(
                {"token": data["token"], "timestamp": recording.timestamp_us, **pose_fields(recording.global_T_ego)}
            )
        for annotated in keyframe.annotated:
            annotation = _annotation(token(seed, name, number, annotated.actor), sample, annotated)
            annotation["instance_token"] = token(seed, name, "instance", annotated.actor)
            instances.setdefault(annotated.actor, _Chain()).add(annotation)
    categories = {each.actor: each.category for keyframe in keyframes for each in keyframe.annotated}
    log = token(seed, name, "log")
    return {
        "scene": [
            {
                "token": token(seed, name),
                "log_token": log,
                "nbr_samples": len(keyframes),
                "first_sample_token": samples.records[0]["token"],
                "last_sample_token": samples.records[-1]["token"],
                "name": name,
                "description": "synthetic street",
            }
        ],
        "log": [{"token": log, "logfile": name, "vehicle": "synth", "date_captured": "2018-07-24", "location": name}],
        "map": [
            {
                "token": token(seed, name, "map"),
                "category": "semantic_prior",
                "filename": map_filename,
                "log_tokens": [log],
            }
        ],
        "sample": samples.records,
        "sample_data": [record for chain in files.values() for record in chain.records],
        "ego_pose": poses,
        "instance": [_instance(categories[actor], chain.records) for actor, chain in instances.items()],
        "sample_annotation": [record for chain in instances.values() for record in chain.records],
    }


def _sample_data(name: str, sample: str, recording: Recording) -> Record:
    return {
        "token": name,
        "sample_token": sample,
        "ego_pose_token": name,
        "calibrated_sensor_token": token("calibrated_sensor", recording.channel),
        "timestamp": recording.timestamp_us,
        "fileformat": "jpg" if recording.width_px else "pcd",
        "is_key_frame": recording.is_key_frame,
        "height": recording.height_px,
        "width": recording.width_px,
        "filename": recording.filename,
    }


def _annotation(name: str, sample: str, annotated: Annotated) -> Record:
    return {
        "token": name,
        "sample_token": sample,
        "visibility_token": annotated.visibility,
        "attribute_tokens": [token("attribute", annotated.attribute)] if annotated.attribute else [],
        **pose_fields(annotated.global_T_box),
        "size": list(annotated.size_wlh_m),
        "num_lidar_pts": annotated.lidar_points,
        "num_radar_pts": 0,
    }


def _instance(category: str, annotations: Sequence[Record]) -> Record:
    return {
        "token": annotations[0]["instance_token"],
        "category_token": token("category", category),
        "nbr_annotations": len(annotations),
        "first_annotation_token": annotations[0]["token"],
        "last_annotation_token": annotations[-1]["token"],
    }


def joined(parts: Iterable[Tables]) -> Tables:
    """All records of several sets of tables, table by table."""
    tables: Tables = {}
    for part in parts:
        for name, records in part.items():
            tables.setdefault(name, []).extend(records)
    return tables
