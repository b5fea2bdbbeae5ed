"""Building blocks of self-contained HTML pages: no script, no network, light and dark, phone and desktop."""

import base64
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Final, Literal

Tone = Literal["good", "bad", "unsure", "plain"]
Cell = str | int | float

STYLE: Final = """
:root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--ink:#1b1f27;--soft:#626b7a;--line:#e1e5eb;--grid:#e9ecf1;
--a:#2b6cde;--b:#e2762b;--c:#7d8797;--good:#1a7f4b;--good-bg:#e3f5ea;--bad:#b42318;--bad-bg:#fdeae8;
--unsure:#8a5a00;--unsure-bg:#fdf2d9}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--ink:#e8ebf1;--soft:#9aa4b4;--line:#2c3340;
--grid:#262d39;--a:#6ea2ff;--b:#ff9f5a;--c:#8d98a9;--good:#6fdca0;--good-bg:#15321f;--bad:#ff8f84;--bad-bg:#3a1a17;
--unsure:#f3c361;--unsure-bg:#362a10}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:28px 16px 56px}
h1{font-size:clamp(1.5rem,4.5vw,2.1rem);line-height:1.2;margin:0 0 4px;letter-spacing:-.015em}
h2{font-size:1.05rem;margin:0 0 10px}
p{margin:0 0 10px}.soft,figcaption,.tile span,.tile small{color:var(--soft)}
section,.tile,.verdict{background:var(--card);border:1px solid var(--line);border-radius:14px}
section{padding:18px;margin-top:16px;min-width:0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px;margin-top:16px;
align-items:start}
.grid section{margin:0}
.columns{columns:2 440px;column-gap:16px;margin-top:16px}
.columns section{margin:0 0 16px;break-inside:avoid;overflow:hidden}
.verdict{margin:18px 0 0;padding:16px 18px;border-width:0 0 0 6px;font-size:1.05rem}
.verdict b{display:block;font-size:1.3rem;line-height:1.3}
.verdict small{display:block;margin-top:6px;font-size:.88rem;color:var(--soft)}
.plain{border-color:var(--a)}
.good{color:var(--good);background:var(--good-bg);border-color:var(--good)}
.bad{color:var(--bad);background:var(--bad-bg);border-color:var(--bad)}
.unsure{color:var(--unsure);background:var(--unsure-bg);border-color:var(--unsure)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:12px;margin-top:16px}
.tile{padding:12px 14px}.tile span,.tile small{display:block;font-size:.82rem}
.tile b{font-size:1.2rem;white-space:nowrap;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.scroll{overflow-x:auto}.scroll+p,.scroll+ul{margin-top:10px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:.82rem}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal;min-width:84px}
th:last-child,td:last-child{padding-right:0}th{white-space:normal}
th.text,td.text{text-align:left}
@media (max-width:520px){table{font-size:.8rem}th{font-size:.72rem}th,td{padding:6px 4px}section{padding:14px 12px}
th:first-child,td:first-child{min-width:76px;overflow-wrap:anywhere}
td.text{white-space:normal;overflow-wrap:anywhere}}
tr:last-child td{border-bottom:0}
details{margin-top:10px}summary{cursor:pointer;color:var(--soft);font-size:.92rem}
details[open] summary{margin-bottom:8px}
a{color:var(--a)}code{font:.88rem/1.45 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(110px,max-content) 1fr;gap:5px 16px;margin:0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
ul{margin:0;padding-left:1.2em}li{margin:3px 0;overflow-wrap:anywhere}
figure{margin:0}figure+p{margin-top:8px}figcaption{font-size:.85rem;margin-top:6px}
img,svg{display:block;width:100%;height:auto}img{border-radius:10px}svg{max-width:560px}
@media (max-width:720px){.wide img{width:1200px;max-width:none}}
svg text{fill:var(--soft);font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg .name{fill:var(--ink)}svg .grid-line{stroke:var(--grid)}svg .axis{stroke:var(--c)}
"""


POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a page may load: nothing, so that a browser holds it to standing alone."""


@dataclass(frozen=True, slots=True)
class Section:
    """A card of a page: heading as text, body as HTML.

    Attributes:
        half: two cards in a row stand side by side where there is room; more of them fill two columns.
        new_row: a half card that does not join the half cards before it.
    """

    heading: str
    body: str
    half: bool = False
    new_row: bool = False


def page(title: str, sections: Iterable[Section], *, lead: str = "") -> str:
    """Return a whole HTML document; ``lead`` is HTML between the title and the first card."""
    parts: list[str] = []
    row: list[str] = []
    for section in sections:
        card = f"<section><h2>{escape(section.heading)}</h2>{section.body}</section>"
        if section.half:
            if section.new_row:
                parts += _grid(row)
                row = []
            row.append(card)
            continue
        parts += _grid(row)
        row = []
        parts.append(card)
    parts += _grid(row)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>{lead}\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def paragraph(text: str, *, soft: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p class=soft>{escape(text)}</p>" if soft else f"<p>{escape(text)}</p>"


def verdict(tone: Tone, headline: str, text: str, *, footnote: str = "") -> str:
    """Return the one thing that a reader must see; the footnote is small."""
    small = f"<small>{escape(footnote)}</small>" if footnote else ""
    return f'<div class="verdict {tone}"><b>{escape(headline)}</b>{escape(text)}{small}</div>'


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Key figures: (label, value, remark) each."""
    cells = (
        f'<div class="tile"><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(remark)}</small></div>'
        for label, value, remark in items
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, text: Collection[str] = ()) -> str:
    """Return a table that scrolls by itself where it is wide.

    Args:
        header: names of the columns.
        rows: cells, in the order of ``header``. The first column is text, the others are figures.
        text: names of other columns that are text, which is aligned left.
    """
    marks = [" class=text" if name in text else "" for name in header]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(header, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(str(cell))}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Names and values, one a line."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items) + "</dl>"


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def details(summary: str, body: str) -> str:
    """Return HTML that is folded until a reader opens it."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def code(text: str) -> str:
    """Return a command line as a paragraph."""
    return f"<p><code>{escape(text)}</code></p>"


def download(name: str, value: Any) -> str:
    """Return a link that saves plain values as a JSON file, which is inside the page itself."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    data = base64.b64encode(content).decode("ascii")
    size = f"{max(1, round(len(content) / 1024)):,} KiB"
    return (
        f'<p><a download="{escape(name, quote=True)}" href="data:application/json;base64,{data}">'
        f"Download {escape(name)}</a> ({size})</p>"
    )


def moment(created: str) -> str:
    """Return a time in ISO 8601 as people write it: ``28 November 2026, 12:13 UTC``."""
    at = datetime.fromisoformat(created).astimezone(UTC)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"


def figure(content: str, caption: str = "") -> str:
    """An SVG or image with a caption."""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{content}{said}</figure>"


def image(encoded: bytes, alt: str, mime: str = "image/png") -> str:
    """Return an image inside the page itself; on a phone it is wider than the screen, and scrolls."""
    data = base64.b64encode(encoded).decode("ascii")
    return f'<div class="scroll wide"><img alt="{escape(alt, quote=True)}" src="data:{mime};base64,{data}"></div>'


_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def _grid(cards: Sequence[str]) -> list[str]:
    """Put up to two cards side by side, and let more of them fill two columns, each as high as what it holds."""
    kind = "grid" if len(cards) <= 2 else "columns"
    return [f'<div class="{kind}">' + "".join(cards) + "</div>"] if cards else []
