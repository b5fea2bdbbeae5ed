"""A bench report for people: a terminal table, and sections of an HTML page."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from udx.runtime import html, svg
from udx.runtime.conditions import Conditions, interference
from udx.runtime.environment import Environment
from udx.runtime.equivalence import Equivalence, Ratio
from udx.runtime.measure import GPU
from udx.runtime.operators import OperatorTimes
from udx.runtime.report import BenchReport, Comparison, EngineReport, Gain, gain_of, headline, known_of, title_of
from udx.runtime.statistics import Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

_Item = TypeVar("_Item")
_SHOWN_OF_PROTOCOL: Final = ("input", "measured", "verdict on", "margin", "backend", "threads", "complete")
_OPERATORS_SHOWN: Final = 8
_NODES_SHOWN: Final = 20
STATISTICS = ("median", "95 % from", "95 % to", "mean", "p90", "p95", "p99", "p99.9", "max", "std", "CoV")
_SHOWN_STATISTICS = ("median", "95 % from", "95 % to", "p99", "max")
_SHOWN_APART = frozenset({"backend", "version", "provider", "threads"})
TONES: dict[str, html.Tone] = {"equivalent": "good", "different": "bad", "cannot tell": "unsure"}
STAGE_NAMES = {"end_to_end": "end to end", "network_cpu": "processor time"}


def terminal(report: BenchReport) -> "RenderableType":
    """The report as rich renders it: stages, verdict, warnings."""
    from rich.console import Group
    from rich.text import Text

    from udx.console import Grid

    lines: list[RenderableType] = []
    for name, engine in _engines(report).items():
        header = ("", *map(stage_name, engine.stages))
        lines.append(Grid(f"{name}: latency, ms", header, tuple(_statistics(engine)), frozenset({""})))
    style = "bold"
    if report.comparison:
        style = {"good": "bold green", "bad": "bold red"}.get(_tone(report.comparison), "bold yellow")
        lines += [_proof(report.comparison), *(Text(f"differs: {line}") for line in report.comparison.differences[:8])]
    for name, engine in _engines(report).items():
        if engine.accuracy:
            lines.append(Text(f"{name}: {_accuracy_line(engine)}"))
    lines.append(Text(headline(report), style=style))
    lines += [Text(f"Warning: {line}", style="yellow") for line in report.warnings]
    return Group(*lines)


def stage_name(stage: str) -> str:
    """A stage in words."""
    name = STAGE_NAMES.get(stage, stage.replace("_", " "))
    return f"GPU {name.removeprefix('gpu ')}" if stage.startswith(GPU) else name


def bench_page(report: BenchReport) -> str:
    """The whole report as one HTML document."""
    engine = report.engine
    about = f"{title_of(engine.identity.manifest)} · {html.moment(report.created)}"
    names = list(_engines(report))
    title = f"{names[0]}: latency" if report.against is None else f"{_both(report)}: accuracy and latency"
    lead = html.paragraph(about, soft=True) + bench_lead(report)
    return html.page(title, bench_sections(report), lead=lead)


def bench_lead(report: BenchReport, gain: Gain | None = None) -> str:
    """Return what is known of a comparison, and key figures, as HTML.

    Args:
        report: the measurement.
        gain: what the engine has more accuracy than the other, where the report itself does not hold it.
    """
    network, whole, structure = report.engine.network, report.engine.end_to_end, report.engine.identity.structure
    low, high = network.median_ci95
    accuracy = report.engine.accuracy
    measured = [("mAP", accuracy.metrics.mean_ap), ("NDS", accuracy.metrics.nds)] if accuracy else []
    figures = html.tiles(
        [
            *((name, f"{100 * value:.2f} %", f"split {accuracy.split}") for name, value in measured if accuracy),
            ("network, median", f"{network.median:.2f} ms", f"95 % interval {low:.2f} to {high:.2f}"),
            ("network, p99", f"{network.p99:.2f} ms", f"max {network.max:.2f}, n = {network.n}"),
            ("end to end, median", f"{whole.median:.2f} ms", f"{1e3 / whole.median:.1f} frames a second"),
            ("parameters", _short(structure.parameters), f"{_short(structure.parameter_bytes)}B"),
            ("multiply-accumulates", _short(structure.macs), "per frame"),
        ]
    )
    if report.comparison is None:
        return figures
    return _verdict(report.comparison, gain or gain_of(report)) + figures


def bench_sections(report: BenchReport) -> list[html.Section]:
    """The report's cards, for this page or another."""
    engines = _engines(report)
    judged = report.protocol.judged_stage
    samples = {name: engine.stages[judged].samples_ms for name, engine in engines.items()}
    said = stage_name(judged).capitalize()
    means = {name: _parts(engine) for name, engine in engines.items()}
    sections = []
    if report.warnings:
        sections.append(html.Section("Warnings", html.bullets(report.warnings)))
    if report.comparison:
        sections += _comparison_sections(report, report.comparison)
    if any(engine.accuracy for engine in engines.values()):
        sections.append(html.Section("Accuracy of these files, %", _accuracy_table(engines)))
    histogram = html.figure(svg.histogram_svg(samples), f"{said}, ms; dashed: medians.")
    stages = html.figure(svg.bars_svg(means), "Means, which add up, ms. Inputs: decoding, resizing and pooling plan.")
    order = html.figure(svg.series_svg(samples), f"{said} in the order measured; the slowest 1 % on the edge.")
    return [
        *sections,
        *(
            html.Section(f"{name}: latency, ms", _latency_table(engine), half=report.against is not None, new_row=first)
            for first, (name, engine) in _first_marked(engines.items())
        ),
        *(
            html.Section(f"{name}: where the time goes", _operators_body(engine.operators), half=True, new_row=first)
            for first, (name, engine) in _first_marked(engines.items())
            if engine.operators
        ),
        html.Section("Distribution", histogram, half=True, new_row=True),
        html.Section("Stages", stages, half=True),
        html.Section("Over time", order, half=True),
        html.Section("Protocol", _protocol_body(report), half=True),
        html.Section("Machine", machine_body(report.environment), half=True),
        html.Section("Before and after", conditions_table(report.before, report.after), half=True),
        *(
            html.Section(f"Engine {name}", _identity_body(engine), half=True, new_row=first)
            for first, (name, engine) in _first_marked(engines.items())
        ),
        html.Section("The figures, and how to repeat them", _data_body(report)),
    ]


