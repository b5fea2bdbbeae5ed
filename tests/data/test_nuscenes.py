import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.data.nuscenes import (
    _headings,
    find_version,
    keyframe_of,
    load_keyframes,
    open_dataroot,
    scenes_of_split,
)
from udx.data.points import read_sweep
from udx.data.spec import CAMERAS
from udx.errors import UdxError
from udx.geometry import CLASSES
from udx.geometry.boxes import box_corners, points_in_box
from udx.geometry.se3 import from_quaternion, inverse, transform_points

TWO = ("CAM_FRONT", "CAM_BACK")


def test_only_version_is_found(tmp_path):
    (tmp_path / "v1.0-mini").mkdir()
    assert find_version(tmp_path) == "v1.0-mini"
    (tmp_path / "v1.0-synth").mkdir()
    assert find_version(tmp_path, "v1.0-synth") == "v1.0-synth"
    with pytest.raises(UdxError, match=r"holds several versions: v1\.0-mini, v1\.0-synth; name one"):
        find_version(tmp_path)
    with pytest.raises(UdxError, match=r"no version 'v1\.0-test'; it has: v1\.0-mini, v1\.0-synth"):
        find_version(tmp_path, "v1.0-test")
    with pytest.raises(UdxError, match=r"nowhere is not a folder"):
        find_version(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    for version in (None, "v1.0-mini"):
        with pytest.raises(
            UdxError, match=r"photos is no dataroot of nuScenes: it has no folder v1\.0-… of tables; chec"
        ):
            find_version(tmp_path / "photos", version)


def test_keyframes_in_the_order_of_time(world, tmp_path):
    world.tables["sample"].reverse()
    first, second = load_keyframes(world.write(tmp_path / "w"), "train", TWO)
    assert (first.token, second.token) == ("t0", "t1")
    assert first.scene == "scene-a"
    assert second.timestamp_us - first.timestamp_us == 500_000


def test_sweeps_walk_back_with_their_age(world_root):
    first, second = load_keyframes(world_root, "train", TWO)
    assert [sweep.path.name for sweep in first.sweeps] == ["0.pcd.bin"]
    assert [sweep.path.name for sweep in second.sweeps] == ["2.pcd.bin", "1.pcd.bin", "0.pcd.bin"]
    assert [sweep.age_s for sweep in second.sweeps] == pytest.approx([0, 0.25, 0.5])
    (_, capped) = load_keyframes(world_root, "train", TWO, max_sweeps=2)
    assert len(capped.sweeps) == 2


def test_what_stands_still_stays_in_place_through_all_sweeps(world_root):
    _, second = load_keyframes(world_root, "train", TWO)
    expected = transform_points(inverse(second.global_T_ego), np.array([[115.0, 212.0, 1.0]]))[0]
    for sweep in second.sweeps:
        bollard = transform_points(sweep.ego_T_lidar, read_sweep(sweep.path)[:1, :3].astype(float))[0]
        assert bollard == pytest.approx(expected, abs=1e-4)


def test_each_camera_comes_in_through_its_own_ego_pose(world_root):
    first, _ = load_keyframes(world_root, "train", TWO)
    # The camera looked 50 ms before the LiDAR, 4 m/s · 0.05 s = 0.2 m further back along global x.
    global_camera = transform_points(first.global_T_ego, first.rig.ego_T_cam_N44[:, :3, 3])
    from pyquaternion import Quaternion

    tilt = Quaternion(axis=[0, 0, 1], degrees=30) * Quaternion(axis=[0, 1, 0], degrees=2)
    for position, mount in zip(global_camera, ([1.5, 0, 1.5], [0.5, 0, 1.5]), strict=True):
        assert position == pytest.approx(np.array([99.8, 200.0, 0.0]) + tilt.rotate(np.array(mount)))


def test_boxes_in_the_bev_frame(world_root):
    first, second = load_keyframes(world_root, "train", TWO)
    for keyframe, time_s, num_points in ((first, 0.0, 5), (second, 0.5, 6)):
        (box,), (label,) = keyframe.annotations.boxes_N9, keyframe.annotations.labels_N  # debris is left out
        assert CLASSES[label] == "car"
        assert keyframe.annotations.num_points_N.tolist() == [num_points]
        assert box[3:6].tolist() == [4.5, 1.9, 1.6]  # the table has width, length, height
        centre = transform_points(keyframe.global_T_ego, box[None, :3])[0]
        assert centre == pytest.approx([120 + 3 * time_s, 215 + time_s, 1.0])
        velocity = keyframe.global_T_ego[:3, :3] @ [box[7], box[8], 0]
        assert velocity[:2] == pytest.approx([3, 1], abs=0.02)  # the tilt hides a little of it
        assert box[6] == pytest.approx(np.arctan2(1, 3) - np.radians(30), abs=2e-3)
        assert np.arctan2(box[8], box[7]) == pytest.approx(box[6], abs=1e-9)  # it drives where it heads


def test_velocity_is_unknown_without_neighbours(spoilt):
    def cut(world):
        for record in world.tables["sample_annotation"]:
            record["prev"] = record["next"] = ""

    first, _ = load_keyframes(spoilt(cut), "train", TWO)
    assert np.isnan(first.annotations.boxes_N9[:, 7:]).all()


@given(st.floats(-3.1, 3.1), st.floats(-1, 1), st.floats(-1, 1))
def test_heading_of_a_quaternion(yaw, pitch, roll):
    from pyquaternion import Quaternion

    rotation = (
        Quaternion(axis=[0, 0, 1], radians=yaw)
        * Quaternion(axis=[0, 1, 0], radians=pitch)
        * Quaternion(axis=[1, 0, 0], radians=roll)
    )
    (heading,) = _headings(np.array([list(rotation)]))
    assert heading == pytest.approx(rotation.rotate(np.array([1.0, 0, 0])), abs=1e-12)
    assert np.arctan2(heading[1], heading[0]) == pytest.approx(yaw, abs=1e-9)  # counter-clockwise is positive


def test_splits_json_wins_over_predefined_names(world, tmp_path):
    nusc = open_dataroot(world.write(tmp_path / "w"))
    assert scenes_of_split(nusc, "train") == ("scene-a",)


def test_predefined_split_keeps_the_scenes_that_are_here(world, tmp_path):
    world.version = "v1.0-mini"
    world.tables["scene"][0]["name"] = "scene-0061"
    world.splits = {}
    nusc = open_dataroot(world.write(tmp_path / "w"))
    assert scenes_of_split(nusc, "mini_train") == ("scene-0061",)
    with pytest.raises(UdxError, match=r"split 'mini_val' is empty here; .*mini_train"):
        scenes_of_split(nusc, "mini_val")


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ("nowhere", r"split 'nowhere' is unknown; .*has scenes of: train"),
        ("empty", r"split 'empty' is empty here; .*train"),
    ],
)
def test_split_that_has_nothing(world_root, split, sentence):
    with pytest.raises(UdxError, match=sentence):
        load_keyframes(world_root, split, TWO)


