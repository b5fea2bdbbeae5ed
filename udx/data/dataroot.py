"""The tables of a dataroot without the devkit: as much of its ``NuScenes`` as reading keyframes needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from udx.data.tables import stream_records
from udx.errors import UdxError
from udx.geometry.arrays import FloatArray

Record = Mapping[str, Any]

LONGEST_STEP_S: Final = 1.5
"""Annotations that are further apart tell no velocity; across two steps it may be twice as much."""

_READ: Final = (
    "attribute",
    "visibility",
    "category",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "scene",
    "sample",
    "instance",
    "sample_data",
    "sample_annotation",
)


class Dataroot:
    """Records by table and token; samples know their data and annotations, annotations their category.

    Raises:
        UdxError: a table is no list of records.
        LookupError: a record lacks a field, or refers to one that is not there.
    """

    def __init__(self, root: Path, version: str) -> None:
        self.dataroot, self.version = str(root), version
        self._records = {table: _read(root / version / f"{table}.json") for table in _READ}
        self.scene, self.sample = (list(self._records[table].values()) for table in ("scene", "sample"))
        for sample in self.sample:
            sample["data"], sample["anns"] = {}, []
        for record in self._records["sample_data"].values():
            sensor = self.get("calibrated_sensor", record["calibrated_sensor_token"])["sensor_token"]
            record["channel"] = self.get("sensor", sensor)["channel"]
            if record["is_key_frame"]:
                self._records["sample"][record["sample_token"]]["data"][record["channel"]] = record["token"]
        for record in self._records["sample_annotation"].values():
            instance = self.get("instance", record["instance_token"])
            record["category_name"] = self.get("category", instance["category_token"])["name"]
            self._records["sample"][record["sample_token"]]["anns"].append(record["token"])

    def get(self, table: str, token: str) -> Record:
        """Return a record.

        Raises:
            KeyError: there is none with this token.
        """
        return self._records[table][token]

    def box_velocity(self, token: str) -> FloatArray:
        """Velocity (3,) of an annotation in the global frame, m/s, from its neighbours in time; NaN without any.

        Raises:
            KeyError: a neighbour does not exist.
        """
        record = self.get("sample_annotation", token)
        ends = [self.get("sample_annotation", record[link]) if record[link] else record for link in ("prev", "next")]
        times_s = [1e-6 * self.get("sample", end["sample_token"])["timestamp"] for end in ends]
        steps = sum(end is not record for end in ends)
        if not steps or times_s[1] - times_s[0] > LONGEST_STEP_S * steps:
            return np.full(3, np.nan)
        first, last = (np.array(end["translation"], np.float64) for end in ends)
        velocity: FloatArray = (last - first) / (times_s[1] - times_s[0])
        return velocity


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {record["token"]: record for record in stream_records(path)}
    except ValueError as error:
        raise UdxError(f"{path} is not a table ({error}); restore it or unpack the metadata archive again") from error