def _tone(comparison: Comparison) -> html.Tone:
    """Good only if all three layers of the proof are."""
    tone = TONES[comparison.equivalence.verdict]
    return "unsure" if tone == "good" and not _same(comparison) else tone


def _same(comparison: Comparison) -> bool:
    """Whether graph and layers are identical, as far as the backend tells its layers."""
    return comparison.identical and (comparison.layers is None or comparison.layers.identical)


def _verdict(comparison: Comparison, gain: Gain | None) -> str:
    """Lead with what is known; a clock that could not resolve the margin is a footnote to it."""
    found = comparison.equivalence
    what = "latency" if comparison.judged == "network" else "processor time"
    tone = _tone(comparison)
    said = "The backend does not tell its kernels. " if comparison.layers is None else ""
    if gain is not None:
        said += f"NDS {gain.nds:+.1f}, on split {gain.split}. ".replace("-", "\N{MINUS SIGN}", 1)
    if found.verdict != "cannot tell":
        reason = found.reason[0].upper() + found.reason[1:]
        return html.verdict(tone, known_of(comparison, gain), f"{said}{reason}.")
    if _same(comparison) and (gain is None or gain.mean_ap >= 0):
        tone = "plain"
    footnote = f"The clock could not resolve a difference in {what} of {found.margin:.2%}: {found.reason}."
    return html.verdict(tone, known_of(comparison, gain), said.strip(), footnote=footnote)


def _layers_of_proof(comparison: Comparison) -> list[tuple[str, str]]:
    """The two layers below the measurement, and what they say."""
    layers = comparison.layers
    told = "not told by the backend" if layers is None else "identical" if layers.identical else "different"
    return [("structure", "identical" if comparison.identical else "different"), ("engine layers", told)]


def _proof(comparison: Comparison) -> "RenderableType":
    """All that the verdict rests on, as a terminal table."""
    from udx.console import Grid

    rows = [(layer, "", "", answer) for layer, answer in _layers_of_proof(comparison)]
    for stage, equivalence in comparison.stages.items():
        for what, ratio in _ratios(stage, equivalence).items():
            verdict = equivalence.verdict if ratio is equivalence.ab else ""
            rows.append((what, f"{100 * (ratio.ratio - 1):+.2f} %", _interval(ratio), verdict))
    header = ("layer of the proof", "difference", "90 % interval", "verdict")
    return Grid("Engine against the other", header, tuple(rows), frozenset({header[0], "verdict"}))


