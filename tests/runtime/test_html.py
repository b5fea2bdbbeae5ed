"""Building blocks of pages."""

import base64
import io
import json

from PIL import Image

from udx.runtime.html import (
    Section,
    bullets,
    code,
    details,
    download,
    facts,
    image,
    moment,
    page,
    table,
    tiles,
    verdict,
)


def test_everything_given_as_text_is_escaped() -> None:
    evil = '<script>"&'
    blocks = [
        table((evil,), [(evil,)]),
        facts([(evil, evil)]),
        bullets([evil]),
        tiles([(evil, evil, evil)]),
        verdict("good", evil, evil),
        verdict("good", "", "", footnote=evil),
        table(("a", evil), [("a", evil)], text={evil}),
        details(evil, ""),
        code(evil),
        image(b"", evil),
        page(evil, [Section(evil, "")]),
    ]
    for block in blocks:
        assert "<script" not in block
        assert "&lt;script&gt;" in block


def test_an_image_is_in_the_page_itself() -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(encoded, "PNG")
    text = image(encoded.getvalue(), "a red square")
    data = text.split("base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(data))) as back:
        assert back.size == (3, 2)


def test_half_cards_share_a_row_and_whole_ones_end_it() -> None:
    text = page(
        "t", [Section("a", "", half=True), Section("b", "", half=True), Section("c", ""), Section("d", "", half=True)]
    )
    assert "align-items:start" in text  # a card is as high as what it holds
    rows = text.split('<div class="grid">')[1:]
    assert len(rows) == 2
    assert rows[0].index("<h2>a") < rows[0].index("<h2>b") < rows[0].index("</div>") < rows[0].index("<h2>c")
    assert "<h2>d" in rows[1]


def test_three_half_cards_fill_two_columns_and_a_new_row_begins_another_grid() -> None:
    many = [Section(name, "", half=True) for name in "abc"]
    text = page("t", [*many, Section("d", "", half=True, new_row=True)])
    assert text.count('<div class="columns">') == 1 and text.count('<div class="grid">') == 1
    assert text.index("<h2>c") < text.index('<div class="grid">') < text.index("<h2>d")


def test_a_column_of_text_is_aligned_left() -> None:
    text = table(("layer", "error", "block"), [("conv", 1.5, "camera")], text={"block"})
    assert "<th class=text>block</th>" in text and "<td class=text>camera</td>" in text and "<td>1.5</td>" in text


def test_figures_can_be_saved_from_the_page_itself() -> None:
    value = {"median": 1.5, "name": "</a><script>"}
    text = download('a "b".json', value)
    data = text.split("base64,")[1].split('"')[0]
    assert json.loads(base64.b64decode(data)) == value
    assert 'download="a &quot;b&quot;.json"' in text and "<script" not in text


def test_times_are_written_as_people_write_them() -> None:
    assert moment("2026-11-28T12:13:59+00:00") == "28 November 2026, 12:13 UTC"
    assert moment("2026-01-01T00:30:00+02:00") == "31 December 2025, 22:30 UTC"
