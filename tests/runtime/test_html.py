"""Building blocks of pages."""

import base64
import io

from PIL import Image

from udx.runtime.html import Section, bullets, facts, image, page, table, tiles, verdict


def test_everything_given_as_text_is_escaped() -> None:
    evil = '<script>"&'
    blocks = [
        table((evil,), [(evil,)]),
        facts([(evil, evil)]),
        bullets([evil]),
        tiles([(evil, evil, evil)]),
        verdict("good", evil, evil),
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
    rows = text.split('<div class="grid">')[1:]
    assert len(rows) == 2
    assert rows[0].index("<h2>a") < rows[0].index("<h2>b") < rows[0].index("</div>") < rows[0].index("<h2>c")
    assert "<h2>d" in rows[1]