def _ratios(stage: str, equivalence: Equivalence) -> dict[str, Ratio]:
    """A stage's comparison and its controls, by name."""
    name = stage_name(stage)
    rows = {name: equivalence.ab, f"{name}, engine twice": equivalence.aa}
    return rows | ({f"{name}, with extra layer": equivalence.positive} if equivalence.positive else {})


def _interval(ratio: Ratio) -> str:
    low, high = (f"{100 * (end - 1):+.2f}" for end in ratio.ci90)
    return f"{low} to {high}"


def _comparison_sections(report: BenchReport, comparison: Comparison) -> Iterable[html.Section]:
    equivalence = comparison.equivalence
    one, two = _engines(report)
    rows = {f"{one} / {two}": equivalence.ab, f"{one} twice (control)": equivalence.aa}
    if equivalence.positive:
        rows[f"{one} with an extra layer (control)"] = equivalence.positive
    plot = html.figure(
        svg.ratios_svg(rows, equivalence.margin),
        f"{stage_name(comparison.judged).capitalize()}: median difference over {equivalence.ab.blocks} interleaved "
        "blocks, with its 90 % bootstrap interval.",
    )
    cloud = html.figure(
        svg.blocks_svg(rows, equivalence.margin),
        "A dot is the difference of the medians in one block; its height means nothing.",
    )
    controls = html.paragraph(f"Positive control: {comparison.about_positive}.", soft=True)
    figures = html.details("All stages, as figures", _equivalence_table(comparison))
    body = plot + controls + html.details("Every single block", cloud) + figures
    yield html.Section("Does it cost more?", body, half=True)
    yield html.Section("Is it the same network?", _structure_body(report, comparison), half=True)


def _equivalence_table(comparison: Comparison) -> str:
    rows = []
    for stage, equivalence in comparison.stages.items():
        for what, ratio in _ratios(stage, equivalence).items():
            verdict = equivalence.verdict if ratio is equivalence.ab else ""
            rows.append((what, f"{100 * (ratio.ratio - 1):+.2f}", _interval(ratio), verdict))
    return html.table(("difference, %", "median", "90 % interval", "verdict"), rows)


def _structure_body(report: BenchReport, comparison: Comparison) -> str:
    assert report.against is not None
    one, two = report.engine.identity.structure, report.against.identity.structure
    rows = [
        ("graph, hash", one.sha256[:12], two.sha256[:12]),
        ("nodes", f"{one.nodes:,}", f"{two.nodes:,}"),
        ("parameters", f"{one.parameters:,}", f"{two.parameters:,}"),
        ("parameter bytes", f"{one.parameter_bytes:,}", f"{two.parameter_bytes:,}"),
        ("MACs", f"{one.macs:,}", f"{two.macs:,}"),
        ("peak activation bytes", f"{one.peak_activation_bytes:,}", f"{two.peak_activation_bytes:,}"),
    ]
    layers = comparison.layers
    if layers:
        (mine, theirs), (my_sha, their_sha) = layers.counts, layers.sha256
        rows.append(("kernels", f"{mine:,}", f"{theirs:,}"))
        rows.append(("kernels, hash", my_sha[:12], their_sha[:12]))
    verdict = "Equal" if comparison.identical else "Not equal"
    said = html.paragraph(f"{verdict}: operators, attributes, wiring, shapes and types, whatever the weights' values.")
    found = html.bullets((*comparison.differences, *(layers.differences if layers else ())))
    source = html.paragraph(
        f"Kernels as {layers.source} has them: nodes after fusion."
        if layers
        else "The backend does not tell its kernels.",
        soft=True,
    )
    return said + html.table(("", *_engines(report)), rows) + found + source


def _accuracy_table(engines: Mapping[str, EngineReport]) -> str:
    known = {name: engine.accuracy for name, engine in engines.items() if engine.accuracy}
    errors = list(dict.fromkeys(error for one in known.values() for error in one.metrics.tp_errors))
    rows = [
        (
            name,
            one.split,
            f"{100 * one.metrics.mean_ap:.2f}",
            f"{100 * one.metrics.nds:.2f}",
            *(f"{one.metrics.tp_errors[error]:.3f}" for error in errors),
        )
        for name, one in known.items()
    ]
    return html.table(("file", "split", "mAP", "NDS", *errors), rows)


def _accuracy_line(engine: EngineReport) -> str:
    assert engine.accuracy is not None
    metrics = engine.accuracy.metrics
    return f"{metrics.summary()} on split {engine.accuracy.split}"


