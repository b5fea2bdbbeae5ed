"""Tables of strangers: with anything in any field, a dataroot is used or refused in one sentence, and always checked.

``UDX_FUZZ_TIMES`` and ``UDX_FUZZ_SEED`` try more, see ``tests.fuzz``.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.test_load import TWO, spec
from tests.fuzz import SEED, cases
from tests.mutations import mutations
from udx.data import nuscenes
from udx.data.check import check_dataroot
from udx.data.dataroot import Dataroot
from udx.data.detections import Detections
from udx.data.evaluation import evaluate
from udx.data.inputs import inputs_of
from udx.data.load import load_sample
from udx.data.nuscenes import keyframe_of, load_keyframes, open_dataroot
from udx.data.tables import SCHEMA
from udx.errors import UdxError

NESTED: Any = []
for _ in range(400):
    NESTED = [NESTED]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**53, 2**63, 2**64, 10**308, 10**400, -(10**400),
    0.0, -0.0, 0.5, 1e-320, 1e12, 1e200, 1.7e308, float("nan"), float("inf"), float("-inf"),
    "", "x", "1", "\0", "\ud800", "\x1b[2J", "../x", "/etc/passwd", "a/b", ".", "..", "x" * 300, "x" * 10_000,
    "é" * 200,
    [], [[]], {}, {"a": 1}, [None], ["x"], [["x"]], [1, 2], [1, 2, 3], [1.0, 2.0, 3.0, 4.0], [0, 0, 0], [0, 0, 0, 0],
    [1, [2, 3], 4], [[1, 2, 3], [4, 5], [6]], [[0.0] * 3] * 3, [["1"] * 3] * 3, [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [10**400] * 3, [10**400] * 4, [float("nan")] * 3, [1e308] * 3, [1e308] * 4, [[10**400] * 3] * 3, [True] * 3, NESTED,
)  # fmt: skip

NOTHING = Detections(
    boxes_K9=np.zeros((0, 9), np.float32), scores_K=np.zeros(0, np.float32), labels_K=np.zeros(0, np.int64)
)

Tables = dict[str, list[Any]]


def in_field(tables: Tables, rng: random.Random) -> None:
    """Another value in a field, or in one place of a list."""
    record = any_record(tables, rng)
    key = rng.choice(list(record))
    if isinstance(record[key], list) and record[key] and rng.random() < 0.5:
        record[key] = deepcopy(record[key])
        record[key][rng.randrange(len(record[key]))] = rng.choice(VALUES)
    else:
        record[key] = rng.choice(VALUES)


def in_all_fields(tables: Tables, rng: random.Random) -> None:
    """One value in one field of all records of a table."""
    table = rng.choice([table for table in tables.values() if table])
    key, value = rng.choice(list(table[0])), rng.choice(VALUES)
    for record in table:
        record[key] = value


def without_a_field(tables: Tables, rng: random.Random) -> None:
    record = any_record(tables, rng)
    del record[rng.choice(list(record))]


def another_s_value(tables: Tables, rng: random.Random) -> None:
    """The value of another field or record: links in circles, tokens of other tables."""
    record = any_record(tables, rng)
    record[rng.choice(list(record))] = rng.choice(list(any_record(tables, rng).values()))


def without_a_record(tables: Tables, rng: random.Random) -> None:
    table = rng.choice([table for table in tables.values() if table])
    del table[rng.randrange(len(table))]


def a_record_twice(tables: Tables, rng: random.Random) -> None:
    table = rng.choice([table for table in tables.values() if table])
    table.append(deepcopy(rng.choice(table)))


def no_record(tables: Tables, rng: random.Random) -> None:
    table = rng.choice([table for table in tables.values() if table])
    table[rng.randrange(len(table))] = rng.choice(VALUES)


def no_table(tables: Tables, rng: random.Random) -> None:
    tables[rng.choice(list(tables))] = rng.choice(VALUES)


CHANGES: tuple[Callable[[Tables, random.Random], None], ...] = (
    *(in_field,) * 8, *(another_s_value,) * 4, in_all_fields, in_all_fields, without_a_field, without_a_field,
    without_a_record, a_record_twice, no_record, no_table,
)  # fmt: skip


def any_record(tables: Tables, rng: random.Random) -> dict[str, Any]:
    """A record of any table, small tables as often as large ones."""
    return rng.choice(rng.choice([table for table in tables.values() if table]))


def use(root: Path) -> str:
    """Load, evaluate and decode as the commands do, and check; say what came of it."""
    try:
        checked = "clean" if not check_dataroot(root).problems else "told"
    except UdxError:
        checked = "refused"
    try:
        nusc = open_dataroot(root)
        keyframes = load_keyframes(nusc, "train", TWO)
        inputs_of(load_sample(keyframe_of(nusc, keyframes[-1].token, TWO), spec()), spec())
        if isinstance(nusc, Dataroot):
            return f"loaded, check {checked}"
        evaluate(nusc, "train", {keyframe.token: NOTHING for keyframe in keyframes}, keyframes)
    except UdxError as error:
        assert "\n" not in str(error)
        return f"refused, check {checked}"
    return f"used, check {checked}"


def write(root: Path, tables: Tables) -> None:
    for name, records in tables.items():
        (root / "v1.0-synth" / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")


@pytest.fixture(params=["with the devkit", "without the devkit"])
def devkit(request, monkeypatch):
    """Whether nuscenes-devkit reads the tables, or udx's own reader does."""
    if request.param == "without the devkit":
        monkeypatch.setattr(nuscenes, "has_devkit", lambda: False)
    return request.param


