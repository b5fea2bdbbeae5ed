"""What a comparison of formats keeps, and what it says of formats that do not run; the whole of it is in test_cli."""

from pathlib import Path

import numpy as np
import pytest

from udx import formats
from udx.data.evaluation import Metrics
from udx.errors import UdxError
from udx.formats import PAGE_HEADER, Comparison, Format, Kept, Request, Row, formats_of, formats_page, open_format
from udx.runtime.conditions import conditions
from udx.runtime.environment import environment
from udx.runtime.measure import Protocol
from udx.runtime.statistics import summarise
from udx.train.run import Run

METRICS = Metrics(mean_ap=0.25, nds=0.5, per_class={"car": 0.5}, tp_errors={"mATE": 0.75})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.checkpoint.write_bytes(b"weights")
    return run


def test_files_and_metrics_are_kept_for_a_checkpoint(run: Run) -> None:
    kept = Kept(run)
    path = kept.folder / "student.onnx"
    path.parent.mkdir()
    path.write_bytes(b"graph")
    assert not kept.has(path)
    kept.made(path)
    kept.found("it", METRICS)
    again = Kept(run)
    assert again.has(path) and again.metrics("it") == METRICS and again.metrics("another") is None
    path.write_bytes(b"changed")
    assert not again.has(path)
    path.write_bytes(b"graph")
    run.checkpoint.write_bytes(b"trained on")
    fresh = Kept(run)
    assert not fresh.has(path) and fresh.metrics("it") is None


def test_a_file_is_made_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(out: Path) -> None:
        made.append(out.name)
        out.parent.mkdir(exist_ok=True)
        out.write_bytes(b"graph")

    monkeypatch.setattr(formats, "open_engine", lambda path, backend, threads: (path, backend, threads))
    kept = Kept(run)
    one = Format("ONNX", "student.onnx", make)
    for _ in range(2):
        assert open_format(one, kept, run, 1) == (kept.folder / "student.onnx", "auto", 1)
    assert made == ["student.onnx"]
    assert open_format(Format("torch", None, None, "torch"), kept, run, None) == (run.folder, "torch", None)


def test_without_a_gpu_its_formats_say_so_and_nothing_is_built(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UdxError("no NVIDIA driver is installed; install one")

    monkeypatch.setattr(formats, "cuda_driver", absent)
    request = Request(run=run.folder)
    all_of_them = list(formats_of(run, run.folder / "bench", request, None, None))  # type: ignore[arg-type]
    on_gpu = [one for one in all_of_them if one.gpu]
    assert {one.name for one in on_gpu} >= {"tensorrt INT8", "tensorrt-rtx FP16", "ONNX FP32, CUDA"}
    assert len({one.name for one in all_of_them}) == len(all_of_them)
    for one in on_gpu:
        with pytest.raises(UdxError, match="no NVIDIA driver"):
            open_format(one, Kept(run), run, None)
    assert not (run.folder / "bench").exists()


def test_the_table_and_the_page_have_figures_or_the_reason() -> None:
    summary = summarise(np.array([10.0, 10.1] * 10), seed=0)
    rows = (
        Row(name="ONNX FP32", bytes=2**21, sha256="5" * 64, metrics=METRICS, network=summary, end_to_end=summary),
        Row(name="tensorrt FP16", reason="no <NVIDIA> driver is installed"),
        Row(name="tensorrt INT8", reason="no <NVIDIA> driver is installed"),
    )
    now = conditions()
    found = Comparison(
        run="r",
        created="2026-11-28T12:13:00+00:00",
        checkpoint_sha256="c" * 64,
        frames="20 keyframes",
        environment=environment(),
        warnings=("The machine was <busy>.",),
        split="val",
        rows=rows,
        blocks=2,
        protocol=Protocol(),
        before=now,
        after=now,
        stopped=None,
        command="udx bench --run r",
    )
    assert rows[0].cells() == ["ONNX FP32", "2.0", "25.00", "50.00", "10.05", "10.10"]
    assert rows[1].cells() == ["tensorrt FP16", "–", "–", "–", "–", "–"]
    assert found.reasons() == ["tensorrt FP16; tensorrt INT8: no <NVIDIA> driver is installed"]
    cells = ["ONNX FP32", "25.00", "50.00", "10.05", "10.00 to 10.10", "10.10", "10.05", "2.0"]
    assert rows[0].page_cells() == cells and len(PAGE_HEADER) == len(cells)
    page = formats_page(found)
    assert page.count("no &lt;NVIDIA&gt; driver is installed") == 1 and "ONNX FP32" in page
    for said in ("The machine was &lt;busy&gt;.", "10.00 to 10.10", "5" * 64, "c" * 64, "udx bench --run r"):
        assert said in page
    assert "<title>Run r in every format</title>" in page and "28 November 2026, 12:13 UTC" in page
    plain = found.to_json()
    assert plain["formats"][0]["sha256"] == "5" * 64 and plain["warnings"] == ["The machine was <busy>."]
    assert plain["formats"][1]["network"] is None and plain["formats"][0]["network"]["median"] == summary.median
