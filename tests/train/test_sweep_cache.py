"""The sweep cache gives back what was read, bit by bit, or nothing."""

import dataclasses
import os
import pickle

import numpy as np
import pytest

from tests.mutations import mutations
from udx.data.load import read_sweeps
from udx.data.nuscenes import load_keyframes
from udx.errors import UdxError
from udx.train import sweep_cache as module
from udx.train.sweep_cache import SweepCache


@pytest.fixture
def several(world_root):
    """The keyframe with the most sweeps."""
    return max(load_keyframes(world_root, "train"), key=lambda keyframe: len(keyframe.sweeps))


def moved_to(keyframe, folder):
    """The keyframe with its sweeps in another folder."""
    folder.mkdir(exist_ok=True)
    sweeps = []
    for at, sweep in enumerate(keyframe.sweeps):
        path = folder / f"{at}.bin"
        path.write_bytes(sweep.path.read_bytes())
        sweeps.append(dataclasses.replace(sweep, path=path))
    return dataclasses.replace(keyframe, sweeps=tuple(sweeps))


def same(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.fixture
def reads(monkeypatch):
    """How many sweeps were asked of the files, call by call."""
    asked = []
    monkeypatch.setattr(
        module, "read_sweeps", lambda keyframe, sweeps: asked.append(sweeps) or read_sweeps(keyframe, sweeps)
    )
    return asked


def test_what_comes_back_is_what_was_read(several, tmp_path, reads):
    assert len(several.sweeps) >= 3
    cache = SweepCache(tmp_path / "cache")
    first, again = cache(several, 10), pickle.loads(pickle.dumps(cache))(several, 10)
    assert reads == [10]
    assert same(first, read_sweeps(several, 10))
    assert same(again, first)
    assert all(one.dtype == np.float32 for one in again)
    assert same(cache(several, 2), first[:2])
    assert reads == [10, 2]
    assert not list(tmp_path.glob("cache/*.part"))


@pytest.mark.parametrize("change", ["content", "time", "pose", "age"])
def test_what_has_changed_is_read_anew(several, tmp_path, reads, change):
    cache, keyframe = SweepCache(tmp_path / "cache"), moved_to(several, tmp_path / "sweeps")
    cache(keyframe, 10)
    last = keyframe.sweeps[-1]
    pose = last.ego_T_lidar.copy()
    pose[0, 3] += 1e-9
    if change == "content":
        last.path.write_bytes(np.full((7, 5), 3, "<f4").tobytes())
    if change == "time":
        os.utime(last.path, ns=(1, 1))
    others = {"pose": {"ego_T_lidar": pose}, "age": {"age_s": last.age_s + 1e-6}}.get(change, {})
    keyframe = dataclasses.replace(keyframe, sweeps=(*keyframe.sweeps[:-1], dataclasses.replace(last, **others)))
    assert same(cache(keyframe, 10), read_sweeps(keyframe, 10))
    assert reads == [10, 10]


def test_no_sweeps_leave_no_file(several, tmp_path):
    assert SweepCache(tmp_path / "cache")(dataclasses.replace(several, sweeps=()), 10) == []
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_written_anew(several, tmp_path, reads):
    cache = SweepCache(tmp_path / "cache")
    expected = cache(several, 10)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damages = [*mutations(whole[:header], 300), whole[:-3], whole[:header], b"", b"{}"]
    for damaged in damages:
        # Of what the header says nothing can be known of the numbers behind it; those are left alone.
        file.write_bytes(damaged + whole[header:] if damaged not in damages[-4:] else damaged)
        found = cache(several, 10)
        assert [one.shape for one in found] == [one.shape for one in expected]
        assert all(one.dtype == np.float32 for one in found)
        file.write_bytes(whole)
    assert len(reads) > 100


def test_a_missing_sweep_and_a_folder_that_cannot_be_written_are_told(several, tmp_path):
    keyframe = moved_to(several, tmp_path / "sweeps")
    (tmp_path / "file").write_text("")
    with pytest.raises(UdxError, match=r"cannot write .*; free some space or choose another path"):
        SweepCache(tmp_path / "file" / "cache")(keyframe, 10)
    keyframe.sweeps[1].path.unlink()
    with pytest.raises(UdxError, match=r"sweep .*1\.bin cannot be read"):
        SweepCache(tmp_path / "cache")(keyframe, 10)
