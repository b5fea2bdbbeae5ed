import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udx.data import tables
from udx.data.tables import ROTATION, SCHEMA, SIZE, WHOLE, is_inside, stream_records

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6), st.integers(1, 9), st.booleans())
def test_streaming_equals_json(tmp_path_factory, records, chunk, indent):
    path = tmp_path_factory.mktemp("t") / "table.json"
    path.write_text(json.dumps(records, indent=1 if indent else None, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK_CHARACTERS", chunk)
        assert list(stream_records(path)) == records


def test_progress_reaches_the_end(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('[{"token": "é"}]', encoding="utf-8")
    seen = []
    assert len(list(stream_records(path, lambda done, total: seen.append((done, total))))) == 1
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "after 0 records stands 'nothing' in place of '\\['"),
        ('{"a": 1}', "stands '{' in place of '\\['"),
        ('[{"a": 1}', "after 1 records stands 'nothing'"),
        ('[{"a": 1} {"a": 2}]', "after 1 records stands '{' in place of ',' or '\\]'"),
        ('[{"a": 1}, {"a": ]', "record 1 is not valid JSON"),
        ("[3]", "record 0 is not a JSON object"),
        ("[{}] x", "something follows the list"),
        ('[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "record 0 is nested too deeply"),
    ],
)
def test_what_is_no_table(tmp_path, text, sentence):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        list(stream_records(path))


def test_damaged_record_does_not_make_the_reader_swallow_the_file(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    path.write_text('[{"a": ?}, ' + ",".join(['{"token": "x"}'] * 5000) + "]")
    monkeypatch.setattr(tables, "CHUNK_CHARACTERS", 100)
    monkeypatch.setattr(tables, "MAX_RECORD_CHARACTERS", 1000)
    seen = []
    with pytest.raises(ValueError, match="record 0 is not valid JSON"):
        list(stream_records(path, lambda done, total: seen.append(done)))
    assert len(seen) < 20


@pytest.mark.parametrize("name", ["samples/a.jpg", "a", "./a", "a/b..c/d"])
def test_inside(name):
    assert is_inside(name)


@pytest.mark.parametrize("name", ["", ".", "./", "/etc/passwd", "../a", "a/../../b", "a/..", "..\\a"])
def test_outside(name):
    assert not is_inside(name)


def test_kinds():
    assert ROTATION.holds([1, 0, 0, 0])
    assert ROTATION.holds([0.5, -0.5, 0.5, -0.5])
    assert not ROTATION.holds([1, 1, 0, 0])
    assert not ROTATION.holds([1, 0, 0])
    assert not ROTATION.holds([float("nan"), 0, 0, 1])
    assert SIZE.holds([0.1, 1, 2])
    assert not SIZE.holds([0, 1, 2])
    assert not SIZE.holds([1, 2, "3"])
    assert WHOLE.holds(0)
    assert not WHOLE.holds(True)
    assert not WHOLE.holds(-1)
    assert not WHOLE.holds(2**63)


def test_schema_is_consistent():
    names = list(SCHEMA)
    for index, (name, table) in enumerate(SCHEMA.items()):
        for key, other in table.references.items():
            assert key in table.kinds
            assert other in names[:index], f"{name} must stand behind {other}"
        assert table.linked == ({"prev", "next"} <= set(table.kinds))