def _parts(engine: EngineReport) -> dict[str, float]:
    """Means that add up: the inputs, and the network or what the runner tells of it."""
    told = {stage_name(name): summary.mean for name, summary in engine.stages.items() if name.startswith(GPU)}
    host = engine.network.mean - sum(told.values())
    if not told or host < 0:
        return {"inputs": engine.inputs.mean, "network": engine.network.mean}
    return {"inputs": engine.inputs.mean, **told, "host": host}


def conditions_table(before: Conditions, after: Conditions) -> str:
    """Return the machine's state before and after a measurement, as HTML."""
    rows: list[tuple[str, str, str]] = []

    def row(name: str, one: object, two: object) -> None:
        first, second = ("not known" if value in (None, "") else str(value) for value in (one, two))
        rows.append((name, first, second))

    both = (before, after)
    row("load, 1 min", *(None if at.load_1min is None else f"{at.load_1min:.2f}" for at in both))
    row("CPU clock, MHz", *(", ".join(f"{mhz:.0f}" for mhz in sorted(set(at.cpu_mhz))) for at in both))
    for index, (one, two) in enumerate(zip(before.gpus, after.gpus, strict=False)):
        for name in one.readings:
            row(f"GPU {index} {name}", one.readings[name], two.readings.get(name))
        row(f"GPU {index} throttled by", *(" and ".join(gpu.throttled) or "nothing" for gpu in (one, two)))
    others = interference(before, after)
    said = (
        html.paragraph(
            f"Meanwhile other programs kept {others.others_cores:.2f} cores busy, and the host of the machine took "
            f"{others.stolen_cores:.2f}, on average.",
            soft=True,
        )
        if others
        else ""
    )
    return html.table(("", "before", "after"), rows) + said


def _engines(report: BenchReport) -> dict[str, EngineReport]:
    """Engines by a short name: the file's, or its role where both files are named alike."""
    if report.against is None:
        return {report.engine.identity.file: report.engine}
    names = report.engine.identity.file, report.against.identity.file
    if names[0] == names[1]:
        names = "engine", "against"
    return dict(zip(names, (report.engine, report.against), strict=True))


def _statistics(engine: EngineReport) -> list[tuple[str, ...]]:
    """A row per statistic, a column per stage."""
    columns = [_cells(summary) for summary in engine.stages.values()]
    return [(name, *row) for name, row in zip(STATISTICS, zip(*columns, strict=True), strict=True)]


def _latency_table(engine: EngineReport) -> str:
    """Median with its interval, p99 and maximum; the other statistics are folded."""
    header = ("", *map(stage_name, engine.stages))
    rows = {row[0]: row for row in _statistics(engine)}
    shown = [rows.pop(name) for name in _SHOWN_STATISTICS]
    return html.table(header, shown) + html.details("Other statistics", html.table(header, list(rows.values())))


def _cells(summary: Summary) -> tuple[str, ...]:
    """In the order of ``STATISTICS``; the interval is that of the median."""
    percentiles = summary.p90, summary.p95, summary.p99, summary.p99_9
    figures = summary.median, *summary.median_ci95, summary.mean, *percentiles, summary.max, summary.std
    return *(f"{value:.2f}" for value in figures), f"{summary.cov:.1%}"


def _protocol_body(report: BenchReport) -> str:
    """What was measured on what; the rest is folded."""
    facts = dict(_protocol_facts(report))
    shown = [(name, facts.pop(name)) for name in _SHOWN_OF_PROTOCOL if name in facts]
    return html.facts(shown) + html.details("All of the protocol", html.facts(facts.items()))


def _protocol_facts(report: BenchReport) -> list[tuple[str, str]]:
    protocol, settings = report.protocol, report.engine.settings
    turns = "engines in random order, then in reverse" if report.against else "one engine"
    return [
        ("input", report.frames),
        ("in flight", "one frame"),
        ("warm-up", f"{protocol.warmup} frames an engine"),
        ("measured", f"{report.blocks} blocks of {protocol.frames} frames an engine, {turns}"),
        *(_comparing_facts(report) if report.comparison else ()),
        ("seed", str(protocol.seed)),
        ("backend", f"{settings.get('backend')} {settings.get('version')}, {settings.get('provider')}"),
        ("threads", str(settings.get("threads") or "the backend's choice")),
        *((name.replace("_", " "), str(value)) for name, value in settings.items() if name not in _SHOWN_APART),
        ("pinned", "to no core" if protocol.core is None else f"to core {protocol.core}"),
        ("complete", f"no: {report.stopped}" if report.stopped else "yes"),
    ]


