"""From the tables of a nuScenes dataroot to keyframes. Nothing is decoded here."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from udx.data.dataroot import Dataroot
from udx.data.frame import Annotations, KeyFrame, Sweep
from udx.data.official import CATEGORIES, predefined_splits
from udx.data.spec import CAMERAS, LIDAR
from udx.data.tables import SCHEMA, faults, intrinsic_fault, is_inside, is_text, stream_records
from udx.errors import UdxError, first_line
from udx.files import read_json
from udx.geometry import BOX_SIZE, CLASSES, CameraRig
from udx.geometry.arrays import FloatArray
from udx.geometry.se3 import from_quaternion, inverse, transform_points

if TYPE_CHECKING:
    from nuscenes import NuScenes

Record = Mapping[str, Any]

MAX_TABLE_BYTES: Final = 4 * 2**30
"""nuScenes' largest table has 1.6 GB."""


def find_version(root: Path, version: str | None = None) -> str:
    """Return ``version``, or the name of the only ``v1.0-*`` folder of ``root``.

    Raises:
        UdxError: there is no such folder, or there are several and none was named.
    """
    if not root.is_dir():
        raise UdxError(f"the dataroot {root} is not a folder; check the path")
    found = sorted(folder.name for folder in root.glob("v1.0-*") if folder.is_dir())
    if not found:
        raise UdxError(
            f"{root} is no dataroot of nuScenes: it has no folder v1.0-… of tables; check the path, or unpack the "
            "metadata archive there"
        )
    listing = ", ".join(found)
    if version is None:
        if len(found) != 1:
            raise UdxError(f"{root} holds several versions: {listing}; name one with --version")
        return found[0]
    if not (root / version).is_dir():
        raise UdxError(f"{root} has no version {version!r}; it has: {listing}")
    return version


def has_devkit() -> bool:
    """Whether nuscenes-devkit is installed."""
    try:
        return importlib.util.find_spec("nuscenes") is not None
    except ModuleNotFoundError:
        return False


def open_dataroot(root: Path, version: str | None = None) -> "NuScenes | Dataroot":
    """Open a dataroot silently: with the devkit, or where it is not installed with udx's own reader.

    Raises:
        UdxError: the dataroot, the version or a table is missing, or the tables contradict each other.
    """
    version = find_version(root, version)
    for table in SCHEMA:
        path = root / version / f"{table}.json"
        if not path.is_file():
            raise UdxError(f"the table {path} is missing; restore it or unpack the metadata archive again")
    for path in (root / version).glob("*.json"):  # the devkit opens some that are no table of ``SCHEMA``
        if not path.is_file():
            raise UdxError(f"{path} is no file; remove it, or unpack the metadata archive again")
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise UdxError(f"{path} is larger than {MAX_TABLE_BYTES >> 30} GiB: not a table udx reads; restore it")
    _require_maps_inside(root / version / "map.json", root)
    try:
        if not has_devkit():
            return Dataroot(root, version)
        from nuscenes import NuScenes

        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except UdxError:
        raise
    except Exception as error:  # the devkit assumes that tables are right
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UdxError(
            f"the tables in {root / version} cannot be loaded ({reason}); {_check_hint(root, version)}"
        ) from error


def _check_hint(root: Path | str, version: str) -> str:
    return f"`udx data check {root} --version {version}` names each bad record"


def _require_maps_inside(table: Path, root: Path) -> None:
    """Keep the devkit from opening files elsewhere."""
    try:
        for record in stream_records(table):
            name = record.get("filename")
            if not (is_text(name) and (not name or is_inside(name))):
                raise UdxError(f"map {_token_of(record)} names a file that is not inside {root}; correct the record")
    except (OSError, ValueError) as error:
        raise UdxError(f"the table {table} cannot be read ({first_line(error)}); restore it") from error


def _token_of(record: Record) -> str:
    return str(record.get("token"))[:100]


