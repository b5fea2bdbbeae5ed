import json
import re
from pathlib import Path

import numpy as np
import pytest

from udx.data.check import check_dataroot
from udx.errors import UdxError


def problems(root, **options):
    return [str(problem) for problem in check_dataroot(root, **options).problems]


def test_hand_made_world_is_fine_but_for_its_empty_split_and_lost_points(world_root):
    found = problems(world_root)
    assert [line.split(":")[0] for line in found] == ["splits empty", *(f"sample_data l{index}" for index in range(3))]
    assert "1 points with NaN or infinity" in found[1]


@pytest.fixture
def clean(world):
    """The hand-made world without its blemishes."""
    world.splits.pop("empty")
    for name in [name for name in world.files if name.endswith(".bin")]:
        world.files[name] = world.files[name][:40]
    return world


@pytest.fixture
def clean_root(clean, tmp_path):
    return clean.write(tmp_path / "clean")


def test_report_of_a_good_dataroot(clean_root):
    seen = []
    report = check_dataroot(clean_root, progress=lambda *step: seen.append(step))
    assert report.problems == ()
    assert report.files == 7
    assert report.records["sample_data"] == 7
    assert report.lines() == [f"{clean_root} (v1.0-synth): 35 records in 13 tables and 7 files: no problem"]
    assert seen[-1] == ("files", 7, 7)
    assert {what for what, _, _ in seen} > {"sample_annotation.json", "ego_pose.json"}
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["problems"] == []


def test_tables_only_opens_no_file(clean_root):
    for path in (clean_root / "samples").rglob("*.*"):
        path.unlink()
    report = check_dataroot(clean_root, files=False)
    assert report.problems == ()
    assert report.files == 0
    assert len(check_dataroot(clean_root).problems) == 6


def test_real_keyframe_passes(keyframe_root):
    report = check_dataroot(keyframe_root)
    assert report.problems == ()
    assert report.files == 7


def test_no_dataroot(tmp_path):
    with pytest.raises(UdxError, match="is not a folder"):
        check_dataroot(tmp_path / "nowhere")


def change(table, token, /, **values):
    def spoil(world):
        world.record(table, token).update(values)

    return spoil


def leave_out(table):
    return lambda world: world.left_out.add(table)


def forget(table, token, key):
    return lambda world: world.record(table, token).pop(key)


def repeat(table):
    return lambda world: world.tables[table].append(dict(world.tables[table][0]))


def splits(value):
    def spoil(world):
        world.splits = value

    return spoil


def cut(name, keep):
    def spoil(world):
        world.files[name] = world.files[name][:keep]

    return spoil


def lose(name):
    return lambda world: world.files.pop(name)


def nan_point(world):
    world.files["sweeps/LIDAR_TOP/1.pcd.bin"] += np.full(5, np.nan, "<f4").tobytes()


def drop(table, token):
    def spoil(world):
        world.tables[table].remove(world.record(table, token))

    return spoil