def scene_nowhere(world):
    world.splits["train"] = ["scene-z"]


def splits_no_object(world):
    world.splits = ["train"]


def split_no_list(world):
    world.splits["train"] = "scene-a"


def nan_pose(world):
    world.record("ego_pose", "p-CAM_BACK1")["translation"][1] = float("nan")


def zero_rotation(world):
    world.record("calibrated_sensor", "k-LIDAR_TOP")["rotation"] = [0, 0, 0, 0]


def no_intrinsic(world):
    world.record("calibrated_sensor", "k-CAM_FRONT")["camera_intrinsic"] = []


def unknown_category(world):
    world.record("category", "c-car")["name"] = "vehicle.spaceship"


def flat_box(world):
    world.record("sample_annotation", "car1")["size"][2] = 0


def no_camera(world):
    world.tables["sample_data"] = [r for r in world.tables["sample_data"] if r["token"] != "CAM_BACK1"]
    world.record("sample_data", "CAM_BACK0")["next"] = ""


def lost_sweep_record(world):
    world.record("sample_data", "l2")["prev"] = "gone"


def lost_neighbour(world):
    world.record("sample_annotation", "car1")["prev"] = "gone"


def escape(world):
    world.record("sample_data", "CAM_FRONT0")["filename"] = "../../etc/passwd"


def two_attributes(world):
    world.record("sample_annotation", "car1")["attribute_tokens"] *= 2


