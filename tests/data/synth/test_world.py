"""The written dataroot, seen by nuscenes-devkit and by udx's own reader."""

import filecmp
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes

from udx.data.synth import VERSION, WorldSpec, world, write_world
from udx.data.synth.street import make_scene
from udx.errors import UdxError
from udx.files import lock_file
from udx.geometry import CLASSES

TINY = WorldSpec(scenes=2, samples=2, seed=5, sweeps=1, image_width_px=64)


def files_of(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_all_files_are_there_and_nothing_else(synth_root: Path, nusc: Any) -> None:
    named = {record["filename"] for record in nusc.sample_data} | {record["filename"] for record in nusc.map}
    tables = {f"{VERSION}/{table}.json" for table in [*nusc.table_names, "splits"]}
    assert set(files_of(synth_root)) == named | tables
    assert not list(synth_root.parent.glob(".*.part"))


def test_splits_are_disjoint_and_no_scene_is_called_like_a_real_one(synth_root: Path, nusc: Any) -> None:
    splits = json.loads((synth_root / VERSION / "splits.json").read_text())
    real = {name for names in create_splits_scenes().values() for name in names}
    held = {scene["name"] for scene in nusc.scene}
    assert set(splits["train"]) | set(splits["val"]) == held
    assert not set(splits["train"]) & set(splits["val"])
    assert not held & real


def test_images_have_the_declared_size(synth_root: Path, nusc: Any) -> None:
    from PIL import Image

    for record in nusc.sample_data[:60]:
        if record["fileformat"] == "jpg":
            with Image.open(synth_root / record["filename"]) as image:
                assert (image.width, image.height) == (record["width"], record["height"]) == (352, 198)


def test_num_lidar_pts_is_what_the_devkit_counts(synth_root: Path, nusc: Any) -> None:
    total = 0
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            record = nusc.get("sample_annotation", box.token)
            # A point within rounding of a face may fall on either side.
            fewer, more = (points_in_box(box, points, wlh_factor=1 + eps).sum() for eps in (-1e-5, 1e-5))
            assert fewer <= record["num_lidar_pts"] <= more
            total += record["num_lidar_pts"]
    assert total > 2000


def test_the_devkit_recovers_the_velocities(spec: WorldSpec, nusc: Any) -> None:
    speeds = []
    for number, name in enumerate(spec.names):
        scene = make_scene(np.random.default_rng([spec.seed, number]), (spec.samples - 1) * 0.5)
        record = next(each for each in nusc.scene if each["name"] == name)
        middle = nusc.get("sample", nusc.get("sample", record["first_sample_token"])["next"])
        turn = scene.global_T_scene[:2, :2]
        places = scene.actor_poses(0.5) @ [0, 0, 0, 1]
        centres = (places @ scene.global_T_scene.T)[:, :2]
        truth = scene.actor_velocities(0.5) @ turn.T
        for token in middle["anns"]:
            annotation = nusc.get("sample_annotation", token)
            actor = np.linalg.norm(centres - annotation["translation"][:2], axis=1).argmin()
            if annotation["prev"] and annotation["next"]:
                np.testing.assert_allclose(nusc.box_velocity(token)[:2], truth[actor], atol=0.05)
                speeds.append(np.linalg.norm(truth[actor]))
    assert max(speeds) > 3 and min(speeds) == 0


def test_cameras_fire_at_their_own_time_from_their_own_pose(nusc: Any) -> None:
    for sample in nusc.sample:
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        assert sample["timestamp"] == lidar["timestamp"]
        here = nusc.get("ego_pose", lidar["ego_pose_token"])
        gaps = {}
        for channel, token in sample["data"].items():
            data = nusc.get("sample_data", token)
            pose = nusc.get("ego_pose", data["ego_pose_token"])
            assert pose["timestamp"] == data["timestamp"]
            moved = np.linalg.norm(np.subtract(pose["translation"], here["translation"]))
            gaps[channel] = (lidar["timestamp"] - data["timestamp"], moved)
        assert 40_000 < gaps["CAM_FRONT_LEFT"][0] < 46_000
        assert gaps["CAM_FRONT_LEFT"][1] > 0.15
        assert gaps["LIDAR_TOP"] == (0, 0)


def test_half_hidden_objects_are_annotated_and_unseen_or_far_ones_are_not(nusc: Any) -> None:
    levels = {record["visibility_token"] for record in nusc.sample_annotation}
    assert {"1", "4"} <= levels
    assert min(record["num_lidar_pts"] for record in nusc.sample_annotation) == 1
    for sample in nusc.sample:
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = nusc.get("ego_pose", lidar["ego_pose_token"])["translation"][:2]
        for token in sample["anns"]:
            place = nusc.get("sample_annotation", token)["translation"][:2]
            assert np.linalg.norm(np.subtract(place, ego)) <= 60


def test_the_ego_drives_on_the_map(nusc: Any) -> None:
    for record in nusc.map:
        scene = next(each for each in nusc.scene if each["log_token"] in record["log_tokens"])
        sample = nusc.get("sample", scene["first_sample_token"])
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        x, y, _ = nusc.get("ego_pose", lidar["ego_pose_token"])["translation"]
        assert record["mask"].is_on_mask(x, y).all()
        assert not record["mask"].is_on_mask(x + 60, y + 60).all() or not record["mask"].is_on_mask(x - 60, y).all()


def test_the_devkit_draws_it(nusc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("agg")
    sample = nusc.sample[0]
    for channel in ("CAM_FRONT", "LIDAR_TOP"):
        picture = tmp_path / f"{channel}.png"
        nusc.render_sample_data(sample["data"][channel], out_path=str(picture), verbose=False)
        assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("split", ["val", "synth_val"])
def test_a_perfect_submission_scores(nusc: Any, synth_root: Path, tmp_path: Path, split: str) -> None:
    """The ground truth, submitted, reaches an mAP over 0.95; ``synth_val`` by the untouched ``DetectionEval``."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    from udx.data.detections import Detections
    from udx.data.evaluation import evaluate, submission_of
    from udx.data.nuscenes import load_keyframes

    keyframes = load_keyframes(nusc, split)
    perfect = {}
    for keyframe in keyframes:
        truth = keyframe.annotations
        boxes = np.nan_to_num(truth.boxes_N9).astype(np.float32)
        perfect[keyframe.token] = Detections(
            boxes_K9=boxes, scores_K=np.ones(len(truth), np.float32), labels_K=truth.labels_N
        )
    if split == "val":
        metrics = evaluate(nusc, split, perfect, keyframes)
        assert metrics.mean_ap > 0.95
        assert set(metrics.per_class) == set(CLASSES)
        return
    results = tmp_path / "results.json"
    results.write_text(json.dumps(submission_of(perfect, keyframes)))
    official = DetectionEval(
        nusc, config_factory("detection_cvpr_2019"), str(results), split, str(tmp_path), verbose=False
    )
    assert official.evaluate()[0].mean_ap > 0.95


def test_udx_finds_nothing_wrong_with_it(synth_root: Path) -> None:
    from udx.data.check import check_dataroot

    check_dataroot(synth_root)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    write_world(first, TINY, workers=1)
    write_world(second, TINY, workers=2)
    write_world(other, replace(TINY, seed=6), workers=1)
    names = files_of(first)
    assert files_of(second) == names
    assert filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])
    assert (first / VERSION / "ego_pose.json").read_bytes() != (other / VERSION / "ego_pose.json").read_bytes()


def test_an_interrupted_world_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    write_world(whole, TINY, workers=1)
    seen = []

    def stop_after_three(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(interrupted, TINY, workers=1, progress=stop_after_three)
    assert seen == [(1, 4), (2, 4), (3, 4)]
    assert not interrupted.exists()
    rendered = []
    render = world._write_keyframe
    monkeypatch.setattr(world, "_write_keyframe", lambda *args: (rendered.append(args[3]), render(*args)))
    write_world(interrupted, TINY, workers=1)
    assert rendered == [(1, 1)]
    assert filecmp.cmpfiles(whole, interrupted, files_of(whole), shallow=False)[1:] == ([], [])


def test_another_spec_does_not_resume(tmp_path: Path) -> None:
    out = tmp_path / "world"
    with pytest.raises(KeyboardInterrupt):
        write_world(out, TINY, workers=1, progress=_interrupt)
    write_world(out, replace(TINY, samples=1, image_width_px=80), workers=1)
    assert len(json.loads((out / VERSION / "sample.json").read_text())) == 2


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(UdxError, match="not an empty folder; remove it or choose another"):
        write_world(tmp_path, TINY)
    assert files_of(tmp_path) == ["precious"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "empty"
    out.mkdir()
    write_world(out, replace(TINY, samples=1), workers=1)
    assert (out / VERSION / "scene.json").is_file()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world, "_write_keyframe", full)
    with pytest.raises(UdxError, match="No space left on device; free some space"):
        write_world(tmp_path / "world", TINY, workers=1)
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(
    "change",
    [{"scenes": 1}, {"samples": 0}, {"seed": -1}, {"sweeps": 10}, {"image_width_px": 10}, {"val_fraction": 1.0}],
)
def test_impossible_worlds_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UdxError, match="choose another"):
        WorldSpec(**change)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UdxError, match="torch cannot use the device 'cuda:99' here"):
        write_world(tmp_path / "world", TINY, device="cuda:99")
    assert not list(tmp_path.iterdir())


def test_a_device_that_computes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UdxError, match="rendered on cpu or cuda, not on 'meta'"):
        write_world(tmp_path / "world", TINY, device="meta")


def test_a_killed_worker_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def die(*_: object) -> None:
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(world, "_write_keyframe", die)
    with pytest.raises(UdxError, match="fewer workers"):
        write_world(tmp_path / "world", TINY, workers=1)


def test_two_processes_do_not_write_one_world(tmp_path: Path) -> None:
    with (
        lock_file(tmp_path / ".world.lock"),
        pytest.raises(UdxError, match=r"another process is writing .*world; wait until it has finished, or choose"),
    ):
        write_world(tmp_path / "world", TINY)
    assert not list(tmp_path.iterdir())


def test_who_waits_takes_what_the_other_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that want the world first: one renders, the other looks on."""
    rendering, waiting = threading.Event(), threading.Event()
    rendered, told = [], []

    def render(growing: Path, *_: object) -> list[object]:
        rendered.append(growing)
        (growing / "keyframes").mkdir()
        (growing / "keyframes" / "0-0.json").write_text("{}")
        rendering.set()
        assert waiting.wait(60)
        return []

    def look_on(done: int, total: int) -> None:
        told.append((done, total))
        waiting.set()

    monkeypatch.setattr(world, "_render_all", render)
    monkeypatch.setattr(world, "_write_tables", lambda growing, *_: (growing / "table").write_text("whole"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write_world, tmp_path / "world", TINY, wait=True)
        assert rendering.wait(60)
        second = pool.submit(write_world, tmp_path / "world", TINY, progress=look_on, wait=True)
        assert (first.result(60), second.result(60)) == (None, None)
    assert len(rendered) == 1
    assert told[0] == (1, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert files_of(tmp_path / "world") == ["table"]


def test_importing_the_world_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, udx.data.synth; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