def custom_splits(nusc: "NuScenes | Dataroot") -> dict[str, tuple[str, ...]]:
    """Scene names by split from ``splits.json`` beside the tables; empty if there is no such file.

    Raises:
        UdxError: the file is not a JSON object of lists of names.
    """
    path = Path(nusc.dataroot) / nusc.version / "splits.json"
    if not path.is_file():
        return {}
    splits = read_json(path)
    if not isinstance(splits, dict):
        raise UdxError(f"{path} must be a JSON object from split to scene names, not a {type(splits).__name__}")
    for split, scenes in splits.items():
        if not (isinstance(scenes, list) and all(isinstance(scene, str) for scene in scenes)):
            raise UdxError(f"split {split!r} in {path} must be a list of scene names; correct it")
    return {split: tuple(scenes) for split, scenes in splits.items()}


def scenes_of_split(nusc: "NuScenes | Dataroot", split: str) -> tuple[str, ...]:
    """Scene names of a split that the dataroot holds, in the split's order.

    ``splits.json`` beside the tables wins over the devkit's predefined splits: a dataset with its own
    scenes may call them ``train`` and ``val``.

    Raises:
        UdxError: the split is unknown or has no scene here, or ``splits.json`` names an unknown scene.
    """
    held = {_sound("scene", scene)["name"] for scene in nusc.scene}
    custom, predefined = custom_splits(nusc), _predefined_splits(held)
    if split in custom:
        unknown = [scene for scene in custom[split] if scene not in held]
        if unknown:
            path = Path(nusc.dataroot) / nusc.version / "splits.json"
            raise UdxError(f"split {split!r} in {path} names {unknown[0]!r}, which is not in scene.json; correct it")
        scenes = custom[split]
    else:
        scenes = tuple(scene for scene in predefined.get(split, ()) if scene in held)
    if not scenes:
        here = [name for name, names in (predefined | custom).items() if held.intersection(names)]
        problem = "is empty here" if split in custom or split in predefined else "is unknown"
        listing = ", ".join(sorted(here)) or "none"
        raise UdxError(f"split {split!r} {problem}; {nusc.dataroot} ({nusc.version}) has scenes of: {listing}")
    return scenes


def load_keyframes(
    source: "NuScenes | Dataroot | Path", split: str, cameras: tuple[str, ...] = CAMERAS, max_sweeps: int = 10
) -> tuple[KeyFrame, ...]:
    """Read all keyframes of a split, scene after scene, each in the order of time.

    A keyframe holds up to ``max_sweeps`` LiDAR sweeps, its own first; fewer at the start of a scene.

    Args:
        source: an open dataroot, or the path of one that holds a single version.
        split: a predefined split or one of ``splits.json``.
        cameras: channels of the rig, in this order.
        max_sweeps: LiDAR sweeps of a keyframe at most.

    Raises:
        UdxError: the split is unknown or empty, or a record is missing or holds an impossible value.
    """
    nusc = open_dataroot(source) if isinstance(source, Path) else source
    rank = {scene: index for index, scene in enumerate(scenes_of_split(nusc, split))}
    scene_of = {scene["token"]: scene["name"] for scene in nusc.scene}
    samples = [sample for sample in _samples(nusc) if scene_of.get(sample["scene_token"]) in rank]
    if not samples:
        raise UdxError(f"split {split!r} of {nusc.dataroot} has no sample; check scene.json and sample.json")
    samples.sort(key=lambda sample: (rank[scene_of[sample["scene_token"]]], sample["timestamp"]))
    tables = _Tables(nusc)
    return tuple(_keyframe(tables, sample, cameras, max_sweeps) for sample in samples)


def _samples(nusc: "NuScenes | Dataroot") -> list[Record]:
    return [_sound("sample", sample) for sample in nusc.sample]


def keyframe_of(
    nusc: "NuScenes | Dataroot", token: str, cameras: tuple[str, ...] = CAMERAS, max_sweeps: int = 10
) -> KeyFrame:
    """Read the one keyframe whose token begins with ``token``.

    Raises:
        UdxError: there is none or more than one, or a record of it is missing or holds an impossible value.
    """
    found = [sample for sample in _samples(nusc) if sample["token"].startswith(token)]
    if len(found) != 1:
        like = f", as {nusc.sample[0]['token']}" if nusc.sample else ""
        raise UdxError(
            f"{len(found)} keyframes of {nusc.dataroot} have a token that begins with {token!r}; "
            f"give one whole token of sample.json{like}"
        )
    return _keyframe(_Tables(nusc), found[0], cameras, max_sweeps)


