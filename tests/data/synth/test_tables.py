from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.data.synth.tables import quaternion_of, token, visibility_token
from udx.geometry.se3 import from_quaternion


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_quaternions_survive_the_round_trip(wxyz: list[float]) -> None:
    rotation = from_quaternion(np.array(wxyz), np.zeros(3))[:3, :3]
    quaternion = quaternion_of(rotation)
    assert quaternion[0] >= 0
    np.testing.assert_allclose(from_quaternion(np.array(quaternion), np.zeros(3))[:3, :3], rotation, atol=1e-12)


@pytest.mark.parametrize(
    ("pixels", "covered", "expected"),
    [(0, 0, "1"), (0, 9, "1"), (4, 10, "1"), (5, 10, "2"), (7, 10, "3"), (8, 10, "3"), (81, 100, "4"), (9, 9, "4")],
)
def test_visibility_levels(pixels: int, covered: int, expected: str) -> None:
    assert visibility_token(pixels, covered) == expected


def test_tokens_are_32_hex_digits_and_differ() -> None:
    assert len(token("a", 1)) == 32
    assert int(token("a", 1), 16) >= 0
    assert len({token("a", 1), token("a", 2), token("b", 1)}) == 3


def test_every_token_is_unique_and_every_reference_leads_somewhere(nusc: Any) -> None:
    for table in nusc.table_names:
        tokens = [record["token"] for record in getattr(nusc, table)]
        assert tokens and max(Counter(tokens).values()) == 1
    for record in nusc.sample_data:
        nusc.get("ego_pose", record["ego_pose_token"])
        nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        nusc.get("sample", record["sample_token"])
    for record in nusc.sample_annotation:
        nusc.get("visibility", record["visibility_token"])
        assert all(nusc.get("attribute", each) for each in record["attribute_tokens"])


@pytest.mark.parametrize("table", ["sample", "sample_data", "sample_annotation"])
def test_chains_run_forward_in_time_and_back(nusc: Any, table: str) -> None:
    def time_of(record: dict[str, Any]) -> int:
        owner = nusc.get("sample", record["sample_token"]) if table == "sample_annotation" else record
        return int(owner["timestamp"])

    linked = 0
    for record in getattr(nusc, table):
        if record["next"]:
            following = nusc.get(table, record["next"])
            assert following["prev"] == record["token"]
            assert time_of(following) > time_of(record)
            linked += 1
    assert linked


def test_instances_count_their_annotations(nusc: Any) -> None:
    counts = Counter(record["instance_token"] for record in nusc.sample_annotation)
    for instance in nusc.instance:
        assert counts[instance["token"]] == instance["nbr_annotations"] > 0
        assert nusc.get("sample_annotation", instance["first_annotation_token"])["prev"] == ""
        assert nusc.get("sample_annotation", instance["last_annotation_token"])["next"] == ""


def test_sweeps_come_between_keyframes(nusc: Any) -> None:
    lidar = [record for record in nusc.sample_data if record["fileformat"] == "pcd"]
    keys = [record for record in lidar if record["is_key_frame"]]
    assert len(lidar) == 3 * len(keys)
    for key in keys:
        sweep = nusc.get("sample_data", key["prev"])
        assert not sweep["is_key_frame"]
        assert key["timestamp"] - sweep["timestamp"] == 50_000
        assert sweep["filename"].startswith("sweeps/LIDAR_TOP/")