def test_anything_in_any_field(world, tmp_path, devkit):
    root, outcomes = world.write(tmp_path / "world"), Counter()
    # A box of the hand-made world has no LiDAR point inside. Without the devkit nothing can be evaluated.
    assert use(root) == ("used, check told" if devkit == "with the devkit" else "loaded, check told")
    for case in range(cases(100)):
        rng = random.Random(f"{SEED}-{case}")
        tables = deepcopy(world.tables)
        try:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                rng.choice(CHANGES)(tables, rng)
        except (TypeError, AttributeError, IndexError, KeyError):
            pass  # an earlier change has left nothing to change
        write(root, tables)
        try:
            outcomes[use(root)] += 1
        except BaseException as error:
            error.add_note(f"case {case} of seed {SEED}")
            raise
    assert sum(outcomes.values()) == cases(100)
    assert outcomes["refused, check told"] > 0.3 * cases(100)
    good = [outcome for outcome in outcomes.elements() if not outcome.startswith("refused")]
    assert len(good) > 0.1 * cases(100)


def test_damage_in_the_text_of_a_table(world, tmp_path):
    root, outcomes = world.write(tmp_path / "world"), Counter()
    for name in (*SCHEMA, "splits"):
        path = root / "v1.0-synth" / f"{name}.json"
        whole = path.read_bytes()
        for damaged in mutations(whole, cases(4), SEED):
            path.write_bytes(damaged)
            outcomes[use(root)] += 1
        path.write_bytes(whole)
    assert outcomes["refused, check told"] > 10


@pytest.mark.parametrize("table", list(SCHEMA))
def test_a_number_without_end_is_a_problem_of_its_record(world, tmp_path, table):
    """``math.isfinite`` raises an error for a whole number of more than 308 digits."""
    record = world.tables[table][0]
    for key in SCHEMA[table].kinds:
        record[key] = [10**400] * (4 if key == "rotation" else 3)
    root = world.write(tmp_path / "world")
    problems = [problem for problem in check_dataroot(root, files=False).problems if problem.table == table]
    assert len(problems) >= len(SCHEMA[table].kinds) - (table == "calibrated_sensor")  # whose list may be any
    outcome = use(root)
    assert outcome == ("used, check told" if table in ("visibility", "log") else "refused, check told")


@pytest.mark.parametrize("name", ["sample_data", "splits", "lidarseg"])
def test_a_table_that_is_a_fifo_is_not_waited_for(world, tmp_path, name):
    """``lidarseg`` is a table that the devkit opens where there is one."""
    root = world.write(tmp_path / "world")
    path = root / "v1.0-synth" / f"{name}.json"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert use(root) == "refused, check told"