def lost_attribute(world):
    world.record("sample_annotation", "debris1")["attribute_tokens"] = ["gone"]


def token_with_a_path(world):
    """A picture of each keyframe is named by its token."""
    for table, field in (("sample", "token"), ("sample_data", "sample_token"), ("sample_annotation", "sample_token")):
        for record in world.tables[table]:
            if record[field] == "t1":
                record[field] = "../../t"
    world.record("sample", "t0")["next"] = "../../t"


def sweep_of_a_camera(world):
    world.record("sample_data", "l1")["prev"] = "CAM_FRONT0"


def map_elsewhere(world):
    world.record("map", "map")["filename"] = "../../../../../../../../etc/passwd"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (scene_nowhere, r"split 'train' in .*splits\.json names 'scene-z', which is not in scene\.json"),
        (splits_no_object, r"splits\.json must be a JSON object"),
        (split_no_list, r"split 'train' in .*must be a list"),
        (nan_pose, r"ego_pose p-CAM_BACK1: translation must be three finite numbers up to .*correct the record"),
        (zero_rotation, r"calibrated_sensor k-LIDAR_TOP: rotation must be a finite unit quaternion"),
        (no_intrinsic, r"calibrated_sensor k-CAM_FRONT: camera_intrinsic must be 3×3 finite numbers"),
        (unknown_category, r"sample_annotation car0 is of the category 'vehicle\.spaceship'.*category\.json"),
        (flat_box, r"sample_annotation car1: size must be three positive, finite numbers"),
        (two_attributes, r"sample_annotation car1 has 2 attributes, and nuScenes' evaluation takes one"),
        (lost_attribute, r"attribute\.json has no record 'gone'"),
        (token_with_a_path, r"sample \.\./\.\./t: token must be a short string without slashes"),
        (sweep_of_a_camera, r"sample_data CAM_FRONT0 comes before a LIDAR_TOP sweep, but is none"),
        (map_elsewhere, r"map map names a file that is not inside .*; correct the record"),
        (no_camera, r"sample t1 has no CAM_BACK key frame"),
        (lost_sweep_record, r"sample_data\.json has no record 'gone'"),
        (lost_neighbour, r"sample_annotation\.json has no record 'gone' that another table refers to"),
        (escape, r"sample_data CAM_FRONT0: filename must be a path inside the dataroot, not '\.\./\.\./etc/passwd'"),
    ],
)
def test_bad_record_is_named(spoilt, spoil, sentence):
    with pytest.raises(UdxError, match=sentence):
        load_keyframes(spoilt(spoil), "train", TWO)


def test_one_keyframe_by_the_start_of_its_token(world_root):
    nusc = open_dataroot(world_root)
    assert keyframe_of(nusc, "t1", TWO).token == "t1"
    with pytest.raises(UdxError, match=r"2 keyframes of .* begins with 't'; give one whole token"):
        keyframe_of(nusc, "t", TWO)
    with pytest.raises(UdxError, match=r"0 keyframes of .* as t0"):
        keyframe_of(nusc, "x", TWO)


def test_a_table_of_terabytes_is_refused_unread(world_root):
    with open(world_root / "v1.0-synth" / "sample.json", "ab") as file:
        file.truncate(2**40)
    with pytest.raises(UdxError, match=r"sample\.json is larger than 4 GiB: not a table udx reads"):
        open_dataroot(world_root)


def test_missing_table_is_named(spoilt):
    root = spoilt(lambda world: world.left_out.add("ego_pose"))
    with pytest.raises(UdxError, match=r"the table .*ego_pose\.json is missing"):
        open_dataroot(root)


def test_damaged_table_points_to_the_check(world_root):
    (world_root / "v1.0-synth" / "sample.json").write_text('[{"token": "t0"')
    with pytest.raises(UdxError, match=r"cannot be loaded .*`udx data check"):
        open_dataroot(world_root)


# The real keyframe.


