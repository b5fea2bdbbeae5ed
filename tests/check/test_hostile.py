"""What a stranger's manifest says is told, written as JSON and drawn as a page, or refused in one sentence."""

import json
import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from tests.build.detectors import voxelizing_detector
from tests.check.test_description import here
from tests.runtime.test_damaged_plans import changed_json
from udx.check.description import describe
from udx.check.show import show
from udx.cli import main
from udx.errors import UdxError
from udx.manifest import METADATA_KEY

ROUNDS = 50


def with_manifest(path: Path, text: str) -> Path:
    """A good graph with another manifest."""
    model = voxelizing_detector()
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = text
    onnx.save(model, path)
    return path


def own_manifest() -> dict[str, Any]:
    """The manifest that belongs to the graph."""
    (entry,) = (entry for entry in voxelizing_detector().metadata_props if entry.key == METADATA_KEY)
    fields: dict[str, Any] = json.loads(entry.value)
    return fields


@pytest.mark.parametrize(
    "text",
    [
        '"recipe": "\\ud800"',
        '"metrics": {"mAP": NaN}',
        '"metrics": {"mAP": Infinity}',
        '"metrics": {"mAP": 1e999}',
        f'"metrics": {{"mAP": {"9" * 401}}}',
        f'"teacher": {{"modality": "cam", "mAP": {"9" * 401}, "NDS": null}}',
        f'"max_boxes": {2**70}',
    ],
)
def test_numbers_and_texts_that_cannot_be_written_again_are_refused(text: str, tmp_path: Path) -> None:
    whole = json.dumps(own_manifest())
    path = with_manifest(tmp_path / "hostile.onnx", whole[:-1] + f", {text}}}")
    with pytest.raises(UdxError, match="has a damaged udx manifest"):
        describe(path, here)


def test_changed_manifests_are_told_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(11)
    told = 0
    for number in range(ROUNDS):
        path = with_manifest(tmp_path / f"{number}.onnx", json.dumps(changed_json(own_manifest(), chance)))
        try:
            found = describe(path, here)
        except UdxError as error:
            assert "\n" not in str(error)
            continue
        told += 1
        show(found)
        json.dumps(found.to_json(), allow_nan=False, ensure_ascii=False).encode()
    assert told > 0
    shown = capsys.readouterr().out
    assert all(letter.isprintable() or letter == "\n" for letter in shown)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "[bold]\x1b[31mred</script><script>alert(1)</script>"},
        {"metrics": {"mAP": 1e308, "NDS": -1e308, "x\x1b]0;title\x07": 0.0}},
        {"teacher": {"modality": "\u202ereversed", "mAP": None, "NDS": 10**18}},
        {"config": {"deep": [[[[["<img src=x onerror=alert(1)>"]]]]]}},
        {"git_commit": "a" * 100_000},
    ],
)
def test_bench_reports_what_a_stranger_wrote_without_obeying_it(changes: dict[str, Any], tmp_path: Path) -> None:
    path = with_manifest(tmp_path / "hostile.onnx", json.dumps(own_manifest() | changes))
    out, page = tmp_path / "report.json", tmp_path / "report.html"
    options = ["--blocks", "2", "--warmup", "1", "--threads", "1"]
    done = CliRunner().invoke(main, ["bench", "--engine", str(path), *options, "--json", str(out), "--html", str(page)])
    if isinstance(done.exception, UdxError):
        return
    assert done.exception is None, done.exception
    json.loads(out.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "<img src=x" not in text
    assert all(letter.isprintable() or letter.isspace() for letter in done.output)
