"""A small hand-made dataroot: two keyframes half a second apart, two cameras, one moving car, one bollard.

The car drives along global +x at 4 m/s, turned by 30° and tilted a little. Everything is known in closed form.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EGO_SPEED = 4.0
BOLLARD_GLOBAL = np.array([115.0, 212.0, 1.0])
CAR_SPEED = np.array([3.0, 1.0])
START_US = 1_600_000_000_000_000


def quaternion(**of: Any) -> Any:
    """A quaternion of pyquaternion's, which comes with nuscenes-devkit: imported by who asks for one."""
    from pyquaternion import Quaternion

    return Quaternion(**of)


def tilt() -> Any:
    """How the car stands in the world."""
    return quaternion(axis=[0, 0, 1], degrees=30) * quaternion(axis=[0, 1, 0], degrees=2)


def camera_axes() -> Any:
    """A camera's axes in the car's frame: z forward, x right, y down."""
    return quaternion(matrix=np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))


@dataclass
class World:
    """Tables and files of a dataroot, to be spoilt by a test and then written."""

    tables: dict[str, list[dict[str, Any]]]
    files: dict[str, bytes]
    splits: dict[str, Any]
    version: str = "v1.0-synth"
    left_out: set[str] = field(default_factory=set)

    def record(self, table: str, token: str) -> dict[str, Any]:
        return next(record for record in self.tables[table] if record["token"] == token)

    def write(self, root: Path) -> Path:
        folder = root / self.version
        folder.mkdir(parents=True)
        for name, records in self.tables.items():
            if name not in self.left_out:
                (folder / f"{name}.json").write_text(json.dumps(records))
        (folder / "splits.json").write_text(json.dumps(self.splits))
        for name, data in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root


def ego_position(time_s: float) -> np.ndarray:
    return np.array([100.0 + EGO_SPEED * time_s, 200.0, 0.0])


def car_centre(time_s: float) -> np.ndarray:
    return np.array([120.0 + CAR_SPEED[0] * time_s, 215.0 + CAR_SPEED[1] * time_s, 1.0])


