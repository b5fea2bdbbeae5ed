"""A bench report for people: a terminal table, and sections of an HTML page."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from udx.runtime import html, svg
from udx.runtime.environment import Environment
from udx.runtime.report import BenchReport, Comparison, EngineReport, headline, title_of
from udx.runtime.statistics import Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("median", "95 % interval", "mean", "p90", "p95", "p99", "p99.9", "max", "std", "CoV")
_SHOWN_APART = frozenset({"backend", "version", "provider", "threads"})
TONES: dict[str, html.Tone] = {"equivalent": "good", "different": "bad", "cannot tell": "unsure"}


def terminal(report: BenchReport) -> "RenderableType":
    """The report as rich renders it: stages, verdict, warnings."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(title="Latency, ms", title_justify="left", header_style="bold")
    grid.add_column("engine")
    grid.add_column("stage")
    for column in COLUMNS:
        grid.add_column(column, justify="right")
    for name, engine in _engines(report).items():
        for stage, summary in engine.stages.items():
            grid.add_row(name if stage == "inputs" else "", stage.replace("_", " "), *_cells(summary))
        grid.add_section()
    lines: list[RenderableType] = [grid]
    style = "bold"
    if report.comparison:
        style = {"good": "bold green", "bad": "bold red"}.get(TONES[report.comparison.network.verdict], "bold yellow")
        lines += [Text(f"differs: {line}") for line in report.comparison.differences[:8]]
    lines.append(Text(headline(report), style=style))
    lines += [Text(f"Warning: {line}", style="yellow") for line in report.warnings]
    return Group(*lines)


def bench_page(report: BenchReport) -> str:
    """The whole report as one HTML document."""
    engine = report.engine
    about = f"{title_of(engine.identity.manifest)} · {engine.identity.file} · {report.created}"
    title = "Latency report" if report.against is None else "Does it cost anything at inference?"
    lead = html.paragraph(about, soft=True) + bench_lead(report)
    return html.page(title, bench_sections(report), lead=lead)


def bench_lead(report: BenchReport) -> str:
    """Verdict and key figures, as HTML."""
    network, whole, structure = report.engine.network, report.engine.end_to_end, report.engine.identity.structure
    low, high = network.median_ci95
    figures = html.tiles(
        [
            ("network, median", f"{network.median:.2f} ms", f"95 % interval {low:.2f} to {high:.2f}"),
            ("network, p99", f"{network.p99:.2f} ms", f"max {network.max:.2f}, n = {network.n}"),
            ("end to end, median", f"{whole.median:.2f} ms", f"{1e3 / whole.median:.1f} frames a second"),
            ("parameters", _short(structure.parameters), f"{_short(structure.parameter_bytes)}B"),
            ("multiply-accumulates", _short(structure.macs), "per frame"),
        ]
    )
    if report.comparison is None:
        return figures
    return _verdict(report.comparison) + figures


def bench_sections(report: BenchReport) -> list[html.Section]:
    """The report's cards, for this page or another."""
    engines = _engines(report)
    network = {name: engine.network.samples_ms for name, engine in engines.items()}
    means = {name: {"inputs": engine.inputs.mean, "network": engine.network.mean} for name, engine in engines.items()}
    sections = []
    if report.warnings:
        sections.append(html.Section("Warnings", html.bullets(report.warnings)))
    if report.comparison:
        sections += _comparison_sections(report, report.comparison)
    rows = [
        (f"{name}: {stage.replace('_', ' ')}", *_cells(summary))
        for name, engine in engines.items()
        for stage, summary in engine.stages.items()
    ]
    histogram = html.figure(svg.histogram_svg(network), "Network stage, ms; dashed: medians.")
    stages = html.figure(svg.bars_svg(means), "Means, which add up, ms. Inputs: decoding, resizing and pooling plan.")
    order = html.figure(svg.series_svg(network), "Network stage in the order measured; the slowest 1 % on the edge.")
    return [
        *sections,
        html.Section("Latency, ms", html.table(("stage", *COLUMNS), rows)),
        html.Section("Distribution", histogram, half=True),
        html.Section("Stages", stages, half=True),
        html.Section("Over time", order, half=True),
        html.Section("Protocol", html.facts(_protocol_facts(report)), half=True),
        html.Section("Machine", html.facts(_machine_facts(report.environment)), half=True),
        *(
            html.Section(f"Engine {name}", html.facts(_identity_facts(engine)), half=True)
            for name, engine in engines.items()
        ),
    ]


def _verdict(comparison: Comparison) -> str:
    network = comparison.network
    tone = TONES[network.verdict]
    if tone == "good" and not comparison.identical:
        tone = "unsure"
    word = {"equivalent": "Equivalent latency", "different": "Different latency", "cannot tell": "Cannot tell"}
    structure = "The structure is identical" if comparison.identical else "The structures differ"
    return html.verdict(tone, word[network.verdict], f"{structure}; {network.reason}.")


