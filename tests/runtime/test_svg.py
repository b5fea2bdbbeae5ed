"""Plots place what they show."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.runtime.equivalence import Ratio
from udx.runtime.svg import (
    bar_chart_svg,
    bars_svg,
    blocks_svg,
    curves_svg,
    histogram_svg,
    ratios_svg,
    series_svg,
    standalone,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3, 3, [-2, 0, 2]),
        (0.9, 1.1, [0.9, 0.95, 1.0, 1.05, 1.1]),
        (13, 57, [20, 30, 40, 50]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e6))
def test_ticks_lie_within_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 12
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)


def test_bars_are_as_long_as_their_values() -> None:
    text = bars_svg({"a": {"inputs": 1.0, "network": 3.0}, "b": {"inputs": 1.0, "network": 1.0}})
    bars = [float(width) for width in re.findall(r'width="([\d.]+)" height="26"', text)]
    assert bars == pytest.approx([120, 360, 120, 120])


def test_the_median_stands_in_the_middle_of_an_even_histogram() -> None:
    text = histogram_svg({"a": [float(value) for value in range(101)]})
    middle = float(re.search(r'<line x1="([\d.]+)"[^>]*stroke-dasharray', text)[1])
    assert middle == pytest.approx(46 + 420 * 50 / 99, abs=0.1)
    assert "1 beyond" in text


def test_constant_samples_are_drawn() -> None:
    for text in (histogram_svg({"a": [2.0, 2.0]}), series_svg({"a": [2.0, 2.0]})):
        assert text.startswith("<svg") and "nan" not in text and "inf" not in text


def test_every_sample_is_a_dot() -> None:
    assert series_svg({"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0]}).count("h0") == 5


def band_of(text: str) -> tuple[float, float]:
    left, width = map(float, re.search(r'<rect x="([\d.]+)" y="22" width="([\d.]+)"', text).groups())
    return left, left + width


def test_the_margin_and_the_interval_are_to_scale() -> None:
    ratio = Ratio(ratio=1.0, ci90=(0.99, 1.01), blocks=3, ratios=(0.7, 1.0, 1.3))
    text = ratios_svg({"one": ratio}, margin=0.01)
    low, high = map(float, re.search(r'<line x1="([\d.]+)"[^>]*x2="([\d.]+)"[^>]*stroke-width="5"', text).groups())
    assert (low, high) == pytest.approx(band_of(text), abs=0.1)
    assert high - low == pytest.approx(210, abs=0.2)  # half of the axis, whatever single blocks were
    assert "<circle" not in text and "arrow" not in text
    assert "+0.00 % (-1.00 to +1.00)" in text


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    dear = Ratio(ratio=1.06, ci90=(1.05, 1.07), blocks=3, ratios=(1.05, 1.06, 1.07))
    wide = Ratio(ratio=1.0, ci90=(0.9, 1.1), blocks=3, ratios=(0.9, 1.0, 1.1))
    assert ratios_svg({"dear": dear}, margin=0.01).count('class="arrow"') == 1
    assert ratios_svg({"wide": wide}, margin=0.01).count('class="arrow"') == 2


def test_every_block_is_a_dot_on_an_axis_of_its_own() -> None:
    ratio = Ratio(ratio=1.0, ci90=(0.99, 1.01), blocks=3, ratios=(0.7, 1.0, 1.3))
    text = blocks_svg({"one": ratio}, margin=0.01)
    left, right = band_of(text)
    assert right - left == pytest.approx(420 / 33, abs=0.2)
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)]
    assert len(places) == 3 and places[0] < left < places[1] < right < places[2]


def test_a_bar_chart_has_a_figure_at_every_bar() -> None:
    text = bar_chart_svg({"large": 12.5, "half": 6.25, "tiny": 0.0012}, unit="%", label="Errors")
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="14"', text)]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
    for figure in ("12.5 %", "6.25 %", "0.0012 %"):
        assert figure in text
    assert max(float(x) for x in re.findall(r'<text x="([\d.]+)"', text)) < 480


def test_long_names_lose_their_middle() -> None:
    text = bar_chart_svg({"a" * 60 + "b" * 60: 1.0}, unit="ms", label="Times")
    assert "…" in text and "a" * 61 not in text and "b" * 20 in text


def test_names_are_escaped() -> None:
    assert "<b>" not in bars_svg({"<b>": {"<i>": 1.0}})


def test_curves_are_one_line_a_name_over_a_common_scale():
    drawn = curves_svg({"alone": [3.0, 2.0, 1.0], "taught": [2.0]})
    lines = [part.split('"')[0] for part in drawn.split('<polyline points="')[1:]]
    assert [len(line.split()) for line in lines] == [3, 1]
    heights = [float(point.split(",")[1]) for point in lines[0].split()]
    assert heights == sorted(heights)  # lower values lie lower on the page
    assert lines[1].split(",")[1] == lines[0].split()[1].split(",")[1]  # both series reach 2.0 at one height


def test_a_plot_can_be_a_file_of_its_own() -> None:
    root = ElementTree.fromstring(standalone(bars_svg({"a": {"inputs": 1.0, "network": 3.0}})))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root[0].text
    used = {value for element in root.iter() for value in re.findall(r"var\((--\w+)\)", element.get("fill") or "")}
    assert used and all(f"{name}:#" in style for name in used)