def _sound(table: str, record: Record) -> Record:
    """Hold a record to the schema.

    Raises:
        UdxError: a field is missing, or holds what no such field can.
    """
    for _, fault in faults(table, record):
        raise UdxError(f"{table} {_token_of(record)}: {fault}; correct the record")
    return record


def _predefined_splits(held: set[str]) -> dict[str, tuple[str, ...]]:
    if not has_devkit():
        return predefined_splits(held)
    from nuscenes.utils.splits import create_splits_scenes

    return {split: tuple(scenes) for split, scenes in create_splits_scenes().items()}


class _Tables:
    """The records of an open dataroot, each held to the schema when it is first looked at."""

    def __init__(self, nusc: "NuScenes | Dataroot") -> None:
        self.nusc, self.root = nusc, Path(nusc.dataroot)
        self._sound: set[tuple[str, str]] = set()

    def get(self, table: str, token: str) -> Record:
        """Look a record up.

        Raises:
            UdxError: there is none, or it is not what the schema says.
        """
        try:
            record: Record = self.nusc.get(table, token)
        except KeyError as error:
            raise UdxError(
                f"{table}.json has no record {token!r} that another table refers to; repair the tables"
            ) from error
        if (table, token) not in self._sound:
            _sound(table, record)
            self._sound.add((table, token))
        return record

    def pose(self, table: str, token: str) -> FloatArray:
        """Transform from the frame of an ego pose or sensor to the one that it is given in."""
        record = self.get(table, token)
        return from_quaternion(record["rotation"], record["translation"])

    def global_T_sensor(self, record: Record) -> FloatArray:
        """Pose of a sensor at its own timestamp: every record has its own ego pose."""
        return self.pose("ego_pose", record["ego_pose_token"]) @ self.pose(
            "calibrated_sensor", record["calibrated_sensor_token"]
        )

    def path_of(self, record: Record) -> Path:
        """File of a ``sample_data`` record; the schema keeps it inside the dataroot."""
        path: Path = self.root / record["filename"]
        return path


def _keyframe(tables: _Tables, sample: Record, cameras: tuple[str, ...], max_sweeps: int) -> KeyFrame:
    for channel in (LIDAR, *cameras):
        if channel not in sample["data"]:
            raise UdxError(f"sample {sample['token']} has no {channel} key frame in sample_data; repair the tables")
    lidar = tables.get("sample_data", sample["data"][LIDAR])
    views = [tables.get("sample_data", sample["data"][camera]) for camera in cameras]
    global_T_ego = tables.pose("ego_pose", lidar["ego_pose_token"])
    ego_T_global = inverse(global_T_ego)
    return KeyFrame(
        token=sample["token"],
        scene=tables.get("scene", sample["scene_token"])["name"],
        timestamp_us=lidar["timestamp"],
        image_paths=tuple(tables.path_of(view) for view in views),
        rig=CameraRig(
            names=cameras,
            intrinsics_N33=np.array([_intrinsics(tables, view) for view in views]).reshape(-1, 3, 3),
            ego_T_cam_N44=np.array([ego_T_global @ tables.global_T_sensor(view) for view in views]).reshape(-1, 4, 4),
        ),
        sweeps=tuple(
            Sweep(
                path=tables.path_of(sweep),
                ego_T_lidar=ego_T_global @ tables.global_T_sensor(sweep),
                age_s=(lidar["timestamp"] - sweep["timestamp"]) * 1e-6,
            )
            for sweep in _sweeps(tables, lidar, max_sweeps)
        ),
        global_T_ego=global_T_ego,
        annotations=_annotations(tables, sample["anns"], ego_T_global),
    )


