import json

import numpy as np
import pytest

from tests.fuzz import SEED, cases
from tests.mutations import mutations
from tests.tiny import FRUSTUM, GRID, ring_of_cameras
from udx.data.rig_file import read_rig
from udx.data.spec import CAMERAS
from udx.errors import UdxError
from udx.geometry import pooling_plan
from udx.geometry.se3 import yaw_rotation

RIG = ring_of_cameras(0.2)


def written(path, **changes):
    fields = RIG.to_json() | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    return path


def test_a_rig_comes_back(tmp_path):
    lidar = yaw_rotation(0.5)
    lidar[:3, 3] = [1, 0, 1.8]
    found = read_rig(written(tmp_path / "rig.json", ego_T_lidar=lidar.tolist()))
    assert found.rig.names == CAMERAS
    np.testing.assert_array_equal(found.rig.intrinsics_N33, RIG.intrinsics_N33)
    np.testing.assert_array_equal(found.rig.ego_T_cam_N44, RIG.ego_T_cam_N44)
    np.testing.assert_array_equal(found.ego_T_lidar, lidar)
    np.testing.assert_array_equal(read_rig(written(tmp_path / "rig.json")).ego_T_lidar, np.eye(4))


def changed(name: str, index: tuple[int, ...], value: float) -> dict[str, object]:
    array = np.array(RIG.to_json()[name])
    array[index] = value
    return {name: array.tolist()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": None}, "it lacks 'names'"),
        ({"intrinsics": None}, "it lacks 'intrinsics'"),
        ({"names": "CAM_FRONT"}, "names are no list of words"),
        ({"names": [*CAMERAS[:5], CAMERAS[0]]}, "one is there twice"),
        ({"names": list(CAMERAS[:5])}, r"intrinsics must have shape \(5, 3, 3\), not \(6, 3, 3\)"),
        (changed("intrinsics", (1, 1, 1), 0), "the intrinsics of CAM_FRONT are not"),
        (changed("intrinsics", (1, 0, 0), -40), "the intrinsics of CAM_FRONT are not"),
        (changed("intrinsics", (1, 2, 2), 2), "the intrinsics of CAM_FRONT are not"),
        (changed("intrinsics", (1, 0, 2), 1e9), "the intrinsics of CAM_FRONT are not"),
        (changed("ego_T_cam", (5, 0, 3), 1e5), "CAM_BACK_RIGHT is no rotation and an offset of at most 1000 m"),
        (changed("ego_T_cam", (5, 2, 1), 1), "the pose of CAM_BACK_RIGHT is no rotation"),
        ({"ego_T_lidar": np.diag([1.0, 1, -1, 1]).tolist()}, "the pose of the LiDAR is no rotation"),
        ({"ego_T_lidar": [1, 2, 3]}, "the pose of the LiDAR is no 4 × 4 matrix"),
    ],
)  # fmt: skip
def test_what_no_camera_has_is_said(tmp_path, changes, said):
    with pytest.raises(UdxError, match=rf"rig\.json is no calibration \(.*{said}"):
        read_rig(written(tmp_path / "rig.json", **changes))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_said(tmp_path, number):
    path = written(tmp_path / "rig.json", **changed("intrinsics", (2, 0, 0), number))
    with pytest.raises(UdxError, match=r"rig\.json is not valid JSON \(it holds -?(NaN|Infinity), which is no finite"):
        read_rig(path)


def test_a_number_of_hundreds_of_digits_is_said(tmp_path):
    path = written(tmp_path / "rig.json", ego_T_lidar=[[10**400] * 4] * 4)
    with pytest.raises(UdxError, match=r"rig\.json is not valid JSON \(it holds 10+, which is no number of 64 bits"):
        read_rig(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"names"', "[" * 100_000, "", "{", '{"names": {"a": 1}}'])
def test_files_that_are_something_else(tmp_path, text):
    path = tmp_path / "rig.json"
    path.write_text(text)
    with pytest.raises(UdxError, match=r"rig\.json is (no calibration|not valid JSON)"):
        read_rig(path)


def test_damaged_rigs_are_refused_or_can_be_used(tmp_path):
    path = written(tmp_path / "rig.json", ego_T_lidar=np.eye(4).tolist())
    content, used, refused = path.read_bytes(), 0, 0
    for damaged in mutations(content, cases(1500), SEED):
        path.write_bytes(damaged)
        try:
            found = read_rig(path)
        except UdxError as error:
            refused += 1
            assert "rig.json" in str(error)
        else:
            used += 1
            if used % 10 == 0 and len(found.rig.names):
                pooling_plan(found.rig, FRUSTUM, GRID, (-3.0, 5.0))
    assert min(used, refused) > 100
