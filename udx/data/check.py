"""Every table, file, pose and box of a dataroot checked; what is wrong is named record by record.

The tables are streamed, and of each record only what later checks need is kept, links as row numbers: the full
dataset is checked in a fraction of the memory that loading it takes, and bad tables cannot crash the check.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.data.images import opened
from udx.data.nuscenes import find_version
from udx.data.official import CATEGORIES
from udx.data.points import POINT_BYTES, read_sweep
from udx.data.spec import LIDAR
from udx.data.tables import SCHEMA, faults, intrinsic_fault, is_inside, is_text, stream_records
from udx.errors import UdxError
from udx.files import read_json, reason_of

Progress = Callable[[str, int, int], None]
"""Told what is being checked, how much of it is done, and how much there is."""
Rows = NDArray[np.int64]

NO_LINK: Final = -1
BAD_LINK: Final = -2
MAX_POSE_AGE_US: Final = 100_000
FILES_AT_ONCE: Final = 256
DECODERS: Final = 8
"""Threads that decode files: each may need 256 MiB for the largest image that udx reads."""
MAX_LINE: Final = 2000
KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "category": ("name",),
    "sensor": ("channel", "modality"),
    "map": ("filename", "log_tokens"),
    "calibrated_sensor": ("sensor_token", "camera_intrinsic"),
    "ego_pose": ("timestamp",),
    "scene": ("name", "nbr_samples", "first_sample_token", "last_sample_token"),
    "sample": ("timestamp", "scene_token", "prev", "next"),
    "instance": ("category_token", "nbr_annotations", "first_annotation_token", "last_annotation_token"),
    "sample_data": (
        "sample_token",
        "ego_pose_token",
        "calibrated_sensor_token",
        "timestamp",
        "is_key_frame",
        "width",
        "height",
        "prev",
        "next",
    ),
    "sample_annotation": ("sample_token", "instance_token", "attribute_tokens", "prev", "next"),
}
"""The fields that checks across records need."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one record, and what to do. ``token`` is empty where a table as a whole is meant."""

    table: str
    token: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.table} {self.token}".rstrip() + f": {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What the check saw: records by table, files opened, and all problems."""

    root: str
    version: str
    records: Mapping[str, int]
    files: int
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, problems as objects with ``table``, ``token``, ``what`` and ``remedy``."""
        return {
            "root": self.root,
            "version": self.version,
            "records": dict(self.records),
            "files": self.files,
            "problems": [asdict(problem) for problem in self.problems],
        }

    def lines(self, limit: int = 20) -> list[str]:
        """Sentences for the terminal: up to ``limit`` problems, and a last line that counts."""
        shown = [str(problem)[:MAX_LINE] for problem in self.problems[:limit]]
        if len(self.problems) > limit:
            shown.append(f"… and {len(self.problems) - limit} more")
        seen = f"{sum(self.records.values())} records in {len(self.records)} tables and {self.files} files"
        count = len(self.problems)
        verdict = f"{count or 'no'} problem{'s' if count > 1 else ''}"
        return [*shown, f"{self.root} ({self.version}): {seen}: {verdict}"]


def check_dataroot(
    root: Path, version: str | None = None, *, files: bool = True, progress: Progress | None = None
) -> CheckReport:
    """Check a dataroot: all tables and their references, poses, boxes, splits, and with ``files`` every file.

    Raises:
        UdxError: there is no such dataroot or version. Everything else that is wrong is in the report.
    """
    version = find_version(root, version)
    check = _Check(root=root, folder=root / version, progress=progress or (lambda *_: None))
    for name in SCHEMA:
        check.tables[name] = _read_table(check, name)
    _check_sensors(check)
    _check_key_frames(check)
    _check_links(check)
    _check_members(check, "scene", "sample", "scene_token", "nbr_samples")
    _check_members(check, "instance", "sample_annotation", "instance_token", "nbr_annotations")
    _check_categories(check)
    _check_maps(check)
    _check_splits(check)
    return CheckReport(
        root=str(root),
        version=version,
        records={name: len(table.row_of) for name, table in check.tables.items()},
        files=_check_files(check) if files else 0,
        problems=tuple(check.problems),
    )


@dataclass(slots=True)
class _Table:
    """What is kept of a table. ``whole`` is false if it could not be read to the end: then absence proves nothing."""

    row_of: dict[str, int] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    whole: bool = True

    def rows(self, name: str) -> Rows:
        """A column of row numbers or whole numbers; what was bad there is ``BAD_LINK``."""
        return np.array([BAD_LINK if value is None else value for value in self.columns[name]], dtype=np.int64)

    def items(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Tokens together with columns."""
        return zip(self.row_of, *(self.columns[name] for name in names), strict=True)


@dataclass(slots=True)
class _Check:
    """A check under way."""

    root: Path
    folder: Path
    progress: Progress
    tables: dict[str, _Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, table: str, token: str, what: str, remedy: str = "correct the record") -> None:
        self.problems.append(Problem(table, token, what, remedy))

    def add_rows(self, table: str, wrong: NDArray[np.bool_], what: str, remedy: str = "correct the record") -> None:
        """Report the records whose flag in ``wrong`` is set."""
        if wrong.any():
            tokens = list(self.tables[table].row_of)
            for row in np.flatnonzero(wrong):
                self.add(table, tokens[row], what, remedy)

    def has(self, *names: str) -> bool:
        """Whether these tables could be read to the end."""
        return all(self.tables[name].whole for name in names)


def _read_table(check: _Check, name: str) -> _Table:
    path = check.folder / f"{name}.json"
    table = _Table(columns={kept: [] for kept in KEPT.get(name, ())})
    try:
        for record in stream_records(path, lambda done, total: check.progress(f"{name}.json", done, total)):
            _read_record(check, name, table, record)
    except FileNotFoundError:
        check.add(name, "", f"the table {path} is missing", "restore it or unpack the metadata archive again")
        table.whole = False
    except (OSError, ValueError) as error:
        check.add(name, "", f"{path} cannot be read: {error}", "restore it or unpack the metadata archive again")
        table.whole = False
    if SCHEMA[name].linked:
        _resolve_links(check, name, table)
    return table


def _read_record(check: _Check, name: str, table: _Table, record: dict[str, Any]) -> None:
    token = record.get("token")
    if not isinstance(token, str) or not token:
        check.add(name, f"(record {len(table.row_of)})", "it has no token")
        return
    if token in table.row_of:
        check.add(name, token, "another record has the same token", "remove one of them")
        return
    table.row_of[token] = len(table.row_of)
    wrong = dict(faults(name, record))
    for what in wrong.values():
        check.add(name, token, what)
    values = {key: record[key] for key in SCHEMA[name].kinds if key not in wrong}
    for key, other in SCHEMA[name].references.items():
        if key in values:
            values[key] = _resolve(check, name, token, key, other, values[key])
    for key, column in table.columns.items():
        column.append(values.get(key))


def _resolve(check: _Check, name: str, token: str, key: str, other: str, value: Any) -> Any:
    """Rows of the records of table ``other`` that ``value`` names; ``None`` for one that does not exist."""
    if isinstance(value, list):
        return [_resolve(check, name, token, key, other, item) for item in value]
    row = check.tables[other].row_of.get(value)
    if row is None and check.tables[other].whole:
        check.add(name, token, f"{key} names {value!r}, which is not in {other}.json", "restore that record")
    return row


def _resolve_links(check: _Check, name: str, table: _Table) -> None:
    """Turn ``prev`` and ``next`` into rows, now that all records are known."""
    for key in ("prev", "next"):
        for row, (token, value) in enumerate(table.items(key)):
            if value == "":
                table.columns[key][row] = NO_LINK
            elif value is not None:
                table.columns[key][row] = table.row_of.get(value)
                if value not in table.row_of and table.whole:
                    check.add(name, token, f"{key} names {value!r}, which is not in {name}.json", "restore that record")


def _check_sensors(check: _Check) -> None:
    """Cameras need a plausible pinhole matrix, and the dataset the LiDAR whose frame all boxes relate to."""
    sensors, calibrations, data = (check.tables[name] for name in ("sensor", "calibrated_sensor", "sample_data"))
    if sensors.whole and LIDAR not in sensors.columns["channel"]:
        check.add("sensor", "", f"there is no channel {LIDAR}", "udx needs that LiDAR: rename yours in sensor.json")
    size_of = dict(zip(data.columns["calibrated_sensor_token"], data.items("width", "height"), strict=True))
    for row, (token, sensor, matrix) in enumerate(calibrations.items("sensor_token", "camera_intrinsic")):
        if sensor is not None and matrix is not None and sensors.columns["modality"][sensor] == "camera":
            _, width, height = size_of.get(row, (token, None, None))
            fault = intrinsic_fault(matrix, width or np.inf, height or np.inf)
            if fault:
                check.add("calibrated_sensor", token, f"camera_intrinsic {fault}")


def _check_key_frames(check: _Check) -> None:
    """Every sample has one key frame of each camera and LiDAR in use, and each record a pose of its own time."""
    if not check.has("sensor", "calibrated_sensor", "ego_pose", "sample", "sample_data"):
        return
    data, sensors = check.tables["sample_data"], check.tables["sensor"]
    pose = data.rows("ego_pose_token")
    taken_us = data.rows("timestamp")
    known = (pose >= 0) & (taken_us >= 0)
    late = np.zeros(len(pose), bool)
    if known.any():
        late[known] = (
            np.abs(check.tables["ego_pose"].rows("timestamp")[pose[known]] - taken_us[known]) > MAX_POSE_AGE_US
        )
    check.add_rows("sample_data", late, f"its ego pose is of a time more than {MAX_POSE_AGE_US // 1000} ms away")

    sample, sensor = data.rows("sample_token"), _sensor_of_data(check)
    key = (data.rows("is_key_frame") == 1) & (sample >= 0) & (sensor >= 0)
    count = np.zeros((len(check.tables["sample"].row_of), len(sensors.row_of)), np.int64)
    np.add.at(count, (sample[key], sensor[key]), 1)
    for column, (_, channel, modality) in enumerate(sensors.items("channel", "modality")):
        if modality in ("camera", "lidar") and (count[:, column].any() or channel == LIDAR):
            check.add_rows("sample", count[:, column] == 0, f"it has no key frame of {channel} in sample_data.json")
        check.add_rows("sample", count[:, column] > 1, f"it has several key frames of {channel} in sample_data.json")


def _sensor_of_data(check: _Check) -> Rows:
    """Row of the sensor of each ``sample_data`` record."""
    return _follow(
        check.tables["sample_data"].rows("calibrated_sensor_token"), check, "calibrated_sensor", "sensor_token"
    )


def _follow(rows: Rows, check: _Check, table: str, column: str) -> Rows:
    """Look ``column`` of ``table`` up at ``rows``; a bad row stays bad."""
    values = np.append(check.tables[table].rows(column), BAD_LINK)  # so that an empty table can be indexed
    return np.where(rows >= 0, values[np.maximum(rows, NO_LINK)], BAD_LINK)


def _check_links(check: _Check) -> None:
    """``prev`` and ``next`` are each other's inverse, go forward in time, and stay with scene, sensor or instance."""
    sample, data, annotation = (check.tables[name] for name in ("sample", "sample_data", "sample_annotation"))
    scene_of_data = _follow(data.rows("sample_token"), check, "sample", "scene_token")
    _check_chain(check, "sample", sample.rows("timestamp"), {"scene": sample.rows("scene_token")})
    _check_chain(
        check, "sample_data", data.rows("timestamp"), {"scene": scene_of_data, "sensor": _sensor_of_data(check)}
    )
    _check_chain(
        check,
        "sample_annotation",
        _follow(annotation.rows("sample_token"), check, "sample", "timestamp"),
        {"instance": annotation.rows("instance_token")},
    )


def _check_chain(check: _Check, name: str, time_us: Rows, groups: Mapping[str, Rows]) -> None:
    table = check.tables[name]
    links = {key: table.rows(key) for key in ("prev", "next")}
    for key, back in (("next", "prev"), ("prev", "next")):
        linked = np.flatnonzero(links[key] >= 0)
        there = links[key][linked]
        wrong = np.zeros(len(time_us), bool)
        wrong[linked] = links[back][there] != linked
        check.add_rows(name, wrong, f"the {back} of its {key} is another record")
        if key == "prev":
            continue
        wrong = np.zeros(len(time_us), bool)
        wrong[linked] = (time_us[there] <= time_us[linked]) & (np.minimum(time_us[there], time_us[linked]) >= 0)
        check.add_rows(name, wrong, "its next is not later in time")
        for group, rows in groups.items():
            wrong = np.zeros(len(time_us), bool)
            wrong[linked] = (rows[there] != rows[linked]) & (np.minimum(rows[there], rows[linked]) >= 0)
            check.add_rows(name, wrong, f"its next belongs to another {group}")


def _check_members(check: _Check, owner: str, member: str, key: str, count_key: str) -> None:
    """Scenes and instances know how many members they have, and where their one chain starts and ends."""
    if not check.has(owner, member):
        return
    kind = member.removeprefix("sample_")
    owners, members = check.tables[owner], check.tables[member]
    owner_of = members.rows(key)
    count = np.bincount(owner_of[owner_of >= 0], minlength=len(owners.row_of))
    for end, link in (("first", "prev"), ("last", "next")):
        ends = np.bincount(owner_of[(members.rows(link) == NO_LINK) & (owner_of >= 0)], minlength=len(owners.row_of))
        check.add_rows(owner, ends > 1, f"several of its {member} records have no {link}", "link them into one chain")
        for row, (token, named) in enumerate(owners.items(f"{end}_{kind}_token")):
            at = members.row_of.get(named)
            if (
                named is not None
                and count[row]
                and (at is None or owner_of[at] != row or members.columns[link][at] not in (NO_LINK, None))
            ):
                check.add(owner, token, f"{end}_{kind}_token {named!r} is not its {end} record in {member}.json")
    for row, (token, declared) in enumerate(owners.items(count_key)):
        if declared is not None and declared != count[row]:
            check.add(owner, token, f"{count_key} is {declared}, but {member}.json has {count[row]}")


def _check_categories(check: _Check) -> None:
    """Categories are nuScenes' own, and a box has at most the one attribute that its evaluation allows."""
    for token, name in check.tables["category"].items("name"):
        if name is not None and name not in CATEGORIES:
            check.add("category", token, f"nuScenes has no category {name!r}", "rename it to one of nuScenes'")
    for token, attributes in check.tables["sample_annotation"].items("attribute_tokens"):
        if attributes is not None and len(attributes) > 1:
            check.add("sample_annotation", token, f"it has {len(attributes)} attributes", "keep one")


def _check_maps(check: _Check) -> None:
    """Each log belongs to a map whose file, if it names one, exists: the devkit opens no dataroot without."""
    mapped: set[int] = set()
    for token, filename, logs in check.tables["map"].items("filename", "log_tokens"):
        mapped.update(logs or ())
        if filename and not is_inside(filename):
            check.add("map", token, f"the file name {filename!r} leaves the dataroot")
        elif filename and not (check.root / filename).is_file():
            check.add("map", token, f"the file {check.root / filename} is missing", "unpack the metadata archive again")
    if check.has("map", "log"):
        for row, token in enumerate(check.tables["log"].row_of):
            if row not in mapped:
                check.add("log", token, "no record of map.json lists it", "add it to the log_tokens of its map")


def _check_splits(check: _Check) -> None:
    """Splits of ``splits.json`` name scenes that exist, each once."""
    path = check.folder / "splits.json"
    if not path.exists():
        return
    try:
        splits = read_json(path)
    except UdxError as error:
        what, _, remedy = str(error).rpartition("; ")
        check.add("splits", "", what, remedy)
        return
    if not isinstance(splits, dict):
        check.add("splits", "", f"{path} must be a JSON object from split to scene names", "correct the file")
        return
    scenes = set(check.tables["scene"].columns["name"])
    for split, names in splits.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            check.add("splits", split, "it must be a list of scene names, at least one", "correct the split")
            continue
        unknown = [name for name in dict.fromkeys(names) if name not in scenes] if check.has("scene") else []
        for name in unknown:
            check.add("splits", split, f"it names {name!r}, which is not in scene.json", "correct the split")
        if len(set(names)) < len(names):
            check.add("splits", split, "it names a scene twice", "correct the split")


def _check_files(check: _Check) -> int:
    """Open every file that ``sample_data`` names; return how many."""
    jobs, total, done = _file_jobs(check), len(check.tables["sample_data"].row_of), 0
    with ThreadPoolExecutor(DECODERS) as pool:
        while batch := list(islice(jobs, FILES_AT_ONCE)):
            for (token, *_), fault in zip(batch, pool.map(lambda job: _file_fault(*job[1:]), batch), strict=True):
                if fault:
                    what, _, remedy = fault.rpartition("; ")
                    check.add("sample_data", token, what, remedy)
            done += len(batch)
            check.progress("files", done, total)
    return done


def _file_jobs(check: _Check) -> Iterator[tuple[str, Path, str | None, tuple[int, int]]]:
    """(token, path, modality, (width, height)) of each record, streamed again rather than kept."""
    table, modality = check.tables["sample_data"], check.tables["sensor"].columns["modality"]
    sensors = _sensor_of_data(check)
    try:
        for record in stream_records(check.folder / "sample_data.json"):
            token, filename = record.get("token"), record.get("filename")
            row = table.row_of.get(token) if isinstance(token, str) else None
            if row is not None and is_text(filename) and is_inside(filename) and sensors[row] >= 0:
                size = table.columns["width"][row] or 0, table.columns["height"][row] or 0
                yield str(token), check.root / filename, modality[sensors[row]], size
    except (OSError, ValueError):
        return  # reported when the table was read


def _file_fault(path: Path, modality: str | None, size: tuple[int, int]) -> str | None:
    """What is wrong with a file, and after a semicolon what to do."""
    restore = "restore it or unpack its archive again"
    try:
        if not path.is_file():
            return f"the file {path} is missing; {restore}"
        if modality == "camera":
            with opened(path) as image:
                if all(size) and image.size != size:
                    return f"image {path} has {image.size} pixels, the table says {size}; {restore}"
                image.load()
        elif modality == "lidar":
            bad = path.stat().st_size // POINT_BYTES - len(read_sweep(path))
            if bad:
                return f"sweep {path} has {bad} points with NaN or infinity; {restore}"
        elif path.stat().st_size == 0:
            return f"the file {path} is empty; {restore}"
    except UdxError as error:
        return str(error)
    except OSError as error:
        return f"the file {path} cannot be read: {reason_of(error)}; {restore}"
    return None
