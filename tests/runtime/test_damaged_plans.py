"""Thousands of damaged plans, the same in every run: one sentence each, or a plan that is sound and runs.

Bytes are changed anywhere in the files, members are swapped and dropped, and fields of the JSON within are changed
under hashes that are right. Whatever opens an engine goes through ``read_engine`` and the runners.
"""

import io
import json
import random
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.build.detectors import write_detector
from tests.build.exported import frame_of
from tests.build.plans import bound, build_plan
from tests.runtime.plan_records import record_of
from udx import cli
from udx.config import to_plain
from udx.errors import MAX_SENTENCE, UdxError
from udx.runtime.bundle import SUMS, read_bundle, sums_of
from udx.runtime.engine import open_engine
from udx.runtime.partitioned import INDEX
from udx.runtime.plan_file import record_path

SEGMENT = "segments/segment-0.onnx"
PLAN = b"ftrt" + random.Random(0).randbytes(300)
WORDS = (
    "", "cell", "cleared", "points", "kernel", "segment", "tensorrt-rtx", "-1", "cdiv(1,0)", "points[0] * points[1]",
    "9" * 150, "float64", "bool", "../../secret", "line\nbreak", "\x1b[2J", "nan", "\u202e",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 7, 255, 256, 500, 2**31 - 1, 2**31, 2**63, -(2**63), 10**40, 10**400, 0.5, -0.0, 1e308)


