"""What a calibration found, as one JSON and as a self-contained page."""

from pathlib import Path

from udx.calibration.halves import Halved
from udx.calibration.job import Calibrated
from udx.calibration.sensitivity import Sensitivity
from udx.files import write_json, write_text
from udx.runtime import html, svg


def write_report(converted: Calibrated | Halved, *, html_file: Path | None, json_file: Path | None) -> None:
    """Write the page, with the same facts as JSON beside it, or the JSON alone."""
    if html_file is not None:
        write_text(html_file, page(converted) if isinstance(converted, Calibrated) else page_of_halves(converted))
        write_json(html_file.with_suffix(".json"), converted.to_json())
    if json_file is not None:
        write_json(json_file, converted.to_json())


def page_of_halves(halved: Halved) -> str:
    """The whole page of a conversion to FP16."""
    kept = [[node, reason] for reason, nodes in halved.plan.float32.items() for node in nodes]
    ranges = sorted(halved.ranges.items(), key=lambda item: -item[1])
    rows = [[name, f"{largest:.4g}"] for name, largest in ranges]
    sections = [
        html.Section("Largest magnitudes on the samples", html.table(["tensor", "largest"], rows), half=True),
        html.Section("Nodes that stay FP32", html.table(["node", "because of"], kept, text={"because of"}), half=True),
    ]
    return html.page(f"{halved.path.name}: FP16", sections, lead=html.paragraph(f"{halved.summary()}.", soft=True))


def page(calibrated: Calibrated) -> str:
    """The whole page."""
    quantization = calibrated.plan.quantization
    assert quantization is not None
    precision = calibrated.plan.precision.upper()
    sections = []
    if calibrated.analysis is not None:
        analysis = calibrated.analysis
        caption = (
            "Noise that each block alone brings into the head maps when it is quantized, in per cent of their standard "
            f"deviation; all together: {100 * analysis.together:.2f} %."
        )
        sections += [
            html.Section("Sensitivity of the blocks", html.figure(_bars(analysis.blocks), caption), half=True),
            html.Section("Sensitivity of the layers", _layer_table(analysis.layers, calibrated)),
        ]
    if calibrated.outcome is not None:
        sections.insert(0, html.Section("How the skip list came about", _steps(calibrated), half=True))
    kept = [[node, reason] for reason, nodes in calibrated.plan.float32.items() for node in nodes]
    sections += [
        html.Section("Layers that stay FP32", html.table(_KEPT, kept, text=_KEPT), half=True),
        html.Section("Origin of the scales", _origin(calibrated), half=True),
        html.Section("Largest magnitudes of the activations", _ranges(calibrated), half=True),
        html.Section("The figures", html.download(f"{calibrated.path.stem}.json", calibrated.to_json()), half=True),
    ]
    return html.page(f"{calibrated.path.name}: {precision}", sections, lead=_lead(calibrated))


_HEADER = ["layer", "error at the heads, %", "computes in", "block"]
_TEXT = {"computes in", "block"}
_KEPT = ["layer", "because of"]
_SHOWN_LAYERS = 12


def _lead(calibrated: Calibrated) -> str:
    lead = html.paragraph("; ".join([calibrated.description(), *calibrated.notes]) + ".", soft=True)
    if calibrated.outcome is None:
        return lead
    tone: html.Tone = "unsure" if calibrated.outcome.vacuous else "good" if calibrated.outcome.met else "bad"
    lost = f"{calibrated.outcome.drop:+.2f} points of mAP lost"
    headline = "Nothing to lose" if calibrated.outcome.vacuous else lost
    sentence = calibrated.outcome.sentence().removeprefix(headline).strip()
    said = (
        f"{sentence[0].upper()}{sentence[1:]}; FP32 has {100 * calibrated.outcome.exact_mAP:.2f} on the same "
        f"{calibrated.judged} samples of split {calibrated.plan.quantization.split}, none of whose scenes calibrated."
        if calibrated.plan.quantization
        else ""
    )
    return lead + html.verdict(tone, headline, said)


def _bars(blocks: tuple[Sensitivity, ...]) -> str:
    errors = {item.name: 100 * item.error for item in blocks}
    return svg.bar_chart_svg(errors, unit="%", label="Error at the heads by block")


def _layer_table(layers: tuple[Sensitivity, ...], calibrated: Calibrated) -> str:
    """The most sensitive layers, and the others folded."""
    rows = _rows(layers, calibrated)
    shown, folded = (html.table(_HEADER, part, text=_TEXT) for part in (rows[:_SHOWN_LAYERS], rows[_SHOWN_LAYERS:]))
    return shown + (html.details(f"{len(rows) - _SHOWN_LAYERS} other layers", folded) if rows[_SHOWN_LAYERS:] else "")


def _ranges(calibrated: Calibrated) -> str:
    rows = [[name, f"{largest:.4g}"] for name, largest in calibrated.scales.activations.items()]
    return html.details(f"{len(rows)} tensors", html.table(["tensor", "quantized up to"], rows))


def _rows(layers: tuple[Sensitivity, ...], calibrated: Calibrated) -> list[list[str]]:
    quantized = set(calibrated.placement.nodes)
    precision = calibrated.plan.precision.upper()
    return [
        [item.name, f"{100 * item.error:.3f}", precision if item.name in quantized else "FP32", item.block]
        for item in layers
    ]


def _steps(calibrated: Calibrated) -> str:
    assert calibrated.outcome is not None
    rows = [
        [step.skipped or "nothing left out", f"{100 * step.error:.3f}", f"{100 * step.mAP:.2f}", f"{step.drop:+.2f}"]
        for step in calibrated.outcome.steps
    ]
    header = ["left in FP32, besides those above", "its error alone, %", "mAP, %", "points lost"]
    return html.table(header, rows)


def _origin(calibrated: Calibrated) -> str:
    quantization = calibrated.plan.quantization
    assert quantization is not None
    known = [
        ("method", quantization.method),
        ("split", quantization.split),
        ("samples", str(len(quantization.samples))),
    ]
    folded = [
        ("hash of their tokens", quantization.samples_sha256),
        ("graph in FP32", quantization.source_graph),
        ("written by", calibrated.plan.converter or ""),
    ]
    return html.facts(known) + html.details("Hashes and version", html.facts(folded))
