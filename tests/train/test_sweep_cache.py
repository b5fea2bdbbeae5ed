"""The sweep cache gives back what was read, bit by bit, or nothing."""

import dataclasses
import os
import pickle

import numpy as np
import pytest

from tests.fuzz import SEED, cases
from tests.mutations import mutations
from udx.data.load import read_sweeps
from udx.data.nuscenes import load_keyframes
from udx.errors import UdxError
from udx.files import write_with
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


def cached_file(folder):
    (file,) = folder.iterdir()
    return file


def test_a_damaged_file_is_written_anew(several, tmp_path, reads):
    """Whatever byte is changed, what comes back is what was read."""
    cache = SweepCache(tmp_path / "cache")
    expected = cache(several, 10)
    file = cached_file(tmp_path / "cache")
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damages = [*mutations(whole, cases(50), SEED), whole[:-3], whole[:header], b"", b"{}"]
    damages += [damaged + whole[header:] for damaged in mutations(whole[:header], cases(50), SEED)]
    for damaged in damages:
        file.write_bytes(damaged)
        assert same(cache(several, 10), expected)
    assert len(reads) > 0.8 * len(damages)  # some change nothing, or only white space


def test_a_flipped_bit_is_not_served(several, tmp_path, reads):
    cache = SweepCache(tmp_path / "cache")
    expected = cache(several, 10)
    file = cached_file(tmp_path / "cache")
    whole = file.read_bytes()
    for bit in np.random.default_rng(SEED).integers(8 * len(whole), size=cases(50)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert same(cache(several, 10), expected), f"bit {bit}"


def test_the_file_of_other_sweeps_is_not_served(several, tmp_path, reads):
    cache = SweepCache(tmp_path / "cache")
    expected = cache(several, 10)
    own = cached_file(tmp_path / "cache")
    turned = dataclasses.replace(several, sweeps=several.sweeps[::-1])
    cache(turned, 10)
    (foreign,) = set((tmp_path / "cache").iterdir()) - {own}
    own.write_bytes(foreign.read_bytes())
    assert same(cache(several, 10), expected)


def test_equal_names_sizes_and_times_in_another_folder_are_other_sweeps(several, tmp_path, reads):
    cache = SweepCache(tmp_path / "cache")
    here, there = moved_to(several, tmp_path / "here"), moved_to(several, tmp_path / "there")
    for sweep in there.sweeps:
        sweep.path.write_bytes(np.fromfile(sweep.path, "<f4")[::-1].tobytes())
    for sweep in (*here.sweeps, *there.sweeps):
        os.utime(sweep.path, ns=(1, 1))
    cache(here, 10)
    assert same(cache(there, 10), read_sweeps(there, 10))


def test_a_full_disk_is_one_sentence(several, tmp_path, monkeypatch):
    """A descriptor of /dev/full stands for the file in which there is no space."""
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(module, "write_with", lambda path, write: write_with(path, lambda _: full.write(b"x")))
        with pytest.raises(UdxError, match=r"cannot write .*safetensors: No space left on device; free some space"):
            SweepCache(tmp_path / "cache")(several, 10)
    assert not list((tmp_path / "cache").iterdir())


def test_a_name_that_is_not_utf8(several, tmp_path, reads):
    cache, keyframe = SweepCache(tmp_path / "cache"), moved_to(several, tmp_path / os.fsdecode(b"caf\xe9"))
    assert same(cache(keyframe, 10), cache(keyframe, 10))
    assert reads == [10]


def test_a_missing_sweep_and_a_folder_that_cannot_be_written_are_told(several, tmp_path):
    keyframe = moved_to(several, tmp_path / "sweeps")
    (tmp_path / "file").write_text("")
    with pytest.raises(UdxError, match=r"cannot write .*: Not a directory; choose another path"):
        SweepCache(tmp_path / "file" / "cache")(keyframe, 10)
    keyframe.sweeps[1].path.unlink()
    with pytest.raises(UdxError, match=r"sweep .*1\.bin cannot be read"):
        SweepCache(tmp_path / "cache")(keyframe, 10)