def junk(chance: random.Random) -> Any:
    """A value of any type."""
    deep: Any = []
    for _ in range(chance.choice((1, 50, 900))):
        deep = [deep]
    return chance.choice(
        [None, True, False, chance.choice(NUMBERS), chance.choice(NUMBERS), chance.choice(WORDS), chance.choice(WORDS),
         [], {}, [chance.choice(NUMBERS)] * 3, {chance.choice(WORDS): chance.choice(NUMBERS)}, deep, "x" * 100_000]
    )  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within nested dicts and lists; of a long list, the first few."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:12]
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def changed_json(value: Any, chance: random.Random) -> Any:
    """A copy with one or two places changed: junk, another place's value, nothing at all, or something more."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 2))):
        known = list(places(value))
        path, other = chance.choice(known), chance.choice(known)
        holder, key = descend(value, path[:-1]), path[-1]
        match chance.randrange(6):
            case 0:
                del holder[key]
            case 1:
                holder[key] = json.loads(json.dumps(descend(value, other)))
            case 2 if isinstance(holder, dict):
                holder[chance.choice(WORDS)] = holder[key]
            case 3 if type(holder[key]) is int:
                holder[key] += chance.choice((-256, -1, 1, 256, 2**40))
            case _:
                holder[key] = junk(chance)
    return value


def descend(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """A copy with bytes changed, cut off, taken out, put in or moved."""
    data = bytearray(content)
    at, length = chance.randrange(len(data)), chance.choice((1, 2, 4, 30))
    match chance.randrange(6):
        case 0:
            del data[at:]
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = chance.randbytes(length)
        case 3:
            other = chance.randrange(len(data))
            data[at : at + length] = data[other : other + length]
        case 4:
            data[at : at + length] = chance.choice((b"\x00", b"\xff")) * length
        case _:
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A plan of these members, every hash right; not written with the care of ``write_bundle``, which costs time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {SUMS: sums_of(members), **members}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return build_plan(write_detector(folder / "student.onnx"), folder / "student.plan").path


@pytest.fixture
def attempt(tmp_path) -> Callable[..., bool]:
    """Open a damaged plan and run it if that succeeds; the answer is whether it did."""
    path = tmp_path / "damaged.plan"
    frame: dict[str, np.ndarray] = {}

    def opened(content: bytes, record: bytes | None = None, *, run: bool = True) -> bool:
        path.write_bytes(content)
        if record is not None:
            record_path(path).write_bytes(record)
        before = sorted(tmp_path.iterdir())
        try:
            runner = open_engine(path, threads=1)
            if run:
                for name, tensor in frame_of(runner.manifest).items() if not frame else ():
                    frame[name] = np.nan_to_num(tensor)  # this detector does not drop what is broken
                with runner:
                    runner.detect(frame)
        except UdxError as error:
            said = str(error)
            assert said.isprintable() and len(said) <= MAX_SENTENCE + 1
            assert path.name in said
            return False
        finally:
            assert sorted(tmp_path.iterdir()) == before
        return True

    return opened


@pytest.mark.parametrize(
    "verb",
    [
        ("bench", "--json", "report.json", "--html", "report.html", "--engine"),
        ("eval", "--json", "metrics.json", "--engine"),
        ("predict", "--data", "nowhere", "--sample", "0", "--png", "boxes.png", "--engine"),
        ("build", "--segments", "onnxruntime"),
        ("check", "--json", "check.json"),
    ],
)
def test_every_verb_says_one_sentence_of_a_damaged_plan_and_writes_nothing(verb, plan, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    damaged = Path("damaged.plan")
    damaged.write_bytes(plan.read_bytes()[:-100])
    monkeypatch.setattr(sys, "argv", ["udx", *verb, damaged.name])
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("udx: damaged.plan is damaged") and said.count("\n") == 0
    assert list(tmp_path.iterdir()) == [tmp_path / damaged]


def test_bytes_of_a_plan(plan, attempt):
    chance, content = random.Random(1), plan.read_bytes()
    assert attempt(content)
    opened = sum(attempt(changed_bytes(content, chance)) for _ in range(1300))
    assert 0 < opened < 65  # what nothing reads: times, and the rights of unpacked files


def test_fields_of_an_index_under_a_right_hash(plan, attempt):
    chance, members = random.Random(2), read_bundle(plan)
    index = json.loads(members[INDEX])
    opened = 0
    for _ in range(900):
        text = json.dumps(changed_json(index, chance)).encode()
        opened += attempt(zipped(members | {INDEX: text}))
    assert 0 < opened < 450


def test_bytes_of_a_segment_under_a_right_hash(plan, attempt):
    chance, members = random.Random(3), read_bundle(plan)
    for _ in range(200):
        # It is not run: ONNX Runtime answers for what it makes of a graph that passes ONNX's own checker.
        changed = {SEGMENT: changed_bytes(members[SEGMENT], chance)}
        index = {INDEX: json.dumps(bound(json.loads(members[INDEX]), changed)).encode()}
        attempt(zipped(members | changed | index), run=False)


def test_a_segment_of_another_detector(plan, attempt, tmp_path):
    other = build_plan(write_detector(tmp_path / "other.onnx", seed=1), tmp_path / "other.plan").path
    members, strange = read_bundle(plan), read_bundle(other)
    assert strange[SEGMENT] != members[SEGMENT] and len(strange[SEGMENT]) == len(members[SEGMENT])
    swapped = tmp_path / "swapped.plan"
    swapped.write_bytes(zipped(members | {SEGMENT: strange[SEGMENT]}))
    with pytest.raises(UdxError, match=r"holds another segments/segment-0\.onnx than its plan\.json tells of"):
        open_engine(swapped)
    assert not attempt(zipped(members | {SEGMENT: members[INDEX]}))
    assert not attempt(zipped({INDEX: members[INDEX]}))
    assert not attempt(zipped(members | {"segments/segment-1.onnx": members[SEGMENT]}))


def test_records_of_tensorrt_s_plans(attempt):
    """They are not run, which takes a GPU; what is changed harmlessly, as the time of the build, is opened."""
    chance, record = random.Random(4), to_plain(record_of(PLAN))
    text = json.dumps(record).encode()
    assert attempt(PLAN, text, run=False)
    opened = 0
    for _ in range(300):
        opened += attempt(PLAN, json.dumps(changed_json(record, chance)).encode(), run=False)
    assert 0 < opened < 100
    for _ in range(150):
        attempt(PLAN, changed_bytes(text, chance), run=False)
        changed = changed_bytes(PLAN, chance)
        assert attempt(changed, text, run=False) == (changed == PLAN)