def _comparing_facts(report: BenchReport) -> list[tuple[str, str]]:
    protocol = report.protocol
    clock = {"wall": "latency", "cpu": "processor time, which is the work and not the latency"}[protocol.clock]
    return [
        ("opened anew", f"all engines every {protocol.reopen_every} blocks"),
        (
            "ends",
            f"after {protocol.blocks} blocks, if the intervals are narrow enough by then, else when they are or after "
            f"{protocol.max_minutes:g} minutes",
        ),
        ("verdict on", clock),
        ("margin", f"±{protocol.margin:.2%}, fixed beforehand"),
    ]


def _operators_body(times: OperatorTimes) -> str:
    """Milliseconds by operator as bars, and the slowest nodes folded."""
    operators = times.by_operator()
    shown = list(operators.items())[:_OPERATORS_SHOWN]
    bars = {f"{name}, {count} nodes" if count > 1 else name: ms for name, (count, ms) in shown}
    rest = sum(ms for _, ms in operators.values()) - sum(bars.values())
    if len(operators) > len(shown):
        bars[f"{len(operators) - len(shown)} other operators"] = max(rest, 0.0)
    caption = (
        f"Milliseconds a frame by operator, {times.total_ms:.2f} in all: mean of {times.frames} frames that "
        f"{times.source} watched after the measurement, and slowed down."
    )
    plot = html.figure(svg.bar_chart_svg(bars, unit="ms", label="Time by operator"), caption)
    rows = [
        (node.name or "without a name", node.operator, f"{node.ms:.3f}", f"{node.ms / (times.total_ms or 1.0):.1%}")
        for node in times.nodes[:_NODES_SHOWN]
    ]
    header = ("node", "operator", "ms", "share")
    return plot + html.details(f"The {len(rows)} slowest nodes", html.table(header, rows, text={"operator"}))


def _data_body(report: BenchReport) -> str:
    """The command, if there was one, and all figures as a file."""
    command = html.paragraph("Measured by:", soft=True) + html.code(report.command) if report.command else ""
    name = "-".join(Path(name).stem for name in _engines(report))
    return command + html.download(f"{name}-latency.json", report.to_json())


def _first_marked(items: Iterable[_Item]) -> Iterable[tuple[bool, _Item]]:
    """Each item with whether it is the first."""
    return ((index == 0, item) for index, item in enumerate(items))


def _both(report: BenchReport) -> str:
    assert report.against is not None
    return f"{report.engine.identity.file} against {report.against.identity.file}"


def machine_body(machine: Environment) -> str:
    """Return what the machine is as HTML; versions are folded."""
    known, versions = _machine_facts(machine)
    return html.facts(known) + html.details("Versions", html.facts(versions))


def _machine_facts(machine: Environment) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What the machine is, and which versions are on it."""
    unknown = "not known"
    gpus = [", ".join(f"{key} {value}" for key, value in gpu.items()) for gpu in machine.gpus or ()]
    known = [
        ("CPU", f"{machine.cpu or unknown}, {machine.cores} cores"),
        ("governor", machine.governor or unknown),
        ("load before", unknown if machine.load_1min is None else f"{machine.load_1min:.2f}"),
        ("memory", unknown if machine.memory_gib is None else f"{machine.memory_gib} GiB"),
        ("GPU", "; ".join(gpus) or "none found by nvidia-smi"),
        ("system", machine.os),
    ]
    return known, [("Python", machine.python), *machine.versions.items(), ("commit", machine.git_commit or unknown)]


def _identity_body(engine: EngineReport) -> str:
    """What the engine is; hashes and operators are folded."""
    identity, manifest = engine.identity, engine.identity.manifest
    operators = sorted(identity.structure.op_histogram.items(), key=lambda item: (-item[1], item[0]))
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in manifest.metrics.items())
    known = [
        ("detector", title_of(manifest)),
        ("accuracy", metrics or "not evaluated"),
        ("file", f"{identity.file}, {identity.bytes:,} bytes"),
    ]
    folded = [
        ("sha256", identity.sha256),
        ("checkpoint", manifest.checkpoint_sha256),
        ("exported by", f"udx {manifest.udx_version}, commit {manifest.git_commit}"),
        ("opset", ", ".join(f"{domain} {version}" for domain, version in identity.structure.opset.items())),
        ("operators", ", ".join(f"{count} {name}" for name, count in operators)),
    ]
    return html.facts(known) + html.details("Hashes, versions and operators", html.facts(folded))


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} "