NAN = float("nan")
FIVE = [[100, 0, 80], [0, 100, 45], [0, 0, 1]]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (leave_out("visibility"), "visibility: the table .*visibility.json is missing; restore it"),
        (
            change("ego_pose", "p-l1", translation=[NAN, 0, 0]),
            "ego_pose p-l1: translation must be three finite numbers",
        ),
        (change("ego_pose", "p-l1", rotation=[1, 1, 0, 0]), "ego_pose p-l1: rotation must be a finite unit quaternion"),
        (change("ego_pose", "p-l1", timestamp=5), "sample_data l1: its ego pose is of a time more than 100 ms away"),
        (forget("ego_pose", "p-l1", "rotation"), "ego_pose p-l1: rotation is missing; correct the record"),
        (change("ego_pose", "p-l1", token=""), "ego_pose \\(record 1\\): it has no token"),
        (repeat("attribute"), "attribute a-moving: another record has the same token; remove one"),
        (
            change("sensor", "s-CAM_BACK", modality="sonar"),
            "sensor s-CAM_BACK: modality must be camera, lidar or radar",
        ),
        (change("sensor", "s-LIDAR_TOP", channel="TOP"), "sensor: there is no channel LIDAR_TOP"),
        (
            change("sample_data", "l2", ego_pose_token="x"),
            "sample_data l2: ego_pose_token names 'x', which is not in ego",
        ),
        (
            change("sample_annotation", "car0", attribute_tokens=["x"]),
            "sample_annotation car0: attribute_tokens names 'x', which is not in attribute.json; restore",
        ),
        (change("sample_annotation", "car0", size=[1, 0, 1]), "sample_annotation car0: size must be three positive"),
        (
            change("sample_annotation", "car0", attribute_tokens=["a-moving"] * 2),
            "sample_annotation car0: it has 2 attributes; keep one",
        ),
        (change("sample_annotation", "car1", prev="x"), "sample_annotation car1: prev names 'x', which is not in"),
        (change("sample_annotation", "car1", prev="debris0"), "the next of its prev is another record"),
        (change("sample_annotation", "car1", instance_token="i-debris"), "car0: its next belongs to another instance"),
        (change("sample_data", "l1", next=""), "sample_data l2: the next of its prev is another record"),
        (change("sample_data", "l1", timestamp=1_600_000_000_900_000), "sample_data l1: its next is not later in time"),
        (change("sample", "t1", timestamp=1_600_000_000_000_000), "sample t0: its next is not later in time"),
        (change("sample_data", "l1", calibrated_sensor_token="k-CAM_BACK"), "its next belongs to another sensor"),
        (change("sample_data", "l2", is_key_frame=False), "sample t1: it has no key frame of LIDAR_TOP"),
        (change("sample_data", "l1", is_key_frame=True), "sample t1: it has several key frames of LIDAR_TOP"),
        (change("scene", "scene", nbr_samples=3), "scene scene: nbr_samples is 3, but sample.json has 2"),
        (change("scene", "scene", last_sample_token="t0"), "scene scene: last_sample_token 't0' is not its last"),
        (change("instance", "i-car", nbr_annotations=1), "instance i-car: nbr_annotations is 1, but .* has 2"),
        (drop("sample_annotation", "car1"), "sample_annotation car0: next names 'car1', which is not in"),
        (
            change("calibrated_sensor", "k-CAM_BACK", camera_intrinsic=[]),
            "calibrated_sensor k-CAM_BACK: camera_intrinsic must be 3×3 finite numbers",
        ),
        (
            change("calibrated_sensor", "k-CAM_BACK", camera_intrinsic=[[100, 0, 800], *FIVE[1:]]),
            "k-CAM_BACK: camera_intrinsic must have its principal point inside the image",
        ),
        (
            change("calibrated_sensor", "k-CAM_BACK", camera_intrinsic=[*FIVE[:2], [0, 0, 2]]),
            "k-CAM_BACK: camera_intrinsic must be upper triangular",
        ),
        (
            change("calibrated_sensor", "k-CAM_BACK", camera_intrinsic=[[-100, 0, 80], *FIVE[1:]]),
            "k-CAM_BACK: camera_intrinsic must have positive focal lengths",
        ),
        (
            change("calibrated_sensor", "k-CAM_BACK", camera_intrinsic=[["a", 0, 80], *FIVE[1:]]),
            "k-CAM_BACK: camera_intrinsic must be 3×3 finite numbers",
        ),
        (change("category", "c-car", name="vehicle.ufo"), "category c-car: nuScenes has no category 'vehicle.ufo'"),
        (change("map", "map", filename="maps/gone.png"), "map map: the file .*maps/gone.png is missing"),
        (change("map", "map", filename="../x.png"), "map map: the file name '../x.png' leaves the dataroot"),
        (change("map", "map", log_tokens=[]), "log log: no record of map.json lists it"),
        (splits({"train": ["scene-z"]}), "splits train: it names 'scene-z', which is not in scene.json"),
        (splits({"train": ["scene-a"] * 2}), "splits train: it names a scene twice"),
        (splits(["scene-a"]), "splits: .*must be a JSON object"),
        (splits({"train": []}), "splits train: it must be a list of scene names, at least one"),
        (
            change("sample_data", "l0", filename="../../x"),
            "sample_data l0: filename must be a path inside the dataroot",
        ),
        (lose("samples/CAM_BACK/1.jpg"), "sample_data CAM_BACK1: the file .*1.jpg is missing; restore it"),
        (cut("samples/CAM_BACK/1.jpg", 500), "sample_data CAM_BACK1: image .*1.jpg cannot be decoded .*; restore it"),
        (cut("samples/CAM_BACK/1.jpg", 0), "sample_data CAM_BACK1: image .*1.jpg cannot be decoded"),
        (
            change("sample_data", "CAM_BACK1", width=99),
            "CAM_BACK1: image .*has \\(160, 90\\) pixels, the table says \\(99",
        ),
        (lose("sweeps/LIDAR_TOP/1.pcd.bin"), "sample_data l1: the file .*1.pcd.bin is missing"),
        (cut("sweeps/LIDAR_TOP/1.pcd.bin", 39), "sample_data l1: sweep .*has 39 bytes, not a multiple of 20"),
        (nan_point, "sample_data l1: sweep .*has 1 points with NaN or infinity"),
    ],
)
def test_problem_is_found_and_named(clean, tmp_path, spoil, expected):

    spoil(clean)
    found = problems(clean.write(tmp_path / "spoilt"))
    assert any(re.search(expected, line) for line in found), found
    assert len(found) <= 6, found  # one fault is not reported all over the place


@pytest.mark.parametrize("text", ["", "{}", '[{"token": "t0"', "[1, 2]", "\xff"])
@pytest.mark.parametrize("table", ["sample", "sample_data", "sensor", "category"])
def test_table_that_is_no_table(clean_root, table, text):
    (clean_root / "v1.0-synth" / f"{table}.json").write_bytes(text.encode("latin-1"))
    found = problems(clean_root)
    assert any(line.startswith(f"{table}: ") and "cannot be read" in line for line in found)
    assert len(found) <= 3, found


def test_all_problems_are_collected_and_few_are_printed(clean, tmp_path):
    for record in clean.tables["ego_pose"]:
        record["rotation"] = [NAN, 0, 0, 0]
    report = check_dataroot(clean.write(tmp_path / "w"))
    assert len(report.problems) == 7
    lines = report.lines(limit=3)
    assert len(lines) == 5
    assert lines[3] == "… and 4 more"
    assert lines[4].endswith(": 7 problems")
    first = report.to_json()["problems"][0]
    assert (first["table"], first["token"], first["remedy"]) == ("ego_pose", "p-l0", "correct the record")


def test_a_file_that_cannot_be_looked_at_is_a_problem_of_its_record(clean, tmp_path, monkeypatch):
    """As where a folder may not be entered, which root always may."""
    root = clean.write(tmp_path / "world")
    real = Path.is_file

    def forbidden(path, **how):
        if path.name == "1.jpg":
            raise PermissionError(13, "Permission denied")
        return real(path, **how)

    monkeypatch.setattr(Path, "is_file", forbidden)
    assert any(
        re.search(r"sample_data CAM_BACK1: the file .* cannot be read: Permission denied", line)
        for line in problems(root)
    )
