"""The tables read without the devkit: what comes out is what comes out with it."""

import dataclasses

import numpy as np
import pytest

from tests.data.test_nuscenes import TWO
from udx.data import nuscenes
from udx.data.dataroot import Dataroot
from udx.data.nuscenes import load_keyframes, open_dataroot, scenes_of_split
from udx.data.official import CATEGORIES, predefined_splits
from udx.errors import UdxError


@pytest.fixture
def without_devkit(monkeypatch):
    monkeypatch.setattr(nuscenes, "has_devkit", lambda: False)


def plain(value):
    """A keyframe as values that compare: arrays as bytes."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def keyframes(root, split):
    return [plain(keyframe) for keyframe in load_keyframes(root, split, TWO)]


def test_keyframes_are_those_of_the_devkit_to_the_last_bit(world_root, monkeypatch):
    with_it = keyframes(world_root, "train")
    monkeypatch.setattr(nuscenes, "has_devkit", lambda: False)
    assert isinstance(open_dataroot(world_root), Dataroot)
    assert keyframes(world_root, "train") == with_it
    assert len(with_it) == 2


@pytest.mark.parametrize("gap_s", [0.5, 1.6, 3.1])
def test_velocities_are_those_of_the_devkit(world, tmp_path, gap_s):
    first, second = world.tables["sample"]
    second["timestamp"] = first["timestamp"] + round(gap_s * 1e6)
    root = world.write(tmp_path / "w")
    with_it, own = open_dataroot(root), Dataroot(root, world.version)
    for record in world.tables["sample_annotation"]:
        expected = with_it.box_velocity(record["token"])
        np.testing.assert_array_equal(own.box_velocity(record["token"]), expected)
        assert np.isnan(expected).all() == (gap_s > 1.5)


def test_categories_are_those_of_the_devkit():
    from nuscenes.eval.detection.utils import category_to_detection_name
    from nuscenes.utils.color_map import get_colormap

    assert {name: category_to_detection_name(name) for name in get_colormap()} == CATEGORIES


def test_splits_are_those_of_the_devkit():
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    held = {scene for scenes in official.values() for scene in scenes}
    assert len(held) == 1000
    for split, scenes in predefined_splits(held).items():
        assert list(scenes) == official[split], split
    assert predefined_splits({"scene-0916", "mine"})["mini_val"] == ("scene-0916",)


def test_a_predefined_split_is_found_without_the_devkit(world, tmp_path, without_devkit):
    world.version, world.splits = "v1.0-mini", {}
    world.tables["scene"][0]["name"] = "scene-0061"
    nusc = open_dataroot(world.write(tmp_path / "w"))
    assert scenes_of_split(nusc, "mini_train") == scenes_of_split(nusc, "train") == ("scene-0061",)
    with pytest.raises(UdxError, match=r"split 'mini_val' is empty here; .*mini_train, train"):
        scenes_of_split(nusc, "mini_val")


def lost_instance(world):
    world.tables["instance"].pop()


def no_field(world):
    del world.tables["sample_data"][0]["is_key_frame"]


@pytest.mark.parametrize("spoil", [lost_instance, no_field])
def test_tables_that_contradict_each_other_are_named(spoilt, without_devkit, spoil):
    with pytest.raises(UdxError, match=r"cannot be loaded \(KeyError.*udx data check"):
        open_dataroot(spoilt(spoil))


def test_a_table_that_is_cut_off_is_named(world_root, without_devkit):
    (path,) = world_root.glob("v1.0-*/scene.json")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UdxError, match=r"scene\.json is not a table"):
        open_dataroot(world_root)