def test_points_in_real_boxes_equal_the_annotated_count(keyframe_root):
    (keyframe,) = load_keyframes(keyframe_root, "keyframe")
    sweep = keyframe.sweeps[0]
    points = transform_points(sweep.ego_T_lidar, read_sweep(sweep.path)[:, :3].astype(float))
    folder = keyframe_root / "v1.0-mini"
    annotations = json.loads((folder / "sample_annotation.json").read_text())
    boxes = np.array([_box_of_record(record, inverse(keyframe.global_T_ego)) for record in annotations])
    counts = [int(points_in_box(points, box).sum()) for box in boxes]
    equal = sum(count == record["num_lidar_pts"] for count, record in zip(counts, annotations, strict=True))
    assert len(annotations) == 69
    assert equal >= 61
    loaded = {tuple(np.round(box[:7], 9)) for box in keyframe.annotations.boxes_N9}
    assert len(loaded) == 68
    assert loaded <= {tuple(np.round(box, 9)) for box in boxes}  # one more: debris, which is no detection class


def _box_of_record(record, ego_T_global):
    """An annotation in the BEV frame by matrices alone, to compare the loader with."""
    ego_T_box = ego_T_global @ from_quaternion(record["rotation"], record["translation"])
    width, length, height = record["size"]
    return np.array([*ego_T_box[:3, 3], length, width, height, np.arctan2(ego_T_box[1, 0], ego_T_box[0, 0])])


def test_real_camera_poses_are_not_stale(keyframe_root):
    nusc = open_dataroot(keyframe_root)
    (keyframe,) = load_keyframes(nusc, "keyframe")
    moved_px = []
    for index, name in enumerate(CAMERAS):
        record = nusc.get("sample_data", nusc.sample[0]["data"][name])
        calibration = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        stale = from_quaternion(calibration["rotation"], calibration["translation"])
        offset_m = np.linalg.norm(keyframe.rig.ego_T_cam_N44[index, :3, 3] - stale[:3, 3])
        assert 0.004 < offset_m < 0.41
        pixels = keyframe.rig.project(keyframe.annotations.boxes_N9[:, :3])[index]
        in_stale_camera = transform_points(inverse(stale), keyframe.annotations.boxes_N9[:, :3])
        stale_pixels = in_stale_camera @ keyframe.rig.intrinsics_N33[index].T
        ahead = (pixels[:, 2] > 1) & (stale_pixels[:, 2] > 1)
        moved_px.append(np.abs(pixels[ahead, :2] - stale_pixels[ahead, :2] / stale_pixels[ahead, 2:]).max())
    assert max(moved_px) > 5


def test_real_projection_agrees_with_the_devkit(keyframe_root):
    from nuscenes.utils.geometry_utils import BoxVisibility, view_points

    nusc = open_dataroot(keyframe_root)
    (keyframe,) = load_keyframes(nusc, "keyframe")
    compared = 0
    for index, name in enumerate(CAMERAS):
        _, boxes, intrinsic = nusc.get_sample_data(nusc.sample[0]["data"][name], box_vis_level=BoxVisibility.ALL)
        ours = keyframe.rig.project(keyframe.annotations.boxes_N9[:, :3])[index]
        for box in boxes:
            if box.name == "movable_object.debris":
                continue
            expected = view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0]
            distance = np.linalg.norm(ours[:, :2] - expected, axis=1)
            nearest = int(np.argmin(np.where(ours[:, 2] > 0, distance, np.inf)))
            assert distance[nearest] < 1e-6
            assert ours[nearest, 2] == pytest.approx(box.center[2])
            assert 0 <= ours[nearest, 0] < 1600
            assert 0 <= ours[nearest, 1] < 900
            theirs = view_points(box.corners(), intrinsic, normalize=True)[:2].T
            corners = keyframe.rig.project(box_corners(keyframe.annotations.boxes_N9[nearest : nearest + 1])[0])[index]
            # Our boxes stand upright in the ego frame, theirs lean with the world: alike within some pixels.
            assert (
                np.abs(corners[:, :2].min(axis=0) - theirs.min(axis=0)).max() < 0.06 * np.ptp(theirs, axis=0).max() + 2
            )
            compared += 1
    assert compared > 40


def test_real_keyframe_is_also_in_the_predefined_split(keyframe_root):
    assert [frame.token for frame in load_keyframes(Path(keyframe_root), "mini_train")] == [
        frame.token for frame in load_keyframes(Path(keyframe_root), "keyframe")
    ]
