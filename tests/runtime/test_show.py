"""Reports as people see them."""

import dataclasses
import io
from html.parser import HTMLParser

import pytest

from udx.runtime.bench import bench
from udx.runtime.measure import Protocol
from udx.runtime.report import BenchReport, headline
from udx.runtime.show import bench_page, terminal

QUICK = Protocol(warmup=1, blocks=4, frames=2, max_minutes=0)


@pytest.fixture
def report(make_engine) -> BenchReport:
    return bench(make_engine("a.onnx", seed=0), against=make_engine("b.onnx", seed=1), protocol=QUICK, threads=1)


class Reader(HTMLParser):
    """Collects tags, and checks that what opens also closes."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "path", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("alone", [True, False])
def test_the_page_stands_alone(report: BenchReport, alone: bool) -> None:
    if alone:
        report = dataclasses.replace(report, against=None, comparison=None)
    text = bench_page(report)
    for outside in ("http:", "https:", "src=//", "url(", "<script", "<link", "@import"):
        assert outside not in text
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert reader.tags.count("svg") == (3 if alone else 4)
    said = " ".join(reader.words)
    assert report.engine.identity.sha256 in said
    assert f"{report.engine.network.median:.2f} ms" in said
    if report.comparison:
        assert report.comparison.equivalence.reason in said


def test_names_are_escaped_in_the_page(make_engine) -> None:
    text = bench_page(bench(make_engine("<b>&.onnx"), protocol=QUICK))
    assert "<b>&.onnx" not in text
    assert "&lt;b&gt;&amp;.onnx" in text


def test_the_terminal_shows_stages_and_verdict(report: BenchReport) -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal(report))
    text = console.export_text()
    for word in ("a.onnx", "b.onnx", "inputs", "network", "end to end", "p99.9", headline(report)[:60]):
        assert word in text
