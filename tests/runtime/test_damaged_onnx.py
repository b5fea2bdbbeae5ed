"""Thousands of damaged ONNX files, the same in every run: one sentence each, or a file that is what it says.

All are read by one process of its own that may take little memory: a crash of a library or a huge allocation is seen,
and takes no other test with it.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.build.detectors import voxelizing_detector
from tests.runtime.test_damaged_plans import WORDS, changed_bytes, changed_json
from udx.errors import MAX_SENTENCE, UdxError
from udx.manifest import METADATA_KEY
from udx.runtime.identity import identity_of
from udx.runtime.listing import canonical_listing, structural_hash
from udx.runtime.onnx_file import read_onnx

ROUNDS = {"bytes": 2000, "bytes within the graph": 350, "fields under a right hash": 350, "manifest": 500}
MEMORY_BYTES = 512 * 2**20
"""What the process may take beyond what importing the libraries took."""

INTEGERS = (0, 1, -1, 2, 5, 7, 20, 255, 500, 2**31 - 1, 2**31, 25_000_000_000, 2**62, -(2**63))


def damaged(kind: str, model: onnx.ModelProto, chance: random.Random) -> bytes:
    """A detector with one kind of damage."""
    if kind == "bytes":
        return changed_bytes(model.SerializeToString(), chance)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if kind == "manifest":
        (entry,) = changed.metadata_props
        entry.value = changed_text(entry.value, chance)
    elif kind == "bytes within the graph":
        try:
            changed.graph.ParseFromString(changed_bytes(model.graph.SerializeToString(), chance))
        except Exception:
            return changed_bytes(model.SerializeToString(), chance)
        with_right_hash(changed)
    else:
        for _ in range(chance.choice((1, 1, 2, 3))):
            change_field(changed, chance)
        with_right_hash(changed)
    return changed.SerializeToString()


def changed_text(text: str, chance: random.Random) -> str:
    """JSON with fields changed, or letters."""
    if chance.random() < 0.2:
        return changed_bytes(text.encode(), chance).decode("latin-1")
    try:
        return json.dumps(changed_json(json.loads(text), chance))
    except RecursionError:
        return "[" * 5000


def with_right_hash(model: onnx.ModelProto) -> None:
    """As someone would who wants the file to be read: the hash is no secret."""
    try:
        (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        fields = json.loads(entry.value)
        fields["graph"]["sha256"] = structural_hash(canonical_listing(model))
        entry.value = json.dumps(fields)
    except Exception:  # there is no manifest any more, or not even a listing of the graph can be made
        return


def change_field(model: onnx.ModelProto, chance: random.Random) -> None:
    """Set, clear, double or swap one field somewhere in the model."""
    message, field = chance.choice(list(fields_of(model)))
    value = getattr(message, field.name)
    if field.is_repeated:
        if len(value) > 1 and chance.random() < 0.5:
            del value[chance.randrange(len(value))]
        elif field.message_type:
            value.add().CopyFrom(chance.choice(value))
        else:
            value[chance.randrange(len(value))] = scalar(field, chance)
    elif field.message_type or chance.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, scalar(field, chance))


def fields_of(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every field that is set, in the message and in those within it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                yield from fields_of(inner)


def scalar(field: Any, chance: random.Random) -> Any:
    """A value for a field; enumerations take only what they know."""
    if field.enum_type:
        return chance.choice(field.enum_type.values).number
    if field.cpp_type == field.CPPTYPE_STRING:
        text = chance.choice((*WORDS, "images", "boxes", "Conv", "Loop", "UdxVoxelSums", "udx", "../x", "x" * 5000))
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return chance.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    number = chance.choice(INTEGERS)
    return number if field.cpp_type == field.CPPTYPE_INT64 else number % 2**31


def read_all(folder: Path) -> dict[str, Any]:
    """Read every damaged file; count how each ended, and tell the first that ended otherwise than it may."""
    model, path = voxelizing_detector(), folder / "damaged.onnx"
    ended: dict[str, Counter[str]] = {}
    for kind, rounds in ROUNDS.items():
        chance = random.Random(kind)
        ended[kind] = Counter()
        for number in range(rounds):
            content = damaged(kind, model, chance)
            path.write_bytes(content)
            try:
                outcome = outcome_of(path)
            except Exception as error:
                return {"unexpected": f"{kind} {number}: {type(error).__name__}: {error}"}
            ended[kind][outcome] += 1
            if sorted(item.name for item in folder.iterdir()) != [path.name]:
                return {"unexpected": f"{kind} {number} writes a file"}
    return {"ended": ended, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def outcome_of(path: Path) -> str:
    try:
        identity_of(read_onnx(path))
    except UdxError as error:
        said = str(error)
        assert said.isprintable() and len(said) <= MAX_SENTENCE + 1, said
        return "refused"
    return "read"


def main() -> None:
    """In a process of its own: nothing beyond a bounded memory."""
    statm = Path("/proc/self/statm").read_text().split()
    taken = int(statm[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(read_all(Path(folder))))


@pytest.fixture(scope="module")
def ended() -> dict[str, Any]:
    code = "from tests.runtime.test_damaged_onnx import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    assert "unexpected" not in told, told["unexpected"]
    return told["ended"]


def test_each_damaged_file_is_refused_in_one_sentence_or_read(ended):
    assert sum(ended["bytes"].values()) == ROUNDS["bytes"]
    assert sum(sum(outcomes.values()) for outcomes in ended.values()) >= 3000


@pytest.mark.parametrize("kind", ROUNDS)
def test_most_damage_is_found(ended, kind):
    """What nothing depends on, as a name or a comment, may be otherwise; and weights are what they are."""
    assert 0 < ended[kind]["read"] < 0.25 * ROUNDS[kind]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\x80"])
def test_a_name_that_is_no_text(tmp_path, name):
    content = voxelizing_detector().SerializeToString()
    assert content.count(b"sums_mean") >= 2
    broken = content.replace(b"sums_mean", name + b"s_mean_"[: 9 - len(name)])
    (tmp_path / "names.onnx").write_bytes(broken)
    with pytest.raises(UdxError, match="it holds names that are no text"):
        read_onnx(tmp_path / "names.onnx")