def _sweeps(tables: _Tables, lidar: Record, max_sweeps: int) -> Iterable[Record]:
    yield lidar
    for _ in range(max_sweeps - 1):
        if not lidar["prev"]:
            return
        lidar = tables.get("sample_data", lidar["prev"])
        if lidar["channel"] != LIDAR:
            raise UdxError(f"sample_data {lidar['token']} comes before a {LIDAR} sweep, but is none; repair its links")
        yield lidar


def _intrinsics(tables: _Tables, view: Record) -> FloatArray:
    token = view["calibrated_sensor_token"]
    matrix = tables.get("calibrated_sensor", token)["camera_intrinsic"]
    fault = intrinsic_fault(matrix)
    if fault:
        raise UdxError(f"calibrated_sensor {token}: camera_intrinsic {fault}; correct the record")
    return np.array(matrix, dtype=np.float64)


def _annotations(tables: _Tables, tokens: list[str], ego_T_global: FloatArray) -> Annotations:
    """Boxes of the detection classes, brought to the BEV frame with the full rotation."""
    annotated = [tables.get("sample_annotation", token) for token in tokens]
    for record in annotated:
        _require_one_attribute(tables, record)
    labels = [_label(record) for record in annotated]
    kept = [(record, label) for record, label in zip(annotated, labels, strict=True) if label is not None]
    if not kept:
        return Annotations.none()
    records = [record for record, _ in kept]
    velocity_N3 = np.array([_velocity(tables, record) for record in records]) @ ego_T_global[:3, :3].T
    heading_N3 = _headings(np.array([record["rotation"] for record in records])) @ ego_T_global[:3, :3].T
    boxes_N9 = np.empty((len(records), BOX_SIZE))
    boxes_N9[:, :3] = transform_points(ego_T_global, np.array([record["translation"] for record in records]))
    boxes_N9[:, 3:6] = np.array([record["size"] for record in records])[:, [1, 0, 2]]  # nuScenes: w, l, h
    boxes_N9[:, 6] = np.arctan2(heading_N3[:, 1], heading_N3[:, 0])
    boxes_N9[:, 7:] = velocity_N3[:, :2]
    return Annotations(
        boxes_N9=boxes_N9,
        labels_N=np.array([label for _, label in kept], np.int64),
        num_points_N=np.array([record["num_lidar_pts"] + record["num_radar_pts"] for record in records], np.int64),
    )


def _require_one_attribute(tables: _Tables, annotation: Record) -> None:
    attributes = annotation["attribute_tokens"]
    if len(attributes) > 1:
        raise UdxError(
            f"sample_annotation {annotation['token']} has {len(attributes)} attributes, and nuScenes' evaluation "
            "takes one; remove the others"
        )
    for token in attributes:
        tables.get("attribute", token)


def _velocity(tables: _Tables, annotation: Record) -> FloatArray:
    """Velocity in the global frame, m/s; NaN if the neighbours in time do not tell it."""
    for neighbour in (annotation["prev"], annotation["next"]):
        if neighbour:
            tables.get("sample", tables.get("sample_annotation", neighbour)["sample_token"])
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity: FloatArray = tables.nusc.box_velocity(annotation["token"])
    return velocity if np.isfinite(velocity).all() else np.full(3, np.nan)


def _label(annotation: Record) -> int | None:
    """Label of a box; ``None`` for nuScenes' categories that belong to no detection class."""
    category = annotation["category_name"]
    if not isinstance(category, str) or category not in CATEGORIES:
        raise UdxError(
            f"sample_annotation {annotation['token']} is of the category {str(category)[:100]!r}, which nuScenes does "
            "not have; correct its name in category.json"
        )
    name = CATEGORIES[category]
    return None if name is None else CLASSES.index(name)


def _headings(rotation_N4: FloatArray) -> FloatArray:
    """Where unit quaternions (w, x, y, z) turn the x axis (N, 3)."""
    w, x, y, z = (rotation_N4 / np.linalg.norm(rotation_N4, axis=1, keepdims=True)).T
    return np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=-1)