def _comparison_sections(report: BenchReport, comparison: Comparison) -> Iterable[html.Section]:
    equivalence = comparison.network
    rows = {"engine / against": equivalence.ab, "engine / itself (control)": equivalence.aa}
    plot = html.figure(
        svg.ratios_svg(rows, equivalence.margin),
        f"Network stage: difference of the medians in each of {equivalence.ab.blocks} interleaved blocks; "
        "bar: 90 % bootstrap interval of their median.",
    )
    yield html.Section("Does it cost more?", plot + _equivalence_table(comparison), half=True)
    yield html.Section("Is it the same network?", _structure_body(report, comparison), half=True)


def _equivalence_table(comparison: Comparison) -> str:
    rows = []
    for name, equivalence in (("network", comparison.network), ("end to end", comparison.end_to_end)):
        for what, ratio in ((name, equivalence.ab), (f"{name}, control", equivalence.aa)):
            low, high = (f"{100 * (end - 1):+.2f}" for end in ratio.ci90)
            verdict = equivalence.verdict if ratio is equivalence.ab else ""
            rows.append((what, f"{100 * (ratio.ratio - 1):+.2f}", f"{low} to {high}", verdict))
    return html.table(("difference, %", "median", "90 % interval", "verdict"), rows)


def _structure_body(report: BenchReport, comparison: Comparison) -> str:
    assert report.against is not None
    one, two = report.engine.identity.structure, report.against.identity.structure
    rows = [
        ("structural hash", one.sha256[:12], two.sha256[:12]),
        ("nodes", f"{one.nodes:,}", f"{two.nodes:,}"),
        ("parameters", f"{one.parameters:,}", f"{two.parameters:,}"),
        ("parameter bytes", f"{one.parameter_bytes:,}", f"{two.parameter_bytes:,}"),
        ("MACs", f"{one.macs:,}", f"{two.macs:,}"),
    ]
    verdict = "Equal" if comparison.identical else "Not equal"
    said = html.paragraph(f"{verdict}: operators, attributes, wiring, shapes and types, whatever the weights' values.")
    return said + html.table(("", "engine", "against"), rows) + html.bullets(comparison.differences)


def _engines(report: BenchReport) -> dict[str, EngineReport]:
    """Engines by a short name: the file's, or its role where both files are named alike."""
    if report.against is None:
        return {report.engine.identity.file: report.engine}
    names = report.engine.identity.file, report.against.identity.file
    if names[0] == names[1]:
        names = "engine", "against"
    return dict(zip(names, (report.engine, report.against), strict=True))


def _cells(summary: Summary) -> tuple[str, ...]:
    low, high = summary.median_ci95
    percentiles = summary.p90, summary.p95, summary.p99, summary.p99_9, summary.max, summary.std
    figures = [f"{value:.2f}" for value in percentiles]
    return f"{summary.median:.2f}", f"{low:.2f} to {high:.2f}", f"{summary.mean:.2f}", *figures, f"{summary.cov:.1%}"


def _protocol_facts(report: BenchReport) -> list[tuple[str, str]]:
    protocol, settings = report.protocol, report.engine.settings
    turns = "engines in random order, then in reverse" if report.against else "one engine"
    return [
        ("input", report.frames),
        ("in flight", "one frame"),
        ("warm-up", f"{protocol.warmup} frames an engine"),
        ("measured", f"{protocol.blocks} blocks of {protocol.frames} frames an engine, {turns}"),
        ("margin", f"±{protocol.margin:.2%}, fixed beforehand"),
        ("seed", str(protocol.seed)),
        ("backend", f"{settings.get('backend')} {settings.get('version')}, {settings.get('provider')}"),
        ("threads", str(settings.get("threads") or "the backend's choice")),
        *((name.replace("_", " "), str(value)) for name, value in settings.items() if name not in _SHOWN_APART),
        ("complete", "yes" if report.complete else "no, interrupted"),
    ]


def _machine_facts(machine: Environment) -> list[tuple[str, str]]:
    unknown = "not known"
    gpus = [", ".join(f"{key} {value}" for key, value in gpu.items()) for gpu in machine.gpus or ()]
    return [
        ("CPU", f"{machine.cpu or unknown}, {machine.cores} cores"),
        ("governor", machine.governor or unknown),
        ("load before", unknown if machine.load_1min is None else f"{machine.load_1min:.2f}"),
        ("memory", unknown if machine.memory_gib is None else f"{machine.memory_gib} GiB"),
        ("GPU", "; ".join(gpus) or "none found by nvidia-smi"),
        ("system", machine.os),
        ("Python", machine.python),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("commit", machine.git_commit or unknown),
    ]


def _identity_facts(engine: EngineReport) -> list[tuple[str, str]]:
    identity, manifest = engine.identity, engine.identity.manifest
    operators = sorted(identity.structure.op_histogram.items(), key=lambda item: (-item[1], item[0]))
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in manifest.metrics.items())
    return [
        ("detector", title_of(manifest)),
        ("accuracy", metrics or "not evaluated"),
        ("file", f"{identity.file}, {identity.bytes:,} bytes"),
        ("sha256", identity.sha256),
        ("checkpoint", manifest.checkpoint_sha256),
        ("exported by", f"udx {manifest.udx_version}, commit {manifest.git_commit}"),
        ("opset", ", ".join(f"{domain} {version}" for domain, version in identity.structure.opset.items())),
        ("operators", ", ".join(f"{count} {name}" for name, count in operators)),
    ]


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} "
