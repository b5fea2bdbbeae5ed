"""The tables of a nuScenes dataroot: what every record must hold, and a reader that needs little memory.

The devkit's loader assumes that tables are right. This reader assumes nothing: ``udx.data.check`` uses it.
Schema: https://www.nuscenes.org/nuscenes#data-format
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, Final, TypeGuard

from udx.files import without_waiting

UNIT_TOLERANCE: Final = 1e-3
MAX_WHOLE: Final = 2**53
MAX_COORDINATE_M: Final = 1e8
"""Farther than any two points on Earth are from each other, and small enough to compute with."""
SIZE_RANGE_M: Final = (1e-3, 1e3)
FOCAL_RANGE_PX: Final = (1.0, 1e6)
MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 4095
CHUNK_CHARACTERS: Final = 2**20
MAX_RECORD_CHARACTERS: Final = 2**24

_SPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field must hold: in words, and as a test."""

    says: str
    holds: Callable[[Any], bool]


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that files and terminals can hold: no lone surrogates, no character 0."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_token(value: Any) -> bool:
    """Whether a value can name a record, and a file that is made for it."""
    return is_text(value) and 0 < len(value.encode()) <= MAX_NAME_BYTES // 2 and "/" not in value and value[0] != "."


def is_inside(filename: str) -> bool:
    """Whether a file name of a table stays in the dataroot: relative, and never up."""
    parts = filename.split("/")
    lengths = [len(part.encode(errors="replace")) for part in parts]
    return (
        not filename.startswith("/")
        and ".." not in parts
        and "\\" not in filename
        and bool(set(parts) - {"", "."})
        and max(lengths) <= MAX_NAME_BYTES
        and sum(lengths) + len(parts) <= MAX_PATH_BYTES
    )


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_WHOLE


def _is_vector(value: Any, length: int, limit: float = MAX_COORDINATE_M) -> bool:
    # Comparing leaves out NaN and infinity, and takes whole numbers of any length.
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(number) in (int, float) and -limit <= number <= limit for number in value)
    )


def _is_size(value: Any) -> bool:
    return _is_vector(value, 3) and SIZE_RANGE_M[0] <= min(value) and max(value) <= SIZE_RANGE_M[1]


def _is_rotation(value: Any) -> bool:
    return _is_vector(value, 4, 2.0) and abs(math.hypot(*value) - 1) < UNIT_TOLERANCE


