"""The teacher cache: what comes back is what was added, and nothing stale, damaged or foreign is ever served."""

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from tests.tiny import ring_of_cameras, tiny_detector
from udx.config import from_plain, to_plain
from udx.data.frame import Annotations, KeyFrame, Sweep
from udx.errors import UdxError
from udx.train import lesson_cache
from udx.train.lesson_cache import KEY_FILE, METADATA_KEY, CacheKey, LessonCache, data_digest

KEY = CacheKey(
    teacher_sha256="a" * 64,
    dataset_sha256="b" * 64,
    augmentation={"bev": {"scale": [0.9, 1.1]}},
    augmentation_seed=3,
    objectives={"feature": {"kind": "feature"}},
    student={"grid": {"cell": 0.8}},
    teacher={"grid": {"cell": 0.6}},
    precision="bf16",
    device="cpu",
)
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
)


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Every bit at random, so that NaNs of all payloads occur."""
    count = int(np.prod(shape)) * dtype.itemsize
    drawn = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    return torch.from_numpy(drawn).view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def lessons_of(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    boxes = seed % 3  # now and then a sample without boxes
    return {
        "feature": {"points": random_bits(torch.bfloat16, (boxes, 9, 4), seed)},
        "response": {
            "heatmap": random_bits(torch.float32, (boxes, 7), seed + 1),
            "cells": torch.arange(boxes + seed),
        },
    }


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def all_bits(lessons):
    return {objective: {name: bits(tensor) for name, tensor in its.items()} for objective, its in lessons.items()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def filled(folder) -> Path:
    """Two shards: the positions 0 to 4, and 5 to 9."""
    cache = LessonCache.open(folder, KEY)
    for position in range(10):
        cache.add(position, 0, lessons_of(position))
        if position in (4, 9):
            cache.flush()
    assert len(shards(folder)) == 2
    return folder


names = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
tensors = st.builds(
    random_bits,
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
some_lessons = st.dictionaries(names, st.dictionaries(names, tensors, min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=40)
@given(
    entries=st.dictionaries(st.tuples(st.integers(0, 10**6), st.integers(0, 100)), some_lessons, max_size=6),
    shard_bytes=st.sampled_from([1, 700, 2**20]),
)
def test_what_comes_back_is_what_was_added_bit_by_bit(entries, shard_bytes):
    with tempfile.TemporaryDirectory() as temporary:
        cache = LessonCache.open(Path(temporary), KEY, shard_bytes=shard_bytes)
        for address, lessons in entries.items():
            cache.add(*address, lessons)
        before = {address: all_bits(cache.lookup(*address)) for address in entries}
        cache.flush()
        after = LessonCache.open(Path(temporary), KEY)
        assert len(cache) == len(after) == len(entries)
        for address, lessons in entries.items():
            assert before[address] == all_bits(after.lookup(*address)) == all_bits(lessons)


def test_payloads_of_nan_and_signs_of_zero_survive(folder):
    single = torch.tensor([0x7FC00001, 0x7F800001, -0x3FFFFF, -(2**31)], dtype=torch.int32).view(torch.float32)
    half = torch.tensor([0x7FC1, 0x7F81, -0x3F, -(2**15)], dtype=torch.int16).view(torch.bfloat16)
    assert single[:3].isnan().all() and half[:3].isnan().all()
    cache = LessonCache.open(folder, KEY)
    cache.add(0, 0, {"odd": {"single": single, "half": half}})
    cache.flush()
    found = LessonCache.open(folder, KEY).lookup(0, 0)["odd"]
    assert torch.equal(found["single"].view(torch.int32), single.view(torch.int32))
    assert torch.equal(found["half"].view(torch.int16), half.view(torch.int16))


def test_slices_of_a_batch_are_kept_without_the_batch(folder):
    batch = torch.arange(24.0).view(4, 6).T
    cache = LessonCache.open(folder, KEY)
    for position, part in enumerate(batch.split([1, 0, 5])):
        cache.add(position, 0, {"feature": {"points": part}})
    batch.zero_()
    cache.flush()
    found = [cache.lookup(position, 0)["feature"]["points"] for position in range(3)]
    assert torch.equal(torch.cat(found), torch.arange(24.0).view(4, 6).T)
    assert [part.untyped_storage().nbytes() for part in found] == [16, 0, 80]


def test_an_address_that_was_never_added_has_no_lessons(filled):
    cache = LessonCache.open(filled, KEY)
    assert cache.lookup(10, 0) is None
    assert cache.lookup(0, 1) is None
    assert (0, 0) in cache and (0, 1) not in cache
    assert cache.missing([(3, 1), (9, 0), (12, 0), (3, 0)]) == [(3, 1), (12, 0)]


def test_what_the_caller_does_to_lessons_stays_with_the_caller(folder):
    cache = LessonCache.open(folder, KEY)
    cache.add(2, 0, lessons_of(2))
    cache.lookup(2, 0)["feature"]["points"].zero_()
    assert all_bits(cache.lookup(2, 0)) == all_bits(lessons_of(2))
    cache.flush()
    cache.lookup(2, 0)["feature"]["points"].zero_()
    assert all_bits(cache.lookup(2, 0)) == all_bits(lessons_of(2))


def test_lessons_that_are_there_are_not_written_twice(filled):
    before = {path: path.stat().st_mtime_ns for path in filled.iterdir()}
    cache = LessonCache.open(filled, KEY)
    cache.add(3, 0, lessons_of(99))
    cache.flush()
    assert {path: path.stat().st_mtime_ns for path in filled.iterdir()} == before
    assert all_bits(cache.lookup(3, 0)) == all_bits(lessons_of(3))


@pytest.mark.parametrize("shape", [(100,), (0, 9, 256)])
def test_the_buffer_is_bounded_even_for_empty_tensors(folder, shape):
    cache = LessonCache.open(folder, KEY, shard_bytes=4000)
    for position in range(40):
        cache.add(position, 0, {"feature": {"points": torch.zeros(shape)}})
        written = sum(len(load_file(path)) for path in shards(folder))
        each = 4 * int(np.prod(shape)) + lesson_cache.TENSOR_OVERHEAD_BYTES
        assert (position + 1 - written) * each < 4000
    assert len(shards(folder)) > 1
    assert len(cache) == 40


def test_more_shards_than_may_be_mapped_at_once(folder, monkeypatch):
    monkeypatch.setattr(lesson_cache, "MAX_MAPPED", 2)
    cache = LessonCache.open(folder, KEY, shard_bytes=1)
    for position in range(5):
        cache.add(position, 0, lessons_of(position))
    assert len(shards(folder)) == 5
    for position in [0, 1, 2, 0, 3, 4, 4, 1]:
        assert all_bits(cache.lookup(position, 0)) == all_bits(lessons_of(position))
        assert len(cache._mapped) <= 2


# Several processes


def fill(folder: Path, positions: range) -> None:
    cache = LessonCache.open(folder, KEY, shard_bytes=1000)
    for position in positions:
        cache.add(position, 0, lessons_of(position))
    cache.flush()


def test_several_processes_write_into_one_folder(folder):
    fork = multiprocessing.get_context("fork")
    # The last two have the very same shards to write.
    writers = [fork.Process(target=fill, args=(folder, part)) for part in (range(12), range(6, 18), range(6, 18))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    cache = LessonCache.open(folder, KEY)
    assert len(cache) == 18
    assert all(all_bits(cache.lookup(position, 0)) == all_bits(lessons_of(position)) for position in range(18))
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_refresh_takes_up_what_others_have_written(folder):
    one, other = LessonCache.open(folder, KEY), LessonCache.open(folder, KEY)
    one.add(1, 0, lessons_of(1))
    one.flush()
    assert other.lookup(1, 0) is None
    other.refresh()
    assert all_bits(other.lookup(1, 0)) == all_bits(lessons_of(1))


class Reader(Dataset):
    def __init__(self, cache: LessonCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return 10

    def __getitem__(self, position: int):
        return dict(self.cache.lookup(position, 0))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_read(filled, method):
    cache = LessonCache.open(filled, KEY)
    assert cache.lookup(7, 0) is not None  # one shard is mapped already
    loader = DataLoader(Reader(cache), batch_size=None, num_workers=1, multiprocessing_context=method)
    assert [all_bits(lessons) for lessons in loader] == [all_bits(lessons_of(position)) for position in range(10)]


def test_a_copy_for_a_worker_holds_no_file_and_no_buffer(filled):
    cache = LessonCache.open(filled, KEY)
    cache.lookup(0, 0)
    without_buffer = len(pickle.dumps(cache))
    cache.add(20, 0, {"feature": {"points": torch.zeros(100_000)}})
    copy = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) == without_buffer
    assert copy.lookup(20, 0) is None
    assert all_bits(copy.lookup(0, 0)) == all_bits(cache.lookup(0, 0))
    copy.flush()
    assert len(shards(filled)) == 2
    cache.flush()
    assert len(shards(filled)) == 3


def test_a_worker_hashes_only_what_has_changed_since(filled, monkeypatch):
    hashed = []
    copy = pickle.loads(pickle.dumps(LessonCache.open(filled, KEY)))
    monkeypatch.setattr(lesson_cache, "sha256_of", lambda path: hashed.append(path) or path.stem)
    for position in range(10):
        assert copy.lookup(position, 0) is not None
    assert hashed == []
    for path in shards(filled):  # the same content, put there anew
        shutil.copy(path, filled / ".again")
        (filled / ".again").replace(path)
    copy = pickle.loads(pickle.dumps(copy))
    for position in range(10):
        assert copy.lookup(position, 0) is not None
    assert sorted(hashed) == shards(filled)


# Another key


CHANGES = {
    "teacher_sha256": "c" * 64,
    "dataset_sha256": "c" * 64,
    "augmentation": {"bev": {"scale": [0.9, 1.2]}},
    "augmentation_seed": 4,
    "objectives": {"feature": {"kind": "feature"}, "relation": {}},
    "student": {"grid": {"cell": 0.4}},
    "teacher": {"grid": {"cell": 0.4}},
    "precision": "no",
    "device": "cuda",
    "udx_version": "0.0.0",
}


def test_every_field_of_the_key_is_changed_below():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(CacheKey)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_cache_of_another_key_is_refused_by_the_name_of_the_field(filled, field):
    before = sorted(filled.iterdir())
    said = field.removesuffix("_sha256").replace("_", " ")
    with pytest.raises(UdxError, match=f"with a different {said}; choose another folder"):
        LessonCache.open(filled, dataclasses.replace(KEY, **{field: CHANGES[field]}))
    assert sorted(filled.iterdir()) == before


def test_all_fields_that_differ_are_named(filled):
    with pytest.raises(UdxError, match="a different teacher, precision; "):
        LessonCache.open(filled, dataclasses.replace(KEY, teacher_sha256="c" * 64, precision="no"))


def test_the_key_stands_in_the_folder_in_the_plain(filled):
    written = json.loads((filled / KEY_FILE).read_text())
    assert written == {"format": "udx-lessons/1", "key": to_plain(KEY)}
    assert from_plain(CacheKey, written["key"], "") == KEY
    assert from_plain(CacheKey, written["key"], "").sha256 == KEY.sha256


def test_without_augmentation_there_is_no_seed():
    none = dataclasses.replace(KEY, augmentation=None, augmentation_seed=None)
    assert from_plain(CacheKey, to_plain(none), "") == none
    with pytest.raises(ValueError, match="both or neither"):
        dataclasses.replace(KEY, augmentation=None)
    with pytest.raises(ValueError, match="both or neither"):
        dataclasses.replace(KEY, augmentation_seed=None)


@pytest.mark.parametrize("value", [{"a": (1, 2)}, {"a": {1: "b"}}, {"a": float("nan")}, {"a": Path("b")}])
def test_a_key_that_json_would_change_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(KEY, objectives=value)


def test_a_key_needs_digests():
    with pytest.raises(ValueError, match="64 hex digits, unlike 'fusion'"):
        dataclasses.replace(KEY, teacher_sha256="fusion")


# Damage


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "damaged or not of the format"),
        ('{"format": "udx-lessons/99", "key": {}}', "damaged or not of the format"),
        ('{"format": "udx-lessons/1", "key": null}', "damaged or not of the format"),
        ('{"format": "udx-lessons/1", "key": {"augmentation": NaN}}', "not valid JSON"),
        ('{"format": "udx-lessons/1", "key": {"augmentation": 1e999}}', "not valid JSON"),
        (
            f'{{"format": "udx-lessons/1", "key": {{"teacher": {"[" * 900}{"]" * 900}}}}}',
            "different|too deeply|not valid",
        ),
        ('{"format": "udx-lessons/1", "key": {}}', "a different teacher, dataset, augmentation, "),
    ],
)
def test_a_damaged_key_is_refused(filled, content, said):
    (filled / KEY_FILE).write_text(content)
    with pytest.raises(UdxError, match=said):
        LessonCache.open(filled, KEY)


def test_a_field_that_this_udx_does_not_know_is_refused(filled):
    written = json.loads((filled / KEY_FILE).read_text())
    written["key"]["moon"] = "full"
    (filled / KEY_FILE).write_text(json.dumps(written))
    with pytest.raises(UdxError, match="a different moon"):
        LessonCache.open(filled, KEY)


def test_shards_without_a_key_are_refused(filled):
    (filled / KEY_FILE).unlink()
    with pytest.raises(UdxError, match=r"lost its cache\.json"):
        LessonCache.open(filled, KEY)


def truncated(content: bytes) -> bytes:
    return content[:-1]


def empty(content: bytes) -> bytes:
    return b""


def with_a_bit_flipped_in_the_header(content: bytes) -> bytes:
    return content[:20] + bytes([content[20] ^ 1]) + content[21:]


def with_the_last_bit_flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES = [truncated, empty, with_a_bit_flipped_in_the_header, with_the_last_bit_flipped]


@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_damaged_shard_is_found_on_opening(filled, damaged):
    path = shards(filled)[0]
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(UdxError, match=f"{path.name} is truncated or altered; remove it"):
        LessonCache.open(filled, KEY)
    path.unlink()  # as the sentence says
    cache = LessonCache.open(filled, KEY)
    assert len(cache.missing((position, 0) for position in range(10))) == 5


@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_shard_that_is_altered_later_is_not_served_by_a_worker(filled, damaged):
    copy = pickle.loads(pickle.dumps(LessonCache.open(filled, KEY)))
    for path in shards(filled):
        path.write_bytes(damaged(path.read_bytes()))
        os.utime(path, ns=(0, 1))  # writing within one tick of the clock might go unseen
    for position in range(10):
        with pytest.raises(UdxError, match="is truncated or altered"):
            copy.lookup(position, 0)


def test_a_shard_that_is_removed_later_is_one_sentence(filled):
    copy = pickle.loads(pickle.dumps(LessonCache.open(filled, KEY)))
    for path in shards(filled):
        path.unlink()
    with pytest.raises(UdxError, match="No such file or directory; start again"):
        copy.lookup(0, 0)


def test_a_damaged_shard_is_not_taken_for_the_one_to_be_written(filled):
    path = shards(filled)[0]
    lost = {int(name.split(".")[0]) for name in load_file(path)}
    path.write_bytes(b"damage that comes while the cache is open")
    cache = LessonCache(filled, KEY)
    for position in sorted(lost):
        cache.add(position, 0, lessons_of(position))
    with pytest.raises(UdxError, match="is truncated or altered"):
        cache.flush()
    path.unlink()
    cache.flush()
    assert len(LessonCache.open(filled, KEY)) == 10


@pytest.mark.parametrize("name", ["notes.txt", "sub", "0" * 63 + ".safetensors", "A" * 64 + ".safetensors"])
def test_files_of_another_kind_are_refused(filled, name):
    (filled / name).mkdir() if name == "sub" else (filled / name).touch()
    with pytest.raises(UdxError, match=f"holds {name}, which is no part of a teacher cache"):
        LessonCache.open(filled, KEY)


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UdxError, match=r"holds thesis\.tex"):
        LessonCache.open(tmp_path, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def put(folder: Path, content: bytes) -> Path:
    path = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    path.write_bytes(content)
    return path


def test_a_foreign_file_with_the_right_name_is_refused(filled):
    put(filled, b"no safetensors at all")
    with pytest.raises(UdxError, match="is not a shard of a teacher cache"):
        LessonCache.open(filled, KEY)


def test_a_shard_of_another_cache_is_refused(filled, tmp_path):
    other = dataclasses.replace(KEY, teacher_sha256="c" * 64)
    elsewhere = LessonCache.open(tmp_path / "other", other)
    elsewhere.add(77, 0, lessons_of(2))
    elsewhere.flush()
    shutil.copy(shards(tmp_path / "other")[0], filled)
    with pytest.raises(UdxError, match="is not a shard of this teacher cache; remove it"):
        LessonCache.open(filled, KEY)


@pytest.mark.parametrize(
    "name", ["../../../etc/x", "0.0/a/../b", "/0.0/a/b", "0.0/a", "0.0/a/b/c", "-1.0/a/b", "01.0/a/b", "0.0/a/ü", "x"]
)
def test_a_forged_tensor_name_is_refused(filled, tmp_path, name):
    save_file({name: torch.ones(1)}, tmp_path / "forged", metadata={METADATA_KEY: f"udx-lessons/1 {KEY.sha256}"})
    put(filled, (tmp_path / "forged").read_bytes())
    with pytest.raises(UdxError, match="no tensor of a lesson"):
        LessonCache.open(filled, KEY)


# Writing


@pytest.mark.parametrize("odd", ["", "a/b", "../a", "a b", "ü", "a\n", "a\0"])
def test_odd_names_are_refused(folder, odd):
    cache = LessonCache.open(folder, KEY)
    for lessons in ({odd: {"points": torch.ones(1)}}, {"feature": {odd: torch.ones(1)}}):
        with pytest.raises(ValueError, match="letters, digits"):
            cache.add(0, 0, lessons)
    assert len(cache) == 0


def test_dots_in_names_lead_nowhere(folder):
    cache = LessonCache.open(folder, KEY)
    cache.add(0, 0, {"..": {".": torch.ones(1)}})
    cache.flush()
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]
    assert torch.equal(LessonCache.open(folder, KEY).lookup(0, 0)[".."]["."], torch.ones(1))


@pytest.mark.parametrize("lessons", [{}, {"feature": {}}, {"feature": {"points": torch.ones(1)}, "relation": {}}])
def test_lessons_that_would_not_come_back_are_refused(folder, lessons):
    cache = LessonCache.open(folder, KEY)
    with pytest.raises(ValueError, match="lack a tensor"):
        cache.add(0, 0, lessons)
    assert (0, 0) not in cache


def test_what_an_interrupted_process_left_does_no_harm(filled):
    left = filled / f".{'0' * 64}.safetensors.123.part"
    left.write_bytes(b"half a shard")
    cache = LessonCache.open(filled, KEY)
    assert len(cache) == 10
    cache.add(10, 0, lessons_of(10))
    cache.flush()
    assert len(LessonCache.open(filled, KEY)) == 11


@pytest.mark.parametrize(
    ("failure", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "disk full"), UdxError)]
)
def test_a_shard_that_could_not_be_written_is_written_later(folder, monkeypatch, failure, raised):
    def fails(_: int) -> None:
        raise failure

    cache = LessonCache.open(folder, KEY)
    cache.add(0, 0, lessons_of(2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(raised):
            cache.flush()
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]
    cache.flush()
    assert all_bits(LessonCache.open(folder, KEY).lookup(0, 0)) == all_bits(lessons_of(2))


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UdxError, match="cannot read the folder"):
        LessonCache.open(tmp_path / "file", KEY)
    with pytest.raises(UdxError, match=r"cannot (read|write)"):
        LessonCache.open(tmp_path / "file" / "cache", KEY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UdxError, match=r"cannot write .*Permission denied"):
        LessonCache.open(tmp_path / "cache", KEY)


def test_a_full_cache_is_read_without_writing(filled, monkeypatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("a full cache may stand on a read-only disk")

    monkeypatch.setattr(lesson_cache, "write_with", forbidden)
    monkeypatch.setattr(lesson_cache, "write_json", forbidden)
    cache = LessonCache.open(filled, KEY)
    cache.add(0, 0, lessons_of(0))
    cache.flush()
    assert len(cache) == 10


def test_opening_tells_how_far_it_is(filled):
    told = []
    LessonCache.open(filled, KEY, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_lessons_of_two_keys_that_begin_one_folder_at_once_never_mix(folder):
    other = dataclasses.replace(KEY, precision="no")
    first = LessonCache.open(folder, KEY)
    (folder / KEY_FILE).unlink()  # as if the second had looked before the first had written
    second = LessonCache.open(folder, other)
    first.add(0, 0, lessons_of(2))
    first.flush()
    with pytest.raises(UdxError, match="not a shard of this teacher cache"):
        second.refresh()
    assert second.lookup(0, 0) is None
    with pytest.raises(UdxError, match="not a shard of this teacher cache"):
        LessonCache.open(folder, other)


# The digest of the data


@pytest.fixture
def keyframes(tmp_path) -> list[KeyFrame]:
    generator = np.random.default_rng(0)
    rig = ring_of_cameras()

    def file(name: str) -> Path:
        path = tmp_path / "root" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        return path

    return [
        KeyFrame(
            token=f"token{number}",
            scene="scene",
            timestamp_us=number,
            image_paths=tuple(file(f"{number}-{name}.jpg") for name in rig.names),
            rig=rig,
            sweeps=tuple(Sweep(file(f"{number}-{age}.pcd.bin"), np.eye(4), float(age)) for age in range(2)),
            global_T_ego=np.eye(4),
            annotations=Annotations(
                generator.uniform(1, 2, (number + 1, 9)), np.zeros(number + 1, np.int64), np.ones(number + 1, np.int64)
            ),
        )
        for number in range(2)
    ]


FUSION, CAM, LIDAR = (tiny_detector(modality).spec for modality in ("fusion", "cam", "lidar"))


def moved(array, by: float = 1e-4):
    array = array.copy()
    array.reshape(-1)[-1] += by
    return array


def test_rounding_errors_do_not_change_the_digest(keyframes):
    """Boxes and poses are products of matrices, whose last bits differ between processes."""

    def noisy(array, generator):
        return array * (1 + generator.uniform(-4, 4, array.shape) * np.finfo(np.float64).eps)

    def turned(keyframe, generator):
        boxes = keyframe.annotations.boxes_N9.copy()
        boxes[:, 0] = [
            round(value, 1) for value in boxes[:, 0]
        ]  # round numbers, as the tables of a synthetic world hold
        boxes[0, 7:] = np.nan
        annotations = dataclasses.replace(keyframe.annotations, boxes_N9=boxes)
        if generator is None:
            return dataclasses.replace(keyframe, annotations=annotations)
        rig = keyframe.rig
        return dataclasses.replace(
            keyframe,
            annotations=dataclasses.replace(annotations, boxes_N9=noisy(boxes, generator)),
            rig=dataclasses.replace(
                rig,
                intrinsics_N33=noisy(rig.intrinsics_N33, generator),
                ego_T_cam_N44=noisy(rig.ego_T_cam_N44, generator),
            ),
            global_T_ego=noisy(keyframe.global_T_ego, generator),
            sweeps=tuple(
                dataclasses.replace(sweep, ego_T_lidar=noisy(sweep.ego_T_lidar, generator)) for sweep in keyframe.sweeps
            ),
        )

    before = data_digest([turned(keyframe, None) for keyframe in keyframes], FUSION)
    for seed in range(20):
        generator = np.random.default_rng(seed)
        assert data_digest([turned(keyframe, generator) for keyframe in keyframes], FUSION) == before


KEYFRAME_CHANGES = {
    "token": lambda it: {"token": "another"},
    "pose": lambda it: {"global_T_ego": moved(it.global_T_ego)},
    "intrinsics": lambda it: {"rig": dataclasses.replace(it.rig, intrinsics_N33=moved(it.rig.intrinsics_N33))},
    "cameras' poses": lambda it: {"rig": dataclasses.replace(it.rig, ego_T_cam_N44=moved(it.rig.ego_T_cam_N44))},
    "cameras' names": lambda it: {"rig": dataclasses.replace(it.rig, names=it.rig.names[::-1])},
    "boxes": lambda it: {"annotations": dataclasses.replace(it.annotations, boxes_N9=moved(it.annotations.boxes_N9))},
    "labels": lambda it: {
        "annotations": dataclasses.replace(it.annotations, labels_N=moved(it.annotations.labels_N, 1))
    },
    "points in boxes": lambda it: {
        "annotations": dataclasses.replace(it.annotations, num_points_N=moved(it.annotations.num_points_N, 1))
    },
    "no boxes": lambda it: {"annotations": Annotations.none()},
    "sweep's pose": lambda it: {
        "sweeps": (dataclasses.replace(it.sweeps[0], ego_T_lidar=moved(np.eye(4))), *it.sweeps[1:])
    },
    "sweep's age": lambda it: {"sweeps": (dataclasses.replace(it.sweeps[0], age_s=1e-4), *it.sweeps[1:])},
    "sweep's file": lambda it: {"sweeps": (dataclasses.replace(it.sweeps[0], path=it.sweeps[1].path), *it.sweeps[1:])},
    "no sweep": lambda it: {"sweeps": ()},
    "image files": lambda it: {"image_paths": it.image_paths[::-1]},
}


@pytest.mark.parametrize("change", KEYFRAME_CHANGES)
def test_any_change_to_a_keyframe_changes_the_digest(keyframes, change):
    before = data_digest(keyframes, FUSION)
    for number in range(2):
        changed = list(keyframes)
        changed[number] = dataclasses.replace(changed[number], **KEYFRAME_CHANGES[change](changed[number]))
        assert data_digest(changed, FUSION) != before
    assert data_digest(keyframes, FUSION) == before


def test_order_and_number_of_keyframes_count(keyframes):
    digests = {data_digest(some, FUSION) for some in (keyframes, keyframes[::-1], keyframes[:1], [])}
    assert len(digests) == 4


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_file_that_was_made_anew_changes_the_digest_of_those_who_read_it(keyframes, what):
    before = {spec.modality: data_digest(keyframes, spec) for spec in (FUSION, CAM, LIDAR)}
    image = keyframes[1].image_paths[2]
    stat = image.stat()
    if what == "size":
        image.write_bytes(b"another size")
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = {spec.modality for spec in (FUSION, CAM, LIDAR) if data_digest(keyframes, spec) != before[spec.modality]}
    assert changed == {"fusion", "cam"}


def test_where_one_part_ends_and_the_next_begins_counts(keyframes, tmp_path):
    def with_images(*files: tuple[str, int]) -> list[KeyFrame]:
        paths = tuple(tmp_path / name for name, _ in files)
        for path, (_, time_ns) in zip(paths, files, strict=True):
            path.touch()
            os.utime(path, ns=(0, time_ns))
        rest = keyframes[0].image_paths[2:]
        return [dataclasses.replace(keyframes[0], image_paths=(*paths, *rest))]

    one = data_digest(with_images(("a.jpg", 1), ("11.jpg", 1)), CAM)
    assert data_digest(with_images(("a.jpg", 11), ("1.jpg", 1)), CAM) != one


def test_sweeps_beyond_the_spec_do_not_count(keyframes):
    before = data_digest(keyframes, LIDAR)
    assert LIDAR.lidar.sweeps == 1
    keyframes[0].sweeps[1].path.unlink()
    assert data_digest(keyframes, LIDAR) == before


def test_a_dataroot_that_was_moved_has_the_same_digest(keyframes, tmp_path):
    before = data_digest(keyframes, FUSION)
    (tmp_path / "root").rename(tmp_path / "elsewhere")

    def there(path: Path) -> Path:
        return tmp_path / "elsewhere" / path.name

    after = [
        dataclasses.replace(
            it,
            image_paths=tuple(map(there, it.image_paths)),
            sweeps=tuple(dataclasses.replace(sweep, path=there(sweep.path)) for sweep in it.sweeps),
        )
        for it in keyframes
    ]
    assert data_digest(after, FUSION) == before


def test_a_missing_file_is_one_sentence(keyframes):
    keyframes[1].image_paths[0].unlink()
    with pytest.raises(UdxError, match=r"cannot read .*\.jpg: No such file or directory; restore it"):
        data_digest(keyframes, CAM)
    assert len(data_digest(keyframes, LIDAR)) == 64


def test_the_digest_tells_how_far_it_is(keyframes):
    told = []
    data_digest(keyframes, FUSION, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
