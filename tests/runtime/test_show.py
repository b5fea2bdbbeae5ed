"""Reports as people see them."""

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser

import pytest

from udx.data.evaluation import Metrics
from udx.runtime.bench import bench
from udx.runtime.measure import Protocol
from udx.runtime.report import Accuracy, BenchReport, headline
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
    assert reader.tags.count("svg") == (4 if alone else 7)
    said = " ".join(reader.words)
    assert report.engine.identity.sha256 in said
    assert f"{report.engine.network.median:.2f} ms" in said
    if report.comparison:
        assert report.comparison.equivalence.reason.partition(" ")[2] in said
        assert "a.onnx against b.onnx" in said


def judged(report: BenchReport, verdict: str, *, identical: bool = True, kernels: str = "same") -> BenchReport:
    """The report as if the measurement had found something else."""
    assert report.comparison is not None and report.comparison.layers is not None
    found = dataclasses.replace(report.comparison.equivalence, verdict=verdict, reason="of this")
    other = dataclasses.replace(report.comparison.layers, sha256=("a" * 64, "b" * 64))
    layers = {"same": report.comparison.layers, "other": other, "untold": None}[kernels]
    stages = dict(report.comparison.stages) | {report.comparison.judged: found}
    changed = dataclasses.replace(report.comparison, stages=stages, identical=identical, layers=layers)
    return dataclasses.replace(report, comparison=changed)


def with_accuracy(report: BenchReport, mine: float, theirs: float, *, splits: tuple[str, str] = ("val", "val")):
    assert report.against is not None
    one, two = (
        Accuracy(data="world", split=split, metrics=Metrics(mean_ap=value, nds=value / 2, per_class={}, tp_errors={}))
        for value, split in zip((mine, theirs), splits, strict=True)
    )
    return dataclasses.replace(
        report,
        engine=dataclasses.replace(report.engine, accuracy=one),
        against=dataclasses.replace(report.against, accuracy=two),
    )


def banner(report: BenchReport) -> str:
    return bench_page(report).partition('<div class="verdict ')[2].partition("</div>")[0]


def test_a_page_leads_with_what_is_known_and_the_clock_is_a_footnote(report: BenchReport) -> None:
    text = banner(with_accuracy(judged(report, "cannot tell"), 0.412, 0.265))
    assert text.startswith('plain"><b>+14.7 mAP at an identical graph and identical kernels</b>')
    assert "<small>The clock could not resolve a difference in latency of 1.00%: of this.</small>" in text
    assert "quivalent" not in text
    assert banner(judged(report, "cannot tell")).startswith('plain"><b>Identical graph and identical kernels</b>')


def test_equivalent_is_said_where_the_verdict_says_so(report: BenchReport) -> None:
    text = banner(with_accuracy(judged(report, "equivalent"), 0.412, 0.265))
    assert text.startswith('good"><b>+14.7 mAP at an identical graph, identical kernels and equivalent latency</b>')
    assert "Of this." in text and "<small>" not in text


@pytest.mark.parametrize(
    ("verdict", "identical", "kernels", "tone", "said"),
    [
        ("different", True, "same", "bad", "Identical graph, identical kernels and different latency"),
        ("equivalent", False, "other", "unsure", "Different graph, different kernels and equivalent latency"),
        ("cannot tell", True, "other", "unsure", "Identical graph and different kernels"),
        ("cannot tell", False, "other", "unsure", "Different graph and different kernels"),
        ("cannot tell", True, "untold", "plain", "Identical graph"),
    ],
)
def test_the_page_claims_no_more_than_is_known(report, verdict, identical, kernels, tone, said) -> None:
    text = banner(judged(report, verdict, identical=identical, kernels=kernels))
    assert text.startswith(f'{tone}"><b>{said}</b>')


def test_the_terminal_says_what_the_page_says(report: BenchReport) -> None:
    found = headline(with_accuracy(judged(report, "cannot tell"), 0.412, 0.265))
    assert found == ("+14.7 mAP at an identical graph and identical kernels; latency: cannot tell, because of this.")


def test_less_accuracy_is_no_good_news_and_other_data_no_gain(report: BenchReport) -> None:
    found = judged(report, "cannot tell")
    lost = banner(with_accuracy(found, 0.25, 0.265))
    assert lost.startswith('unsure"><b>\N{MINUS SIGN}1.5 mAP at an identical graph')
    assert "mAP" not in banner(with_accuracy(found, 0.4, 0.2, splits=("val", "train")))


def test_figures_and_the_command_are_in_the_page(report: BenchReport) -> None:
    text = bench_page(dataclasses.replace(report, command="udx bench --engine 'a b.onnx'"))
    assert "udx bench --engine &#x27;a b.onnx&#x27;" in text
    data = text.partition("data:application/json;base64,")[2].partition('"')[0]
    assert json.loads(base64.b64decode(data)) == json.loads(
        json.dumps(dataclasses.replace(report, command="udx bench --engine 'a b.onnx'").to_json())
    )


def test_hashes_are_folded(report: BenchReport) -> None:
    text = bench_page(report)
    place = text.index(report.engine.identity.sha256)
    assert text.rindex("<details>", 0, place) > text.rindex("</details>", 0, place)


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