def jpeg(width: int, height: int, value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, 90, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def sweep_at(time_s: float) -> bytes:
    """The bollard as the LiDAR sees it, a return from the car's own roof, and one lost return."""
    global_R_lidar = (tilt() * quaternion(axis=[0, 0, 1], degrees=-90)).rotation_matrix
    lidar = ego_position(time_s) + tilt().rotate(np.array([1.0, 0.0, 1.8]))
    bollard = global_R_lidar.T @ (BOLLARD_GLOBAL - lidar)
    rows = [[*bollard, 51.0, 3.0], [0.5, -0.9, -0.2, 10.0, 0.0], [np.nan, 1.0, 1.0, 0.0, 0.0]]
    return np.array(rows, dtype="<f4").tobytes()


@pytest.fixture
def world() -> World:
    """Two keyframes, with a sweep between them; splits ``train`` (both) and ``empty``."""
    tables: dict[str, list[dict[str, Any]]] = {
        "attribute": [{"token": "a-moving", "name": "vehicle.moving", "description": ""}],
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "category": [
            {"token": "c-car", "name": "vehicle.car", "description": "", "index": 0},
            {"token": "c-debris", "name": "movable_object.debris", "description": "", "index": 1},
        ],
        "sensor": [{"token": "s-LIDAR_TOP", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "log": [{"token": "log", "logfile": "drive", "vehicle": "v", "date_captured": "", "location": "here"}],
        "map": [{"token": "map", "category": "semantic_prior", "filename": "", "log_tokens": ["log"]}],
        "calibrated_sensor": [
            {
                "token": "k-LIDAR_TOP",
                "sensor_token": "s-LIDAR_TOP",
                "translation": [1.0, 0.0, 1.8],
                "rotation": list(quaternion(axis=[0, 0, 1], degrees=-90)),
                "camera_intrinsic": [],
            }
        ],
        "ego_pose": [],
        "scene": [
            {
                "token": "scene",
                "log_token": "log",
                "nbr_samples": 2,
                "first_sample_token": "t0",
                "last_sample_token": "t1",
                "name": "scene-a",
                "description": "",
            }
        ],
        "sample": [
            {"token": "t0", "timestamp": START_US, "prev": "", "next": "t1", "scene_token": "scene"},
            {"token": "t1", "timestamp": START_US + 500_000, "prev": "t0", "next": "", "scene_token": "scene"},
        ],
        "instance": [
            {
                "token": f"i-{what}",
                "category_token": f"c-{what}",
                "nbr_annotations": 2,
                "first_annotation_token": f"{what}0",
                "last_annotation_token": f"{what}1",
            }
            for what in ("car", "debris")
        ],
        "sample_data": [],
        "sample_annotation": [],
    }
    files: dict[str, bytes] = {}

    def add_data(name: str, channel: str, time_s: float, sample: str, file: str, links: tuple[str, str]) -> None:
        time_us = START_US + round(time_s * 1e6)
        pose = {"token": f"p-{name}", "timestamp": time_us, "translation": ego_position(time_s).tolist()}
        tables["ego_pose"].append(pose | {"rotation": list(tilt())})
        camera = channel.startswith("CAM")
        tables["sample_data"].append(
            {
                "token": name,
                "sample_token": sample,
                "ego_pose_token": f"p-{name}",
                "calibrated_sensor_token": f"k-{channel}",
                "timestamp": time_us,
                "fileformat": "jpg" if camera else "pcd",
                "is_key_frame": file.startswith("samples"),
                "height": 90 if camera else 0,
                "width": 160 if camera else 0,
                "filename": file,
                "prev": links[0],
                "next": links[1],
            }
        )

    for number, (time_s, sample, folder) in enumerate(
        [(0.0, "t0", "samples"), (0.25, "t1", "sweeps"), (0.5, "t1", "samples")]
    ):
        links = (f"l{number - 1}" if number else "", f"l{number + 1}" if number < 2 else "")
        file = f"{folder}/LIDAR_TOP/{number}.pcd.bin"
        add_data(f"l{number}", "LIDAR_TOP", time_s, sample, file, links)
        files[file] = sweep_at(time_s)
    for index, (channel, turn) in enumerate((("CAM_FRONT", 0), ("CAM_BACK", 180))):
        tables["sensor"].append({"token": f"s-{channel}", "channel": channel, "modality": "camera"})
        tables["calibrated_sensor"].append(
            {
                "token": f"k-{channel}",
                "sensor_token": f"s-{channel}",
                "translation": [1.5 - index, 0.0, 1.5],
                "rotation": list(quaternion(axis=[0, 0, 1], degrees=turn) * camera_axes()),
                "camera_intrinsic": [[100.0, 0.0, 80.0], [0.0, 100.0, 45.0], [0.0, 0.0, 1.0]],
            }
        )
        for number, (time_s, sample) in enumerate([(-0.05, "t0"), (0.45, "t1")]):
            file = f"samples/{channel}/{number}.jpg"
            links = (f"{channel}{number - 1}" if number else "", "" if number else f"{channel}1")
            add_data(f"{channel}{number}", channel, time_s, sample, file, links)
            files[file] = jpeg(160, 90, 60 * (1 + number + index))
    for what, size in (("car", [1.9, 4.5, 1.6]), ("debris", [0.5, 0.5, 0.5])):
        for number, time_s in enumerate((0.0, 0.5)):
            tables["sample_annotation"].append(
                {
                    "token": f"{what}{number}",
                    "sample_token": f"t{number}",
                    "instance_token": f"i-{what}",
                    "visibility_token": "4",
                    "attribute_tokens": ["a-moving"] if what == "car" else [],
                    "translation": car_centre(time_s).tolist(),
                    "size": list(size),
                    "rotation": list(quaternion(axis=[0, 0, 1], radians=np.arctan2(CAR_SPEED[1], CAR_SPEED[0]))),
                    "num_lidar_pts": 5,
                    "num_radar_pts": number,
                    "prev": f"{what}0" if number else "",
                    "next": "" if number else f"{what}1",
                }
            )
    return World(tables=tables, files=files, splits={"train": ["scene-a"], "empty": []})


@pytest.fixture
def world_root(world: World, tmp_path: Path) -> Path:
    """The hand-made dataroot, unspoilt."""
    return world.write(tmp_path / "world")


@pytest.fixture
def spoilt(world: World, tmp_path: Path) -> Callable[[Callable[[World], object]], Path]:
    """Write the dataroot after a function has changed something in it."""

    def write(spoil: Callable[[World], object]) -> Path:
        spoil(world)
        return world.write(tmp_path / "spoilt")

    return write
