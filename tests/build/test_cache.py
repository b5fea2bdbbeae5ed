"""Plans that are kept: found by all of their key or not at all, and no more of them than there is room for."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runtime import plan_records
from tests.runtime.plan_records import GPU, KEY
from udx.build.cache import EngineCache, deliver
from udx.errors import UdxError
from udx.files import cache_folder
from udx.runtime.plan_file import PlanRecord, read_plan, record_path


def record_of(plan: Path, key=KEY) -> PlanRecord:
    return plan_records.record_of(plan.read_bytes(), key)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "student.plan"
    path.write_bytes(bytes(1000))
    return path


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


def test_a_plan_is_found_by_its_key_and_by_no_other(plan, cache):
    assert cache.find(KEY) is None
    cache.store(plan, record_of(plan))
    assert cache.find(KEY).record == record_of(plan)
    assert cache.find(replace(KEY, tensorrt="11.0")) is None


def test_a_plan_under_the_name_of_another_key_is_not_served(plan, cache):
    other = replace(KEY, tensorrt="11.0")
    cache.store(plan, record_of(plan))
    cache._path(KEY).parent.rename(cache._path(other).parent)
    assert cache.find(other) is None


def test_the_least_recently_used_plans_make_room(plan, tmp_path):
    cache = EngineCache(tmp_path / "cache", limit_bytes=2500)
    keys = [replace(KEY, udx=str(index)) for index in range(4)]
    for age, key in enumerate(keys[:2]):
        cache.store(plan, record_of(plan, key))
        os.utime(cache._path(key), ns=(age, age))
    cache.find(keys[0])  # used just now: the other one is older
    cache.store(plan, record_of(plan, keys[2]))
    assert [cache.find(key) is not None for key in keys] == [True, False, True, False]


def test_a_plan_larger_than_the_limit_is_kept_alone(plan, tmp_path):
    cache = EngineCache(tmp_path / "cache", limit_bytes=500)
    for name in ("one", "two"):
        cache.store(plan, record_of(plan, replace(KEY, udx=name)))
    assert cache.find(replace(KEY, udx="two")) is not None
    assert cache.find(replace(KEY, udx="one")) is None


def test_a_delivered_plan_is_whole(plan, tmp_path):
    deliver(plan, record_of(plan), tmp_path / "new" / "b.plan")
    assert read_plan(tmp_path / "new" / "b.plan").record == record_of(plan)
    assert record_path(tmp_path / "new" / "b.plan").name == "b.plan.json"


def test_a_folder_that_cannot_be_written_is_one_sentence(plan, tmp_path):
    with pytest.raises(UdxError, match="cannot write"):
        EngineCache(plan / "cache").store(plan, record_of(plan))


def test_timings_are_kept_by_version_and_gpu(cache):
    assert cache.timings("11.1.0", GPU).name == "tensorrt-11.1.0-Some-GPU-89.cache"
    sly = replace(GPU, name="../../etc/passwd")
    assert cache.timings("11.1.0", sly).parent == cache.folder / "timings"


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("UDX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "udx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "udx"
    monkeypatch.setenv("UDX_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
