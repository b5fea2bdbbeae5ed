"""Plots as inline SVG: pure functions from numbers to text. Colours are the page's own variables."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import numpy as np

from udx.runtime.equivalence import Ratio

WIDTH: Final = 480  # narrow, so that the text is still legible when a phone scales it down
LEFT: Final = 46
RIGHT: Final = 14
STAGE_COLOURS: Final = ("var(--c)", "var(--good)", "var(--a)", "var(--b)", "var(--bad)")
"""Other than ``COLOURS`` in their first two, so that a stage is not taken for an engine."""
COLOURS: Final = ("var(--a)", "var(--b)", "var(--c)", "var(--good)", "var(--bad)")
Series = Mapping[str, Sequence[float]]


def histogram_svg(series: Series, *, unit: str = "ms", bins: int = 44) -> str:
    """Overlaid histograms over common bins, medians dashed; samples beyond the 99th percentile are counted."""
    assert series
    low, high = _extent(series, 99)
    counts = {name: np.histogram(values, bins=bins, range=(low, high))[0] for name, values in series.items()}
    top = max(1, *(int(count.max()) for count in counts.values()))
    height, base = 230, 186
    parts = [*_legend(list(series)), *_y_axis(0, top, 34, base), *_x_axis(low, high, base, unit)]
    step = (high - low) / bins
    for index, (name, count) in enumerate(counts.items()):
        outline = [f"M{_x(low, low, high):.1f},{base}"]
        for place, value in enumerate(count):
            y = base - (base - 34) * value / top
            left, right = (_x(low + step * at, low, high) for at in (place, place + 1))
            outline.append(f"L{left:.1f},{y:.1f}L{right:.1f},{y:.1f}")
        outline.append(f"L{_x(high, low, high):.1f},{base}Z")
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<path d="{"".join(outline)}" fill="{colour}" fill-opacity=".35" stroke="{colour}"/>')
        middle = _x(float(np.median(series[name])), low, high)
        parts.append(_line(middle, 34, middle, base, f'stroke="{colour}" stroke-width="2" stroke-dasharray="4 3"'))
    beyond = sum(int((np.asarray(values) > high).sum()) for values in series.values())
    if beyond:
        parts.append(_text(WIDTH - RIGHT, 48, f"{beyond} beyond →", anchor="end"))
    return _svg(parts, height, "Histogram of latency, medians dashed")


def bars_svg(rows: Mapping[str, Mapping[str, float]], *, unit: str = "ms") -> str:
    """Stacked horizontal bars: a row per name, a part per stage."""
    assert rows
    stages = list(dict.fromkeys(stage for parts in rows.values() for stage in parts))
    top = max(sum(parts.values()) for parts in rows.values()) or 1.0
    parts = _legend(stages, left=0, colours=STAGE_COLOURS)
    y = 50
    for name, values in rows.items():
        parts.append(_text(0, y, name, css="name"))
        parts.append(_text(WIDTH, y, f"{sum(values.values()):.2f} {unit}", anchor="end", css="name"))
        start = 0.0
        for stage in values:
            width = WIDTH * values[stage] / top
            colour = STAGE_COLOURS[stages.index(stage) % len(STAGE_COLOURS)]
            parts.append(f'<rect x="{start:.1f}" y="{y + 8}" width="{width:.1f}" height="26" rx="3" fill="{colour}"/>')
            if width > 64:
                label = f'<text x="{start + 8:.1f}" y="{y + 25}" style="fill:var(--card)">{values[stage]:.2f}</text>'
                parts.append(label)
            start += width
        y += 64
    return _svg(parts, y - 14, "Latency by stage")


def series_svg(series: Series, *, unit: str = "ms") -> str:
    """Samples in the order taken; those above the 99th percentile sit on the upper edge."""
    assert series
    low, high = _extent(series, 99)
    height, top, base = 230, 34, 186
    longest = max(len(values) for values in series.values())
    parts = [*_legend(list(series)), *_y_axis(low, high, top, base), *_x_axis(0, longest, base, "frames")]
    for index, values in enumerate(series.values()):
        colour = COLOURS[index % len(COLOURS)]
        dots = "".join(
            f"M{_x(at, 0, longest):.1f},{base - (base - top) * (min(value, high) - low) / (high - low):.1f}h0"
            for at, value in enumerate(values)
        )
        style = f'stroke="{colour}" stroke-opacity=".55" stroke-width="3.4" stroke-linecap="round"'
        parts.append(f'<path d="{dots}" fill="none" {style}/>')
    parts.append(_text(4, 24, unit))
    return _svg(parts, height, "Latency of each frame in the order measured")


def curves_svg(series: Series, *, across: str = "steps", label: str = "Curves over steps") -> str:
    """Lines over a common count, one a name; values above the 98th percentile are cut."""
    assert series
    low, high = _extent(series, 98)
    height, top, base = 230, 34, 186
    longest = max(len(values) for values in series.values())
    parts = [*_legend(list(series)), *_y_axis(low, high, top, base), *_x_axis(0, longest, base, across)]
    for index, values in enumerate(series.values()):
        points = " ".join(
            f"{_x(at, 0, longest):.1f},{base - (base - top) * (min(value, high) - low) / (high - low):.1f}"
            for at, value in enumerate(values)
        )
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return _svg(parts, height, label)


def bar_chart_svg(values: Mapping[str, float], *, unit: str, label: str) -> str:
    """Draw a horizontal bar for each value, from zero, with its name and its figure.

    Args:
        values: figures from 0, by name, in the order drawn.
        unit: said after each figure.
        label: what a screen reader says of the plot.
    """
    assert values
    top = max(values.values()) or 1.0
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y = 14 + 38 * index
        figure = f"{value:.3g} {unit}"
        room = WIDTH - 7 * len(figure) - 8
        parts.append(_text(0, y, _shortened(name, 70), css="name"))
        parts.append(
            f'<rect x="0" y="{y + 5}" width="{room * value / top:.1f}" height="14" rx="3" fill="{COLOURS[0]}"/>'
        )
        parts.append(_text(room * value / top + 6, y + 16, figure))
    return _svg(parts, 38 * len(values), label)


def ratios_svg(rows: Mapping[str, Ratio], margin: float) -> str:
    """Draw the 90 % intervals of differences in per cent, on an axis of twice the margin, and the margin as a band.

    An interval that reaches beyond the axis ends in an arrow at its edge.
    """
    assert rows
    reach = 200 * margin
    base = 30 + 50 * len(rows)
    band = _x(-100 * margin, -reach, reach), _x(100 * margin, -reach, reach)
    parts = [
        f'<rect x="{band[0]:.1f}" y="22" width="{band[1] - band[0]:.1f}" height="{base - 22}" '
        'fill="var(--good)" fill-opacity=".13"/>',
        _text((band[0] + band[1]) / 2, 15, f"margin ±{margin:.1%}", anchor="middle"),
        *_x_axis(-reach, reach, base, "%"),
        _line(_x(0, -reach, reach), 22, _x(0, -reach, reach), base, 'class="axis"'),
    ]
    for index, (name, ratio) in enumerate(rows.items()):
        y = 58 + 50 * index
        colour = COLOURS[index % len(COLOURS)]
        ends = [100 * (end - 1) for end in ratio.ci90]
        figure = f"{100 * (ratio.ratio - 1):+.2f} % ({ends[0]:+.2f} to {ends[1]:+.2f})"
        parts.append(_text(0, y - 14, _shortened(name, 44), css="name"))
        parts.append(_text(WIDTH, y - 14, figure, anchor="end", css="name"))
        low, high = (_x(min(max(end, -reach), reach), -reach, reach) for end in ends)
        parts.append(_line(low, y, high, y, f'stroke="{colour}" stroke-width="5" stroke-linecap="round"'))
        for x, way, cut in ((high, 1, ends[1] > reach), (low, -1, ends[0] < -reach)):
            if cut:
                points = f"M{x:.1f},{y - 7}L{x + 11 * way:.1f},{y}L{x:.1f},{y + 7}Z"
                parts.append(f'<path class="arrow" d="{points}" fill="{colour}"/>')
        if abs(ratio.ratio - 1) * 100 <= reach:
            middle = _x(100 * (ratio.ratio - 1), -reach, reach)
            parts.append(_line(middle, y - 9, middle, y + 9, f'stroke="{colour}" stroke-width="3"'))
    return _svg(parts, base + 44, "Differences with 90 % intervals, and the margin")


def blocks_svg(rows: Mapping[str, Ratio], margin: float) -> str:
    """Draw the difference of every single block in per cent as a dot; the furthest 5 % sit on the edges."""
    assert rows
    spread = [100 * (value - 1) for ratio in rows.values() for value in ratio.ratios]
    reach = max(200 * margin, float(np.percentile(np.abs(spread), 95)) * 1.1)
    base = 30 + 58 * len(rows)
    band = _x(-100 * margin, -reach, reach), _x(100 * margin, -reach, reach)
    parts = [
        f'<rect x="{band[0]:.1f}" y="22" width="{band[1] - band[0]:.1f}" height="{base - 22}" '
        'fill="var(--good)" fill-opacity=".13"/>',
        *_x_axis(-reach, reach, base, "%"),
        _line(_x(0, -reach, reach), 22, _x(0, -reach, reach), base, 'class="axis"'),
    ]
    for index, (name, ratio) in enumerate(rows.items()):
        y = 58 + 58 * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(_text(0, y - 20, _shortened(name, 70), css="name"))
        for place, value in enumerate(ratio.ratios):
            shown = min(max(100 * (value - 1), -reach), reach)
            wobble = 9 * math.sin(2.399963 * place)  # the golden angle spreads neighbours without chance
            parts.append(
                f'<circle cx="{_x(shown, -reach, reach):.1f}" cy="{y + wobble:.1f}" r="2.6" '
                f'fill="{colour}" fill-opacity=".4"/>'
            )
    return _svg(parts, base + 44, "Difference in every single block, and the margin")


def standalone(drawing: str) -> str:
    """A plot as an image file of its own, whose colours are those of a light page."""
    style = (
        "svg{--a:#2b6cde;--b:#e2762b;--c:#7d8797;--good:#1a7f4b;--bad:#b42318;--card:#fff;background:#fff}"
        "text{fill:#626b7a;font:12px system-ui,sans-serif}.name{fill:#1b1f27}.grid-line{stroke:#e9ecf1}"
        ".axis{stroke:#7d8797}"
    )
    return drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{style}</style>", 1
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values (1, 2 or 5 times a power of ten apart) within [low, high]."""
    assert low < high
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _extent(series: Series, percentile: float) -> tuple[float, float]:
    """Smallest value and a high percentile of all series together; never empty."""
    everything = np.concatenate([np.asarray(values, dtype=np.float64) for values in series.values()])
    low, high = float(everything.min()), float(np.percentile(everything, percentile))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)


def _x_axis(low: float, high: float, y: float, unit: str) -> list[str]:
    parts = [_line(LEFT, y, WIDTH - RIGHT, y, 'class="axis"')]
    for value in ticks(low, high, 6):
        parts.append(_text(_x(value, low, high), y + 17, f"{value:g}" if value else "0", anchor="middle"))
    parts.append(_text(WIDTH - RIGHT, y + 35, unit, anchor="end"))
    return parts


def _y_axis(low: float, high: float, top: float, base: float) -> list[str]:
    parts = []
    for value in ticks(low, high, 4):
        y = base - (base - top) * (value - low) / (high - low)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, 'class="grid-line"'))
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", anchor="end"))
    return parts


def _shortened(name: str, most: int) -> str:
    """Cut the middle out of a long name: files of one folder differ at their ends."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"


def _legend(names: Sequence[str], left: float = LEFT, colours: Sequence[str] = COLOURS) -> list[str]:
    parts = []
    x = left
    for index, name in enumerate(names):
        parts.append(f'<rect x="{x:.1f}" y="5" width="11" height="11" rx="3" fill="{colours[index % len(colours)]}"/>')
        parts.append(_text(x + 16, 15, name, css="name"))
        x += 34 + 6.6 * len(name)
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