TEXT: Final = Kind("a string", is_text)
TEXTS: Final = Kind("a list of strings", lambda value: isinstance(value, list) and all(map(is_text, value)))
TOKEN: Final = Kind("a short string without slashes", is_token)
WHOLE: Final = Kind(f"a whole number from 0 to {MAX_WHOLE}", _is_whole)
FLAG: Final = Kind("true or false", lambda value: isinstance(value, bool))
LIST: Final = Kind("a list", lambda value: isinstance(value, list))
POINT: Final = Kind(f"three finite numbers up to {MAX_COORDINATE_M:g}", lambda value: _is_vector(value, 3))
SIZE: Final = Kind("three positive, finite numbers from {:g} to {:g}".format(*SIZE_RANGE_M), _is_size)
ROTATION: Final = Kind("a finite unit quaternion w, x, y, z", _is_rotation)
FILE: Final = Kind("a path inside the dataroot", lambda value: is_text(value) and is_inside(value))
MODALITY: Final = Kind("camera, lidar or radar", lambda value: value in ("camera", "lidar", "radar"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: the ``kinds`` of its fields beside ``token``, the tables that ``references`` go to.

    ``linked`` tables have ``prev`` and ``next``, which name a record of the same table or are empty.
    """

    kinds: Mapping[str, Kind]
    references: Mapping[str, str] = field(default_factory=dict)
    linked: bool = False


SCHEMA: Final[Mapping[str, Table]] = {
    "attribute": Table(kinds={"name": TEXT}),
    "visibility": Table(kinds={"level": TEXT}),
    "category": Table(kinds={"name": TEXT}),
    "sensor": Table(kinds={"channel": TEXT, "modality": MODALITY}),
    "log": Table(kinds={"logfile": TEXT, "location": TEXT}),
    "map": Table(kinds={"filename": TEXT, "log_tokens": TEXTS}, references={"log_tokens": "log"}),
    "calibrated_sensor": Table(
        kinds={"sensor_token": TEXT, "translation": POINT, "rotation": ROTATION, "camera_intrinsic": LIST},
        references={"sensor_token": "sensor"},
    ),
    "ego_pose": Table(kinds={"timestamp": WHOLE, "translation": POINT, "rotation": ROTATION}),
    "scene": Table(
        kinds={
            "name": TEXT,
            "log_token": TEXT,
            "nbr_samples": WHOLE,
            "first_sample_token": TEXT,
            "last_sample_token": TEXT,
        },
        references={"log_token": "log"},
    ),
    "sample": Table(
        kinds={"timestamp": WHOLE, "scene_token": TEXT, "prev": TEXT, "next": TEXT},
        references={"scene_token": "scene"},
        linked=True,
    ),
    "instance": Table(
        kinds={
            "category_token": TEXT,
            "nbr_annotations": WHOLE,
            "first_annotation_token": TEXT,
            "last_annotation_token": TEXT,
        },
        references={"category_token": "category"},
    ),
    "sample_data": Table(
        kinds={
            "sample_token": TEXT,
            "ego_pose_token": TEXT,
            "calibrated_sensor_token": TEXT,
            "timestamp": WHOLE,
            "is_key_frame": FLAG,
            "height": WHOLE,
            "width": WHOLE,
            "filename": FILE,
            "prev": TEXT,
            "next": TEXT,
        },
        references={
            "sample_token": "sample",
            "ego_pose_token": "ego_pose",
            "calibrated_sensor_token": "calibrated_sensor",
        },
        linked=True,
    ),
    "sample_annotation": Table(
        kinds={
            "sample_token": TEXT,
            "instance_token": TEXT,
            "visibility_token": TEXT,
            "attribute_tokens": TEXTS,
            "translation": POINT,
            "size": SIZE,
            "rotation": ROTATION,
            "num_lidar_pts": WHOLE,
            "num_radar_pts": WHOLE,
            "prev": TEXT,
            "next": TEXT,
        },
        references={
            "sample_token": "sample",
            "instance_token": "instance",
            "visibility_token": "visibility",
            "attribute_tokens": "attribute",
        },
        linked=True,
    ),
}
"""All tables; each stands behind those that it refers to (beside itself, and beside first and last members)."""


def faults(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields of a record that are not what table ``name`` holds, each with what is wrong."""
    for key, kind in (("token", TOKEN), *SCHEMA[name].kinds.items()):
        if key not in record:
            yield key, f"{key} is missing"
        elif not kind.holds(record[key]):
            yield key, f"{key} must be {kind.says}, not {_short(record[key])}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a whole number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def intrinsic_fault(matrix: Any, width: float = math.inf, height: float = math.inf) -> str | None:
    """What keeps a matrix from being the intrinsics of a camera whose images have this size in pixels."""
    least, most = FOCAL_RANGE_PX
    if not (isinstance(matrix, list) and len(matrix) == 3 and all(_is_vector(row, 3, most) for row in matrix)):
        return f"must be 3×3 finite numbers up to {most:g}"
    if matrix[1][0] != 0 or matrix[2] != [0, 0, 1]:
        return "must be upper triangular with 0, 0, 1 as its last row"
    if min(matrix[0][0], matrix[1][1]) < least:
        return "must have positive focal lengths of a pixel or more"
    if not (0 < matrix[0][2] < width and 0 < matrix[1][2] < height):
        return "must have its principal point inside the image"
    return None


def stream_records(path: Path, progress: Callable[[int, int], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a table one by one: nuScenes' largest table would take gigabytes at once.

    Args:
        path: a JSON file that holds one list of objects.
        progress: told the bytes read and all bytes, now and then.

    Raises:
        ValueError: the file is not one JSON list of objects; the message says from which record on.
        OSError: the file cannot be read.
    """
    with open(path, "rb", opener=without_waiting) as file:
        os.set_blocking(file.fileno(), True)
        text = _Text(file, path.stat().st_size, progress)
        text.take("[")
        if text.peek() == "]":
            text.take("]")
        else:
            yield text.record()
            while text.take(",]") == ",":
                yield text.record()
        if text.peek():
            raise ValueError("something follows the list")


class _Text:
    """A JSON list of objects, of which only the part around the next record is in memory."""

    def __init__(self, file: BufferedReader, total_bytes: int, progress: Callable[[int, int], None] | None) -> None:
        self._file, self._characters = file, TextIOWrapper(file, encoding="utf-8")
        self._total_bytes, self._progress = total_bytes, progress
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._records = "", 0, 0

    def peek(self) -> str:
        """Return the next character that is no white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it always matches
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._refill():
                return ""

    def take(self, allowed: str) -> str:
        """Consume and return the next character, which must be one of ``allowed``."""
        found = self.peek()
        if not found or found not in allowed:
            wanted = " or ".join(repr(character) for character in allowed)
            raise ValueError(f"after {self._records} records stands {found or 'nothing'!r} in place of {wanted}")
        self._at += 1
        return found

    def record(self) -> dict[str, Any]:
        """Consume and return the next object."""
        if self.peek() != "{":
            raise ValueError(f"record {self._records} is not a JSON object")
        while True:
            try:
                record, self._at = self._decoder.raw_decode(self._text, self._at)
            except ValueError as error:  # it may only be cut off at the end of what was read so far
                if len(self._text) - self._at > MAX_RECORD_CHARACTERS or not self._refill():
                    raise ValueError(f"record {self._records} is not valid JSON") from error
                continue
            except RecursionError as error:
                raise ValueError(f"record {self._records} is nested too deeply") from error
            self._records += 1
            assert isinstance(record, dict)
            return record

    def _refill(self) -> bool:
        chunk = self._characters.read(CHUNK_CHARACTERS)
        self._text, self._at = self._text[self._at :] + chunk, 0
        if self._progress:
            self._progress(self._file.tell(), self._total_bytes)
        return bool(chunk)
